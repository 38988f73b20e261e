//! One measurement: machines around a switch or bridge, packets through them, figures out of them.
//!
//! ```text
//!   null      sender -> null:
//!   receive   nm-pktgen -> switch -> receiver
//!   pair      sender -> switch -> receiver
//!   forward   sender -> switch A -> forwarder -> switch B -> receiver
//! ```
//! Rates are the receiving guest's own: it checks every packet. What packets cost is taken from the middle
//! of the run, between two looks at counters and CPU times: no boot and no ending in it.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::process::{Process, pass};
use crate::report::{Counts, Guest};
use crate::step::Step;
use crate::summary::{Run, Window, steady};
use crate::threads::CpuTime;
use crate::vm::{Spec, Vm, end_of, launch};

/// From the start of a sender to its first packet: boot and link.
pub const START_LIMIT: Duration = Duration::from_secs(10);
/// Where the window lies in a run: begins after this part, ends after that much more.
const WINDOW: (f64, f64) = (0.25, 0.5);
/// A guest that has received packets and gets no more for this long has finished. Longer than any pause of a sender that the
/// scheduler keeps waiting.
pub const QUIET: Duration = Duration::from_millis(600);

const SENDER_MAC: &str = "02:00:00:00:00:01";
/// The receiver's address.
pub const RECEIVER_MAC: &str = "02:00:00:00:00:02";
const FORWARDER_MACS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];

/// A guest's work, with an end: nothing comes any more, or nothing within `first`.
pub fn until_quiet(work: &str, first: Duration) -> String {
    format!("{work} idle={}ms wait_first={}s", QUIET.as_millis(), first.as_secs())
}

/// What joins the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// VALE switches.
    Vale,
    /// Taps on kernel bridges, in a namespace.
    Tap,
}

/// Who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// A sender and nobody.
    Null,
    /// The host's generator and a receiver.
    Receive,
    /// A sender and a receiver.
    Pair,
    /// A sender, a forwarder with two NICs and a receiver.
    Forward,
}

impl Backend {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Vale => "vale",
            Backend::Tap => "tap",
        }
    }

    /// The port of a machine: `side` is the switch (A, B), `name` differs for each.
    fn port(self, side: char, name: &str, ring: u32) -> String {
        match self {
            Backend::Vale => format!("vale{side}:{name}@conf:slots={ring}"),
            Backend::Tap => format!("tap:{name}{side}@conf:slots={ring}"),
        }
    }
}

impl Topology {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Topology::Null => "null",
            Topology::Receive => "receive",
            Topology::Pair => "pair",
            Topology::Forward => "forward",
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Topology::Null => "guest to null:",
            Topology::Receive => "nm-pktgen to guest",
            Topology::Pair => "guest to guest",
            Topology::Forward => "guest through guest to guest",
        })
    }
}

/// Everything about a measurement.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What joins the machines.
    pub backend: Backend,
    /// Who is there.
    pub topology: Topology,
    /// Frame without CRC.
    pub size: usize,
    /// Descriptors, and slots of the ports.
    pub ring: u32,
    /// The step of the ladder, in all machines.
    pub step: Step,
    /// How long the sender sends.
    pub duration: Duration,
    /// Policy of the I/O threads, if not the default one.
    pub notify: Option<String>,
    /// More options of the sending monitor.
    pub sender_args: Vec<String>,
    /// More options of the receiving monitor.
    pub receiver_args: Vec<String>,
    /// More words for the sending guest.
    pub sender_words: String,
    /// More words for the receiving guest.
    pub receiver_words: String,
    /// The sender's I/O thread has a core of its own.
    pub apart: bool,
    /// Packets a second that the generator offers; 0: as many as it can.
    pub offered_pps: f64,
}

impl Scene {
    /// Guest to guest over VALE, at the top.
    pub fn pair(size: usize, ring: u32, duration: Duration) -> Scene {
        Scene {
            backend: Backend::Vale,
            topology: Topology::Pair,
            size,
            ring,
            step: Step::TOP,
            duration,
            notify: None,
            sender_args: Vec::new(),
            receiver_args: Vec::new(),
            apart: false,
            sender_words: String::new(),
            receiver_words: String::new(),
            offered_pps: 0.0,
        }
    }

