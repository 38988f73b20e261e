//! Harnesses for fuzzing, one per place where bytes from outside come in: names, captures, and the
//! shared memory that any peer may write.
//!
//! Each harness takes arbitrary bytes and panics only when an invariant named in its comment does
//! not hold. The same functions are called by the fuzz targets (`fuzz/`) and by the replay of
//! their corpora in the normal tests (`tests/corpus.rs`).
//!
//! `pretend_zero_copy` is for tests of what no interface here can do.
//!
//! `headers` and `slots` work below `NETMAP_ROOT`, which the caller points to a directory of
//! its own. Not part of the library's API.

use std::sync::Once;

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::kinds;
use crate::name::{self, Address};
use crate::name::{valid_name, valid_port};
use crate::options::{Memory, Options};
use crate::vale::forward::set_always;

mod headers;
#[allow(unsafe_code)]
mod slots;

pub use crate::backend::xdp::pretend_zero_copy;
pub use headers::headers;
pub use slots::slots;

/// The input, taken from its front; past its end everything is 0.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        std::array::from_fn(|i| head.get(i).copied().unwrap_or(0))
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }
}

/// From here on an access beyond the end of a file ends the process, where `map` would put a zero
/// page: the harnesses truncate nothing, so such an access is a missing check.
#[allow(unsafe_code)]
fn no_access_beyond_files() {
    extern "C" fn beyond(_: i32) {
        std::process::abort();
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler only aborts, which is async-signal-safe.
        let set = unsafe { signal(Signal::SIGBUS, SigHandler::Handler(beyond)) };
        set.expect("SIGBUS can be handled");
    });
}

/// A name is refused at one of its own characters, or it prints as what reads back to the same
/// name, its parts are safe as file names, and `check` agrees.
pub fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(switch) = name::parse_switch(text) {
        assert!(valid_name(&switch) && switch.starts_with("vale"));
    }
    let parsed = match kinds::parse(text) {
        Ok(parsed) => parsed,
        Err(e) => {
            assert!(text.is_char_boundary(e.at), "{e:?}");
            assert!(e.to_string().ends_with('^'), "{e:?}");
            return;
        }
    };
    match &parsed.address {
        Address::SwitchPort { switch, port } => {
            assert!(valid_name(switch) && valid_port(port), "{parsed:?}");
        }
        Address::Interface(interface) => {
            assert!(!interface.contains('/') && !matches!(interface.as_str(), "" | "." | ".."));
        }
        Address::File(_) | Address::Socket(_) | Address::Pci(_) | Address::Nothing => {}
    }
    assert!(parsed.check().is_ok(), "{parsed:?}");
    assert_eq!(kinds::parse(&parsed.to_string()).as_ref(), Ok(&parsed));
}

/// For tests: ports that this process opens from now on always send long packets to warm buffers, in rings of any
/// size and whether or not it is faster; or they do as they do by default.
pub fn always_warm(yes: bool) {
    set_always(yes);
}

/// What a peer on a stream socket may send, see there.
pub use crate::backend::stream::fuzz as stream;

/// What `nm_capture` promises of captures, see there.
pub use nm_capture::fuzz::capture as pcap;

/// Options of a port as small as can be: damage is met sooner.
fn small(memory: Memory) -> Options {
    let slots = Some(64);
    let memory_bytes = Some(3 << 20);
    Options { tx_slots: slots, rx_slots: slots, memory, memory_bytes, ..Options::default() }
}
