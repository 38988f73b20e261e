//! Replays the fuzz corpus, so that what fuzzing found once is checked on every machine.
//!
//! The files in `fuzz/corpus/device/` and a few guests written by hand go through the harness that
//! the fuzz target calls (`e1000_device::harness::fuzz`). A corpus that is not there fails.

use std::path::Path;

use e1000_device::harness::fuzz;
use e1000pv::desc::{ContextTx, DataTx, LegacyTx, TxCmd};

/// Operations of the harness, by their number.
const DESCRIPTOR: u8 = 5;
const CSB_WRITE: u8 = 7;
const OPEN: u8 = 8;
const MAP_CSB: u8 = 9;
const TDT: u8 = 10;
const RDT: u8 = 11;
const ROUND: u8 = 12;
const IDLE: u8 = 14;
const KICKED: u8 = 15;
const PACKET: u8 = 16;
const OTHER: u8 = 19;
const MODES: u8 = 23;
/// The kind of a descriptor whose 16 bytes follow.
const AS_IT_IS: u8 = 0;

#[test]
fn corpus_of_devices_holds() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/device");
    let entries =
        dir.read_dir().unwrap_or_else(|e| panic!("the corpus {dir:?} cannot be read: {e}"));
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus {dir:?} is empty");
    for file in files {
        println!("{}", file.display()); // shown if the harness panics
        fuzz::device(&std::fs::read(&file).unwrap());
    }
}

/// For each kind of device: a guest that sends and receives, with headers of any length, with wild
/// indices, and resets between.
#[test]
fn guests_written_by_hand_do_no_harm() {
    for choice in 0..64 {
        for (wild, hdrlen) in [(0, 54), (7, 0), (8, 1), (0x7F, 14), (0xFF, 255)] {
            let mut data = vec![choice, OPEN, 0, 0, MODES, 0, 1, 0, 0];
            // A context that segments, its data with a tag to insert, and a legacy descriptor.
            let dext = TxCmd::DEXT | TxCmd::TSE;
            let context = ContextTx { tucmd: dext, hdrlen, mss: 1, ..ContextTx::default() };
            let dcmd = dext | TxCmd::VLE | TxCmd::EOP | TxCmd::RS;
            let tso = DataTx { buffer_addr: 0x8000, dtalen: 300, dcmd, ..DataTx::default() };
            let cmd = TxCmd::EOP | TxCmd::RS | TxCmd::VLE;
            let legacy = LegacyTx { buffer_addr: 0x8000, length: 60, cmd, ..LegacyTx::default() };
            let descriptors = [context.to_bytes(), tso.to_bytes(), legacy.to_bytes()];
            for (index, descriptor) in (0..).zip(descriptors) {
                data.extend([DESCRIPTOR, index, AS_IT_IS]);
                data.extend(descriptor);
            }
            data.extend([TDT, 3, ROUND, ROUND, TDT, wild, ROUND, RDT, wild, ROUND]);
            data.extend([PACKET, 6, 0x3C, 0, 2, 0, 0, 0, 0, 1, ROUND, IDLE]);
            data.extend([MAP_CSB, KICKED, CSB_WRITE, 0, 3, CSB_WRITE, 4, 5, ROUND, IDLE]);
            data.extend([PACKET, 0x80, 0xFF, 0x1F, ROUND, CSB_WRITE, 0, wild, ROUND, IDLE]);
            data.extend([CSB_WRITE, 4, wild, ROUND, IDLE, OTHER, 0, ROUND, IDLE]);
            fuzz::device(&data);
        }
    }
}
