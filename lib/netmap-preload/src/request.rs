//! A request of NIOCCTRL, copied in: header, body and list of options.
//!
//! Invariant: the list ends, whatever the program has put there: all of a request has at most `REQUEST_MOST` bytes, and
//! each option counts some. What was copied in is not looked at again. Every option's status is told, whether the call
//! succeeds or not.

use nix::errno::Errno;
use smallvec::SmallVec;

use crate::abi::{self, Header, OptionHeader, option, reqtype as kind};
use crate::user::{self, Plain};

/// An option of a request.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// Where it is.
    pub at: u64,
    /// How it begins.
    pub header: OptionHeader,
    status: Option<Errno>,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Its header.
    pub header: Header,
    at: u64,
    options: SmallVec<[Given; 4]>,
}

/// Bytes of a request's body; `None`: there is no such request.
fn body_size(reqtype: u16) -> Option<usize> {
    Some(match reqtype {
        kind::REGISTER => size_of::<abi::Register>(),
        kind::PORT_INFO_GET => size_of::<abi::PortInfo>(),
        kind::VALE_ATTACH => size_of::<abi::ValeAttach>(),
        kind::VALE_DETACH => size_of::<abi::ValeDetach>(),
        kind::VALE_LIST => size_of::<abi::ValeList>(),
        kind::PORT_HDR_SET | kind::PORT_HDR_GET => size_of::<abi::PortHdr>(),
        kind::VALE_NEWIF => size_of::<abi::ValeNewif>(),
        kind::VALE_POLLING_ENABLE | kind::VALE_POLLING_DISABLE => size_of::<abi::ValePolling>(),
        kind::POOLS_INFO_GET => size_of::<abi::PoolsInfo>(),
        kind::SYNC_KLOOP_START => size_of::<abi::KloopStart>(),
        kind::VALE_DELIF | kind::SYNC_KLOOP_STOP | kind::CSB_ENABLE => 0,
        _ => return None,
    })
}

/// Bytes of an option behind its header.
fn option_size(header: &OptionHeader) -> usize {
    let whole = match header.reqtype {
        option::EXTMEM => 96,
        option::CSB => size_of::<abi::OptionCsb>(),
        option::SYNC_KLOOP_MODE => size_of::<abi::OptionKloopMode>(),
        option::OFFSETS => size_of::<abi::OptionOffsets>(),
        option::SYNC_KLOOP_EVENTFDS => {
            return usize::try_from(header.size)
                .unwrap_or(usize::MAX)
                .saturating_sub(size_of::<OptionHeader>());
        }
        _ => return 0,
    };
    whole - size_of::<OptionHeader>()
}

impl Request {
    /// Copies a request in.
    ///
    /// # Errors
    /// `EINVAL`: no pointer, a version or a request that is not known, a reserved field in use, a body where there is
    /// to be none or none where there is to be one, an option of type 0, or twice the same; `EFAULT`; `EMSGSIZE`: too
    /// long, or without end.
    pub fn read(at: u64) -> Result<Self, Errno> {
        if at == 0 {
            return Err(Errno::EINVAL);
        }
        let mut header: Header = user::read(at)?;
        if !abi::API.contains(&header.version) || header.reserved != 0 {
            return Err(Errno::EINVAL);
        }
        header.name[header.name.len() - 1] = 0;
        let size = body_size(header.reqtype).ok_or(Errno::EINVAL)?;
        if (size == 0) != (header.body == 0) {
            return Err(Errno::EINVAL);
        }
        let mut request = Self { header, at, options: SmallVec::new() };
        let read = request.read_options(size);
        if read.is_err() {
            request.tell(); // those that were reached
        }
        read.map(|()| request)
    }

    fn read_options(&mut self, body: usize) -> Result<(), Errno> {
        let mut total = body;
        let mut next = self.header.options;
        let mut outcome = Ok(());
        let mut found: SmallVec<[Given; 4]> = SmallVec::new();
        while next != 0 {
            let header: OptionHeader = user::read(next)?;
            total = total
                .saturating_add(size_of::<OptionHeader>() + abi::OPTION_EXTRA)
                .saturating_add(option_size(&header));
            if total > abi::REQUEST_MOST {
                return Err(Errno::EMSGSIZE);
            }
            let known = found.iter().any(|other| other.header.reqtype == header.reqtype);
            let mut status = Errno::EOPNOTSUPP;
            if header.reqtype == 0 || known && header.reqtype <= option::OFFSETS {
                status = Errno::EINVAL;
                outcome = Err(Errno::EINVAL);
            }
            found.push(Given { at: next, header, status: Some(status) });
            next = header.next;
        }
        self.options = found;
        outcome
    }

    /// The name, up to its zero byte.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let name = &self.header.name;
        &name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())]
    }

    /// Its body.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn body<T: Plain>(&self) -> Result<T, Errno> {
        user::read(self.header.body)
    }

    /// Copies its body out.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn answer<T: Plain>(&self, body: T) -> Result<(), Errno> {
        user::write(self.header.body, body)
    }

    /// Copies its name out.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn answer_name(&self, name: &str) -> Result<(), Errno> {
        let mut header = self.header;
        header.name = [0; 64];
        let bytes = name.as_bytes();
        let n = bytes.len().min(header.name.len() - 1);
        header.name[..n].copy_from_slice(&bytes[..n]);
        user::write(self.at, header)
    }

    /// An option of this request, copied in, if it is there: `honour` says what comes of it, and that is its status.
    ///
    /// # Errors
    /// `EFAULT`, and those of `honour`.
    pub fn option<T: Plain, R>(
        &mut self,
        reqtype: u32,
        honour: impl FnOnce(T) -> Result<R, Errno>,
    ) -> Result<Option<R>, Errno> {
        self.given(reqtype, |given| user::read(given.at).and_then(honour))
    }

    /// As `option`, for one whose length is known to `honour` only.
    ///
    /// # Errors
    /// Those of `honour`.
    pub fn given<R>(
        &mut self,
        reqtype: u32,
        honour: impl FnOnce(&Given) -> Result<R, Errno>,
    ) -> Result<Option<R>, Errno> {
        let Some(given) = self.options.iter_mut().find(|g| g.header.reqtype == reqtype) else {
            return Ok(None);
        };
        let honoured = honour(given);
        given.status = honoured.as_ref().err().copied();
        honoured.map(Some)
    }

    /// All options that this request cannot have are refused.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: there is one that is not in `known`.
    pub fn check_options(&self, known: &[u32]) -> Result<(), Errno> {
        let foreign = self.options.iter().any(|given| !known.contains(&given.header.reqtype));
        if foreign { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
    }

    /// Tells the status of each option.
    pub fn tell(&self) {
        for given in &self.options {
            let status = given.status.map_or(0, |errno| errno as i32 as u32);
            // What cannot be told cannot have been read either, unless the program takes memory away meanwhile.
            let _ = user::write(given.at + 12, status);
        }
    }
}

#[cfg(test)]
mod tests;
