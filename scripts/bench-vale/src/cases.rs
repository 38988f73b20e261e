//! The cases of the table in docs/benchmarks.md.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netmap::{Options, Port};
use serde_json::{Value, json};

use crate::reference;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Print JSON: one object per case, then one with everything
    #[arg(long)]
    json: bool,
    /// Runs per case; medians are reported
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Milliseconds per run
    #[arg(long, default_value_t = 1000)]
    ms: u64,
    /// Cases to run (all unless named): small large senders flood ports macs backpressure rtt open
    cases: Vec<String>,
}

/// A child in a role.
#[derive(Debug)]
struct Actor {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Actor {
    fn start(args: &[String]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("stdout was piped")?;
        let mut actor = Self { child, lines: BufReader::new(out) };
        if actor.line()? != "ready" {
            bail!("{args:?} did not get ready");
        }
        Ok(actor)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().into())
    }

    fn go(&mut self) -> Result<()> {
        Ok(self.child.stdin.as_mut().context("stdin was piped")?.write_all(b"\n")?)
    }

    fn result(mut self) -> Result<Value> {
        let line = self.line()?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("bad result {line:?}"))
    }
}

fn role(name: &str, port: &str, cpu: usize, rest: &[(&str, String)]) -> Vec<String> {
    let mut args = vec![name.to_string(), port.to_string(), cpu.to_string()];
    for (flag, value) in rest {
        args.push(format!("--{flag}"));
        args.push(value.clone());
    }
    args
}

/// Starts all, lets them go together, and collects what they say.
fn together(actors: Vec<Vec<String>>) -> Result<Vec<Value>> {
    let mut actors = actors.iter().map(|a| Actor::start(a)).collect::<Result<Vec<_>>>()?;
    for actor in &mut actors {
        actor.go()?;
    }
    actors.into_iter().map(Actor::result).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn number(v: &Value, key: &str) -> f64 {
    v[key].as_f64().unwrap_or(0.0)
}

struct Table {
    json: bool,
    rows: Vec<Value>,
}

impl Table {
    fn row(&mut self, row: Value) {
        if self.json {
            println!("{row}");
        } else {
            let fields = row.as_object().into_iter().flatten();
            let text: Vec<String> = fields
                .map(|(k, v)| match v {
                    Value::Number(n) if n.is_f64() => {
                        format!("{k} {:.3}", n.as_f64().unwrap_or(0.0))
                    }
                    Value::String(s) => s.clone(),
                    v => format!("{k} {v}"),
                })
                .collect();
            println!("{}", text.join("  "));
        }
        self.rows.push(row);
    }
}

/// Runs the plan.
pub fn run(plan: &Plan) -> Result<()> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("NETMAP_ROOT", dir.path()) };
    let mut table = Table { json: plan.json, rows: Vec::new() };
    let all =
        ["small", "large", "senders", "flood", "ports", "macs", "backpressure", "rtt", "open"];
    let names: Vec<&str> = if plan.cases.is_empty() {
        all.to_vec()
    } else {
        plan.cases.iter().map(String::as_str).collect()
    };
    for name in names {
        match name {
            "small" => one_to_one(plan, &mut table, "64 B", 60)?,
            "large" => one_to_one(plan, &mut table, "1514 B", 1514)?,
            "senders" => senders(plan, &mut table)?,
            "flood" => flood(plan, &mut table)?,
            "ports" => ports(plan, &mut table)?,
            "macs" => macs(plan, &mut table)?,
            "backpressure" => backpressure(plan, &mut table)?,
            "rtt" => round_trips(plan, &mut table)?,
            "open" => opening(plan, &mut table)?,
            other => bail!("no case {other:?}; cases are: {}", all.join(" ")),
        }
    }
    Ok(())
}

fn rate(plan: &Plan, extra: &[(&str, String)]) -> Result<f64> {
    let ms = plan.ms.to_string();
    let mut rx = extra.to_vec();
    rx.extend([("me", "2".into()), ("ms", ms.clone())]);
    let mut tx = extra.to_vec();
    tx.extend([("me", "1".into()), ("dst", "2".into()), ("ms", ms)]);
    let r = together(vec![role("receive", "valeB:r", 1, &rx), role("send", "valeB:t", 0, &tx)])?;
    Ok(number(&r[0], "pps"))
}

fn one_to_one(plan: &Plan, table: &mut Table, name: &str, len: usize) -> Result<()> {
    for slots in [1024, 256, 4096] {
        let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..plan.runs {
            let args = [("len", len.to_string()), ("slots", slots.to_string())];
            let a = rate(plan, &args)?;
            let b = reference::run(slots, len, 512, Duration::from_millis(plan.ms));
            ours.push(a);
            theirs.push(b);
            ratios.push(a / b);
        }
        let pps = median(ours);
        table.row(json!({"case": format!("{name}, {slots} slots, one to one"),
            "mpps": pps / 1e6, "gbps": pps * len as f64 * 8.0 / 1e9,
            "reference_mpps": median(theirs) / 1e6, "ratio": median(ratios)}));
    }
    Ok(())
}

