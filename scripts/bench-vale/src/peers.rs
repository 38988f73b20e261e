//! Ours beside DPDK's memif, which passes packets between two processes through shared memory as well,
//! but from one to one, without a switch: two `dpdk-testpmd`, one that sends and one that receives,
//! with rings of as many slots. In turns; where it is not installed, or does not work, that is said.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::actors::rate;
use crate::plan::{Plan, median};
use crate::rows::Rows;

pub const PROGRAM: &str = "dpdk-testpmd";
/// Debian's packages: the program, the driver, and the allocator that it asks for.
const PACKAGES: &str = "dpdk-dev, librte-net-memif23, librte-mempool-ring23";
const SIZES: [usize; 3] = [60, 512, 1514];
/// testpmd's own burst, and a longer one: the better of the two counts.
const BURSTS: [usize; 2] = [32, 256];
/// The logarithm of 1024 slots, which our ports have.
const RING_LOG: u32 = 10;
/// Memory of each process, for its buffers.
const MEMORY_MIB: u64 = 256;
/// Limit for the two to start and to find each other, far above what they need.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs the case.
pub fn run(plan: &Plan, rows: &Rows) -> Result<()> {
    if let Err(why) = beside(plan, rows) {
        rows.add(json!({"what": "beside DPDK's memif", "skipped": format!("{why:#}")}))?;
    }
    Ok(())
}

fn beside(plan: &Plan, rows: &Rows) -> Result<()> {
    ensure!(is_installed(PROGRAM), "{PROGRAM} is not installed (Debian: {PACKAGES})");
    for len in SIZES {
        let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..plan.runs {
            // As each sends equal packets: nm-pktgen from one place, testpmd from the few buffers that its
            // allocator gave back last.
            let args = [("len", len.to_string()), ("reference", true.to_string())];
            let own = rate(plan.ms, &args)?;
            let mut best = 0.0f64;
            for burst in BURSTS {
                best = best.max(memif(len, burst, Duration::from_millis(plan.ms))?);
            }
            ensure!(best > 0.0, "no packet came through memif");
            ours.push(own);
            theirs.push(best);
            ratios.push(own / best);
        }
        let gbps = |pps: f64| pps * len as f64 * 8.0 / 1e9;
        let (ours, theirs) = (median(ours), median(theirs));
        rows.add(json!({"what": format!("{len} B, one to one, beside DPDK's memif"),
            "mpps": ours / 1e6, "gbps": gbps(ours), "memif_mpps": theirs / 1e6,
            "memif_gbps": gbps(theirs), "ratio": median(ratios), "hugepages": has_hugepages()}))?;
    }
    Ok(())
}

/// Whether there is a program of that name.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Packets per second through memif, as the receiver counts them.
fn memif(len: usize, burst: usize, time: Duration) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("memif");
    let start = |role: &str, cpus, mode: &[&str]| {
        let socket = socket.display();
        let device = format!(
            "net_memif0,role={role},id=0,socket={socket},socket-abstract=no,rsize={RING_LOG}"
        );
        Testpmd::start(Command::new("stdbuf"), &device, cpus, burst, mode)
    };
    let mut receiver = start("server", [0, 1], &["--forward-mode=rxonly"])?;
    // The sender tries once to find the receiver, which must be up by then.
    receiver.received()?;
    let packets = format!("--txpkts={len}");
    let mode = ["--forward-mode=txonly", &packets];
    let mut sender = start("client", [1, 0], &mode)?;
    receiver.say("start")?;
    sender.say("start")?;
    let begin = Instant::now();
    while receiver.received()?.0 == 0 {
        ensure!(begin.elapsed() < LIMIT, "the two {PROGRAM} did not find each other");
        std::thread::sleep(Duration::from_millis(50));
    }
    // A rate is that since the last question, by its own clock.
    receiver.received()?;
    std::thread::sleep(time);
    Ok(receiver.received()?.1)
}

/// True if there are pages for both. Nothing is set up for this: a bench changes no machine.
fn has_hugepages() -> bool {
    let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free = std::fs::read_to_string(free).ok().and_then(|text| text.trim().parse().ok());
    free.unwrap_or(0u64) * 2 >= 2 * MEMORY_MIB
}

/// A process that is controlled by its command line.
pub struct Testpmd {
    child: Child,
    lines: Receiver<String>,
}

impl Testpmd {
    /// Starts it by `stdbuf`, or what leads to that, on a device; its command line runs on the first CPU, its loop on the
    /// second.
    pub fn start(
        mut command: Command,
        device: &str,
        cpus: [usize; 2],
        burst: usize,
        mode: &[&str],
    ) -> Result<Self> {
        // Else its answers come when it ends.
        command.args(["-oL", PROGRAM, "--no-shconf", "--no-pci", "--no-telemetry"]);
        command.arg(if has_hugepages() { "--in-memory" } else { "--no-huge" });
        command.arg(format!("--lcores=0@{},1@{}", cpus[0], cpus[1])).args(["--main-lcore", "0"]);
        command.args(["-m", &MEMORY_MIB.to_string()]);
        command.arg(format!("--vdev={device}"));
        command.args([
            "--",
            "--interactive",
            "--disable-link-check",
            "--nb-cores=1",
            "--total-num-mbufs=8192",
        ]);
        command.arg(format!("--burst={burst}")).args(mode);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("starting {PROGRAM}"))?;
        let out = child.stdout.take().context("stdout was piped")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).split(b'\n').map_while(std::result::Result::ok) {
                // The other end is gone when nobody wants to know any more; the pipe is emptied all the same.
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Ok(Self { child, lines })
    }

    pub fn say(&mut self, words: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin was piped")?;
        writeln!(stdin, "{words}").with_context(|| format!("{PROGRAM} has ended"))
    }

    /// The number behind `name` in what it says next.
    fn number(&self, name: &str) -> Result<f64> {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => {
                    if let Some(number) = number_behind(&line, name) {
                        return Ok(number);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("{PROGRAM} does not answer"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "{PROGRAM} does not start; are Debian's packages of its drivers installed?"
                    )
                }
            }
        }
    }

    /// Packets received, and their rate since the last question.
    fn received(&mut self) -> Result<(u64, f64)> {
        self.say("show port stats 0")?;
        Ok((self.number("RX-packets:")? as u64, self.number("Rx-pps:")?))
    }

    /// Packets sent or received in the next `time`, by a clock of its own.
    pub fn rate(&mut self, name: &str, time: Duration) -> Result<f64> {
        self.say("show port stats 0")?;
        self.number(name)?;
        std::thread::sleep(time);
        self.say("show port stats 0")?;
        self.number(name)
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let quits = self.say("quit").is_ok();
        // It ends its lines when it ends.
        let begin = Instant::now();
        while quits && begin.elapsed() < Duration::from_secs(5) {
            if let Err(RecvTimeoutError::Disconnected) =
                self.lines.recv_timeout(Duration::from_secs(1))
            {
                break;
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number_behind(line: &str, name: &str) -> Option<f64> {
    line.split_once(name)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_testpmd_are_found_behind_their_names() {
        let packets = "  RX-packets: 1085984    RX-missed: 0          RX-bytes:  65159040";
        assert_eq!(number_behind(packets, "RX-packets:"), Some(1_085_984.0));
        let rate = "  Rx-pps:       456213          Rx-bps:    218982464";
        assert_eq!(number_behind(rate, "Rx-pps:"), Some(456_213.0));
        assert_eq!(number_behind("testpmd> start", "Rx-pps:"), None);
    }
}
