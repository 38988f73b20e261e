//! Indirect: data of slots that lie in the program's own memory.
//!
//! ```text
//!  in a window        used where they are
//!  anywhere else      if the program allowed that: read into a bounce area, all of a batch in one call
//! ```
//!
//! Invariant: an address outside of the windows is touched by the kernel alone (`process_vm_readv` on this process), so
//! that one which cannot be read costs its packet and nothing else.

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::getpid;

use crate::abi::NETMAP_MAX_FRAGS;
use crate::shm::mem::STRIDE;
use crate::vale::forward::batch::{BATCH, Batch};
use crate::vale::forward::inner::Window;

/// Slots of a batch at most.
const MOST: usize = BATCH + NETMAP_MAX_FRAGS;
/// Addresses that the kernel takes in a call.
const A_CALL: usize = libc::UIO_MAXIOV as usize;

/// What of its memory a handle's slots may point to: nothing at first.
#[derive(Debug, Default)]
pub struct Indirect {
    windows: Vec<Window>,
    anywhere: Option<Elsewhere>,
}

/// Data outside of the windows. Its memory is taken once.
#[derive(Debug)]
struct Elsewhere {
    /// Where they are, in the order of the batch.
    from: Vec<RemoteIoVec>,
    /// The fragments that they are of.
    fragments: Vec<u16>,
    /// Where they are read to, one behind the other.
    bounce: Vec<u8>,
}

impl Indirect {
    /// Lets slots point into `[start, start + len)`.
    pub fn allow(&mut self, start: usize, len: usize) {
        self.windows.push(Window { start, end: start.saturating_add(len) });
    }

    /// Lets slots point to anything that this process can read.
    pub fn allow_anywhere(&mut self) {
        self.anywhere.get_or_insert_with(|| Elsewhere {
            from: Vec::with_capacity(MOST),
            fragments: Vec::with_capacity(MOST),
            bounce: vec![0; MOST * STRIDE],
        });
    }

    /// The window, if there is but one.
    pub fn one_window(&self) -> Option<Window> {
        if let [window] = self.windows[..] { Some(window) } else { None }
    }

    /// Begins a batch.
    pub fn begin(&mut self) {
        if let Some(Elsewhere { from, fragments, .. }) = &mut self.anywhere {
            from.clear();
            fragments.clear();
        }
    }

    /// Where the data of a fragment are; those outside of the windows only after `fetch`. `None`: they must not be read.
    pub fn at(&mut self, address: u64, len: u16, fragment: usize) -> Option<*const u8> {
        let within = self.windows.iter().find_map(|window| window.at(address, len));
        within.or_else(|| {
            let Elsewhere { from, fragments, bounce } = self.anywhere.as_mut()?;
            let len = usize::from(len);
            // One that is too long is refused by who asks.
            if len > 0 && len <= STRIDE {
                // The capacity is there (`allow_anywhere`), so this never allocates.
                from.push(RemoteIoVec { base: address as usize, len });
                fragments.push(fragment as u16);
            }
            Some(bounce.as_ptr())
        })
    }

    /// Reads what is outside of the windows. The packet of what cannot be read is bad; each such costs a call.
    pub fn fetch(&mut self, batch: &mut Batch) {
        let Some(Elsewhere { from, fragments, bounce }) = &mut self.anywhere else { return };
        if from.is_empty() {
            return;
        }
        let me = getpid();
        let (mut next, mut at) = (0, 0); // in `from` and in `bounce`
        while next < from.len() {
            let some = &from[next..from.len().min(next + A_CALL)];
            let to = &mut [IoSliceMut::new(&mut bounce[at..])];
            let mut read = process_vm_readv(me, to, some).unwrap_or(0);
            let all = some.iter().take_while(|data| {
                let whole = read >= data.len;
                read = read.saturating_sub(if whole { data.len } else { 0 });
                whole
            });
            let whole = all.count();
            let failed = whole < some.len();
            let end = next + whole;
            for i in next..end {
                let fragment = &mut batch.fragments[usize::from(fragments[i])];
                fragment.data = bounce.as_ptr().wrapping_add(at);
                at += from[i].len;
            }
            if failed {
                batch.spoil(fragments[end].into());
                at += from[end].len;
            }
            next = end + usize::from(failed);
        }
    }
}
