//! Route: sources are learnt, and packets sorted by destination.

use crate::vale::forward::batch::{Batch, NONE, Outcome};
use crate::vale::forward::lookup::{Lookup, Route};

/// Finds the destination of each packet of the batch.
pub fn route(batch: &mut Batch, mut look: Lookup<'_>) {
    batch.clear_routes();
    let mut i = 0;
    while i < batch.fragments.len() {
        let fragment = &mut batch.fragments[i];
        if fragment.frags == 0 {
            i += 1;
            continue;
        }
        let packet = i as u16;
        i += usize::from(fragment.frags);
        // SAFETY: `gather` checked the fragment.
        fragment.outcome = match unsafe { look.route(fragment.data, fragment.len) } {
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
