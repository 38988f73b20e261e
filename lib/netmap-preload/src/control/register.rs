//! REGISTER: binds a descriptor to a port.
//!
//! Invariant: the program's descriptor, and each copy of it that this process has, becomes the handle's bell, with the
//! flags that it had: the number stays, what is behind it is replaced.

use std::os::fd::{AsRawFd, OwnedFd};

use netmap::error::Invalid;
use netmap::name::NameFlags;
use netmap::{
    Direction, Error, MAX_RINGS, Memory, Offsets, Options, Port, PortName, RingSel, SLOTS,
};
use nix::errno::Errno;

use crate::abi::{OptionOffsets, Register, RegisterFlags, mode, option};
use crate::control::name;
use crate::handle::{Netmap, Polling, errno};
use crate::request::Request;
use crate::table::Ref;
use crate::{kloop, next};

/// Slots that a request asks for, if it does. Beyond the limits is as far as they go.
pub fn slots(asked: u32) -> Option<u32> {
    (asked != 0).then(|| asked.clamp(*SLOTS.start(), *SLOTS.end()))
}

/// Rings that a request asks for, if it does.
pub fn rings(asked: u16) -> Option<u16> {
    (asked != 0).then(|| asked.min(MAX_RINGS))
}

/// The memory that there always is: made when somebody wants it.
const GLOBAL: u16 = 1;

/// Memory that a request asks for.
pub fn memory(id: u16) -> Memory {
    match id {
        0 => Memory::Private,
        GLOBAL => Memory::Id(GLOBAL),
        id => Memory::Existing(id),
    }
}

/// The request.
pub fn request(fd: i32, at: &Ref, request: &mut Request) -> Result<(), Errno> {
    let body: Register = request.body()?;
    at.netmap(|netmap| {
        if netmap.is_bound() {
            return Err(Errno::EBUSY);
        }
        let known = [option::OFFSETS, option::CSB];
        let given = request.name().to_vec();
        let (name, options, polling) = wanted(&given, &body)?;
        request.check_options(&known)?;
        let with_offsets = |asked| {
            // They belong to ports; pipes and monitors have none.
            if name::is_pipe(&given) || is_monitor(&name) {
                return Err(Errno::EOPNOTSUPP);
            }
            open(&name, &Options { offsets: Some(offsets(&asked)?), ..options.clone() })
        };
        let mut port = match request.option(option::OFFSETS, with_offsets)? {
            Some(port) => port,
            None => open(&name, &options)?,
        };
        let flags = RegisterFlags::from_bits_truncate(body.flags);
        if port.vnet_hdr_len() != 0 && !flags.contains(RegisterFlags::ACCEPT_VNET_HDR) {
            return Err(Errno::EIO);
        }
        let csb = request.option(option::CSB, |csb| kloop::begin(&mut port, &csb))?;
        let answer = answer(&body, &port)?;
        request.answer(answer)?;
        bind(fd, at, netmap, port, polling)?;
        netmap.csb = csb;
        Ok(())
    })
    .unwrap_or(Err(Errno::EBUSY))
}

fn offsets(asked: &OptionOffsets) -> Result<Offsets, Errno> {
    Ok(Offsets {
        max: asked.max_offset,
        initial: asked.initial_offset,
        bits: asked.offset_bits.try_into().map_err(|_| Errno::EINVAL)?,
        tx_align: asked.tx_align,
        min_gap: asked.min_gap,
    })
}

fn is_monitor(name: &PortName) -> bool {
    name.flags.intersects(NameFlags::MON_TX | NameFlags::MON_RX | NameFlags::ZCOPY_MON)
}

/// Opens the port. Sizes are wishes: a port that is there has its own.
pub fn open(name: &PortName, options: &Options) -> Result<Port, Errno> {
    let opened = match Port::open_with(name, options) {
        Err(Error::Invalid { fault: Invalid::Shape { .. }, .. }) => {
            let (tx_slots, rx_slots, tx_rings, rx_rings) = (None, None, None, None);
            let any = Options { tx_slots, rx_slots, tx_rings, rx_rings, ..options.clone() };
            Port::open_with(name, &any)
        }
        opened => opened,
    };
    opened.map_err(|e| errno(&e))
}

