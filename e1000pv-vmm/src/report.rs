//! Records of a run: the machine's configuration at the start, its counters during the run, and at the end the
//! counters with the guest's result.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use e1000_device::Count;
use nm_cli::args::OutputArgs;
use nm_cli::exit::Outcome;
use nm_cli::mac::Mac;
use nm_cli::report::{Flow, Kind, Record, csv, csv_row, json};
use nm_cli::units::Units;
use serde::Serialize;
use serde_json::Value;

use crate::machine::exit::End;
use crate::stats::counters::{Snapshot, Vm};
use crate::stats::machines;

/// A NIC, as the start record has it.
#[derive(Clone, Debug, Serialize)]
pub struct NicRecord {
    /// Its port.
    pub port: String,
    /// Its address.
    pub mac: Mac,
}

/// The configuration of the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// The machine's name.
    pub name: String,
    /// "kvm" or "thread".
    pub accel: &'static str,
    /// Its NICs.
    pub nics: Vec<NicRecord>,
    /// Its memory.
    pub mem_bytes: u64,
    /// The guest's kernel command line.
    pub cmdline: String,
}

impl Record for Start {
    fn human(&self, f: &mut dyn fmt::Write, _units: Units) -> fmt::Result {
        write!(f, "{}: {}, {} MiB", self.name, self.accel, self.mem_bytes >> 20)?;
        for nic in &self.nics {
            write!(f, ", {} at {}", nic.mac, nic.port)?;
        }
        Ok(())
    }
}

/// CPU time by thread, in nanoseconds. A thread's is known when it has ended.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CpuTime {
    /// The whole process.
    pub total_ns: u64,
    /// The vCPU thread, the guest's own time with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_ns: Option<u64>,
    /// The I/O thread of each NIC.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_ns: Vec<u64>,
}

/// Totals, during the run and at its end.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// The machine's name.
    pub name: String,
    /// "kvm" or "thread".
    pub accel: &'static str,
    /// Why the machine stopped, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The guest's exit status, if it gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
    /// Since the guest started.
    pub elapsed_ns: u64,
    /// CPU time.
    pub cpu: CpuTime,
    /// The guest's result.
    pub guest: Option<Value>,
    /// What was counted.
    pub counters: Snapshot,
    /// The previous interval's record, because the text for people shows what happened since then.
    #[serde(skip)]
    pub before: Option<Before>,
}

/// Where an interval began.
#[derive(Clone, Debug)]
pub struct Before {
    /// Since the guest started.
    pub elapsed_ns: u64,
    /// What was counted by then.
    pub counters: Snapshot,
}

impl Record for Totals {
    fn human(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        let Totals { name, counters, elapsed_ns, before, .. } = self;
        write!(f, "{name}: {:.2} s", *elapsed_ns as f64 / 1e9)?;
        if let Some(end) = &self.end {
            write!(f, ", {end}")?;
        }
        if let Some(guest) = &self.guest {
            result_human(f, guest, units)?;
        }
        match before {
            None => counters_human(f, counters, Some(*elapsed_ns), units),
            Some(before) => {
                let elapsed_ns = elapsed_ns.saturating_sub(before.elapsed_ns);
                nics_human(f, &counters.since(&before.counters), Some(elapsed_ns), units)
            }
        }
    }
}

/// The bench guest's result in a few words; another guest's is its own. Its numbers are not
/// verified, but none of them can make the report fail.
fn result_human(f: &mut dyn fmt::Write, guest: &Value, units: Units) -> fmt::Result {
    let number = |key: &str| guest[key].as_u64();
    let (Some(work), Some(packets)) = (guest["workload"].as_str(), number("packets")) else {
        return Ok(());
    };
    let Some(duration_ns) = number("duration_ns") else { return Ok(()) };
    write!(f, "\n  guest: {}", work.escape_default())?;
    flow_human(f, (packets, number("bytes").unwrap_or(0)), Some(duration_ns), units)?;
    for key in ["lost", "reordered", "duplicated", "bad"] {
        match number(key) {
            None | Some(0) => {}
            Some(n) => write!(f, ", {} {key}", units.count(n))?,
        }
    }
    match (number("rtt_min_ns"), number("rtt_p50_ns"), number("rtt_p99_ns")) {
        (Some(min), Some(half), Some(most)) => {
            let [min, half, most] = [min, half, most].map(|ns| units.ns(ns as f64));
            write!(f, ", round trip min {min}, p50 {half}, p99 {most}")
        }
        _ => Ok(()),
    }
}

/// Packets, and their rates if the time is known and not 0.
fn flow_human(
    f: &mut dyn fmt::Write,
    (packets, bytes): (u64, u64),
    time_ns: Option<u64>,
    units: Units,
) -> fmt::Result {
    let noun = if packets == 1 { "packet" } else { "packets" };
    write!(f, " {} {noun}", units.count(packets))?;
    match time_ns {
        Some(ns @ 1..) if packets > 0 => {
            let flow = Flow { packets, bytes, ..Flow::default() };
            let seconds = ns as f64 / 1e9;
            write!(f, " ({}, {})", units.pps(flow.pps(seconds)), units.bps(flow.bps_l2(seconds)))
        }
        _ => Ok(()),
    }
}

