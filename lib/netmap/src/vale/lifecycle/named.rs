//! Which buffers of a region rings name, while slots exchange them.
//!
//! The slots of a pipe's two ends share their buffers. Of two slots that name one, that of the reader counts while
//! it is published and not given back, and that of the sender else: a program may have put another buffer
//! into it, which the other slot does not know of yet. With that rule, there are as many buffers as slots.

use std::collections::HashSet;

use crate::ring::RingRef;
use crate::shm::mem::{Cell, Region};
use crate::sync::core_atomic::Ordering;
use crate::vale::lifecycle::switch::Switch;
use crate::vale::state::ids::RingNumber;
use crate::vale::state::portfile::PortFile;
use crate::vale::state::switch::port_file;

/// How often rings are looked at to see all.
const LOOKS: u64 = 16;

/// Buffers that the rings of ports in a region name, and how often they were looked at, of `most` times at most.
///
/// Programs and senders exchange buffers between slots meanwhile, so one look may miss a buffer that
/// goes from a slot not yet seen to one that was. It then sees another one twice, as there are as many
/// slots as buffers. So a look that sees each once has seen all. Else what several looks saw is taken together: a
/// buffer is in two slots for good if a program died while it exchanged it.
pub fn named(ports: &[&PortFile], region: &Region, most: u64) -> (HashSet<Cell>, u64) {
    let mut all = HashSet::new();
    let most = most.min(LOOKS);
    for look in 1..=most {
        let (mut seen, mut slots) = (HashSet::new(), 0);
        for file in ports {
            slots += see(file, ports, region, |buffer| _ = seen.insert(buffer));
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

/// Shows the buffers that the rings of a port name; returns how many there are.
fn see(file: &PortFile, ports: &[&PortFile], region: &Region, mut saw: impl FnMut(Cell)) -> usize {
    let rings = &file.shape.rings;
    let Some(peer) = ports.iter().find(|peer| peer.shape.is_pipe_with(&file.shape)) else {
        return rings.buffers(region).map(saw).count();
    };
    let mut show = |ring: RingRef<'_>, counts: &dyn Fn(u32) -> bool| {
        (0..ring.n()).filter(|&k| counts(k)).for_each(|k| saw(Cell(ring.load(k).buf_idx)));
    };
    let mut slots = 0;
    for i in RingNumber::first(rings.tx.len()) {
        let Some(ring) = rings.tx_ring(region, i) else { continue };
        let in_flight = peer.in_flight(i);
        show(ring, &|k| !in_flight(k));
        slots += ring.slots.len();
    }
    for i in RingNumber::first(rings.rx.len()) {
        let Some(ring) = rings.rx_ring(region, i) else { continue };
        show(ring, &file.in_flight(i));
    }
    slots
}

/// Whether the buffers in the rings of a port that goes are given back with it: not those of the end of a pipe
/// whose other end is still there. Nobody uses either end.
///
/// What the reader put into the slots that it holds, the sender's slots do not name yet, and the other way
/// round. So the slots are made equal first: then the end that goes last names what both had.
pub fn has_the_buffers(switch: &Switch, file: &PortFile, region: &Region) -> bool {
    let Some(peer) = file.shape.peer.filter(|&peer| switch.is_there(peer)) else { return true };
    let name = switch.name_at(peer.index);
    let open = |name: String| PortFile::open(switch.dir(), &port_file(&name)).ok();
    if let Some(peer) = name.and_then(open).filter(|peer| peer.shape.is_pipe_with(&file.shape)) {
        settle(file, &peer, region);
        settle(&peer, file, region);
    }
    false
}

/// Lets the slots of a sender's and a reader's rings name the same buffers: those of the one that holds them.
fn settle(sender: &PortFile, reader: &PortFile, region: &Region) {
    for i in RingNumber::first(sender.shape.rings.tx.len()) {
        let tx = sender.shape.rings.tx_ring(region, i);
        let Some((tx, rx)) = tx.zip(reader.shape.rings.rx_ring(region, i)) else { continue };
        let in_flight = reader.in_flight(i);
        for ((tx, rx), k) in tx.slots.iter().zip(rx.slots).zip(0..) {
            let (of, to) = if in_flight(k) { (rx, tx) } else { (tx, rx) };
            to.word.store(of.word.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Sizes;
    use crate::rings::make_rings;
    use crate::vale::state::ids::{Generation, PortIndex};
    use crate::vale::state::portfile::Shape;
    use crate::vale::state::repair::Numbered;

    #[test]
    fn buffers_that_are_exchanged_meanwhile_are_all_seen_in_use() {
        let sizes = Sizes { tx_rings: 1, rx_rings: 1, tx_slots: 64, rx_slots: 64 };
        let region = Region::anonymous(9000).unwrap();
        let rings = make_rings(&region, sizes).unwrap();
        let shape = Shape {
            index: PortIndex(0),
            generation: Generation(1),
            region: "r".into(),
            rings,
            peer: None,
        };
        let file = PortFile::anonymous(shape).unwrap();
        let ring = file.shape.rings.rx_ring(&region, RingNumber::FIRST).unwrap();
        let buffers: HashSet<Cell> = file.shape.rings.buffers(&region).collect();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let word = |i: u32| Numbered::new(i, &ring.slots[i as usize].word);
                for i in (0..32).cycle() {
                    file.kring(RingNumber::FIRST).exchange.swap(word(i), word(63 - i));
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
        file.kring(RingNumber::FIRST).exchange.forge(5, 6, gone);
        ring.slots[5].word.store(ring.slots[6].word.load(Ordering::Relaxed), Ordering::Relaxed);
        assert!(named(&[&file], &region, u64::MAX).0.contains(&Cell(gone)));
    }
}
