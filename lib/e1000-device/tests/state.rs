//! Saved, written down, read again, restored: the device goes on as if nothing had been.

use std::path::Path;

use e1000_device::State;
use e1000_device::harness::fuzz;
use e1000_device::state::{BadState, MappedCsb, Phase};
use e1000pv::bits::Rctl;
use e1000pv::desc::{ContextTx, DataTx, LegacyTx, Popts, TxCmd};
use e1000pv::regs;

/// Operations of the harness, by their number.
const REGISTER: u8 = 0;
const ACCESS: u8 = 1;
const DESCRIPTOR: u8 = 5;
const OPEN: u8 = 8;
const MAP_CSB: u8 = 9;
const TDT: u8 = 10;
const RDT: u8 = 11;
const ROUND: u8 = 12;
const PACKET: u8 = 16;
const TAKE: u8 = 18;
const MODES: u8 = 23;
/// The kind of a descriptor whose 16 bytes follow.
const AS_IT_IS: u8 = 0;

/// As text and back.
fn written(state: State) -> State {
    let text = serde_json::to_string(&state).expect("plain data");
    serde_json::from_str(&text).expect("as it was written")
}

/// A guest whose packets have several descriptors, each published by a tail of its own, on a port
/// that takes a few slots at a time. Returns the operations, one by one.
fn guest(choice: u8) -> Vec<Vec<u8>> {
    let dext = TxCmd::DEXT | TxCmd::TSE;
    let context = ContextTx { tucmd: dext, hdrlen: 54, mss: 100, ..ContextTx::default() };
    let part = DataTx {
        buffer_addr: 0x8000,
        dtalen: 700,
        dcmd: dext | TxCmd::VLE,
        popts: Popts::TXSM,
        ..DataTx::default()
    };
    let last = DataTx { dcmd: part.dcmd | TxCmd::EOP | TxCmd::RS, ..part };
    let cmd = TxCmd::RS;
    let half = LegacyTx { buffer_addr: 0x8000, length: 60, cmd, ..LegacyTx::default() };
    let whole = LegacyTx { cmd: cmd | TxCmd::EOP, ..half };
    let descriptors =
        [context.to_bytes(), part.to_bytes(), last.to_bytes(), half.to_bytes(), whole.to_bytes()];
    let mut operations = vec![vec![OPEN, 0, 0], vec![MODES, 0, 1, 0, 0]];
    if choice & 1 == 0 {
        operations.push(vec![MAP_CSB]);
    }
    for (index, descriptor) in (0..).zip(descriptors) {
        operations.push([&[DESCRIPTOR, index, AS_IT_IS], &descriptor[..]].concat());
    }
    for tail in 1..=5 {
        for slots in [2, 0, 3] {
            operations.push(vec![TAKE, slots]);
        }
        operations.push(vec![TDT, tail]);
        // With a CSB the tail is there.
        operations.push(vec![7, 0, tail]);
        operations.extend([vec![ROUND], vec![PACKET, 6, 0x3C, 0, 2, 0, 0, 0, 0, 1], vec![ROUND]]);
    }
    operations
}

#[test]
fn device_goes_on_wherever_between_two_descriptors_of_a_packet_it_was_saved() {
    let (mut begun, mut segments, mut loaded) = (0, 0, 0);
    for choice in 0..64 {
        let operations = guest(choice);
        let data = [vec![choice], operations.concat()].concat();
        for at in 0..=operations.len() {
            fuzz::restored(&data, at, |state| {
                let packet = &state.tx.packet;
                begun += u32::from(packet.begun);
                segments +=
                    u32::from(packet.sending.as_ref().is_some_and(|s| s.segments.is_some()));
                loaded += u32::from(packet.segmentation != [0; 16]);
                written(state)
            });
        }
    }
    // Saved in the middle of what there is to be in the middle of.
    for (what, n) in [("packet", begun), ("segments", segments), ("context", loaded)] {
        assert!(n > 0, "{what}");
    }
}

