//! The same guest image on QEMU's own e1000: the measurement's independent peer.
//!
//! The backends are those that QEMU has without a module in the kernel: datagrams or a stream over unix
//! sockets, and taps on a bridge.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e1000pv_vmm::guest::image;

use crate::lab::Lab;
use crate::netns;
use crate::process::{Process, pass, until};
use crate::report::Guest;
use crate::scene::{RECEIVER_MAC, until_quiet};
use crate::summary::{Run, steady};
use crate::threads::CpuTime;

const PROGRAM: &str = "qemu-system-x86_64";
/// The image that our monitor carries, as a file in the lab's directory.
const IMAGE: &str = "guest-image";
const SENDER_MAC: &str = "02:00:00:00:00:01";
/// Firmware, boot loader and guest: seconds where KVM is software.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// A guest that has booted and waits for packets uses less than this part of a CPU ...
const IDLE_PART: f64 = 0.05;
/// ... over this time.
const IDLE_LOOK: Duration = Duration::from_millis(400);

/// How two QEMUs are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `-netdev dgram` over unix sockets.
    Datagram,
    /// `-netdev stream` over a unix socket.
    Stream,
    /// `-netdev tap`, on a kernel bridge.
    Tap,
    /// `-netdev stream` to an nm-bridge each, which are joined by a VALE switch.
    Vale,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Link::Datagram => "dgram (unix)",
            Link::Stream => "stream (unix)",
            Link::Tap => "tap + bridge",
            Link::Vale => "stream + VALE",
        })
    }
}

/// Why there can be no measurement.
pub fn unable() -> Option<String> {
    let runs =
        Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if runs.is_err() {
        return Some(format!("{PROGRAM} is not installed"));
    }
    (!crate::machine::has_kvm()).then(|| "there is no /dev/kvm".into())
}

impl Link {
    /// Those that can be had here.
    pub fn possible() -> Vec<Link> {
        let mut links = vec![Link::Datagram, Link::Stream];
        if netns::unable().is_none() {
            links.push(Link::Tap);
        }
        links
    }

    /// The value of `-netdev` for the receiver (false) or the sender (true).
    fn netdev(self, lab: &Lab, sends: bool) -> String {
        let path = |name: &str| lab.directory().join(name).display().to_string();
        let (own, other) = if sends { ("qemu-tx", "qemu-rx") } else { ("qemu-rx", "qemu-tx") };
        match self {
            Link::Datagram => format!(
                "dgram,id=n,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                path(own),
                path(other)
            ),
            Link::Stream => {
                let server = if sends { "off" } else { "on" };
                format!("stream,id=n,server={server},addr.type=unix,addr.path={}", path("qemu"))
            }
            Link::Vale => {
                format!("stream,id=n,server=off,addr.type=unix,addr.path={}", path(own))
            }
            Link::Tap => {
                let tap = if sends { "txA" } else { "rxA" };
                format!("tap,id=n,ifname={tap},script=no,downscript=no,vhost=off")
            }
        }
    }

    /// Sockets are not removed by who made them.
    fn clean(lab: &Lab) {
        for name in ["qemu-tx", "qemu-rx", "qemu"] {
            // Most of them are not there.
            let _ = fs::remove_file(lab.directory().join(name));
        }
    }
}

fn args(netdev: &str, mac: &str, image: &str, line: &str, console: &str) -> Vec<String> {
    let words = [
        "-accel",
        "kvm",
        "-M",
        "pc",
        "-m",
        "128",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-kernel",
        image,
        "-append",
        line,
        "-serial",
        console,
        "-netdev",
        netdev,
        "-device",
    ];
    let device = format!("e1000,romfile=,netdev=n,mac={mac}");
    words.into_iter().map(str::to_owned).chain([device]).collect()
}

/// One guest.
struct Machine {
    process: Process,
    console: PathBuf,
}

impl Machine {
    fn start(lab: &Lab, link: Link, sends: bool, guest: &str) -> Result<Machine> {
        let (name, mac, party) =
            if sends { ("tx", SENDER_MAC, 0) } else { ("rx", RECEIVER_MAC, 1) };
        let console = lab.directory().join(format!("qemu-{name}.log"));
        // Nothing of an earlier run is taken for this one's.
        fs::write(&console, "").context("emptying a console file")?;
        let image = lab.directory().join(IMAGE);
        if !image.exists() {
            fs::write(&image, image::bytes()).context("writing the guest image")?;
        }
        let mut command = Command::new(PROGRAM);
        command.args(args(
            &link.netdev(lab, sends),
            mac,
            &image.display().to_string(),
            guest,
            &format!("file:{}", console.display()),
        ));
        if link == Link::Tap {
            command = lab.made_namespace().context("taps without a namespace")?.exec(&command);
        }
        Ok(Machine { process: Process::start("QEMU", command, &lab.cpus(party))?, console })
    }

