//! A guest on e1000pv-vmm: its command line, and its counters while it runs. Only this file knows the names of the
//! monitor's options.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e1000pv_vmm::stats::counters::Reading;
use e1000pv_vmm::stats::machines;
use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::process::{Process, until};
use crate::report::{Counts, End};
use crate::step::Step;
use crate::threads::CpuTime;

/// Moderation's distance between interrupts: 20000 a second, where Linux's e1000 starts.
pub const ITR: &str = "50us";
/// From the start of a monitor until its guest has opened its receive ring. Software KVM boots in
/// tens of milliseconds; what takes a hundred times that hangs.
const BOOT_LIMIT: Duration = Duration::from_secs(10);
/// From the end of a measurement until a guest has reported.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The options of a monitor.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name, for the counters.
    pub name: &'static str,
    /// Ports of its NICs, and the addresses of these.
    pub nics: Vec<(String, String)>,
    /// The step of the ladder.
    pub step: Step,
    /// Descriptors.
    pub ring: u32,
    /// What the guest does.
    pub guest: String,
    /// Policy of the I/O thread, if not the default one.
    pub notify: Option<String>,
    /// CPUs of the process; empty: any.
    pub cpus: Vec<usize>,
    /// Inside the lab's network namespace.
    pub inside: bool,
    /// More options.
    pub args: Vec<String>,
    /// Another build's monitor.
    pub monitor: Option<PathBuf>,
}

impl Spec {
    /// A guest with one NIC.
    pub fn new(name: &'static str, port: &str, mac: &str, guest: impl Into<String>) -> Spec {
        Spec {
            name,
            nics: vec![(port.into(), mac.into())],
            step: Step::TOP,
            ring: 4096,
            guest: guest.into(),
            notify: None,
            cpus: Vec::new(),
            inside: false,
            args: Vec::new(),
            monitor: None,
        }
    }

    /// Options, in their order.
    fn all_args(&self, accel: &str) -> Vec<String> {
        let on_off = |on: bool| if on { "on" } else { "off" };
        let mut guest = self.guest.clone();
        if self.step.moderates() {
            guest.push_str(" itr=");
            guest.push_str(ITR);
        }
        let options = [
            ("--name", self.name.to_owned()),
            ("--accel", accel.to_owned()),
            ("--driver", self.step.driver().to_owned()),
            ("--ring", self.ring.to_string()),
            ("--csb", on_off(self.step.has_csb()).to_owned()),
            ("--moderation", on_off(self.step.moderates()).to_owned()),
            ("--more", on_off(self.step.has_more()).to_owned()),
            ("--indirect", on_off(self.step.is_indirect()).to_owned()),
            ("--guest", guest),
        ];
        let mut args: Vec<String> = vec!["--json".into()];
        args.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        for (port, mac) in &self.nics {
            args.extend(["--netdev".into(), format!("port={port}")]);
            args.extend(["--device".into(), format!("mac={mac}")]);
        }
        if let Some(policy) = &self.notify {
            args.extend(["--notify".into(), policy.clone()]);
        }
        args.extend_from_slice(&self.args);
        args
    }

