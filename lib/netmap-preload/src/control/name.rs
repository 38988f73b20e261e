//! Names in requests: those of ports, without the suffixes that netmap's library knows.
//!
//! Invariant: nothing that a name contains is taken for a choice of rings, a flag or a memory: those are fields of the
//! request.

use std::sync::atomic::{AtomicU32, Ordering};

use netmap::PortName;
use nix::errno::Errno;

use crate::control::switches::{self, UNATTACHED};

/// How the names of ports of switches begin.
pub const PREFIX: &[u8] = b"vale";

/// Whether a character is one of an identifier.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The port that a request names: of a switch, a pipe on one, or a persistent one by its name alone.
///
/// # Errors
/// `ENXIO`: it is no port of a switch, so an interface that there is not; `EINVAL`: it is no name.
pub fn port(name: &[u8]) -> Result<PortName, Errno> {
    if name.is_empty() {
        return Err(Errno::EINVAL);
    }
    if !name.starts_with(PREFIX) {
        // A pipe's base is what is before the brace.
        let base = name.iter().position(|byte| b"{}".contains(byte)).unwrap_or(name.len());
        let mut full = switches::resolve(&name[..base])?.into_bytes();
        full.extend_from_slice(&name[base..]);
        return of_switch(&full);
    }
    of_switch(name)
}

/// The port of a switch, or the pipe on one, that a request names.
///
/// # Errors
/// As `port`.
pub fn of_switch(name: &[u8]) -> Result<PortName, Errno> {
    if !name.starts_with(PREFIX) {
        return Err(Errno::ENXIO);
    }
    if !name.iter().all(|&byte| is_word(byte) || b":{}".contains(&byte)) {
        return Err(Errno::EINVAL);
    }
    let text = std::str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
    let name: PortName = text.parse().map_err(|_| Errno::EINVAL)?;
    if name.switch_port().is_none() {
        return Err(Errno::ENXIO);
    }
    Ok(name)
}

/// A name that nobody has, for memory without a port: which name such a request gives does not matter. It is that of a
/// port without packets, which goes with its descriptor.
///
/// # Errors
/// None that is known of.
pub fn without_rings() -> Result<PortName, Errno> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{}:m{pid:x}_{:x}", UNATTACHED, n & 0xffff).parse().map_err(|_| Errno::EINVAL)
}

/// Whether it is that of a pipe's end.
pub fn is_pipe(name: &[u8]) -> bool {
    name.iter().any(|byte| b"{}".contains(byte))
}
