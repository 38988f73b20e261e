//! A NIC through AF_XDP: a veth pair in namespaces of its own, packets of 64 bytes, in turns with DPDK's driver of AF_XDP
//! and with AF_PACKET. Then two pairs with a bridge between them, and a switch in its place. Senders run on the first
//! CPU, and so does most of what the kernel does to receive; receivers and bridges run on the second.
//!
//! What is sent counts where it arrives, for all senders alike: with bursts of 256, testpmd tells of twice the packets
//! that leave.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::actors::number;
use crate::peers::{PROGRAM, Testpmd, is_installed};
use crate::plan::{Plan, SMALL, median};
use crate::rows::Rows;

const PACKAGES: &str = "dpdk-dev, librte-net-af-xdp23, librte-mempool-ring23";
/// testpmd's own burst, and a longer one: the better of the two counts.
const BURSTS: [usize; 2] = [32, 256];
/// What is to be reached, of testpmd's and AF_PACKET's rates in sending, of testpmd's in receiving, and of a bridge's by
/// a switch.
const TO_TESTPMD: f64 = 1.0;
const TO_PACKET: f64 = 1.3;
const TO_TESTPMD_RX: f64 = 1.2;
const TO_BRIDGE: f64 = 0.9;
/// How long a process takes at most to begin, before its rate is measured.
const BEGIN: Duration = Duration::from_millis(300);
/// For how long those send that are ended when they have been measured.
const FOR_EVER_MS: u64 = 1000 * 1000;

/// Runs the case.
pub fn run(plan: &Plan, rows: &Rows) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        return rows.add(json!({"what": "AF_XDP", "skipped": "namespaces and AF_XDP need root"}));
    }
    sending(plan, rows)?;
    receiving(plan, rows)?;
    forwarding(plan, rows)
}

fn sending(plan: &Plan, rows: &Rows) -> Result<()> {
    let (mut ours, mut dpdk, mut packet) = (vec![], vec![], vec![]);
    for _ in 0..plan.runs {
        let lab = Lab::new()?;
        lab.pair("v0", "v1")?;
        let sender = Background::start(&mut lab.pktgen("tx", "v0", 0, FOR_EVER_MS))?;
        ours.push(lab.arriving("v1", plan.ms)?);
        drop(sender);
        let mut command = lab.within(&std::env::current_exe()?.to_string_lossy());
        command.args(["packets", "v0", "--len", &SMALL.to_string()]);
        let sender = Background::start(command.args(["--ms", &FOR_EVER_MS.to_string()]))?;
        packet.push(lab.arriving("v1", plan.ms)?);
        drop(sender);
        if has_testpmd() {
            let mode = ["--forward-mode=txonly", &format!("--txpkts={SMALL}")];
            dpdk.push(best(&lab, "v0", [1, 0], &mode, |_| lab.arriving("v1", plan.ms))?);
        }
    }
    compare(rows, "64 B sent, beside testpmd", &ours, &dpdk, TO_TESTPMD)?;
    compare(rows, "64 B sent, beside AF_PACKET with sendmmsg", &ours, &packet, TO_PACKET)
}

fn receiving(plan: &Plan, rows: &Rows) -> Result<()> {
    let (mut ours, mut dpdk) = (vec![], vec![]);
    for _ in 0..plan.runs {
        let lab = Lab::new()?;
        lab.pair("v0", "v1")?;
        let _sender = Background::start(&mut lab.pktgen("tx", "v0", 0, FOR_EVER_MS))?;
        let mut receiver = lab.pktgen("rx", "v1", 1, plan.ms);
        ours.push(number(&result(receiver.args(["--wait-mode", "busy"]))?, "rx_pps"));
        if has_testpmd() {
            let mode = ["--forward-mode=rxonly"];
            let time = Duration::from_millis(plan.ms);
            dpdk.push(best(&lab, "v1", [0, 1], &mode, |testpmd| testpmd.rate("Rx-pps:", time))?);
        }
    }
    compare(rows, "64 B received, beside testpmd", &ours, &dpdk, TO_TESTPMD_RX)
}

fn forwarding(plan: &Plan, rows: &Rows) -> Result<()> {
    let (mut switch, mut bridge) = (vec![], vec![]);
    for _ in 0..plan.runs {
        let lab = Lab::new()?;
        lab.pair("p0", "p1")?;
        lab.pair("q0", "q1")?;
        for (through, rates) in [
            (&[["xdp:p1", "xdp:q1"]][..], &mut bridge),
            (&[["xdp:p1", "valeB:p"], ["xdp:q1", "valeB:q"]][..], &mut switch),
        ] {
            let _bridges = through
                .iter()
                .map(|[a, b]| {
                    let mut command = lab.within(&built("nm-bridge")?.to_string_lossy());
                    command.args(["-i", a, "-i", b, "--cpu", "1", "--quiet"]);
                    Background::start(&mut command)
                })
                .collect::<Result<Vec<_>>>()?;
            let _sender = Background::start(&mut lab.pktgen("tx", "p0", 0, FOR_EVER_MS))?;
            rates.push(lab.arriving("q0", plan.ms)?);
        }
    }
    compare(rows, "64 B, NIC to NIC through VALE, beside nm-bridge", &switch, &bridge, TO_BRIDGE)
}