    fn command(&self, lab: &Lab) -> Result<Command> {
        let mut command = match &self.monitor {
            None => lab.program("e1000pv-vmm")?,
            Some(monitor) => {
                let mut command = Command::new(monitor);
                // Its files may be of another version: they are never this build's.
                command.env("NETMAP_ROOT", lab.directory().join("other"));
                command
            }
        };
        command.args(self.all_args(lab.accel));
        if !self.inside {
            return Ok(command);
        }
        Ok(lab.made_namespace().context("taps without a namespace")?.exec(&command))
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Vm {
    name: &'static str,
    process: Process,
    counters: Reading,
}

impl Vm {
    /// Starts it, and waits for its counters.
    pub fn start(lab: &Lab, spec: &Spec) -> Result<Vm> {
        let mut process = launch(lab, spec)?;
        let counters =
            until("a guest's counters", BOOT_LIMIT, || match machines::find(spec.name) {
                Ok(reading) => Ok(Some(Some(reading))),
                Err(_) if process.runs()? => Ok(None),
                Err(_) => Ok(Some(None)),
            })?;
        match counters {
            Some(counters) => Ok(Vm { name: spec.name, process, counters }),
            None => bail!("{} ended early: {}", spec.name, process.last_words()),
        }
    }

    /// Starts it, and waits until it can receive: its driver writes RDT last.
    pub fn ready(lab: &Lab, spec: &Spec) -> Result<Vm> {
        let mut vm = Vm::start(lab, spec)?;
        vm.wait_for("a receive ring", BOOT_LIMIT, |counts| counts.value("rdt_writes") > 0)?;
        Ok(vm)
    }

    /// Waits until its counters are as wanted.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Counts) -> bool,
    ) -> Result<()> {
        until(&format!("{}: {what}", self.name), limit, || {
            if wanted(&self.counts()?) {
                return Ok(Some(()));
            }
            if !self.process.runs()? {
                // A guest that is gone will not get there.
                bail!("{} ended early: {}", self.name, self.process.last_words());
            }
            Ok(None)
        })
    }

    /// Its counters now.
    pub fn counts(&self) -> Result<Counts> {
        Counts::parse(&serde_json::to_value(self.counters.snapshot()?)?)
    }

    /// CPU time of its threads.
    pub fn cpu(&self) -> Result<CpuTime> {
        CpuTime::of(self.process.id())
    }

    /// Waits for the guest to end by itself, within `limit`.
    pub fn finish(self, limit: Duration) -> Result<End> {
        end_of(self.process, self.name, limit)
    }

    /// Asks the guest to end and report.
    pub fn stop(self) -> Result<End> {
        self.process.signal(Signal::SIGTERM)?;
        self.finish(Duration::ZERO)
    }
}

/// Starts a monitor, and waits for nothing.
pub fn launch(lab: &Lab, spec: &Spec) -> Result<Process> {
    Process::start(spec.name, spec.command(lab)?, &spec.cpus)
}

/// Waits for a monitor to end, within `limit` and the time that an ending takes.
pub fn end_of(process: Process, name: &str, limit: Duration) -> Result<End> {
    let ended = process.finish(limit + END_LIMIT)?;
    match End::find(&ended.lines) {
        // Whatever the status: a guest that found bad packets fails, and has a result to show.
        Ok(end) if end.guest.is_some() => Ok(end),
        found => {
            let ended = ended.expect(name, |status| status.success())?;
            found.with_context(|| format!("{name}: {}", ended.errors.trim()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: Step) -> String {
        let spec =
            Spec { step, ring: 256, ..Spec::new("vm1", "valeA:a", "02:00:00:00:00:01", "rx") };
        spec.all_args("kvm").join(" ")
    }

    #[test]
    fn args_say_each_step_in_full() {
        assert_eq!(
            line(Step::Plain),
            "--json --name vm1 --accel kvm --driver plain --ring 256 --csb off --moderation off --more off \
             --indirect off --guest rx --netdev port=valeA:a --device mac=02:00:00:00:00:01"
        );
        assert!(
            line(Step::Both).contains("--moderation on") && line(Step::Both).contains("rx itr=")
        );
        assert!(line(Step::TOP).contains("--csb on --moderation off --more on --indirect on"));
    }

    #[test]
    fn args_are_understood_by_the_monitor() {
        for step in Step::ALL {
            let spec = Spec {
                step,
                notify: Some("block,wake=first".into()),
                ..Spec::new("vm1", "valeA:a@conf:slots=4096", "02:00:00:00:00:01", "rx")
            };
            let args = std::iter::once("e1000pv-vmm".to_owned()).chain(spec.all_args("kvm"));
            let cli = e1000pv_vmm::cli::Cli::from_args(args.map(Into::into)).expect("a valid line");
            assert_eq!(cli.netdev[0].port, "valeA:a@conf:slots=4096");
            assert_eq!(e1000pv_vmm::cli::value(cli.driver), step.driver());
            assert_eq!(cli.csb.on(), step.has_csb());
        }
    }
}