/// A line a NIC: packets and rates over `time_ns`.
fn nics_human(
    f: &mut dyn fmt::Write,
    counters: &Snapshot,
    time_ns: Option<u64>,
    units: Units,
) -> fmt::Result {
    for nic in 0..counters.nics() {
        let of = |which| counters.nic(nic, which);
        write!(f, "\n  nic {nic}: sent")?;
        flow_human(f, (of(Count::TxPackets), of(Count::TxBytes)), time_ns, units)?;
        write!(f, ", received")?;
        flow_human(f, (of(Count::RxPackets), of(Count::RxBytes)), time_ns, units)?;
    }
    Ok(())
}

/// The same, and everything else that was counted.
fn counters_human(
    f: &mut dyn fmt::Write,
    counters: &Snapshot,
    time_ns: Option<u64>,
    units: Units,
) -> fmt::Result {
    nics_human(f, counters, time_ns, units)?;
    let mut line = |title: String, values: Vec<(&str, u64)>| {
        write!(f, "\n  {title}")?;
        for (name, value) in values.into_iter().filter(|(_, value)| *value != 0) {
            write!(f, " {name} {}", units.count(value))?;
        }
        Ok(())
    };
    const TOLD: [Count; 4] = [Count::TxPackets, Count::TxBytes, Count::RxPackets, Count::RxBytes];
    for nic in 0..counters.nics() {
        let rest = Count::ALL.iter().filter(|which| !TOLD.contains(which));
        let values = rest.map(|&which| (which.name(), counters.nic(nic, which)));
        line(format!("nic {nic}:"), values.collect())?;
    }
    let values = Vm::ALL.iter().map(|&which| (which.name(), counters.vm(which)));
    line("machine:".to_string(), values.collect())
}

#[derive(Serialize)]
struct Stats<'a> {
    name: &'a str,
    process: u32,
    counters: Snapshot,
}

impl Record for Stats<'_> {
    fn human(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        write!(f, "{}: process {}", self.name, self.process)?;
        counters_human(f, &self.counters, None, units)
    }
}

/// `--stats NAME`: prints a running machine's counters.
pub fn stats(name: &str, output: &OutputArgs) -> anyhow::Result<Outcome> {
    let reading = match machines::find(name) {
        Ok(reading) => reading,
        Err(error) => {
            nm_cli::say!("e1000pv-vmm: {error:#}");
            return Ok(Outcome::ConditionNotMet);
        }
    };
    let stats = Stats { name, process: reading.process, counters: reading.snapshot()? };
    let text = match (output.json, output.csv) {
        (true, _) => json(Kind::Totals, &stats)?,
        (_, true) => csv(Kind::Totals, &stats)?.join("\n"),
        _ => human(&stats, output.units())?,
    };
    print(&text)
}

/// A machine that runs, in `--list`.
#[derive(Serialize)]
struct Listed {
    process: u32,
    nics: usize,
    exits: u64,
    tx_packets: u64,
    tx_bytes: u64,
    rx_packets: u64,
    rx_bytes: u64,
}

/// A row of the list for programs that read columns.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(flatten)]
    machine: &'a Listed,
}

/// `--list`: prints the machines that run: in JSON as one object, by name.
pub fn list(output: &OutputArgs) -> anyhow::Result<Outcome> {
    let mut listed = Vec::new();
    for (name, reading) in machines::all()? {
        let now = reading.snapshot()?;
        let machine = Listed {
            process: reading.process,
            nics: now.nics(),
            exits: now.vm(Vm::Exits),
            tx_packets: now.sum(Count::TxPackets),
            tx_bytes: now.sum(Count::TxBytes),
            rx_packets: now.sum(Count::RxPackets),
            rx_bytes: now.sum(Count::RxBytes),
        };
        listed.push((name, machine));
    }
    let units = output.units();
    let text = if output.json {
        let all: BTreeMap<_, _> = listed.iter().map(|(name, machine)| (name, machine)).collect();
        serde_json::to_string(&all)?
    } else if output.csv {
        let mut lines = Vec::new();
        for (name, machine) in &listed {
            let [header, row] = csv_row(&Row { name, machine })?;
            if lines.is_empty() {
                lines.push(header);
            }
            lines.push(row);
        }
        lines.join("\n")
    } else {
        if listed.is_empty() && !output.quiet {
            nm_cli::say!("no machine runs");
        }
        let line = |(name, of): &(String, Listed)| {
            let nics = if of.nics == 1 { "NIC" } else { "NICs" };
            format!(
                "{name}: process {}, {} {nics}, sent {} and received {} packets, {} exits",
                of.process,
                of.nics,
                units.count(of.tx_packets),
                units.count(of.rx_packets),
                units.count(of.exits)
            )
        };
        listed.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    print(&text)
}

fn human(record: &impl Record, units: Units) -> anyhow::Result<String> {
    let mut text = String::new();
    record.human(&mut text, units)?;
    Ok(text)
}

/// A result on stdout. None at all is no line.
fn print(text: &str) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    if !text.is_empty() {
        writeln!(out, "{text}")?;
        out.flush()?;
    }
    Ok(Outcome::Done)
}
