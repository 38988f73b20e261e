//! What the monitor reports: running machines, rates, flat columns, silence, and a report in spite of
//! signals that come together.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

mod support;
use support::running::Running;
use support::{output, root, stderr, stdout, vmm};

/// The bench guest in a thread: it runs anywhere.
const THREAD: [&str; 4] = ["--accel", "thread", "--netdev", "port=null:"];

fn run(root: &Path, args: &[&str]) -> std::process::Output {
    output(vmm(root, &[&THREAD[..], args].concat()))
}

/// A machine that receives until it is told to end.
fn start(root: &Path, name: &str) -> Running {
    Running::start(vmm(root, &[&THREAD[..], &["--name", name, "--guest", "rx"]].concat()))
}

#[test]
fn list_tells_the_machines_that_run() {
    let root = root();
    let none = output(vmm(root.path(), &["--list"]));
    assert_eq!((none.status.code(), stdout(&none)), (Some(0), String::new()));
    assert!(stderr(&none).contains("no machine runs"), "{}", stderr(&none));
    let none = output(vmm(root.path(), &["--list", "--json"]));
    assert_eq!(stdout(&none), "{}\n");
    let machines = [start(root.path(), "b"), start(root.path(), "a")];
    let words = stdout(&output(vmm(root.path(), &["--list"])));
    let process = machines[1].id();
    let line = format!("a: process {process}, 1 NIC, sent 0 and received 0 packets, 0 exits");
    assert_eq!(words.lines().next(), Some(&line[..]), "{words}");
    assert_eq!(words.lines().count(), 2, "{words}");
    let all: Value =
        serde_json::from_str(&stdout(&output(vmm(root.path(), &["--list", "--json"]))))
            .expect("one object");
    assert_eq!(all["a"]["process"], process);
    assert_eq!(all["b"]["nics"], 1);
    let rows = stdout(&output(vmm(root.path(), &["--list", "--csv"])));
    assert!(rows.starts_with("name,process,nics,"), "{rows}");
    assert_eq!(rows.lines().count(), 3, "{rows}");
}

#[test]
fn doubled_sigterm_leaves_the_report_whole() {
    // As timeout(1) does it: the process, and then its group.
    let root = root();
    for _ in 0..20 {
        let machine = start(root.path(), "victim");
        machine.signal(Signal::SIGTERM);
        machine.signal(Signal::SIGTERM);
        let (status, rest) = machine.end();
        assert_eq!(status.code(), Some(0), "{rest}");
        let end: Value = serde_json::from_str(&rest).expect("the last record");
        assert_eq!((&end["type"], &end["end"]), (&"end".into(), &"stopped".into()));
        assert_eq!(end["guest"]["workload"], "rx", "{end}");
    }
}

#[test]
fn words_at_the_end_have_rates() {
    let root = root();
    let got = run(root.path(), &["--guest", "tx count=1000 size=100"]);
    let text = stderr(&got);
    let line = |begin: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(begin));
        line.unwrap_or_else(|| panic!("no {begin} in {text}")).to_string()
    };
    for begin in ["guest: tx 1000 packets (", "nic 0: sent 1000 packets ("] {
        let line = line(begin);
        assert!(line.contains("pps, ") && line.contains("bps)"), "{line}");
    }
    assert!(line("nic 0").contains("received 0 packets"), "{text}");
    let one = run(root.path(), &["--guest", "tx count=1"]);
    assert!(stderr(&one).contains("sent 1 packet "), "{}", stderr(&one));
}

#[test]
fn quiet_is_quiet() {
    let root = root();
    let got = run(root.path(), &["--guest", "tx count=10", "-q"]);
    assert_eq!((got.status.code(), stderr(&got)), (Some(0), String::new()));
    let result: Value = serde_json::from_str(&stdout(&got)).expect("the guest's line");
    assert_eq!(result["packets"], 10);
}

#[test]
fn csv_is_flat() {
    let root = root();
    let got = run(root.path(), &["--guest", "tx count=10", "--csv", "--name", "columns"]);
    let text = stdout(&got);
    let [header, row] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    let cells: Vec<_> = header.split(',').zip(row.split(',')).collect();
    assert_eq!(header.split(',').count(), row.split(',').count(), "{text}");
    for cell in [("name", "columns"), ("counters.nics.0.tx_packets", "10"), ("guest.packets", "10")]
    {
        assert!(cells.contains(&cell), "{cell:?} is not in {text}");
    }
    assert!(!text.contains(['{', '[', '"']), "{text}");
    let _machine = start(root.path(), "columns");
    let text = stdout(&output(vmm(root.path(), &["--stats", "columns", "--csv"])));
    assert!(
        text.lines().next().is_some_and(|line| line.contains("counters.nics.0.kicks")),
        "{text}"
    );
}
