//! The machine that measures: its description, and how much of its time others took meanwhile (steal time:
//! proc(5), first line of /proc/stat).

use std::fs;

use anyhow::{Context, Result};
use nm_cli::machine::{Machine, cpuinfo};

/// A run that lost more than this part of the machine to others is repeated.
pub const STEAL_LIMIT: f64 = 0.03;

/// One line for the record: the machine, and its kind of KVM.
pub fn describe(here: &Machine) -> String {
    let flags = cpuinfo("flags");
    let hardware = flags.split(' ').any(|flag| flag == "vmx" || flag == "svm");
    let kvm = match (fs::exists("/dev/kvm").unwrap_or(false), hardware) {
        (false, _) => "no KVM",
        (true, true) => "hardware KVM",
        (true, false) => "software KVM",
    };
    format!("{here}, {kvm}")
}

/// Whether guests can run on /dev/kvm.
pub fn has_kvm() -> bool {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Time that the machine's CPUs have spent, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// Until now.
    pub fn now() -> Result<Ticks> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        Ticks::parse(&stat).context("/proc/stat has no line of all CPUs")
    }

    fn parse(stat: &str) -> Option<Ticks> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<u64> =
            line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guest times after it are part of user's.
        let own = fields.get(..8)?;
        Some(Ticks { all: own.iter().sum(), stolen: own[7] })
    }

    /// The part of the time since `before` that others took.
    pub fn stolen_since(self, before: Ticks) -> f64 {
        match self.all.saturating_sub(before.all) {
            0 => 0.0,
            all => self.stolen.saturating_sub(before.stolen) as f64 / all as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_steal_is_its_part_of_all_but_guest_time() {
        let before = Ticks::parse("cpu  100 0 50 800 0 0 0 10 999 0\ncpu0 1 2\n").expect("valid");
        let after = Ticks::parse("cpu  180 0 60 890 0 0 0 30 5999 0\n").expect("valid");
        assert_eq!(after.stolen_since(before), 20.0 / 200.0);
        assert_eq!(after.stolen_since(after), 0.0);
    }

    #[test]
    fn ticks_need_the_line_of_all_cpus() {
        assert_eq!(Ticks::parse("cpu0 1 2 3 4 5 6 7 8\n"), None);
        assert_eq!(Ticks::parse("cpu 1 2 3\n"), None);
        assert_eq!(Ticks::parse(""), None);
    }

    #[test]
    fn describe_names_kvm() {
        let text = describe(&Machine::here());
        assert!(text.ends_with("KVM"), "{text}");
    }
}
