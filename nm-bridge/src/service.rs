//! What a bridge owes to whoever started it and went: a word once it is ready, and its last words
//! where somebody can find them; and to end with another bridge. All are asked for by options that `vale-ctl attach` gives.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Where a system's log listens.
const LOG: &str = "/dev/log";
/// Facility "daemon", severity "error", as syslog(3) counts them.
const PRIORITY: u8 = 3 << 3 | 3;

/// Says on an inherited descriptor that the ports are open. Whoever waits there and is gone wants no
/// bridge any more: that is an error.
pub fn ready(fd: i32) -> anyhow::Result<()> {
    let context = || format!("saying on descriptor {fd} that the bridge is ready");
    // Opened anew, because taking over a descriptor by its number cannot be safe.
    let mut pipe =
        File::options().write(true).open(format!("/proc/self/fd/{fd}")).with_context(context)?;
    pipe.write_all(b"ready\n").with_context(context)?;
    nix::unistd::close(fd).with_context(context)
}

/// Another bridge, without which this one is of no use, or worse: a host whose packets go to a switch that its NIC has
/// left is cut off, and so is one whose NIC's packets go to a switch that it has left.
#[derive(Debug)]
pub struct Partner(File);

impl Partner {
    /// Who holds the other end of the pipe on an inherited descriptor.
    pub fn of(fd: i32) -> anyhow::Result<Self> {
        let context = || format!("looking for the other bridge, on descriptor {fd}");
        let pipe = File::open(format!("/proc/self/fd/{fd}")).with_context(context)?;
        nix::unistd::close(fd).with_context(context)?;
        Ok(Self(pipe))
    }

    /// Whether it has ended, however: nobody holds that end any more.
    pub fn has_ended(&self) -> bool {
        let mut ended = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// Tells the system's log why the bridge ends, if there is one: nobody reads a background process's
/// stderr.
pub fn last_words(why: &anyhow::Error) {
    let line = format!("<{PRIORITY}>nm-bridge[{}]: {why:#}", std::process::id());
    let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(line.as_bytes(), LOG));
}