    /// Measures, again if it was disturbed.
    pub fn run(&self, lab: &mut Lab) -> Result<Run> {
        steady(|| self.once(lab))
    }

    /// Measures guest to guest with this monitor, if not this build's; nobody looks at counters meanwhile. Again if it was
    /// disturbed.
    pub fn run_unwatched(&self, lab: &Lab, monitor: Option<&Path>) -> Result<Run> {
        steady(|| {
            let by = |spec| Spec { monitor: monitor.map(Path::to_owned), ..spec };
            let receiver = launch(lab, &by(self.receiver(lab, 'A')))?;
            // It waits for the first packet; what is sent before it has booted counts as lost only.
            let sender = launch(lab, &by(self.sender(lab)))?;
            let sent = end_of(sender, "tx", START_LIMIT + self.duration)?;
            let sent = sent.guest.context("the sender has no result")?;
            let received =
                end_of(receiver, "rx", QUIET)?.guest.context("the receiver has no result")?;
            Ok(Run::new((sent.packets, sent.duration_ns), &received))
        })
    }

    fn once(&self, lab: &mut Lab) -> Result<Run> {
        if self.backend == Backend::Tap {
            lab.namespace()?;
        }
        let run = match self.topology {
            Topology::Null => self.to_null(lab),
            Topology::Receive => self.generated(lab),
            Topology::Pair | Topology::Forward => self.between_guests(lab),
        };
        run.with_context(|| {
            format!("{}, {}, {} B, {}", self.topology, self.backend.name(), self.size, self.step)
        })
    }

    fn spec(
        &self,
        lab: &Lab,
        name: &'static str,
        nics: &[(char, &str, &str)],
        guest: String,
        party: usize,
    ) -> Spec {
        let nics = nics
            .iter()
            .map(|(side, port, mac)| (self.backend.port(*side, port, self.ring), (*mac).to_owned()))
            .collect();
        Spec {
            nics,
            step: self.step,
            ring: self.ring,
            notify: self.notify.clone(),
            cpus: lab.cpus(party),
            inside: self.backend == Backend::Tap,
            ..Spec::new(name, "", "", guest)
        }
    }

    fn sender(&self, lab: &Lab) -> Spec {
        let guest = format!(
            "tx dst={RECEIVER_MAC} size={} duration={}ms {}",
            self.size,
            self.duration.as_millis(),
            self.sender_words
        );
        let mut spec = self.spec(lab, "tx", &[('A', "tx", SENDER_MAC)], guest.trim().into(), 0);
        spec.args = self.sender_args.clone();
        if self.apart {
            spec.cpus.extend(lab.cpus(1));
        }
        spec
    }

    fn receiver(&self, lab: &Lab, side: char) -> Spec {
        let guest = format!("{} {}", until_quiet("rx", START_LIMIT), self.receiver_words);
        let nics = [(side, "rx", RECEIVER_MAC)];
        Spec {
            args: self.receiver_args.clone(),
            ..self.spec(lab, "rx", &nics, guest.trim().into(), 1)
        }
    }

    fn to_null(&self, lab: &Lab) -> Result<Run> {
        let mut spec = self.sender(lab);
        spec.nics[0].0 = format!("null:@conf:slots={}", self.ring);
        let mut sender = Vm::start(lab, &spec)?;
        let window = self.watch(&mut sender, &[], "tx_packets")?;
        let sent = sender.finish(self.duration)?.guest.context("the sender has no result")?;
        Ok(Run { window, ..Run::new((sent.packets, sent.duration_ns), &sent) })
    }

