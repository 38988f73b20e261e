//! A port's file: what it says is what its maker said, or it is refused.

use std::os::unix::fs::FileExt;

use super::*;
use crate::vale::state::ids::ParticipantId;
use crate::vale::state::kring::{Held, OnHeld};

fn cells(numbers: &[u32]) -> Vec<Cell> {
    numbers.iter().copied().map(Cell).collect()
}

fn shape() -> Shape {
    Shape {
        index: PortIndex(3),
        generation: Generation(7),
        region: "1".into(),
        rings: RingCells {
            tx_slots: 64,
            rx_slots: 128,
            tx: cells(&[10, 20]),
            rx: cells(&[30, 40, 50]),
        },
        peer: None,
    }
}

fn dir() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = Dir::open(temp.path(), false).unwrap();
    (temp, dir)
}

#[test]
fn port_is_opened_as_it_was_made_and_each_ring_has_a_state_of_its_own() {
    let (_temp, dir) = dir();
    let made = PortFile::create(&dir, "port.x", shape()).unwrap();
    let opened = PortFile::open(&dir, "port.x").unwrap();
    assert_eq!((&opened.shape, opened.id()), (&shape(), made.id()));
    let me = ParticipantId::new(0, Generation(1));
    for i in RingNumber::first(usize::from(MAX_RINGS)) {
        assert_eq!(made.kring(i).hold(me, |_| OnHeld::GiveUp), Held::Fresh, "held before {i:?}");
        made.kring(i).publish(u32::from(i.0) + 1);
        made.tx_state(i).done(u32::from(i.0) + 100);
        made.rx_counters(i).add(crate::stats::C::rx_packets, u64::from(i.0) + 1);
        made.tx_counters(i).add(crate::stats::C::tx_packets, u64::from(i.0) + 100);
    }
    for i in RingNumber::first(usize::from(MAX_RINGS)) {
        let n = u64::from(i.0);
        assert_eq!(u64::from(opened.kring(i).published()), n + 1);
        assert_eq!(u64::from(opened.tx_state(i).hwcur()), n + 100);
        assert_eq!(opened.rx_counters(i).read().rx_packets, n + 1);
        assert_eq!(opened.tx_counters(i).read().tx_packets, n + 100);
    }
    // Of the port are the rings that it has.
    assert_eq!(opened.counters().rx_packets, 1 + 2 + 3);
    assert_eq!(opened.counters().tx_packets, 100 + 101);
}

#[test]
fn header_that_makes_no_sense_is_refused_and_changes_nothing_for_those_who_have_it_open() {
    let (temp, dir) = dir();
    for (what, at, bytes) in [
        ("magic", 0, &[0][..]),
        ("version", 8, &[9]),
        ("index", 12, &[0, 1]),
        ("no TX rings", 24, &[0]),
        ("too many RX rings", 28, &[17]),
        ("short ring", 32, &[63, 0]),
        ("long ring", 36, &[1, 16]),
        ("a region's name that leaves its directory", 40, b"../x\0"),
        ("no region", 40, &[0]),
        ("index of the other end", 208, &[0, 1]),
    ] {
        let opened = PortFile::create(&dir, "port.x", shape()).unwrap();
        assert!(opened.is_as_opened());
        let file = std::fs::File::options().write(true).open(temp.path().join("port.x")).unwrap();
        file.write_all_at(bytes, at).unwrap();
        let error = PortFile::open(&dir, "port.x").unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{what}: {error}");
        assert!(!opened.is_as_opened(), "{what}");
        assert_eq!(opened.shape, shape(), "{what}");
        std::fs::remove_file(temp.path().join("port.x")).unwrap();
    }
}

#[test]
fn file_that_is_too_short_is_no_ports() {
    let (temp, dir) = dir();
    drop(PortFile::create(&dir, "port.x", shape()).unwrap());
    let file = std::fs::File::options().write(true).open(temp.path().join("port.x")).unwrap();
    file.set_len(BYTES as u64 - 1).unwrap();
    let error = PortFile::open(&dir, "port.x").unwrap_err();
    let short = Damage::Short(SharedFile::Port);
    assert!(matches!(error, Error::Damaged { damage, .. } if damage == short));
}

#[test]
fn slots_in_flight_are_those_between_the_indices_going_round() {
    let file = PortFile::anonymous(shape()).unwrap();
    let of = |from: u32, to: u32| {
        let kring = file.kring(RingNumber(1));
        kring.free(from);
        kring.publish(to);
        let in_flight = file.in_flight(RingNumber(1));
        (0..8).filter(|&slot| in_flight(slot)).collect::<Vec<_>>()
    };
    assert_eq!(of(2, 5), [2, 3, 4]);
    assert_eq!(of(6, 1), [0, 6, 7]);
    assert!(of(3, 3).is_empty());
}

#[test]
fn ends_of_a_pipe_name_each_other_and_have_each_others_rings() {
    let rings =
        RingCells { tx_slots: 128, rx_slots: 64, tx: cells(&[1, 2, 3]), rx: cells(&[4, 5]) };
    let id = PortId { index: PortIndex(4), generation: Generation(8) };
    let one = Shape { peer: Some(id), ..shape() };
    let other = Shape {
        index: id.index,
        generation: id.generation,
        peer: Some(one.id()),
        rings,
        ..shape()
    };
    assert!(one.is_pipe_with(&other) && other.is_pipe_with(&one));
    let unlike = [
        Shape { generation: Generation(9), ..other.clone() },
        Shape { peer: None, ..other.clone() },
        Shape { region: "2".into(), ..other.clone() },
        Shape { rings: one.rings.clone(), ..other },
    ];
    for other in &unlike {
        assert!(!one.is_pipe_with(other) && !other.is_pipe_with(&one), "{other:?}");
    }
}