fn compare(rows: &Rows, what: &str, ours: &[f64], theirs: &[f64], required: f64) -> Result<()> {
    let pps = median(ours.to_vec());
    if theirs.is_empty() {
        let skipped = format!("{PROGRAM} is not installed (Debian: {PACKAGES})");
        return rows.add(json!({"what": what, "mpps": pps / 1e6, "skipped": skipped}));
    }
    // Each beside the one of its own run.
    let ratio = median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect());
    rows.add(
        json!({"what": what, "mpps": pps / 1e6, "reference_mpps": median(theirs.to_vec()) / 1e6,
        "ratio": ratio, "required": required, "met": ratio >= required}),
    )
}

fn has_testpmd() -> bool {
    let driver = "/usr/lib/x86_64-linux-gnu/librte_net_af_xdp.so.23";
    is_installed(PROGRAM) && Path::new(driver).exists()
}

/// The rate of testpmd on an interface, with the better of its bursts.
fn best(
    lab: &Lab,
    interface: &str,
    cpus: [usize; 2],
    mode: &[&str],
    rate: impl Fn(&mut Testpmd) -> Result<f64>,
) -> Result<f64> {
    let mut best = 0.0f64;
    for burst in BURSTS {
        let device = format!("net_af_xdp0,iface={interface}");
        let mut testpmd = Testpmd::start(lab.within("stdbuf"), &device, cpus, burst, mode)?;
        testpmd.say("start")?;
        std::thread::sleep(BEGIN);
        best = best.max(rate(&mut testpmd)?);
        drop(testpmd);
        // A program that it left would be in the way of whoever is next.
        let _ = lab.ip(&format!("link set {interface} xdp off"));
    }
    ensure!(best > 0.0, "{PROGRAM} moved no packet");
    Ok(best)
}

/// A namespace with veth pairs, both ends of each in it, and a name that others will not have.
struct Lab(String);

impl Lab {
    fn new() -> Result<Self> {
        let name = format!("nmbench{}", std::process::id());
        let lab = Self(name);
        ip(&["netns", "add", &lab.0])?;
        Ok(lab)
    }

    fn ip(&self, line: &str) -> Result<String> {
        ip(&[&["-n", self.0.as_str()], &line.split_whitespace().collect::<Vec<_>>()[..]].concat())
    }

    fn pair(&self, one: &str, other: &str) -> Result<()> {
        let queues = "numtxqueues 1 numrxqueues 1";
        self.ip(&format!("link add {one} {queues} type veth peer name {other} {queues}"))?;
        for end in [one, other] {
            self.ip(&format!("link set {end} addrgenmode none"))?;
            self.ip(&format!("link set {end} up"))?;
        }
        Ok(())
    }

    /// A program in the namespace.
    fn within(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    fn pktgen(&self, function: &str, interface: &str, cpu: usize, ms: u64) -> Command {
        let program = built("nm-pktgen").unwrap_or_else(|_| PathBuf::from("nm-pktgen"));
        let mut command = self.within(&program.to_string_lossy());
        command.args(["-f", function, "-i", &format!("xdp:{interface}"), "-w", "0"]);
        command.args(["-a", &cpu.to_string(), "--quiet", "--json"]);
        // The address that testpmd sends to, too: a packet for everybody would cost the stack behind the veth more.
        command.args(["-D", "02:00:00:00:00:00"]);
        command.args(["-l", &SMALL.to_string(), "-t", &format!("{ms}ms")]);
        command
    }

    /// Packets per second that arrive at an interface.
    fn arriving(&self, interface: &str, ms: u64) -> Result<f64> {
        // What was begun before needs a moment until it runs evenly.
        std::thread::sleep(BEGIN);
        let (before, begin) = (self.received(interface)?, Instant::now());
        std::thread::sleep(Duration::from_millis(ms));
        let packets = self.received(interface)? - before;
        ensure!(packets > 0.0, "nothing arrives at {interface}");
        Ok(packets / begin.elapsed().as_secs_f64())
    }

    /// Packets that an interface has received so far.
    fn received(&self, interface: &str) -> Result<f64> {
        let text = ip(&["-n", &self.0, "-s", "-j", "link", "show", interface])?;
        let shown: Value = serde_json::from_str(&text).context("ip prints no JSON")?;
        let packets = shown.pointer("/0/stats64/rx/packets").and_then(Value::as_f64);
        packets.context("ip counts no packets")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // It may be gone already; nothing else depends on it.
        let _ = ip(&["netns", "del", &self.0]);
    }
}

fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(args).output().context("starting ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {args:?}: {}", said.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// A tool that was built beside this program.
fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name(name))
}

/// A process that ends with its name.
struct Background(Child);

impl Background {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdout(Stdio::null()).spawn().context("starting a program")?;
        std::thread::sleep(BEGIN);
        Ok(Self(child))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself. `ip netns exec` becomes the program that it starts.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last object that a program prints.
fn result(command: &mut Command) -> Result<Value> {
    let output = command.stderr(Stdio::inherit()).output().context("starting a program")?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("it printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("bad result {line:?}"))
}
