//! A lone packet: round trips between guests that are otherwise idle, at every step. Gathering packets
//! under load must not delay a lone packet.

use anyhow::{Context, Result};
use serde_json::json;

use crate::Plan;
use crate::lab::Lab;
use crate::output::{Output, Table, digits, microseconds};
use crate::process::pass;
use crate::scene::{QUIET, START_LIMIT, until_quiet};
use crate::step::Step;
use crate::summary::median;
use crate::target;
use crate::vm::{Spec, Vm};

const RING: u32 = 1024;
const PING_MAC: &str = "02:00:00:00:00:01";
const ECHO_MAC: &str = "02:00:00:00:00:02";

/// Runs the case.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<()> {
    let mut seen: Vec<(Vec<f64>, Vec<f64>, u64, u64)> = vec![Default::default(); Step::ALL.len()];
    for i in 0..plan.runs {
        for (step, seen) in Step::ALL.into_iter().zip(&mut seen) {
            out.doing(&format!("latency: run {} of {}, {step}", i + 1, plan.runs));
            let spec = |name, port: &str, mac, guest: String, party| Spec {
                step,
                ring: RING,
                cpus: lab.cpus(party),
                ..Spec::new(name, &format!("valeA:{port}@conf:slots={RING}"), mac, guest)
            };
            let echo =
                Vm::ready(lab, &spec("echo", "e", ECHO_MAC, until_quiet("echo", START_LIMIT), 1))?;
            let guest = format!(
                "ping dst={ECHO_MAC} interval=1ms duration={}ms",
                plan.duration.as_millis()
            );
            let ping = Vm::start(lab, &spec("ping", "p", PING_MAC, guest, 0))?;
            pass(plan.duration)?;
            let guest = ping.finish(plan.duration)?.guest.context("ping has no result")?;
            echo.finish(QUIET)?;
            seen.0.push(guest.rtt_p50_ns as f64);
            seen.1.push(guest.rtt_p99_ns as f64);
            seen.2 += guest.packets;
            seen.3 += guest.lost;
        }
    }
    out.done();
    let table = Table::new(
        "Round trip of a lone packet between idle guests, one a millisecond",
        &[("step", -21), ("p50 us", 8), ("p99 us", 8), ("to plain", 8), ("pings", 7), ("lost", 5)],
    );
    let lowest = median(seen[0].0.clone());
    for (step, (p50, p99, pings, lost)) in Step::ALL.into_iter().zip(seen) {
        let (p50, p99) = (median(p50), median(p99));
        table.row(&[
            step.to_string(),
            microseconds(p50),
            microseconds(p99),
            digits(p50 / lowest),
            pings.to_string(),
            lost.to_string(),
        ]);
        if step == Step::TOP {
            out.judged.add(target::LATENCY, p50 / lowest);
        }
        let fields = json!({
            "case": "latency", "step": step.name(), "ring": RING, "runs": plan.runs, "rtt_p50_ns": p50,
            "rtt_p99_ns": p99, "ratio_to_plain": p50 / lowest, "pings": pings, "lost_pings": lost,
        });
        out.record("row", &fields)?;
    }
    Ok(())
}