fn senders(plan: &Plan, table: &mut Table) -> Result<()> {
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
        table.row(json!({"case": format!("{n} senders, one receiver, 64 B"),
            "mpps": total / 1e6, "ratio_to_one": total / one}));
    }
    Ok(())
}

fn flood(plan: &Plan, table: &mut Table) -> Result<()> {
    let ms = plan.ms.to_string();
    let (mut ratios, mut copies) = (vec![], vec![]);
    for _ in 0..plan.runs {
        let one = rate(plan, &[])?;
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
    }
    table.row(json!({"case": "one sender, 8 receivers by flooding, 64 B",
        "copies_mpps": median(copies) / 1e6, "ratio_to_one_per_copy": median(ratios)}));
    Ok(())
}

/// Rates that are compared with each other come from short runs in turns, each divided by a
/// reference run right beside it: a shared machine changes its speed from second to second.
fn in_turns(
    plan: &Plan,
    n: usize,
    mut one: impl FnMut(usize, &Plan) -> Result<f64>,
) -> Result<Vec<(f64, f64)>> {
    const SHORTER: usize = 4;
    let plan = Plan { ms: (plan.ms / SHORTER as u64).max(100), ..plan.clone() };
    let mut seen = vec![(vec![], vec![]); n];
    for _ in 0..plan.runs * SHORTER {
        let mut relative = vec![];
        for (k, seen) in seen.iter_mut().enumerate() {
            let pps = one(k, &plan)?;
            let beside = reference::run(1024, 60, 512, Duration::from_millis(plan.ms / 2));
            seen.0.push(pps);
            relative.push(beside / pps);
        }
        for (k, seen) in seen.iter_mut().enumerate() {
            seen.1.push(relative[k] / relative[0]);
        }
    }
    Ok(seen.into_iter().map(|(pps, cost)| (median(pps), median(cost))).collect())
}

fn ports(plan: &Plan, table: &mut Table) -> Result<()> {
    let counts = [2usize, 64, 254];
    let results = in_turns(plan, counts.len(), |k, plan| {
        let idle = (counts[k] > 2)
            .then(|| {
                let args = [("ports", (counts[k] - 2).to_string())];
                Actor::start(&role("idle", "valeB:i", 0, &args))
            })
            .transpose()?;
        let pps = rate(plan, &[])?;
        if let Some(mut idle) = idle {
            idle.go()?; // starts, and ends with the next line
            idle.go()?;
            idle.result()?;
        }
        Ok(pps)
    })?;
    for (count, (pps, cost)) in counts.iter().zip(results) {
        table.row(json!({"case": format!("{count} ports, 64 B"),
            "mpps": pps / 1e6, "cost_ratio": cost}));
    }
    Ok(())
}

fn macs(plan: &Plan, table: &mut Table) -> Result<()> {
    let counts = [16usize, 256, 4096, 16384];
    let results =
        in_turns(plan, counts.len(), |k, plan| rate(plan, &[("macs", counts[k].to_string())]))?;
    for (count, (pps, cost)) in counts.iter().zip(results) {
        table.row(json!({"case": format!("{count} learnt addresses, 64 B"),
            "mpps": pps / 1e6, "cost_ratio": cost}));
    }
    Ok(())
}

fn backpressure(plan: &Plan, table: &mut Table) -> Result<()> {
    let results = in_turns(plan, 2, |k, plan| {
        let options = netmap::control::SwitchOptions {
            backpressure: k == 1,
            ..netmap::control::SwitchOptions::default()
        };
        let switch = netmap::control::Switch::create("valeB", &options)?;
        let pps = rate(plan, &[("wait", "adaptive".into())])?;
        switch.delete()?;
        Ok(pps)
    })?;
    for (name, (pps, cost)) in ["dropping", "with backpressure"].iter().zip(results) {
        table.row(json!({"case": format!("one to one {name}, 64 B"),
            "mpps": pps / 1e6, "cost_ratio": cost}));
    }
    Ok(())
}

fn round_trips(plan: &Plan, table: &mut Table) -> Result<()> {
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
        table.row(json!({"case": format!("round trip, {wait}"),
            "p50_us": median(p50) / 1e3, "p99_us": median(p99) / 1e3}));
    }
    Ok(())
}

fn opening(plan: &Plan, table: &mut Table) -> Result<()> {
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
    let bytes = info.ports.first().map_or(0, |p| p.memory_bytes);
    drop(port);
    table.row(json!({"case": "open and close a port of default size",
        "open_ms": median(opens), "close_ms": median(closes),
        "memory_mib": bytes as f64 / (1 << 20) as f64}));
    Ok(())
}