    fn between_guests(&self, lab: &Lab) -> Result<Run> {
        let forwards = self.topology == Topology::Forward;
        let mut others =
            vec![Vm::ready(lab, &self.receiver(lab, if forwards { 'B' } else { 'A' }))?];
        if forwards {
            let nics = [('A', "fwd", FORWARDER_MACS[0]), ('B', "fwd", FORWARDER_MACS[1])];
            others.push(Vm::ready(
                lab,
                &self.spec(lab, "fwd", &nics, until_quiet("forward", START_LIMIT), 2),
            )?);
        }
        let mut sender = Vm::start(lab, &self.sender(lab))?;
        let window = self.watch(&mut sender, &others, "rx_packets")?;
        let sent = sender.finish(self.duration)?.guest.context("the sender has no result")?;
        let receiver = settled(others)?;
        Ok(Run { window, ..Run::new((sent.packets, sent.duration_ns), &receiver) })
    }

    fn generated(&self, lab: &Lab) -> Result<Run> {
        let mut receiver = Vm::ready(lab, &self.receiver(lab, 'A'))?;
        let mut generator = lab.program("nm-pktgen")?;
        generator.args(["-f", "txseq", "--json", "-w", "0", "-D", RECEIVER_MAC]);
        generator.args(["-i", &self.backend.port('A', "gen", 1024), "-l", &self.size.to_string()]);
        generator.args(["--duration", &format!("{}ms", self.duration.as_millis())]);
        if self.offered_pps > 0.0 {
            generator.args(["-R", &format!("{:.0}", self.offered_pps)]);
        }
        let generator = self.inside(lab, generator)?;
        let generator = Process::start("nm-pktgen", generator, &lab.cpus(0))?;
        receiver.wait_for("packets", START_LIMIT, |counts| counts.value("rx_packets") > 0)?;
        let window = self.window(&[&receiver], "rx_packets")?;
        let ended = generator.finish(self.duration + START_LIMIT)?;
        let ended = ended.expect("nm-pktgen", |status| status.success())?;
        let last = ended.lines.last().context("nm-pktgen printed nothing")?;
        let last: Value = serde_json::from_str(last).with_context(|| last.clone())?;
        let sent = last["tx_packets"].as_u64().context("nm-pktgen has no tx_packets")?;
        let seconds = last["seconds"].as_f64().context("nm-pktgen has no seconds")?;
        let sent = (sent, (seconds * 1e9) as u64);
        Ok(Run { window, ..Run::new(sent, &settled(vec![receiver])?) })
    }

    fn inside(&self, lab: &Lab, command: Command) -> Result<Command> {
        match self.backend {
            Backend::Vale => Ok(command),
            Backend::Tap => {
                Ok(lab.made_namespace().context("taps without a namespace")?.exec(&command))
            }
        }
    }

    /// Waits until packets flow, and takes the window. `packets` is the counter of those that arrived, at
    /// the first of `others`, or at the sender if there are none.
    fn watch(&self, sender: &mut Vm, others: &[Vm], packets: &str) -> Result<Window> {
        sender.wait_for("packets", START_LIMIT, |counts| counts.value("tx_packets") > 0)?;
        let mut vms: Vec<&Vm> = others.iter().collect();
        vms.push(sender);
        self.window(&vms, packets)
    }

    fn window(&self, vms: &[&Vm], packets: &str) -> Result<Window> {
        let look = || -> Result<(CpuTime, Counts, u64)> {
            let (mut cpu, mut counts, mut arrived) = (CpuTime::default(), Counts::default(), 0);
            for (i, vm) in vms.iter().enumerate() {
                let own = vm.counts()?;
                if i == 0 {
                    arrived = own.value(packets);
                }
                cpu = cpu.plus(vm.cpu()?);
                counts = counts.plus(&own);
            }
            Ok((cpu, counts, arrived))
        };
        pass(self.duration.mul_f64(WINDOW.0))?;
        let before = look()?;
        pass(self.duration.mul_f64(WINDOW.1))?;
        let after = look()?;
        Ok(Window {
            packets: after.2 - before.2,
            cpu: after.0.since(before.0),
            counts: after.1.since(&before.1),
        })
    }
}

/// Waits for the machines to end, which they do when nothing arrives any more; the first one's result.
fn settled(vms: Vec<Vm>) -> Result<Guest> {
    let ends = vms.into_iter().map(|vm| vm.finish(QUIET)).collect::<Result<Vec<_>>>()?;
    let first = ends.into_iter().next().context("somebody receives")?;
    first.guest.context("the receiver has no result")
}
