//! Records of a run, printed for people or programs. Invariant: one record is one line of JSON, with
//! `"type"` and `"schema":1` in front, numbers unscaled, the unit in the key; the last is the `end`.
//!
//! | option              | start | interval | totals (SIGUSR1) | end |
//! |---------------------|-------|----------|------------------|-----|
//! | (none)              | yes   | yes      | yes              | yes |
//! | `--quiet`           |       |          | yes              | yes |
//! | `--json`            |       |          | yes              | yes |
//! | `--json --interval` | yes   | yes      | yes              | yes |
//! | `--csv`             |       |          |                  | yes |
//! | `--csv --interval`  |       | yes      |                  |     |
//!
//! A CSV file has one header and one kind of row, because programs that read CSV expect that.

use std::fmt;
use std::io::{self, Write};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::args::OutputArgs;
use crate::live::Live;
use crate::say::Talk;
use crate::units::{self, Units};

/// Version of the JSON records.
pub const SCHEMA: u32 = 1;

/// Where in a run a record stands; the JSON `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Before the first packet: the parameters of the run.
    Start,
    /// Every `--interval`: what happened since the previous record.
    Interval,
    /// On SIGUSR1: the totals so far.
    Totals,
    /// The totals of the run.
    End,
}

/// Something that can be printed: serialisable for programs, and in words for people.
pub trait Record: Serialize {
    /// Writes the record for people, without the final newline. Writing nothing prints nothing.
    ///
    /// # Errors
    /// The formatter's.
    fn human(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result;
}

#[derive(Serialize)]
struct Envelope<'a, R> {
    #[serde(rename = "type")]
    kind: Kind,
    schema: u32,
    #[serde(flatten)]
    record: &'a R,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Human,
    Json,
    Csv,
}

/// Prints records as the user asked.
pub struct Reporter {
    out: Box<dyn Write + Send>,
    format: Format,
    units: Units,
    quiet: bool,
    explicit_interval: bool,
    header_done: bool,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter")
            .field("format", &self.format)
            .field("quiet", &self.quiet)
            .finish_non_exhaustive()
    }
}

impl Reporter {
    /// Reports on stdout, where results belong.
    pub fn stdout(args: &OutputArgs) -> Reporter {
        Reporter::new(Box::new(io::stdout()), args)
    }

    /// Reports on stderr, for runs whose stdout carries packets (`--pcap-out -`). The packets are the result
    /// then, so a report that cannot be printed does not end the run.
    pub fn stderr(args: &OutputArgs) -> Reporter {
        Reporter::new(Box::new(Talk), args)
    }

    /// Reports to any writer.
    pub fn new(out: Box<dyn Write + Send>, args: &OutputArgs) -> Reporter {
        let format = match (args.json, args.csv) {
            (true, _) => Format::Json,
            (false, true) => Format::Csv,
            (false, false) => Format::Human,
        };
        Reporter {
            out,
            format,
            units: args.units(),
            quiet: args.quiet,
            explicit_interval: args.interval.is_some(),
            header_done: false,
        }
    }

    /// True if a record of this kind would be printed; if not, it need not be computed.
    pub fn wants(&self, kind: Kind) -> bool {
        let lines = match self.format {
            Format::Human => !self.quiet,
            Format::Json | Format::Csv => self.explicit_interval && !self.quiet,
        };
        match (kind, self.format) {
            (Kind::Start | Kind::Totals, Format::Csv) => false,
            (Kind::End, Format::Csv) => !lines,
            (Kind::Start | Kind::Interval, _) => lines,
            (Kind::Totals | Kind::End, _) => true,
        }
    }

    /// Prints one record, if this kind is wanted, above the progress bar.
    ///
    /// # Errors
    /// It cannot be written, or the record cannot be serialised.
    pub fn emit(&mut self, live: &Live, kind: Kind, record: &impl Record) -> anyhow::Result<()> {
        if !self.wants(kind) {
            return Ok(());
        }
        let mut text = String::new();
        match self.format {
            Format::Human => record.human(&mut text, self.units)?,
            Format::Json => text = json(kind, record)?,
            Format::Csv => text = self.csv(kind, record)?,
        }
        if text.is_empty() {
            return Ok(());
        }
        text.push('\n');
        live.suspend(|| self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()))?;
        Ok(())
    }

    fn csv(&mut self, kind: Kind, record: &impl Record) -> anyhow::Result<String> {
        let [header, values] = csv(kind, record)?;
        if std::mem::replace(&mut self.header_done, true) {
            return Ok(values);
        }
        Ok(format!("{header}\n{values}"))
    }
}

/// One record as a line of JSON, for tools that print it themselves.
///
/// # Errors
/// The record cannot be serialised.
pub fn json(kind: Kind, record: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(&Envelope { kind, schema: SCHEMA, record })?)
}

/// One record as comma-separated values: the header, and the row.
///
/// # Errors
/// The record cannot be serialised.
pub fn csv(kind: Kind, record: &impl Serialize) -> anyhow::Result<[String; 2]> {
    csv_row(&Envelope { kind, schema: SCHEMA, record })
}

/// Any structure as comma-separated values. Each nested value gets a column, which is named by its path
/// (`counters.nics.0.kicks`).
///
/// # Errors
/// The structure cannot be serialised, or is none.
pub fn csv_row(record: &impl Serialize) -> anyhow::Result<[String; 2]> {
    let row: Row = serde_json::from_str(&serde_json::to_string(record)?)?;
    let mut flat = Vec::new();
    row.0.into_iter().for_each(|(key, value)| flatten(key, value, &mut flat));
    let (keys, cells): (Vec<_>, Vec<_>) = flat.into_iter().unzip();
    Ok([keys.join(","), cells.join(",")])
}

