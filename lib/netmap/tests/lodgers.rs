//! Ports on no switch in the memory of one, whose process is killed: what they had of it can be had again.

mod common;
#[path = "../../nm-cli/tests/netns/mod.rs"]
mod netns;
#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skip;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{frame, in_own_root};
use netmap::{Memory, Options, Port, control};

const NAME: &str = "memory_of_killed_lodgers_can_be_had_again_and_that_of_living_ones_is_theirs";
const CHILD: &str = "NM_TEST_LODGER_TAP";

fn open_with(name: &str, memory: &Port) -> netmap::Result<Port> {
    let memory = Memory::With(memory.memory().expect("a switch's port"));
    Port::open_with(&name.parse().expect(name), &Options { memory, ..Options::default() })
}

#[test]
fn memory_of_killed_lodgers_can_be_had_again_and_that_of_living_ones_is_theirs() {
    if let Some(tap) = std::env::var_os(CHILD) {
        let port = Port::open("valeL:x").expect("opened");
        let tap = open_with(tap.to_str().expect("text"), &port).expect("room in its memory");
        assert!(tap.same_memory(&port));
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    in_own_root(NAME, |root| {
        let namespace = match netns::Namespace::new("lodge") {
            Ok(namespace) => namespace,
            Err(why) => return skip::skip(NAME, &why),
        };
        let name = "valeL:x@conf:mem-mib=16".parse().expect("a name");
        control::create_port(&name, &Options::default()).expect("made");
        let port = Port::open("valeL:x").expect("opened");
        let living = open_with(&format!("tap:t0@netns:{}", namespace.0), &port).expect("room");
        // Where each slot's data are, but of the one before the head.
        let buffers_of = |port: &mut Port| {
            let mut ring = port.tx(0);
            let place = |slot: netmap::TxSlot<'_>| (slot.index(), slot.buf_idx());
            (0..ring.space()).map(|i| place(ring.slot(i))).collect::<BTreeMap<_, _>>()
        };
        let mut living = living;
        let buffers = buffers_of(&mut living);
        // Three have room at a time.
        for round in 0..12 {
            let tap = format!("tap:t1@netns:{}", namespace.0);
            let mut child = Command::new(std::env::current_exe().expect("the test binary"))
                .args([NAME, "--exact", "--nocapture"])
                .env(CHILD, &tap)
                .stdout(Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
            let ready = lines.any(|line| line.expect("text").contains("ready"));
            child.kill().expect("killed");
            child.wait().expect("gone");
            assert!(ready, "round {round}: no room");
            // The living one has what it had.
            for (slot, buffer) in buffers_of(&mut living) {
                assert!(buffers.get(&slot).is_none_or(|&before| before == buffer), "{slot}");
            }
            assert!(living.tx(0).push(&frame(9, 1, round, 60)));
            living.txsync().expect("synced");
        }
        assert_eq!((living.counters().tx_packets, living.counters().reinits), (12, 0));
        drop(living);
        drop(open_with(&format!("tap:t1@netns:{}", namespace.0), &port).expect("room"));
        let left = std::fs::read_dir(root.join("mem")).expect("a directory").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 1, "{left:?}");
    });
}
