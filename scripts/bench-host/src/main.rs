//! Measures the way between two network namespaces: through a VALE switch with a tap at each end, through the kernel's
//! bridge with the same taps and pumps, and through a veth pair, in turns. `scripts/bench host` builds and runs it.
#![forbid(unsafe_code)]

mod measure;
mod net;
mod paths;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::json;

use measure::Figures;
use paths::Path;

/// Measures the way between two network namespaces. Needs root, ip, ping and iperf3.
#[derive(Debug, Parser)]
struct Cli {
    /// Rounds; figures are their medians.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 2000)]
    ms: u64,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Measure the switch with this nm-bridge as well: that of another build.
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,
    /// Measure these paths only: vale, vale-plain, vale-other, bridge, veth.
    #[arg(value_name = "PATH")]
    only: Vec<String>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if !nix::unistd::Uid::effective().is_root() {
        bail!("network namespaces and taps need root");
    }
    let bridge = std::env::current_exe()?.with_file_name("nm-bridge");
    let plain = |bridge: &PathBuf| Path::Vale { bridge: bridge.clone(), offload: false };
    let mut all = vec![
        ("vale", Path::Vale { bridge: bridge.clone(), offload: true }),
        ("vale-plain", plain(&bridge)),
        ("bridge", Path::KernelBridge { bridge }),
        ("veth", Path::Veth),
    ];
    if let Some(other) = &cli.other {
        all.insert(2, ("vale-other", Path::Foreign { bridge: other.clone() }));
    }
    all.retain(|(name, _)| cli.only.is_empty() || cli.only.iter().any(|only| only == name));
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); all.len()];
    for round in 0..cli.runs {
        for ((name, path), figures) in all.iter().zip(&mut figures) {
            let got = paths::measured(path, cli.ms).with_context(|| format!("measuring {name}"))?;
            if cli.json {
                println!("{}", json!({ "path": name, "round": round, "figures": got.json() }));
            }
            figures.push(got);
        }
    }
    if !cli.json {
        let medians: Vec<_> = figures.iter().map(|runs| Figures::median(runs)).collect();
        print(&all, &medians);
    }
    Ok(())
}

fn print(all: &[(&str, Path)], medians: &[Figures]) {
    let veth = all.iter().position(|(name, _)| *name == "veth").map(|i| &medians[i]);
    println!("path         TCP Gbit/s   of veth   UDP 64 B Mpps   of veth   ping p50 us");
    for ((name, _), got) in all.iter().zip(medians) {
        let of = |ours: f64, theirs: fn(&Figures) -> f64| match veth {
            Some(veth) => format!("{:.2}", ours / theirs(veth)),
            None => "-".to_owned(),
        };
        let (tcp, udp) = (got.tcp_bps, got.udp_pps);
        let (tcp_of, udp_of) = (of(tcp, |f| f.tcp_bps), of(udp, |f| f.udp_pps));
        let (tcp, udp, ping) = (tcp / 1e9, udp / 1e6, got.ping_ns / 1e3);
        println!("{name:<12} {tcp:>10.2} {tcp_of:>9} {udp:>15.3} {udp_of:>9} {ping:>13.0}");
    }
}
