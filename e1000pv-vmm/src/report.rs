//! Records of a run: what the machine is, its counters on the way, and at the end the guest's result
//! with them.

use std::fmt;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nm_cli::exit::Outcome;
use nm_cli::mac::Mac;
use nm_cli::report::{Kind, Record, json};
use nm_cli::units::Units;
use serde::Serialize;
use serde_json::Value;

use crate::cli::Cli;
use crate::counters::{Nic, Snapshot, Vm};
use crate::exit::End;
use crate::machines;

/// A NIC, as the start record has it.
#[derive(Clone, Debug, Serialize)]
pub struct NicRecord {
    /// Its port.
    pub port: String,
    /// Its address.
    pub mac: Mac,
}

/// What runs.
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

fn cpu_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// CPU time of this process.
pub fn process_cpu_ns() -> u64 {
    cpu_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of this thread.
pub fn thread_cpu_ns() -> u64 {
    cpu_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Totals, on the way and at the end.
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
}

impl Record for Totals {
    fn human(&self, f: &mut dyn fmt::Write, units: Units) -> fmt::Result {
        let Totals { name, counters, .. } = self;
        let seconds = self.elapsed_ns as f64 / 1e9;
        write!(f, "{name}: {seconds:.2} s")?;
        if let Some(end) = &self.end {
            write!(f, ", {end}")?;
        }
        counters_human(f, counters, units)
    }
}

fn counters_human(f: &mut dyn fmt::Write, counters: &Snapshot, units: Units) -> fmt::Result {
    let line = |f: &mut dyn fmt::Write, title: String, values: Vec<(&str, u64)>| -> fmt::Result {
        write!(f, "\n  {title}")?;
        for (name, value) in values.into_iter().filter(|(_, value)| *value != 0) {
            write!(f, " {name} {}", units.count(value))?;
        }
        Ok(())
    };
    let vm = Vm::ALL.iter().map(|&which| (which.name(), counters.vm(which))).collect();
    line(f, "machine:".to_string(), vm)?;
    for nic in 0..counters.nics() {
        let values = Nic::ALL.iter().map(|&which| (which.name(), counters.nic(nic, which)));
        line(f, format!("nic {nic}:"), values.collect())?;
    }
    Ok(())
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
        counters_human(f, &self.counters, units)
    }
}

/// `--stats NAME`: prints a running machine's counters.
pub fn stats(name: &str, cli: &Cli) -> anyhow::Result<Outcome> {
    let reading = match machines::find(name) {
        Ok(reading) => reading,
        Err(error) => {
            nm_cli::say!("e1000pv-vmm: {error:#}");
            return Ok(Outcome::ConditionNotMet);
        }
    };
    let stats = Stats { name, process: reading.process, counters: reading.snapshot()? };
    let mut text = String::new();
    if cli.output.json {
        text = json(Kind::Totals, &stats)?;
    } else {
        stats.human(&mut text, cli.output.units())?;
    }
    text.push('\n');
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    Ok(Outcome::Done)
}
