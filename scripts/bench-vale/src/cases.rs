//! The cases of the table in docs/benchmarks.md.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use netmap::{Options, Port};
use nm_cli::machine::Machine;
use serde_json::json;

use crate::actors::{Actor, number, rate, rate_between, role, together};
use crate::plan::{Case, Plan, SMALL, in_turns, median};
use crate::rows::Rows;
use crate::{peers, preload, reference, sent, sweep, xdp};

/// Runs the plan.
#[allow(unsafe_code, reason = "the environment is set while there is one thread")]
pub fn run(plan: &Plan) -> Result<()> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("NETMAP_ROOT", dir.path()) };
    let named_only = |case: &&Case| matches!(case, Case::Sent | Case::Preload | Case::Xdp);
    let all: Vec<Case> =
        Case::value_variants().iter().filter(|case| !named_only(case)).copied().collect();
    let cases = if plan.cases.is_empty() { &all } else { &plan.cases };
    let machine = Machine::here();
    eprintln!("# {machine}");
    Rows::new(plan.json, "").machine(&machine)?;
    for &case in cases {
        let name = case.to_possible_value().expect("no case is hidden");
        let rows = &Rows::new(plan.json, name.get_name());
        match case {
            Case::Small => one_to_one(plan, rows, "64 B", SMALL)?,
            Case::Large => one_to_one(plan, rows, "1514 B", 1514)?,
            Case::Senders => senders(plan, rows)?,
            Case::Flood => flood(plan, rows)?,
            Case::Ports => ports(plan, rows)?,
            Case::Macs => macs(plan, rows)?,
            Case::Backpressure => backpressure(plan, rows)?,
            Case::Pipe => pipe(plan, rows)?,
            Case::Rtt => round_trips(plan, rows)?,
            Case::Open => opening(plan, rows)?,
            Case::Sweep => sweep::run(plan, rows)?,
            Case::Sent => sent::run(plan, rows)?,
            Case::Peers => peers::run(plan, rows)?,
            Case::Preload => preload::run(plan, rows)?,
            Case::Xdp => xdp::run(plan, rows)?,
        }
    }
    Ok(())
}

fn one_to_one(plan: &Plan, rows: &Rows, name: &str, len: usize) -> Result<()> {
    for slots in [1024, 256, 4096] {
        let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..plan.runs {
            let args = [("len", len.to_string()), ("slots", slots.to_string())];
            let a = rate(plan.ms, &args)?;
            let b = reference::run(slots, len, 512, Duration::from_millis(plan.ms));
            ours.push(a);
            theirs.push(b);
            ratios.push(a / b);
        }
        let pps = median(ours);
        rows.add(json!({"what": format!("{name}, {slots} slots, one to one"),
            "mpps": pps / 1e6, "gbps": pps * len as f64 * 8.0 / 1e9,
            "reference_mpps": median(theirs) / 1e6, "ratio": median(ratios)}))?;
    }
    Ok(())
}

fn senders(plan: &Plan, rows: &Rows) -> Result<()> {
    let ms = plan.ms.to_string();
    let mut one = 0.0;
    for n in 1..=4 {
        let mut totals = vec![];
        for _ in 0..plan.runs {
            let mut actors =
                vec![role("receive", "valeB:r", 1, &[("me", "99".into()), ("ms", ms.clone())])];
            for i in 0..n {
                // One CPU is the receiver's, as long as there are enough.
                let flags = [("me", (i + 1).to_string()), ("dst", "99".into()), ("ms", ms.clone())];
                actors.push(role("send", &format!("valeB:t{i}"), 0, &flags));
            }
            totals.push(number(&together(actors)?[0], "pps"));
        }
        let total = median(totals);
        if n == 1 {
            one = total;
        }
        rows.add(json!({"what": format!("{n} senders, one receiver, 64 B"),
            "mpps": total / 1e6, "ratio_to_one": total / one}))?;
    }
    Ok(())
}

fn flood(plan: &Plan, rows: &Rows) -> Result<()> {
    let ms = plan.ms.to_string();
    let (mut ratios, mut ratios_asleep, mut copies) = (vec![], vec![], vec![]);
    for _ in 0..plan.runs {
        let one = rate(plan.ms, &[])?;
        // The eight share CPUs, so they sleep; what that costs a single one is no cost of flooding.
        let one_asleep = rate(plan.ms, &[("wait", "block".into())])?;
        let mut actors = vec![];
        for i in 0..8 {
            let flags = [("me", (i + 2).to_string()), ("ms", ms.clone()), ("wait", "block".into())];
            actors.push(role("receive", &format!("valeB:r{i}"), 1, &flags));
        }
        actors.push(role("send", "valeB:t", 0, &[("dst", "255".into()), ("ms", ms.clone())]));
        let r = together(actors)?;
        let total: f64 = r[..8].iter().map(|v| number(v, "pps")).sum();
        copies.push(total);
        ratios.push(total / one);
        ratios_asleep.push(total / one_asleep);
    }
    rows.add(json!({"what": "one sender, 8 receivers by flooding, 64 B",
        "copies_mpps": median(copies) / 1e6, "ratio_to_one_per_copy": median(ratios),
        "ratio_to_one_that_sleeps": median(ratios_asleep)}))?;
    Ok(())
}

