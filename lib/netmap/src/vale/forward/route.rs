//! Route: sources are learnt, and packets sorted by destination.

use crate::vale::forward::batch::{Batch, Fragment, NONE, Outcome};
use crate::vale::forward::lookup::{Lookup, Route};

/// Finds the destination of each packet of the batch. If `HEADER`, frames begin behind a virtio-net header of
/// `header` bytes.
pub fn route<const HEADER: bool>(batch: &mut Batch, mut look: Lookup<'_>, header: u16) {
    batch.clear_routes();
    let mut i = 0;
    while i < batch.fragments.len() {
        let (mut data, mut len) = (batch.fragments[i].data, batch.fragments[i].len);
        if HEADER {
            (data, len) = behind_header(&batch.fragments[i..], header);
        }
        let fragment = &mut batch.fragments[i];
        if fragment.frags == 0 {
            i += 1;
            continue;
        }
        let packet = i as u16;
        i += usize::from(fragment.frags);
        // SAFETY: `gather` checked the fragment.
        fragment.outcome = match unsafe { look.route(data, len) } {
            Route::Flood => {
                batch.floods.push(packet);
                Outcome::Flooded
            }
            Route::Short => Outcome::Short,
            Route::Nowhere => Outcome::Nowhere,
            Route::Pause => Outcome::Pause,
            Route::Port(port) => {
                fragment.outcome = Outcome::Unicast(port);
                let list = &mut batch.lists[port.at()];
                let last = std::mem::replace(&mut list.last, packet);
                if last == NONE {
                    list.first = packet;
                    batch.touched.push(port);
                } else {
                    batch.fragments[usize::from(last)].next = packet;
                }
                continue;
            }
        };
    }
}

/// The frame behind the header of the packet that `fragments` begin with: the rest of the first one, or the second
/// if the first is the header. Of a packet that is shorter, or has its addresses in two fragments, nothing.
fn behind_header(fragments: &[Fragment], header: u16) -> (*const u8, u16) {
    let first = &fragments[0];
    match first.len.checked_sub(header) {
        None => (first.data, 0),
        Some(0) if first.frags > 1 => (fragments[1].data, fragments[1].len),
        Some(rest) => (first.data.wrapping_add(header.into()), rest),
    }
}
