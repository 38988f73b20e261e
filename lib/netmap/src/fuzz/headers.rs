//! Damaged control structures: the files of ports, regions and switches, patched while in use.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Input, no_access_beyond_files, small};
use crate::control;
use crate::error::Result;
use crate::options::Memory;
use crate::port::Port;
use crate::shm::mem::STRIDE;
use crate::vale::lifecycle::root::Root;
use crate::wait::{Interest, Wait};

/// Switch of `headers`. Its regions have numbers, so that what damage leaves behind is found.
const SWITCH: &str = "valeFuzzH";
const REGIONS: [u16; 3] = [1501, 1502, 1503];

fn join(port: usize) -> Result<Port> {
    let name = format!("{SWITCH}:{}", ["a", "b", "c"][port]).parse()?;
    Port::open_with(&name, &small(Memory::Id(REGIONS[port])))
}

/// One port sends two packets and another reads whatever is there; how many slots that was.
fn exchange(from: &mut Port, to: &mut Port, dst: u8) -> Result<usize> {
    for len in [60, STRIDE + 1] {
        let mut frame = vec![dst; len];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        from.tx(0).push(&frame);
    }
    from.txsync()?;
    to.rxsync()?;
    let mut ring = to.rx(0);
    let n = ring.available();
    for slot in ring.batch(n) {
        assert!(slot.frame().to_vec().len() <= STRIDE);
    }
    ring.advance(n);
    to.rxsync()?;
    Ok(n)
}

/// The result, or none after an error, which must print.
fn told<T>(result: Result<T>) -> Option<T> {
    result.map_err(|e| assert!(!e.to_string().is_empty())).ok()
}

/// What else touches the files: a look at everything, a new port, a second handle, settings.
fn visit() {
    told(control::list());
    let newcomer = join(2);
    let second = Port::open(&format!("{SWITCH}:a"));
    for mut port in [newcomer, second].into_iter().filter_map(told) {
        told(port.txsync());
        told(port.rxsync());
        told(port.wait(Interest::RX, Wait::Block, Some(Duration::ZERO)));
        let _ = (port.counters(), port.extra_buffers());
    }
    let persistent = format!("{SWITCH}:d").parse().expect("a valid name");
    told(control::create_port(&persistent, &small(Memory::Id(REGIONS[2]))));
    if let Some(switch) = told(control::Switch::open(SWITCH)) {
        told(switch.info());
        told(switch.fdb());
        told(switch.set_ageing(Some(Duration::from_secs(1))));
        told(switch.fdb_flush(Some("a"), None));
    }
    told(control::delete_port(&persistent));
}

/// Whatever is written over the control structures of a port, a region or a switch, with ports
/// open: opening, listing, sending and receiving end, with a result or with an error that prints;
/// no access leaves a file; and once the files are gone the same names work again.
pub fn headers(data: &[u8]) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Root::open().expect("NETMAP_ROOT is a directory of ours");
    let regions = REGIONS.map(|r| root.dir().path().join("mem").join(r.to_string()));
    let clear = || {
        let _ = std::fs::remove_dir_all(root.dir().path().join(SWITCH));
        for region in &regions {
            let _ = std::fs::remove_file(region);
        }
    };
    clear();
    let (mut a, mut b) = (join(0).expect("a fresh port"), join(1).expect("a fresh port"));
    no_access_beyond_files();
    let n = exchange(&mut a, &mut b, 0xff).expect("a sound switch");
    assert_eq!(n, 3, "one packet of a slot and one of two");

    let dir = root.dir().path().join(SWITCH);
    let files: [PathBuf; 4] =
        [dir.join("port.a"), dir.join("port.b"), dir.join("switch"), regions[1].clone()];
    let files = files.map(|f| File::options().write(true).open(f).expect("it was just made"));
    let work = |a: &mut Port, b: &mut Port| {
        told(exchange(a, b, 0xff));
        told(exchange(b, a, 2));
        visit();
    };
    let mut input = Input(data);
    for _ in 0..8 {
        // Patches, each of a place and up to 60 bytes, until one says that it is the last for now.
        loop {
            let (how, place) = (input.byte(), usize::from(input.half()) * 4);
            let file = &files[usize::from(how & 3)];
            let take = input.0.len().min(usize::from(how >> 2 & 15) * 4);
            let (patch, rest) = input.0.split_at(take);
            input.0 = rest;
            let len = file.metadata().expect("it is open").len() as usize;
            if place + take <= len {
                let written = file.write_all_at(patch, place as u64);
                written.expect("within a file on tmpfs");
            }
            if how & 0x80 != 0 || input.0.is_empty() {
                break;
            }
        }
        work(&mut a, &mut b);
        if input.0.is_empty() {
            break;
        }
    }
    drop((a, b));
    clear();
}
