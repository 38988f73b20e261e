//! Where results go: aligned tables on stdout, one JSON object a line in a file, charts in a directory.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
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
        let output = Output {
            json: json.map(create).transpose()?,
            charts: charts.map(Path::to_owned),
            machine: machine::describe(),
            live: io::stderr().is_terminal(),
            judged: Judged::default(),
        };
        output.record("machine", &json!({"machine": output.machine, "cpus": machine::cpus()}))?;
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

/// Three significant digits, and no more than four behind the point.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "-".into(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        v if v >= 0.09995 => format!("{value:.3}"),
        0.0 => "0".into(),
        _ => format!("{value:.4}"),
    }
}

/// Events per packet: 2.01, 0.0125, 3.1e-5.
pub fn rare(value: f64) -> String {
    match value.abs() {
        v if v.is_finite() && v > 0.0 && v < 0.001 => format!("{value:.1e}"),
        _ => digits(value),
    }
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
    fn numbers_have_three_digits_that_count() {
        for (value, text) in [
            (39_240_000.0, "39.2"),
            (1_849_000.0, "1.85"),
            (46_312.0, "0.0463"),
            (999_900_000.0, "1000"),
            (0.0, "0"),
        ] {
            assert_eq!(mega(value), text);
        }
        assert_eq!(
            [rare(2.0123), rare(0.012_51), rare(0.000_031), rare(0.0)],
            ["2.01", "0.0125", "3.1e-5", "0"]
        );
        assert_eq!(digits(f64::NAN), "-");
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
