//! What to measure, how often, and how figures become one.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::reference;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Print JSON, an object a line: the machine, then a row for each figure
    #[arg(long)]
    pub json: bool,
    /// Runs per figure; medians are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Milliseconds per run
    #[arg(long, default_value_t = 1000)]
    pub ms: u64,
    /// Cases (all but sent, preload and xdp, unless named)
    pub cases: Vec<Case>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    Small,
    Large,
    Senders,
    Flood,
    Ports,
    Macs,
    Backpressure,
    /// 64 bytes through a pipe, in turns with a switch
    Pipe,
    Rtt,
    Open,
    /// 1514 bytes, rings of 128 to 4096 slots, several bursts
    Sweep,
    /// 1514 bytes, each packet written anew: long and short transmit rings, and an exchange of sent buffers; only if named
    Sent,
    /// In turns with DPDK's memif, where that is installed
    Peers,
    /// C programs through the preloaded library; only if named, by `scripts/bench preload`
    Preload,
    /// A NIC through AF_XDP, beside DPDK's and AF_PACKET; only if named, by `scripts/bench xdp`
    Xdp,
}

/// Bytes of a packet of 64 bytes without its CRC.
pub const SMALL: usize = 60;

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Rates that are compared with each other come from short runs in turns, each divided by a
/// reference run with packets of `len` bytes right beside it: a shared machine changes its speed from
/// second to second. Returns of each the rate, and its cost as a multiple of the first one's.
pub fn in_turns(
    plan: &Plan,
    n: usize,
    len: usize,
    mut one: impl FnMut(usize, &Plan) -> Result<f64>,
) -> Result<Vec<(f64, f64)>> {
    const SHORTER: usize = 4;
    let plan = Plan { ms: (plan.ms / SHORTER as u64).max(100), ..plan.clone() };
    let mut seen = vec![(vec![], vec![]); n];
    for _ in 0..plan.runs as usize * SHORTER {
        let mut relative = vec![];
        for (k, seen) in seen.iter_mut().enumerate() {
            let pps = one(k, &plan)?;
            let beside = reference::run(1024, len, 512, Duration::from_millis(plan.ms / 2));
            seen.0.push(pps);
            relative.push(beside / pps);
        }
        for (k, seen) in seen.iter_mut().enumerate() {
            seen.1.push(relative[k] / relative[0]);
        }
    }
    Ok(seen.into_iter().map(|(pps, cost)| (median(pps), median(cost))).collect())
}
