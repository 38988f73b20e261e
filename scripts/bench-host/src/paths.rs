//! The ways between two namespaces that are compared.
//!
//! ```text
//!   vale     stack - t0 = nm-bridge = valeN:a ...... valeN:b = nm-bridge = t0 - stack
//!   bridge   stack - t0 = nm-bridge = h0 - br0 (kernel) - h1 = nm-bridge = t0 - stack
//!   pump     stack - t0 = nm-bridge ------------------------------------ t0 - stack
//!   veth     stack - t0 ------------------------------------------------- t0 - stack
//! ```

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::measure::{Figures, measure};
use crate::net::Namespace;

/// One of them.
#[derive(Clone, Debug)]
pub enum Path {
    /// Through a switch, with this nm-bridge.
    Vale {
        /// The program.
        bridge: PathBuf,
        /// Frames of 64 KiB, with headers.
        offload: bool,
    },
    /// Through a switch, with an nm-bridge of any age, which runs in the namespaces.
    Foreign {
        /// The program.
        bridge: PathBuf,
    },
    /// Through the kernel's bridge, reached by more taps and the same pumps.
    KernelBridge {
        /// The program.
        bridge: PathBuf,
    },
    /// Through one nm-bridge between the two taps, without a switch.
    Pump {
        /// The program.
        bridge: PathBuf,
    },
    /// Without anybody between.
    Veth,
}

/// A running nm-bridge; ended when dropped.
struct Pump(Child);

impl Pump {
    fn start(mut command: Command, root: &std::path::Path, ports: &[&str]) -> Result<Pump> {
        command.args(ports).args(["--json", "--interval", "1h"]).env("NETMAP_ROOT", root);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut pump = Pump(command.spawn().context("starting nm-bridge")?);
        let mut line = String::new();
        let stdout = pump.0.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.contains("start"), "nm-bridge ended before it had opened its ports");
        Ok(pump)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sets a path up, measures it, and takes it down.
pub fn measured(path: &Path, ms: u64) -> Result<Figures> {
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    let root = tempfile::tempdir_in("/dev/shm")?;
    let tap = |namespace: &Namespace, name: &str| format!("tap:{name}@netns:{}", namespace.0);
    let mut host = None;
    let pumps = match path {
        Path::Vale { bridge, offload } => {
            let pump = |port: &str, namespace: &Namespace| {
                let (tap, plain) = (tap(namespace, "t0"), ["--no-offload"]);
                let plain = if *offload { &[][..] } else { &plain[..] };
                let ports = [&[port, &tap][..], plain].concat();
                Pump::start(Command::new(bridge), root.path(), &ports)
            };
            vec![pump("valeN:a", &a)?, pump("valeN:b", &b)?]
        }
        Path::Foreign { bridge } => {
            let program = bridge.display().to_string();
            let pump = |port: &str, namespace: &Namespace| {
                Pump::start(namespace.command(&program), root.path(), &[port, "tap:t0"])
            };
            vec![pump("valeN:a", &a)?, pump("valeN:b", &b)?]
        }
        Path::KernelBridge { bridge } => {
            let host = host.insert(Namespace::new("h")?);
            let pump = |namespace: &Namespace, outer: &str| {
                let ports = [tap(namespace, "t0"), tap(host, outer)];
                Pump::start(Command::new(bridge), root.path(), &[&ports[0], &ports[1]])
            };
            let pumps = vec![pump(&a, "h0")?, pump(&b, "h1")?];
            host.ip("link add br0 type bridge")?;
            host.ip("link set br0 up")?;
            for port in ["h0", "h1"] {
                host.ip(&format!("link set {port} master br0"))?;
            }
            pumps
        }
        Path::Pump { bridge } => {
            let ports = [tap(&a, "t0"), tap(&b, "t0")];
            vec![Pump::start(Command::new(bridge), root.path(), &[&ports[0], &ports[1]])?]
        }
        Path::Veth => {
            a.ip(&format!("link add t0 type veth peer name t0 netns {}", b.0))?;
            Vec::new()
        }
    };
    a.address(0, "t0")?;
    b.address(1, "t0")?;
    let figures = measure(&a, &b, ms);
    drop(pumps);
    figures
}
