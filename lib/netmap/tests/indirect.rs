//! Indirect slots that point anywhere in the program's memory, where no window is.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{frame, in_own_root, open, read, root, slots};
use netmap::error::Errno;
use netmap::{Port, SlotFlags};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

const NONE: SlotFlags = SlotFlags::empty();
const MORE: SlotFlags = SlotFlags::MOREFRAG;

/// A port on a switch that nobody else can write.
fn private(name: &str, n: u32) -> Port {
    std::fs::set_permissions(root(), PermissionsExt::from_mode(0o700)).unwrap();
    open(name, &slots(n))
}

fn push(port: &mut Port, data: *const u8, len: usize, flags: SlotFlags) {
    let mut ring = port.tx(0);
    ring.slot(0).set_indirect(data, len, flags);
    ring.advance(1);
}

fn nowhere() -> *const u8 {
    std::ptr::without_provenance(64)
}

#[test]
fn data_arrive_from_anywhere_and_what_cannot_be_read_is_dropped() {
    let (mut a, mut b) = (private("valeI:a", 64), private("valeI:b", 64));
    let (one, two) = (frame(0xff, 1, 1, 300), frame(0xff, 1, 2, 1514));
    push(&mut a, one.as_ptr(), 300, NONE);
    a.txsync().unwrap();
    assert_eq!(a.counters().tx_drop_bad, 1, "before it is allowed");
    a.allow_indirect_anywhere().unwrap();
    push(&mut a, nowhere(), 60, NONE);
    push(&mut a, one.as_ptr(), 300, NONE);
    assert!(a.tx(0).push(&frame(0xff, 1, 3, 60)));
    push(&mut a, nowhere(), 60, NONE);
    push(&mut a, nowhere(), 60, NONE);
    // Chains: whole, and broken at either end.
    push(&mut a, two.as_ptr(), 1000, MORE);
    push(&mut a, two[1000..].as_ptr(), 514, NONE);
    push(&mut a, nowhere(), 1000, MORE);
    push(&mut a, two[1000..].as_ptr(), 514, NONE);
    push(&mut a, two.as_ptr(), 1000, MORE);
    push(&mut a, nowhere(), 514, NONE);
    push(&mut a, two.as_ptr(), 1514, NONE);
    a.txsync().unwrap();
    let want = [one, frame(0xff, 1, 3, 60), two.clone(), two];
    assert_eq!(read(&mut b, 0, 9), want);
    assert_eq!(a.counters().tx_drop_bad, 6);
    assert_eq!(a.counters().tx_packets, 4);
}

#[test]
fn data_that_end_where_memory_ends_are_sent_and_a_byte_more_is_not() {
    let (mut a, mut b) = (private("valeIe:a", 64), private("valeIe:b", 64));
    a.allow_indirect_anywhere().unwrap();
    let two_pages = std::num::NonZeroUsize::new(8192).unwrap();
    let (prot, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    // SAFETY: new memory.
    let start = unsafe { mmap_anonymous(None, two_pages, prot, flags) }.unwrap();
    let data = start.as_ptr().cast::<u8>().wrapping_add(3996);
    let packet = frame(0xff, 1, 5, 100);
    // SAFETY: the last 100 bytes of the first page.
    unsafe { std::ptr::copy_nonoverlapping(packet.as_ptr(), data, 100) };
    // SAFETY: the second page is not used.
    unsafe { libc::munmap(start.as_ptr().wrapping_add(4096), 4096) };
    push(&mut a, data.wrapping_add(1), 100, NONE);
    push(&mut a, data, 100, NONE);
    push(&mut a, data.wrapping_sub(100), 201, NONE);
    push(&mut a, data, 100, NONE);
    a.txsync().unwrap();
    assert_eq!(read(&mut b, 0, 9), [packet.clone(), packet]);
    assert_eq!(a.counters().tx_drop_bad, 2);
}

#[test]
fn more_slots_than_a_batch_or_a_call_takes_arrive_in_order() {
    let (mut a, mut b) = (private("valeIm:a", 4096), private("valeIm:b", 4096));
    a.allow_indirect_anywhere().unwrap();
    let packets: Vec<_> = (0..4000).map(|i| frame(0xff, 1, i, 60 + i as usize % 1400)).collect();
    let mut want = Vec::new();
    for (i, packet) in packets.iter().enumerate() {
        if i % 7 == 0 || (2000..2500).contains(&i) {
            push(&mut a, nowhere(), packet.len(), NONE);
        } else {
            push(&mut a, packet.as_ptr(), packet.len(), NONE);
            want.push(packet.clone());
        }
    }
    a.txsync().unwrap();
    assert!(read(&mut b, 0, 5000) == want);
    assert_eq!(a.counters().tx_drop_bad, (packets.len() - want.len()) as u64);
    // A chain across the batch's nominal end, which is 1024 slots.
    let (long, mut sum) = (frame(0xff, 1, 9, 64 * 64), 0);
    while sum < 1000 {
        push(&mut a, packets[0].as_ptr(), 60, NONE);
        sum += 1;
    }
    for i in 0..64 {
        let flags = if i == 63 { NONE } else { MORE };
        push(&mut a, long[i * 64..].as_ptr(), 64, flags);
    }
    a.txsync().unwrap();
    assert_eq!(read(&mut b, 0, 5000).last(), Some(&long));
}

#[test]
fn monitors_see_what_is_sent_from_anywhere() {
    let (mut a, mut b) = (private("valeIw:a", 64), private("valeIw:b", 64));
    let (mut copies, mut buffers) = (private("valeIw:a/t", 64), private("valeIw:a/zt", 64));
    a.allow_indirect_anywhere().unwrap();
    let packet = frame(0xff, 1, 1, 300);
    push(&mut a, packet.as_ptr(), 300, NONE);
    push(&mut a, nowhere(), 300, NONE);
    a.txsync().unwrap();
    for port in [&mut b, &mut copies, &mut buffers] {
        assert_eq!(read(port, 0, 9), std::slice::from_ref(&packet));
    }
}

#[test]
fn it_is_refused_where_others_can_write_the_switch() {
    in_own_root("it_is_refused_where_others_can_write_the_switch", |_| {
        for (mode, refused) in [(0o2770, true), (0o750, true), (0o701, true), (0o700, false)] {
            std::fs::set_permissions(root(), PermissionsExt::from_mode(mode)).unwrap();
            let (mut a, mut b) = (open("valeA:a", &slots(64)), open("valeA:b", &slots(64)));
            let allowed = a.allow_indirect_anywhere();
            assert_eq!(
                allowed.err().map(|e| e.errno()),
                refused.then_some(Errno::EPERM),
                "{mode:o}"
            );
            let packet = frame(0xff, 1, 1, 300);
            push(&mut a, packet.as_ptr(), 300, NONE);
            a.txsync().unwrap();
            assert_eq!(read(&mut b, 0, 9).len(), usize::from(!refused), "{mode:o}");
            assert_eq!(a.counters().tx_drop_bad, u64::from(refused), "{mode:o}");
        }
        let null = Port::open("null:").unwrap().allow_indirect_anywhere();
        assert_eq!(null.unwrap_err().errno(), Errno::EOPNOTSUPP);
    });
}
