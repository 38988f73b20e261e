//! Programs written for netmap, in C and through the preloaded library, beside nm-pktgen, in turns: a generator and a
//! sink, driven by poll or by sync ioctls. Then pipes beside the switch, and what the library adds to a call that
//! is none of its business. `scripts/bench preload` builds what is needed and runs this.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::actors::number;
use crate::plan::{Plan, SMALL, median};
use crate::rows::Rows;

/// Limit for a port to appear, far above what it needs.
const LIMIT: Duration = Duration::from_secs(20);
/// What a C program must reach, of nm-pktgen's rate.
const TO_PKTGEN: f64 = 0.9;
/// What a pipe must reach, of the switch's rate.
const TO_SWITCH: f64 = 2.0;
/// What a call on an ordinary descriptor may cost more, in nanoseconds.
const MORE_NS: f64 = 50.0;

/// The programs.
struct Programs {
    dir: tempfile::TempDir,
    built: PathBuf,
}

/// All of this case's figures.
pub fn run(plan: &Plan, rows: &Rows) -> Result<()> {
    let programs = Programs::build()?;
    for (size, by_reference) in [(SMALL, true), (SMALL, false), (1514, false)] {
        let from = if by_reference { "" } else { ", a buffer per slot" };
        for (drive, flags) in [("poll", &[][..]), ("sync ioctls", &["-s"][..])] {
            beside_pktgen(&programs, plan, rows, size, by_reference, (drive, flags), from)?;
        }
    }
    pipes(&programs, plan, rows)?;
    costs(&programs, plan, rows)
}

fn beside_pktgen(
    programs: &Programs,
    plan: &Plan,
    rows: &Rows,
    size: usize,
    by_reference: bool,
    (drive, flags): (&str, &[&str]),
    from: &str,
) -> Result<()> {
    let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..plan.runs {
        let a = programs.c_rate(plan.ms, size, ["valeB:t", "valeB:r"], flags)?;
        let b = programs.pktgen_rate(plan.ms, size, by_reference)?;
        ours.push(a);
        theirs.push(b);
        ratios.push(a / b);
    }
    let ratio = median(ratios);
    let pps = median(ours);
    rows.add(json!({"what": format!("{size} B, C by {drive}, beside nm-pktgen{from}"),
        "mpps": pps / 1e6, "gbps": pps * size as f64 * 8.0 / 1e9,
        "reference_mpps": median(theirs) / 1e6, "ratio": ratio,
        "required": TO_PKTGEN, "met": ratio >= TO_PKTGEN}))
}

