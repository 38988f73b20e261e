//! Ports that are not on a switch: something that takes and gives one packet at a time, behind
//! the same rings as a VALE port.
//!
//! Invariant: a device never blocks; "not now" is a value. The ring work (slots, fragments,
//! counters) is done once, in `packets`, for all of them.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use nix::poll::PollFlags;

use crate::backend::parts::Parts;
use crate::error::{Error, Feature, Result};
use crate::name::PortName;
use crate::netlink::Link;
use crate::wait::Interest;

pub mod dgram;
pub mod e1000;
pub mod kernel;
#[cfg(test)]
mod nobody;
pub mod null;
pub mod packets;
#[allow(unsafe_code)]
pub mod parts;
pub mod pcap;
#[cfg(test)]
#[path = "../../../nm-cli/tests/skip/mod.rs"]
mod skip;
pub mod socket_file;
pub mod socket_wait;
pub mod stream;
pub mod tap;
#[allow(unsafe_code)]
mod tun;
pub mod xdp;

/// Whether a device took a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It did.
    Done,
    /// It has no room now; offer the packet again after `fd` turns writable.
    Again,
    /// It cannot take this packet ever (malformed); count it as dropped.
    Refused,
    /// The packet is longer than the interface takes; it is dropped.
    TooLong,
    /// The interface is down; the packet is dropped.
    Down,
}

/// A packet device.
pub trait Device: Debug + Send {
    /// Offers one packet (an Ethernet frame without CRC, at most 64 KiB).
    fn send(&mut self, packet: &[u8]) -> Result<Sent>;

    /// As `send`, of bytes that lie in a ring. A device that can write from there saves the copy to `bounce`, which
    /// has room for any packet.
    fn send_parts(&mut self, packet: &mut Parts<'_>, bounce: &mut [u8]) -> Result<Sent> {
        let len = packet.copy_out(bounce);
        self.send(&bounce[..len])
    }

    /// Called at the end of each txsync that sent something: pass on what was buffered.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether packets that it took wait in it, so that each txsync must call `flush`.
    fn holds_back(&self) -> bool {
        false
    }

    /// Asks for one packet, written to the start of `buf` (at least 64 KiB + vnet header). `None`:
    /// nothing now.
    fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>>;

    /// Bytes that the next packet may have, and one more.
    fn longest(&self) -> usize {
        usize::MAX
    }

    /// As `receive`, into the first parts of `room`, which the longest packet fits; nothing is read if there is none.
    fn receive_parts(&mut self, room: &mut Parts<'_>, bounce: &mut [u8]) -> Result<Option<usize>> {
        let len = self.receive(bounce)?;
        Ok(len.map(|len| room.copy_in(&bounce[..len.min(bounce.len())])))
    }

    /// Becomes readable when `receive` may have something, writable when `send` may work. `None`: it is
    /// always ready to send, and has nothing to receive.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// What to poll the descriptor for, to learn of `what`.
    fn events(&self, what: Interest) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, what.contains(Interest::RX));
        events.set(PollFlags::POLLOUT, what.contains(Interest::TX));
        events
    }

    /// Before that: makes the descriptor tell of `what`. A sync follows, then the poll.
    fn arm(&mut self, _what: Interest) {}

    /// Whether `has_news` looks without a system call.
    fn peeks(&self) -> bool {
        false
    }

    /// Cheaply: whether `receive` may have something.
    fn has_news(&self) -> bool {
        true
    }

    /// By which means packets come and go, where there are several.
    fn about(&self) -> Option<String> {
        None
    }

    /// Passes on all that was sent, and waits for whoever takes it, as long as they take something.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether `receive` will never yield anything any more.
    fn ended(&self) -> bool {
        false
    }

    /// Packets that `receive` left out so far.
    fn left_out(&self) -> u64 {
        0
    }

    /// What it did to packets beside passing them on, in sentences.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Bytes of the virtio-net header in front of each packet, given and taken.
    fn vnet_hdr_len(&self) -> u8 {
        0
    }

    /// Changes that. `name` is the port's.
    fn set_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        match len {
            0 => Ok(()),
            _ => Err(Error::unsupported(name, Feature::VnetHeaders)),
        }
    }

    /// Called at the start of each sync, for what is to be looked at now and then.
    fn look(&mut self) -> Result<()> {
        Ok(())
    }

    /// The link, as of the last look.
    fn link(&self) -> Link {
        Link::Up
    }

    /// Bytes of a frame's payload that the interface takes, if it is one.
    fn mtu(&self) -> Option<u32> {
        None
    }

    /// The hardware address, if the device has one.
    fn mac(&self) -> Option<[u8; 6]> {
        None
    }
}
