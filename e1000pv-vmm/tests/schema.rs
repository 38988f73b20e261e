//! `docs/schema/e1000pv-vmm.json` against the records that the monitor prints: neither has a key that
//! the other lacks.

#![forbid(unsafe_code)]

#[path = "../../scripts/xtask/tests/support/schema.rs"]
mod json_schema;

use std::collections::BTreeSet;
use std::fs;

use e1000pv_driver::{Discipline, Stats};
use e1000pv_vmm::machine::exit::End;
use e1000pv_vmm::report::{CpuTime, NicRecord, Start, Totals};
use e1000pv_vmm::stats::counters::VmCounters;
use guest_workload::{Function, RoundTrips, Summary, write_error};
use json_schema::fits;
use nm_cli::mac::Mac;
use nm_cli::report::{Kind, Record, json};
use serde_json::{Value, json as value};

fn schema() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/e1000pv-vmm.json");
    serde_json::from_str(&fs::read_to_string(path).expect("the schema")).expect("JSON")
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

fn record(kind: Kind, record: &impl Record) -> Value {
    serde_json::from_str(&json(kind, record).expect("a record")).expect("JSON")
}

fn guest_result() -> Value {
    let summary = Summary {
        function: Function::Ping,
        driver: Discipline::Csb,
        ring: 4096,
        packets: 1,
        bytes: 60,
        duration_ns: 1,
        lost: 0,
        reordered: 0,
        duplicated: 0,
        bad: 0,
        foreign: 0,
        unsent: 0,
        stats: Stats::default(),
        interrupts: 0,
        idles: 0,
        lost_interrupts: 0,
        rtt: Some(RoundTrips::default()),
    };
    let mut line = String::new();
    summary.write_json(&mut line).expect("a string takes everything");
    serde_json::from_str(&line).expect("JSON")
}

fn totals(guest: Option<Value>) -> Totals {
    Totals {
        name: "vm1".into(),
        accel: "kvm",
        end: Some(End::Status(0)),
        status: Some(0),
        elapsed_ns: 1,
        cpu: CpuTime { total_ns: 3, vcpu_ns: Some(1), io_ns: vec![1, 1] },
        guest,
        counters: VmCounters::new("vm1", 1, 2).expect("a page of memory").snapshot(),
        before: None,
    }
}

/// A definition whose records always have all of its keys.
fn has_the_keys_of(name: &str, instance: &Value) {
    let schema = schema();
    assert_eq!(keys(&schema["$defs"][name]["properties"]), keys(instance), "{name}");
}

#[test]
fn records_fit_the_schema() {
    let schema = schema();
    let start = Start {
        name: "vm1".into(),
        accel: "thread",
        nics: vec![NicRecord { port: "valeA:x".into(), mac: Mac([2, 0, 0, 0, 0, 1]) }],
        mem_bytes: 64 << 20,
        cmdline: "rx".into(),
    };
    let mut error = String::new();
    write_error(&mut error, "no device").expect("a string takes everything");
    let error = serde_json::from_str(&error).expect("JSON");
    for line in [
        record(Kind::Start, &start),
        record(Kind::Interval, &Totals { end: None, status: None, ..totals(None) }),
        record(Kind::Totals, &totals(None)),
        record(Kind::End, &totals(Some(guest_result()))),
        record(Kind::End, &totals(Some(error))),
        record(Kind::End, &totals(Some(value!({ "of": "somebody else's guest" })))),
    ] {
        assert!(fits(&schema, &schema, &line), "{line}");
    }
    assert!(fits(&schema, &schema["$defs"]["result"], &guest_result()), "a part of any object");
    for end in
        [End::Status(3), End::Reset, End::Asked, End::Timeout, End::Crash("triple fault".into())]
    {
        let line = record(Kind::End, &Totals { end: Some(end), ..totals(None) });
        assert!(fits(&schema, &schema, &line), "{line}");
    }
}

#[test]
fn schema_has_no_key_that_records_lack() {
    let end = record(Kind::End, &totals(Some(guest_result())));
    has_the_keys_of("totals", &end);
    has_the_keys_of("counters", &end["counters"]);
    has_the_keys_of("nic", &end["counters"]["nics"][0]);
    has_the_keys_of("result", &end["guest"]);
}

#[test]
fn what_is_no_record_does_not_fit() {
    let schema = schema();
    let good = record(Kind::End, &totals(None));
    for (key, wrong) in [
        ("type", value!("row")),
        ("schema", value!(2)),
        ("accel", value!("tcg")),
        ("elapsed_ns", value!("1 s")),
        ("counters", value!({ "exits": 1.5 })),
        ("colour", value!("red")),
    ] {
        let mut line = good.clone();
        line[key] = wrong;
        assert!(!fits(&schema, &schema, &line), "{line}");
    }
    let mut line = good;
    line.as_object_mut().expect("an object").remove("cpu");
    assert!(!fits(&schema, &schema, &line), "{line}");
}