fn flatten(key: String, value: Value, flat: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            members
                .into_iter()
                .for_each(|(name, value)| flatten(format!("{key}.{name}"), value, flat));
        }
        Value::Array(items) => (0..)
            .zip(items)
            .for_each(|(i, value): (usize, _)| flatten(format!("{key}.{i}"), value, flat)),
        value => flat.push((csv_cell(&Value::String(key)), csv_cell(&value))),
    }
}

/// The members of a JSON object in the order in which they were written.
struct Row(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Row, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Row;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut row = Vec::new();
                while let Some(member) = map.next_entry()? {
                    row.push(member);
                }
                Ok(Row(row))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// RFC 4180: quote what holds a comma, a quote or a line break. Null is empty.
fn csv_cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// Traffic in one direction over some time: what interval lines and totals are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Packets.
    pub packets: u64,
    /// Bytes of these packets, without CRC.
    pub bytes: u64,
    /// Bytes that a wire would add to reach the minimum frame ([`units::pad_bytes`] summed up).
    pub pad_bytes: u64,
    /// Syncs that moved at least one packet.
    pub batches: u64,
    /// Packets lost in this direction.
    pub drops: u64,
}

impl Flow {
    /// What happened since `earlier`.
    pub fn since(self, earlier: Flow) -> Flow {
        Flow {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            pad_bytes: self.pad_bytes.saturating_sub(earlier.pad_bytes),
            batches: self.batches.saturating_sub(earlier.batches),
            drops: self.drops.saturating_sub(earlier.drops),
        }
    }

    /// Packets per second; 0 in no time.
    pub fn pps(self, seconds: f64) -> f64 {
        per(self.packets as f64, seconds)
    }

    /// Bits per second of frames without CRC.
    pub fn bps_l2(self, seconds: f64) -> f64 {
        per(self.bytes as f64 * 8.0, seconds)
    }

    /// Bits per second on a wire.
    pub fn bps_l1(self, seconds: f64) -> f64 {
        per(units::l1_bits(self.packets, self.bytes, self.pad_bytes), seconds)
    }

    /// Mean packets per sync.
    pub fn avg_batch(self) -> f64 {
        per(self.packets as f64, self.batches as f64)
    }
}

fn per(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    #[derive(Serialize)]
    struct Sample {
        tx_packets: u64,
        note: &'static str,
        maybe: Option<u64>,
    }

    impl Record for Sample {
        fn human(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
            write!(f, "{} packets", units.count(self.tx_packets))
        }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn print(args: &OutputArgs) -> String {
        let out = Shared::default();
        let mut reporter = Reporter::new(Box::new(out.clone()), args);
        let live = Live::new(None, args);
        for (n, kind) in [Kind::Start, Kind::Interval, Kind::Interval, Kind::Totals, Kind::End]
            .into_iter()
            .enumerate()
        {
            let record = Sample { tx_packets: n as u64, note: "a,\"b\"", maybe: None };
            reporter.emit(&live, kind, &record).expect("memory");
        }
        String::from_utf8(out.0.lock().expect("not poisoned").clone()).expect("text")
    }

    #[test]
    fn json_alone_prints_totals_on_request_and_the_end() {
        let text = print(&OutputArgs { json: true, ..OutputArgs::default() });
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("{\"type\":\"end\",\"schema\":1,\"tx_packets\":4,\"note\":\"a,\\\"b\\\"\",\"maybe\":null}\n"), "{text}");
    }

    #[test]
    fn json_with_interval_prints_all_and_ends_with_end() {
        let interval = Some(Duration::from_secs(1));
        let text = print(&OutputArgs { json: true, interval, ..OutputArgs::default() });
        let kinds: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["type"].clone())
            .collect();
        assert_eq!(kinds, ["start", "interval", "interval", "totals", "end"]);
    }

    #[test]
    fn csv_has_one_header_and_quotes_cells() {
        let text = print(&OutputArgs { csv: true, ..OutputArgs::default() });
        assert_eq!(text, "type,schema,tx_packets,note,maybe\nend,1,4,\"a,\"\"b\"\"\",\n");
        let text = print(&OutputArgs {
            csv: true,
            interval: Some(Duration::from_secs(1)),
            ..OutputArgs::default()
        });
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn quiet_human_run_prints_the_result_only() {
        let text = print(&OutputArgs { quiet: true, ..OutputArgs::default() });
        assert_eq!(text, "3 packets\n4 packets\n");
    }

    #[test]
    fn flow_rates_are_per_second_and_safe_in_no_time() {
        let flow = Flow { packets: 100, bytes: 6000, pad_bytes: 0, batches: 4, drops: 0 };
        assert_eq!((flow.pps(2.0), flow.bps_l2(2.0), flow.bps_l1(2.0)), (50.0, 24_000.0, 33_600.0));
        assert_eq!((flow.avg_batch(), flow.pps(0.0)), (25.0, 0.0));
        assert_eq!(flow.since(Flow { packets: 40, ..Flow::default() }).packets, 60);
    }

    #[test]
    fn csv_of_what_is_nested_is_flat() {
        let nested = serde_json::json!({ "a": { "b": [1, { "c": "x,y" }], "n": null }, "d": true });
        let [header, row] = csv_row(&nested).expect("an object");
        assert_eq!(header, "a.b.0,a.b.1.c,a.n,d");
        assert_eq!(row, "1,\"x,y\",,true");
    }
}
