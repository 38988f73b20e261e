//! Handles that change hands: passed to another process, split among threads.
//!
//! A handle is named by a descriptor: `Port::fd`. The handle lives as long as a copy of that descriptor is
//! open anywhere, in another process or on its way there (`SCM_RIGHTS`), and whoever has one can use it:
//! `Port::from_fd`. Syncs of a ring exclude each other, whoever calls them.

use std::os::fd::OwnedFd;

use crate::error::{Error, Feature, Result};
use crate::kinds;
use crate::options::{PerDirection, Places};
use crate::port::Port;

impl Port {
    /// Takes over the handle that a descriptor names: a copy of what `fd` returned, in this process or
    /// another one, inherited, kept across execve(2) or received in a message. The switch is found by the
    /// descriptor alone.
    ///
    /// # Errors
    /// `Unavailable`: it is not the descriptor of a handle, or the port is gone; and as `open`.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let (name, adapter) = kinds::adopt(fd)?;
        Ok(Self::of(name, adapter))
    }

    /// Gives up the port, not the handle: that lives on in the descriptor returned, for `from_fd` or for
    /// another process. It is closed on execve(2) unless its flag is cleared.
    ///
    /// # Errors
    /// The port has no such handle: see `Capabilities::PASSABLE`.
    pub fn into_fd(self) -> Result<OwnedFd> {
        let Self { name, adapter, .. } = self;
        adapter.into_fd().ok_or_else(|| Error::unsupported(&name, Feature::Handles))
    }

    /// Gives up the descriptor that names the handle, and goes on: the handle lives as long as a copy of that
    /// descriptor is open, whatever happens to this port, and what `fd` returns from now on can be polled but
    /// names no handle. For who passes the descriptor on and still uses the port.
    ///
    /// # Errors
    /// The port has no such handle: see `Capabilities::PASSABLE`; or no descriptor is left.
    pub fn detach(&mut self) -> Result<OwnedFd> {
        self.adapter.detach()?.ok_or_else(|| Error::unsupported(&self.name, Feature::Handles))
    }

    /// Splits the port into a sending and a receiving half, each of which can be used by a thread of its
    /// own. Each is a handle with a descriptor of its own. Buffers beside those in rings stay with the
    /// sending half. Halves of a port that is not on a switch share its device, one sync at a time.
    ///
    /// # Errors
    /// As `open`.
    pub fn split(mut self) -> Result<(Self, Self)> {
        let rx = self.adapter.rings().rx;
        let receiver = self.give_away(&Places { tx: Vec::new(), rx: (0..rx).collect() })?;
        Ok((self, receiver))
    }

    /// As `split`, with a handle for each ring: those of TX rings, and those of RX rings.
    ///
    /// # Errors
    /// As `split`.
    pub fn split_rings(mut self) -> Result<(Vec<Self>, Vec<Self>)> {
        let PerDirection { tx, rx } = self.adapter.rings();
        // From the last one on, as the rings that stay are numbered from 0.
        let mut receivers = (0..rx)
            .rev()
            .map(|i| self.give_away(&Places { tx: Vec::new(), rx: vec![i] }))
            .collect::<Result<Vec<_>>>()?;
        let mut senders = (1..tx)
            .rev()
            .map(|i| self.give_away(&Places { tx: vec![i], rx: Vec::new() }))
            .collect::<Result<Vec<_>>>()?;
        receivers.reverse();
        senders.reverse();
        if tx > 0 {
            senders.insert(0, self);
        }
        Ok((senders, receivers))
    }

    /// Lets another handle have the rings at these places.
    fn give_away(&mut self, places: &Places) -> Result<Self> {
        let adapter = self.adapter.give_away(places)?;
        Ok(Self { name: self.name.clone(), adapter, pushes: self.pushes })
    }
}