/// A guest in loopback that moderates its interrupts: frames come back while its receiver has no buffers, and causes wait for their
/// time. Rounds are 10 us apart.
fn looping_guest() -> Vec<Vec<u8>> {
    let index = |of: u32| {
        let row = regs::TABLE.iter().position(|row| row.offset == of);
        row.expect("it has a row") as u8
    };
    let write = |offset: u32, value: u32| {
        [&[REGISTER, index(offset), 0][..], &value.to_le_bytes()].concat()
    };
    let rctl = Rctl::EN | Rctl::BAM | Rctl::UPE | Rctl::MPE | Rctl::LBM;
    let cmd = TxCmd::EOP | TxCmd::RS;
    let whole = LegacyTx { buffer_addr: 0x8000, length: 60, cmd, ..LegacyTx::default() };
    // A read of ICR, 4 bytes wide.
    let acknowledge = [&[ACCESS][..], &regs::ICR.to_le_bytes(), &[4], &[0; 8]].concat();
    let mut operations = vec![
        vec![OPEN, 0, 0],
        write(regs::RCTL, rctl.bits()),
        write(regs::ITR, 1000), // 256 us
    ];
    for tail in 1..=6 {
        operations.push([&[DESCRIPTOR, tail - 1, AS_IT_IS], &whole.to_bytes()[..]].concat());
        // The receiver's tail at its head: no buffers. Later all.
        operations.push(vec![RDT, if tail < 5 { 0 } else { 7 }]);
        operations.extend([vec![TDT, tail], vec![ROUND], acknowledge.clone(), vec![ROUND]]);
    }
    operations.extend(vec![vec![ROUND]; 30]);
    operations
}

#[test]
fn device_goes_on_in_loopback_and_with_interrupts_that_wait_for_their_time() {
    let (mut on_their_way, mut postponed) = (0, 0);
    for choice in [1, 9] {
        let operations = looping_guest();
        let data = [vec![choice], operations.concat()].concat();
        for at in 0..=operations.len() {
            fuzz::restored(&data, at, |state| {
                on_their_way += u32::from(!state.loopback.is_empty());
                postponed += u32::from(state.interrupts.postponed);
                written(state)
            });
        }
    }
    assert!(on_their_way > 0, "it was never saved with frames in the loopback");
    assert!(postponed > 0, "it was never saved while an interrupt waited");
}

#[test]
fn devices_of_the_corpus_go_on() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/device");
    let mut seen = 0;
    for entry in dir.read_dir().expect("the corpus") {
        let data = std::fs::read(entry.expect("an entry").path()).expect("a file");
        for at in [3, 17, 60] {
            fuzz::restored(&data, at, |state| state);
        }
        seen += 1;
    }
    assert!(seen > 0, "the corpus {dir:?} is empty");
}

#[test]
fn state_that_cannot_be_is_refused() {
    let change = |change: fn(&mut State)| -> Result<(), BadState> {
        let mut state = fuzz::state(&[]);
        fuzz::accepts(&state).expect("as it was saved");
        change(&mut state);
        fuzz::accepts(&state)
    };
    for (what, wrong) in [
        ("registers", change(|s| s.registers.truncate(3))),
        ("statistics", change(|s| s.statistics.push(0))),
        ("PHY", change(|s| s.phy.registers.clear())),
        (
            "CSB",
            change(|s| {
                s.csb = Some(MappedCsb { gpa: u64::MAX, txcycles_lim: 0 });
            }),
        ),
        ("tail", change(|s| s.tx.queue.tail = 8)),
        ("packet", change(|s| s.tx.packet.bytes = vec![0; 100])),
        ("wait", change(|s| s.rx.waits_for = 9)),
        ("line", change(|s| s.interrupts.level = true)),
        ("EEPROM", change(|s| s.eeprom.phase = Phase::Read { word: 0, left: 0 })),
    ] {
        assert!(wrong.is_err(), "{what}");
    }
}