fn pipes(programs: &Programs, plan: &Plan, rows: &Rows) -> Result<()> {
    const SIZE: usize = 64;
    let (mut pipe, mut switch, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..plan.runs {
        let a = programs.c_rate(plan.ms, SIZE, ["valeB:p{1", "valeB:p}1"], &["-s"])?;
        let b = programs.c_rate(plan.ms, SIZE, ["valeB:t", "valeB:r"], &["-s"])?;
        pipe.push(a);
        switch.push(b);
        ratios.push(a / b);
    }
    let ratio = median(ratios);
    rows.add(json!({"what": format!("{SIZE} B, C through a pipe, beside the switch"),
        "mpps": median(pipe) / 1e6, "reference_mpps": median(switch) / 1e6, "ratio": ratio,
        "required": TO_SWITCH, "met": ratio >= TO_SWITCH}))
}

fn costs(programs: &Programs, plan: &Plan, rows: &Rows) -> Result<()> {
    let calls = ["read", "poll", "close"];
    let mut more = [vec![], vec![], vec![]];
    for _ in 0..plan.runs {
        let without = programs.costs(false)?;
        let with = programs.costs(true)?;
        for (call, more) in calls.iter().zip(&mut more) {
            let key = format!("{call}_ns");
            more.push(number(&with, &key) - number(&without, &key));
        }
    }
    for (call, more) in calls.iter().zip(more) {
        let more = median(more);
        rows.add(json!({"what": format!("{call} of an ordinary descriptor, ns more"),
            "measured": more, "required": MORE_NS, "below": true, "met": more < MORE_NS}))?;
    }
    Ok(())
}

/// A process that ends with its name.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Programs {
    /// Compiles what is written in C; the rest was built beside this program.
    fn build() -> Result<Self> {
        let own = std::env::current_exe()?;
        let built = own.parent().context("a program is in a directory")?.to_owned();
        for name in ["libnetmap_preload.so", "nm-pktgen", "vale-ctl"] {
            ensure!(built.join(name).is_file(), "{name} is not in {}", built.display());
        }
        let programs = Programs { dir: tempfile::tempdir()?, built };
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let preload = here.join("../../lib/netmap-preload");
        let sources = [preload.join("tests/c/generator.c"), here.join("c/cost.c")]
            .map(|path| path.canonicalize());
        for (source, name) in sources.into_iter().zip(["generator", "cost"]) {
            let status = Command::new("cc")
                .args(["-std=gnu11", "-O2", "-pthread", "-I"])
                .arg(preload.join("include"))
                .arg(source?)
                .arg("-o")
                .arg(programs.dir.path().join(name))
                .status()
                .context("starting cc")?;
            ensure!(status.success(), "cc did not compile {name}.c");
        }
        Ok(programs)
    }

    /// A C program with the library.
    fn preloaded(&self, name: &str) -> Command {
        let mut command = Command::new(self.dir.path().join(name));
        command.env("LD_PRELOAD", self.built.join("libnetmap_preload.so"));
        command
    }

    /// Packets per second as the C sink counts them.
    fn c_rate(&self, ms: u64, size: usize, [from, to]: [&str; 2], flags: &[&str]) -> Result<f64> {
        let side = |role: &str, port: &str, cpu: &str, ms: u64| {
            let mut command = self.preloaded("generator");
            command.args([role, port, "-c", cpu, "-l", &size.to_string(), "-t", &ms.to_string()]);
            command.args(flags);
            command
        };
        let sender = side("tx", from, "0", ms + LIMIT.as_millis() as u64);
        self.rate(sender, from, side("rx", to, "1", ms), "pps")
    }

    /// Packets per second as nm-pktgen counts them.
    fn pktgen_rate(&self, ms: u64, size: usize, by_reference: bool) -> Result<f64> {
        let side = |function: &str, port: &str, cpu: &str, ms: u64| {
            let mut command = Command::new(self.built.join("nm-pktgen"));
            command.args(["-f", function, "-i", port, "-a", cpu, "--quiet", "--json"]);
            command.args(["-l", &size.to_string(), "-t", &format!("{ms}ms")]);
            command
        };
        let mut sender = side("tx", "valeB:t", "0", ms + LIMIT.as_millis() as u64);
        if !by_reference {
            sender.arg("--no-indirect");
        }
        self.rate(sender, "valeB:t", side("rx", "valeB:r", "1", ms), "rx_pps")
    }

    /// Lets the sender send, and the receiver count.
    fn rate(
        &self,
        mut sender: Command,
        port: &str,
        mut receiver: Command,
        key: &str,
    ) -> Result<f64> {
        let sender =
            sender.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("sender")?;
        let _sender = Background(sender);
        // A pipe has no entry of its own: its port has.
        let port = port.split('{').next().unwrap_or(port);
        let begin = Instant::now();
        while !self.is_there(port)? {
            ensure!(begin.elapsed() < LIMIT, "{port} did not appear");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(number(&result(&mut receiver)?, key))
    }

    fn is_there(&self, port: &str) -> Result<bool> {
        Ok(Command::new(self.built.join("vale-ctl"))
            .args(["list", port])
            .output()?
            .status
            .success())
    }

    /// Nanoseconds of calls, with the library or without it.
    fn costs(&self, preload: bool) -> Result<Value> {
        let mut command = self.preloaded("cost");
        if !preload {
            command.env_remove("LD_PRELOAD");
        }
        result(&mut command)
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
