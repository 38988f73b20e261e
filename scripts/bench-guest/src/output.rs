//! Where results go: aligned tables on stdout, one JSON object a line in a file, charts in a directory.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
pub use nm_cli::digits::{digits, rare};
use nm_cli::machine::Machine;
use nm_cli::table::{Align, line};
use serde_json::{Value, json};

use crate::machine;
use crate::summary::Summary;
use crate::target::Judged;

/// Counts up when a key of the JSON lines changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// All three.
#[derive(Debug)]
pub struct Output {
    json: Option<File>,
    charts: Option<PathBuf>,
    /// One line about the machine, for the head of the table and below the charts' titles.
    pub machine: String,
    live: bool,
    /// What was judged.
    pub judged: Judged,
}

impl Output {
    /// Opens them; the machine is the first line of each.
    pub fn new(json: Option<&Path>, charts: Option<&Path>) -> Result<Output> {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("creating {}", path.display()))
        };
        if let Some(charts) = charts {
            fs::create_dir_all(charts).with_context(|| format!("creating {}", charts.display()))?;
        }
        let here = Machine::here();
        let output = Output {
            json: json.map(create).transpose()?,
            charts: charts.map(Path::to_owned),
            machine: machine::describe(&here),
            live: io::stderr().is_terminal(),
            judged: Judged::default(),
        };
        let mut fields = serde_json::to_value(here).context("describing the machine")?;
        fields["machine"] = json!(output.machine);
        output.record("machine", &fields)?;
        Ok(output)
    }

    /// Writes a JSON line: `fields` with type and schema.
    pub fn record(&self, kind: &str, fields: &Value) -> Result<()> {
        let Some(mut file) = self.json.as_ref() else { return Ok(()) };
        writeln!(file, "{}", json_line(kind, fields)).context("writing the JSON file")
    }

    /// Writes a chart, if charts are wanted.
    pub fn chart(&self, name: &str, draw: impl FnOnce() -> Result<String>) -> Result<()> {
        let Some(directory) = &self.charts else { return Ok(()) };
        let path = directory.join(name);
        fs::write(&path, draw()?).with_context(|| format!("writing {}", path.display()))?;
        self.done();
        eprintln!("wrote {}", path.display());
        Ok(())
    }

    /// Says on a terminal what is being done now.
    pub fn doing(&self, what: &str) {
        if self.live {
            // To the line's start, and clear it.
            eprint!("\r\x1b[K{what}");
        }
    }

    /// Takes that away again.
    pub fn done(&self) {
        self.doing("");
    }
}

fn json_line(kind: &str, fields: &Value) -> Value {
    let mut object = json!({"type": kind, "schema": SCHEMA});
    for (key, value) in fields.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    object
}

/// The keys of a summary, units in their names. What was not measured (a window without packets) is null.
pub fn fields(summary: &Summary, factor: Option<f64>) -> Value {
    let [exits, kicks, wakeups, interrupts] = summary.events;
    json!({
        "runs": summary.runs,
        "rx_pps": summary.pps,
        "rx_pps_min": summary.range_pps.0,
        "rx_pps_max": summary.range_pps.1,
        "loss_ratio": summary.loss,
        "bad_packets": summary.bad,
        "cpu_ns_per_packet": summary.cpu_ns,
        "vcpu_ns_per_packet": summary.vcpu_ns,
        "io_ns_per_packet": summary.io_ns,
        "exits_per_packet": exits,
        "kicks_per_packet": kicks,
        "wakeups_per_packet": wakeups,
        "interrupts_per_packet": interrupts,
        "notifications_per_packet": summary.notifications(),
        "factor_to_plain": factor,
        "noisy": summary.noisy,
    })
}

/// A table of which rows are printed as they come, so widths are fixed.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(usize, Align)>,
}

impl Table {
    /// Prints title and heading. A negative width is that of a column aligned at the left.
    pub fn new(title: &str, columns: &[(&str, isize)]) -> Table {
        let align = |width| if width < 0 { Align::Left } else { Align::Right };
        let widths = columns.iter().map(|&(_, width)| (width.unsigned_abs(), align(width)));
        let table = Table { columns: widths.collect() };
        println!("\n{title}");
        table.row(&columns.iter().map(|column| column.0.to_owned()).collect::<Vec<_>>());
        table
    }

    /// Prints a row.
    pub fn row(&self, cells: &[String]) {
        println!("{}", line(cells, &self.columns));
    }
}

/// Millions, with three significant digits: 0.0463, 1.85, 39.2.
pub fn mega(value: f64) -> String {
    digits(value / 1e6)
}

/// Nanoseconds as microseconds.
pub fn microseconds(ns: f64) -> String {
    digits(ns / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Run;

    #[test]
    fn mega_counts_millions() {
        assert_eq!([mega(39_240_000.0), mega(46_312.0)], ["39.2", "0.0463"]);
    }

    #[test]
    fn line_starts_with_type_and_schema_and_is_one_line() {
        let text = json_line("row", &json!({"case": "ladder", "text": "a\nb"})).to_string();
        assert!(
            !text.contains('\n')
                && text.contains("\"type\":\"row\"")
                && text.contains("\"schema\":1")
        );
    }

    #[test]
    fn fields_are_all_in_the_schema() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schema/bench-guest.json");
        let schema: Value =
            serde_json::from_str(&fs::read_to_string(path).expect("there")).expect("JSON");
        let known = schema["properties"].as_object().expect("an object");
        let summary = fields(&Summary::of(&[Run::default()]), Some(2.0));
        for key in summary.as_object().expect("an object").keys() {
            assert!(known.contains_key(key), "{key} is not in the schema");
        }
    }
}