fn ports(plan: &Plan, rows: &Rows) -> Result<()> {
    let counts = [2usize, 64, 254];
    let results = in_turns(plan, counts.len(), SMALL, |k, plan| {
        let idle = (counts[k] > 2)
            .then(|| {
                let args = [("ports", (counts[k] - 2).to_string())];
                Actor::start(&role("idle", "valeB:i", 0, &args))
            })
            .transpose()?;
        let pps = rate(plan.ms, &[])?;
        if let Some(mut idle) = idle {
            idle.go()?; // starts, and ends with the next line
            idle.go()?;
            idle.result()?;
        }
        Ok(pps)
    })?;
    for (count, (pps, cost)) in counts.iter().zip(results) {
        rows.add(json!({"what": format!("{count} ports, 64 B"),
            "mpps": pps / 1e6, "cost_ratio": cost}))?;
    }
    Ok(())
}

/// What the switch's lookup costs: addresses in turn, against one. A sender that goes through addresses
/// writes one to each packet, and that has a cost of its own, which the second row shows.
fn macs(plan: &Plan, rows: &Rows) -> Result<()> {
    let counts = [(1u32, false), (1, true), (16, true), (256, true), (16384, true)];
    let results = in_turns(plan, counts.len(), SMALL, |k, plan| {
        let (macs, rewrite) = counts[k];
        rate(plan.ms, &[("macs", macs.to_string()), ("rewrite", rewrite.to_string())])
    })?;
    for ((count, rewrite), (pps, cost)) in counts.into_iter().zip(results) {
        let written = if rewrite { "written to each packet" } else { "written once" };
        let noun = if count == 1 { "address" } else { "addresses in turn" };
        rows.add(json!({"what": format!("{count} {noun}, {written}, 64 B"), "macs": count,
            "mpps": pps / 1e6, "cost_ratio": cost, "ratio_to_one": 1.0 / cost}))?;
    }
    Ok(())
}

fn backpressure(plan: &Plan, rows: &Rows) -> Result<()> {
    let results = in_turns(plan, 2, SMALL, |k, plan| {
        let options = netmap::control::SwitchOptions {
            backpressure: k == 1,
            ..netmap::control::SwitchOptions::default()
        };
        let switch = netmap::control::Switch::create("valeB", &options)?;
        let pps = rate(plan.ms, &[("wait", "adaptive".into())])?;
        switch.delete()?;
        Ok(pps)
    })?;
    for (name, (pps, cost)) in ["dropping", "with backpressure"].iter().zip(results) {
        rows.add(json!({"what": format!("one to one {name}, 64 B"),
            "mpps": pps / 1e6, "cost_ratio": cost}))?;
    }
    Ok(())
}

fn pipe(plan: &Plan, rows: &Rows) -> Result<()> {
    let slots = [1024, 256, 4096];
    let between = [["valeB:t", "valeB:r"], ["valeB:x{1", "valeB:x}1"]];
    for slots in slots {
        let results = in_turns(plan, between.len(), SMALL, |k, plan| {
            rate_between(between[k], plan.ms, &[("slots", slots.to_string())])
        })?;
        for (name, (pps, cost)) in ["one to one", "through a pipe"].iter().zip(results) {
            rows.add(json!({"what": format!("64 B, {slots} slots, {name}"),
                "mpps": pps / 1e6, "ratio_to_one": 1.0 / cost}))?;
        }
    }
    Ok(())
}

fn round_trips(plan: &Plan, rows: &Rows) -> Result<()> {
    for wait in ["busy", "adaptive", "block"] {
        let (mut p50, mut p99) = (vec![], vec![]);
        for _ in 0..plan.runs {
            let flags = |me: u8, dst: u8, ms: u64| {
                [
                    ("me", me.to_string()),
                    ("dst", dst.to_string()),
                    ("wait", wait.to_string()),
                    ("ms", ms.to_string()),
                ]
            };
            let r = together(vec![
                role("echo", "valeB:e", 1, &flags(2, 1, plan.ms + 200)),
                role("ping", "valeB:p", 0, &flags(1, 2, plan.ms)),
            ])?;
            p50.push(number(&r[1], "p50_ns"));
            p99.push(number(&r[1], "p99_ns"));
        }
        rows.add(json!({"what": format!("round trip, {wait}"),
            "p50_us": median(p50) / 1e3, "p99_us": median(p99) / 1e3}))?;
    }
    Ok(())
}

fn opening(plan: &Plan, rows: &Rows) -> Result<()> {
    let (mut opens, mut closes) = (vec![], vec![]);
    for _ in 0..plan.runs.max(20) {
        let start = Instant::now();
        let port = Port::open_with(&"valeB:x".parse()?, &Options::default())?;
        opens.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        drop(port);
        closes.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let port = Port::open("valeB:x")?;
    let info = netmap::control::Switch::open("valeB")?.info()?;
    let bytes = info.ports.first().map_or(0, |p| p.memory_backed_bytes);
    let mut seconds = vec![];
    for _ in 0..plan.runs.max(20) {
        let start = Instant::now();
        let second = Port::open("valeB:x")?;
        seconds.push(start.elapsed().as_secs_f64() * 1e3);
        drop(second);
    }
    drop(port);
    rows.add(json!({"what": "open and close a port of default size",
        "open_ms": median(opens), "close_ms": median(closes),
        "open_second_handle_ms": median(seconds),
        "memory_mib": bytes as f64 / (1 << 20) as f64}))?;
    Ok(())
}