    /// Waits until it has booted and waits for packets. Nothing announces that on a machine that is not
    /// ours; but firmware and boot keep a CPU busy, and our guest sleeps when it has nothing to do.
    fn booted(mut self) -> Result<Machine> {
        let end = Instant::now() + BOOT_LIMIT;
        loop {
            let before = CpuTime::of(self.process.id())?;
            pass(IDLE_LOOK)?;
            if !self.process.runs()? {
                let ended = self.process.finish(BOOT_LIMIT)?;
                bail!("the receiver ended early ({}): {}", ended.status, ended.errors.trim());
            }
            let used_ns = CpuTime::of(self.process.id())?.since(before).total_ns();
            if (used_ns as f64) < IDLE_PART * IDLE_LOOK.as_nanos() as f64 {
                return Ok(self);
            }
            ensure!(Instant::now() < end, "the receiver does not come to rest");
        }
    }

    /// The bridge between a QEMU's socket and the switch. It runs where its machine does.
    fn bridge(lab: &Lab, sends: bool) -> Result<Process> {
        let name = if sends { "tx" } else { "rx" };
        let socket = lab.directory().join(format!("qemu-{name}"));
        let mut command = lab.program("nm-bridge")?;
        command.args(["-q", "--wait-mode", "block"]);
        command.arg("-i").arg(format!("stream:{}", socket.display()));
        command.args(["-i", &format!("valeQ:{name}")]);
        let mut bridge = Process::start("nm-bridge", command, &lab.cpus(usize::from(!sends)))?;
        until("a bridge's socket", BOOT_LIMIT, || {
            if !bridge.runs()? {
                bail!("nm-bridge ended early: {}", bridge.last_words());
            }
            Ok(socket.exists().then_some(()))
        })?;
        Ok(bridge)
    }

    fn finish(self, limit: Duration) -> Result<Guest> {
        let ended = self.process.finish(limit)?;
        let console = fs::read(&self.console).context("reading a console file")?;
        let lines: Vec<String> =
            String::from_utf8_lossy(&console).lines().map(str::to_owned).collect();
        Guest::find(&lines)
            .with_context(|| format!("QEMU ({}): {}", ended.status, ended.errors.trim()))
    }
}

/// Guest to guest, with this driver.
#[derive(Clone, Debug)]
pub struct Pair {
    /// How they are joined.
    pub link: Link,
    /// plain, combine.
    pub driver: &'static str,
    /// Descriptors.
    pub ring: u32,
    /// Frame without CRC.
    pub size: usize,
    /// How long the sender sends.
    pub duration: Duration,
}

impl Pair {
    /// Measures, again if it was disturbed.
    pub fn run(&self, lab: &mut Lab) -> Result<Run> {
        if self.link == Link::Tap {
            lab.namespace()?;
        }
        steady(|| self.once(lab).with_context(|| format!("QEMU over {}", self.link)))
    }

    fn once(&self, lab: &Lab) -> Result<Run> {
        Link::clean(lab);
        let mut bridges = Vec::new();
        if self.link == Link::Vale {
            for sends in [false, true] {
                bridges.push(Machine::bridge(lab, sends)?);
            }
        }
        let common = format!("driver={} ring={}", self.driver, self.ring);
        let receive = format!("{common} {}", until_quiet("rx", BOOT_LIMIT));
        let receiver = Machine::start(lab, self.link, false, &receive)?.booted()?;
        let send = format!(
            "{common} tx dst={RECEIVER_MAC} size={} duration={}ms",
            self.size,
            self.duration.as_millis()
        );
        let sender = Machine::start(lab, self.link, true, &send)?;
        let sent = sender.finish(BOOT_LIMIT + self.duration)?;
        let received = receiver.finish(BOOT_LIMIT + self.duration)?;
        Ok(Run::new((sent.packets, sent.duration_ns), &received))
    }
}
