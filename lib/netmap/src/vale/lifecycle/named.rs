//! Which buffers of a region rings name, while slots exchange them.

use std::collections::HashSet;

use crate::shm::mem::Region;
use crate::vale::state::portfile::PortFile;

/// How often rings are looked at to see all.
const LOOKS: u64 = 16;

/// Buffers that the rings of ports in a region name, and how often they were looked at, of `most` times at most.
///
/// Programs and senders exchange buffers between slots meanwhile, so one look may miss a buffer that
/// goes from a slot not yet seen to one that was. It then sees another one twice, as there are as many
/// slots as buffers. So a look that sees each once has seen all. Else what several looks saw is taken together: a
/// buffer is in two slots for good if a program died while it exchanged it.
pub fn named(ports: &[&PortFile], region: &Region, most: u64) -> (HashSet<u32>, u64) {
    let mut all = HashSet::new();
    let most = most.min(LOOKS);
    for look in 1..=most {
        let (mut seen, mut slots) = (HashSet::new(), 0);
        for buffer in ports.iter().flat_map(|file| file.shape.rings.buffers(region)) {
            seen.insert(buffer);
            slots += 1;
        }
        let each_once = seen.len() == slots;
        all.extend(seen);
        all.extend(ports.iter().flat_map(|file| file.displaced()));
        if each_once {
            return (all, look);
        }
    }
    (all, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Sizes;
    use crate::rings::make_rings;
    use crate::sync::core_atomic::Ordering;
    use crate::vale::state::ids::{Generation, PortIndex};
    use crate::vale::state::portfile::Shape;

    #[test]
    fn buffers_that_are_exchanged_meanwhile_are_all_seen_in_use() {
        let sizes = Sizes { tx_rings: 1, rx_rings: 1, tx_slots: 64, rx_slots: 64 };
        let region = Region::anonymous(9000).unwrap();
        let rings = make_rings(&region, sizes).unwrap();
        let shape =
            Shape { index: PortIndex(0), generation: Generation(1), region: "r".into(), rings };
        let file = PortFile::anonymous(shape).unwrap();
        let ring = file.shape.rings.rx_ring(&region, 0).unwrap();
        let buffers: HashSet<u32> = file.shape.rings.buffers(&region).collect();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let word = |i: u32| (i, &ring.slots[i as usize].word);
                for i in (0..32).cycle() {
                    file.kring(0).exchange.swap(word(i), word(63 - i));
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let looks = (0..2000).map(|_| named(&[&file], &region, u64::MAX).0);
            let missed = looks.filter(|named| !named.is_superset(&buffers)).count();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(missed, 0);
        });
        // One that only the dead know of.
        assert!(file.displaced().all(|buffer| buffers.contains(&buffer)));
        let gone = ring.load(5).buf_idx;
        file.kring(0).exchange.forge(5, 6, gone);
        ring.slots[5].word.store(ring.slots[6].word.load(Ordering::Relaxed), Ordering::Relaxed);
        assert!(named(&[&file], &region, u64::MAX).0.contains(&gone));
    }
}
