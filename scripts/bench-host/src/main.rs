//! Measures the way between two network namespaces: through a VALE switch with a tap at each end, through one pump between
//! the taps, through the kernel's bridge with the same taps and pumps, and through a veth pair, in turns. `scripts/bench host` builds and runs it.
#![forbid(unsafe_code)]

mod measure;
mod net;
mod paths;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nm_cli::machine::Machine;
use nm_cli::report::SCHEMA;
use serde_json::{Value, json};

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
    /// Measure these paths only: vale, vale-plain, vale-other, pump, bridge, veth.
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
        ("pump", Path::Pump { bridge: bridge.clone() }),
        ("bridge", Path::KernelBridge { bridge }),
        ("veth", Path::Veth),
    ];
    if let Some(other) = &cli.other {
        all.insert(2, ("vale-other", Path::Foreign { bridge: other.clone() }));
    }
    all.retain(|(name, _)| cli.only.is_empty() || cli.only.iter().any(|only| only == name));
    if cli.json {
        let mut machine = serde_json::to_value(Machine::here())?;
        machine["type"] = "machine".into();
        machine["schema"] = SCHEMA.into();
        println!("{machine}");
    }
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
    let medians: Vec<_> = figures.iter().map(|runs| Figures::median(runs)).collect();
    if cli.json {
        rows(&all, &medians).for_each(|row| println!("{row}"));
    } else {
        print(&all, &medians);
    }
    Ok(())
}

/// The medians as rows of the table in docs/benchmarks.md, each beside those that it is compared with.
fn rows<'a>(
    all: &'a [(&str, Path)],
    medians: &'a [Figures],
) -> impl Iterator<Item = Value> + use<'a> {
    let of = |path: &str| all.iter().position(|(name, _)| *name == path).map(|i| medians[i]);
    let (veth, bridge) = (of("veth"), of("bridge"));
    all.iter().zip(medians).map(move |((name, _), got)| {
        let ratio = |ours: f64, theirs: Option<f64>| theirs.map(|theirs| ours / theirs);
        json!({
            "type": "row", "schema": SCHEMA, "case": "host", "what": name,
            "tcp_gbps": got.tcp_bps / 1e9, "tcp_of_veth": ratio(got.tcp_bps, veth.map(|f| f.tcp_bps)),
            "udp_mpps": got.udp_pps / 1e6, "udp_of_veth": ratio(got.udp_pps, veth.map(|f| f.udp_pps)),
            "udp_of_bridge": ratio(got.udp_pps, bridge.map(|f| f.udp_pps)),
            "ping_p50_us": got.ping_ns / 1e3,
        })
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_with_those_that_were_measured() {
        let figures = |tcp_bps, udp_pps| Figures { tcp_bps, udp_pps, ping_ns: 50e3 };
        let all = [("vale", Path::Veth), ("bridge", Path::Veth), ("veth", Path::Veth)];
        let medians = [figures(9e9, 1e6), figures(2e9, 0.8e6), figures(18e9, 2e6)];
        let made: Vec<Value> = rows(&all, &medians).collect();
        assert_eq!(
            (&made[0]["tcp_of_veth"], &made[0]["udp_of_bridge"]),
            (&json!(0.5), &json!(1.25))
        );
        assert_eq!((&made[2]["what"], &made[2]["ping_p50_us"]), (&json!("veth"), &json!(50.0)));
        let alone: Vec<Value> = rows(&all[..1], &medians).collect();
        assert!(alone[0]["tcp_of_veth"].is_null() && alone[0]["type"] == "row");
    }
}