/// What a request asks for.
///
/// # Errors
/// `ENXIO`, `EINVAL`: see `name::port`; `EINVAL`: a mode that ports of switches do not have.
pub fn wanted(given: &[u8], body: &Register) -> Result<(PortName, Options, Polling), Errno> {
    let flags = RegisterFlags::from_bits_truncate(body.flags);
    let mut name = match body.mode {
        mode::NULL => name::without_rings()?,
        _ => name::port(given)?,
    };
    if name::is_pipe(given) && !matches!(body.mode, mode::ALL_NIC | mode::ONE_NIC) {
        return Err(Errno::EINVAL);
    }
    let both = flags.contains(RegisterFlags::RX_RINGS_ONLY | RegisterFlags::TX_RINGS_ONLY);
    let mut direction = match () {
        () if both => return Err(Errno::EINVAL),
        () if flags.contains(RegisterFlags::RX_RINGS_ONLY) => Direction::RxOnly,
        () if flags.contains(RegisterFlags::TX_RINGS_ONLY) => Direction::TxOnly,
        () => Direction::Both,
    };
    match body.mode {
        mode::ALL_NIC => {}
        mode::ONE_NIC => name = name.with_rings(RingSel::One(body.ringid)),
        mode::NULL => direction = Direction::Neither,
        // Host rings, which a port of a switch has not, pipes by number, and what there is not.
        _ => return Err(Errno::EINVAL),
    }
    let letters = [
        (RegisterFlags::MONITOR_TX, NameFlags::MON_TX),
        (RegisterFlags::MONITOR_RX, NameFlags::MON_RX),
        (RegisterFlags::ZCOPY_MON, NameFlags::ZCOPY_MON),
    ];
    for (flag, letter) in letters {
        name.flags.set(letter, flags.contains(flag));
    }
    let options = Options {
        tx_slots: slots(body.tx_slots),
        rx_slots: slots(body.rx_slots),
        tx_rings: rings(body.tx_rings),
        rx_rings: rings(body.rx_rings),
        extra_bufs: body.extra_bufs,
        exclusive: flags.contains(RegisterFlags::EXCLUSIVE),
        memory: memory(body.mem_id),
        direction,
        ..Options::default()
    };
    let polling = Polling {
        no_tx: flags.contains(RegisterFlags::NO_TX_POLL),
        rx: flags.contains(RegisterFlags::DO_RX_POLL),
    };
    Ok((name, options, polling))
}

/// What the program is told of the port.
pub fn answer(asked: &Register, port: &Port) -> Result<Register, Errno> {
    let layout = port.layout().ok_or(Errno::ENXIO)?;
    let (rings, slots) = (port.all_rings(), port.slots());
    Ok(Register {
        offset: layout.if_offset,
        memsize: layout.mem_size,
        tx_slots: slots.tx,
        rx_slots: slots.rx,
        tx_rings: rings.tx as u16, // few
        rx_rings: rings.rx as u16,
        host_tx_rings: 0,
        host_rx_rings: 0,
        mem_id: layout.mem_id,
        extra_bufs: port.extra_buffers().len() as u32,
        ..*asked
    })
}

/// Puts the handle's descriptor behind the program's.
pub fn bind(
    fd: i32,
    at: &Ref,
    netmap: &mut Netmap,
    mut port: Port,
    polling: Polling,
) -> Result<(), Errno> {
    let bell = port.detach().map_err(|e| errno(&e))?;
    let flags = flags(fd, libc::F_GETFL)?;
    // What follows is the description's, and so every copy's.
    let kept = flags & (libc::O_NONBLOCK | libc::O_ASYNC);
    // SAFETY: a descriptor of ours.
    unsafe { next::fcntl(bell.as_raw_fd(), libc::F_SETFL, kept as usize as *mut _) };
    // The one that was asked for first: if that fails, nothing has changed.
    put(&bell, fd)?;
    for copy in at.descriptors().filter(|&copy| copy != fd) {
        let _ = put(&bell, copy); // it was closed meanwhile
    }
    netmap.bind(fd, port, polling);
    crate::epoll::rebound(at);
    Ok(())
}

fn put(bell: &OwnedFd, fd: i32) -> Result<(), Errno> {
    let cloexec =
        if flags(fd, libc::F_GETFD)? & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
    // SAFETY: `fd` is one that the program has for this.
    Errno::result(unsafe { next::dup3(bell.as_raw_fd(), fd, cloexec) }).map(drop)
}

fn flags(fd: i32, command: i32) -> Result<i32, Errno> {
    // SAFETY: a question about a descriptor.
    Errno::result(unsafe { next::fcntl(fd, command, std::ptr::null_mut()) })
}
