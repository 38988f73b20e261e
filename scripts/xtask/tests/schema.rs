//! `docs/schema/nm-pktgen.json` and `nm-bridge.json` against what the tools print.

#![forbid(unsafe_code)]

#[path = "support/schema.rs"]
mod json_schema;
mod support;

use std::collections::BTreeSet;

use json_schema::fits;
use serde_json::{Value, json};
use support::Root;

fn schema(tool: &str) -> Value {
    let path = support::repository().join(format!("docs/schema/{tool}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("a schema")).expect("JSON")
}

/// The types of the records that a run prints, each of which fits the schema.
fn kinds(schema: &Value, root: &Root, tool: &str, line: &str) -> BTreeSet<String> {
    let args: Vec<&str> = line.split(' ').collect();
    // Some end with a status that says that nobody answered.
    let output = root.command(tool).args(&args).output().expect(tool);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let check = |record: Value| {
        assert!(fits(schema, schema, &record), "{tool} {line}: {record}");
        record["type"].as_str().expect("a type").to_owned()
    };
    records.map(check).collect()
}

#[test]
fn records_of_nm_pktgen_fit_their_schema() {
    let (schema, root) = (schema("nm-pktgen"), Root::new());
    for function in ["tx", "txseq", "rx", "rxseq", "ping", "pong"] {
        let line = format!("-i valeA:x -f {function} -t 300ms -T 100ms -A --json");
        let kinds = kinds(&schema, &root, "nm-pktgen", &line);
        let wanted = ["end", "interval", "start"].map(str::to_owned);
        assert_eq!(kinds, BTreeSet::from(wanted), "{function}");
    }
}

#[test]
fn records_of_nm_bridge_fit_their_schema() {
    let (schema, root) = (schema("nm-bridge"), Root::new());
    let line = "-i valeA:l -i valeB:r --duration 300ms -T 100ms --json";
    let kinds = kinds(&schema, &root, "nm-bridge", line);
    assert_eq!(kinds, BTreeSet::from(["end", "interval", "start"].map(str::to_owned)));
}

#[test]
fn what_is_no_record_does_not_fit() {
    for tool in ["nm-pktgen", "nm-bridge"] {
        let schema = schema(tool);
        for wrong in [json!({}), json!({ "type": "end" }), json!({ "type": "row", "schema": 1 })] {
            assert!(!fits(&schema, &schema, &wrong), "{tool}: {wrong}");
        }
    }
}
