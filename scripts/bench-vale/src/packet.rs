//! The yardstick of a NIC: packets sent by AF_PACKET, many in a call of sendmmsg(2).

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde_json::{Value, json};

/// Packets in a call.
const BATCH: usize = 256;

/// What to send, and where.
#[derive(Debug, clap::Args)]
pub struct Packets {
    /// The interface, in this namespace
    interface: String,
    /// Bytes of a packet
    #[arg(long)]
    len: usize,
    /// Milliseconds
    #[arg(long)]
    ms: u64,
}

impl Packets {
    /// Sends for that time; tells the rate.
    pub fn send(&self) -> Result<Value> {
        crate::pin(0);
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        let index = nix::net::if_::if_nametoindex(self.interface.as_str())
            .with_context(|| format!("finding {}", self.interface))?;
        // SAFETY: integers, all of which may be zero.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = index.cast_signed();
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the descriptor is open, and `to` is a whole sockaddr_ll that outlives the call.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const to).cast(), len) };
        Errno::result(bound).context("binding the socket")?;

        let mut packet = vec![0x5au8; self.len];
        packet[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8]);
        packet[12..14].copy_from_slice(&[0x88, 0xb5]);
        let mut part = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
        // SAFETY: integers and pointers, all of which may be zero.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        let mut batch = [message; BATCH];
        let (begin, time, mut sent) = (Instant::now(), Duration::from_millis(self.ms), 0);
        while begin.elapsed() < time {
            let (fd, many) = (socket.as_raw_fd(), batch.as_mut_ptr());
            // SAFETY: the descriptor is open; the messages point to one iovec, and that to one packet, which outlive
            // the call.
            let done = unsafe { libc::sendmmsg(fd, many, BATCH as u32, 0) };
            sent += Errno::result(done).context("sending")?;
        }
        Ok(json!({"pps": f64::from(sent) / begin.elapsed().as_secs_f64()}))
    }
}
