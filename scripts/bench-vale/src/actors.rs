//! The processes of a measurement, as the one that measures sees them: this program again, in a role.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A child in a role.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Actor {
    /// Starts it and waits until it is ready.
    pub fn start(args: &[String]) -> Result<Self> {
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

    /// Lets it work.
    pub fn go(&mut self) -> Result<()> {
        Ok(self.child.stdin.as_mut().context("stdin was piped")?.write_all(b"\n")?)
    }

    /// What it says in the end.
    pub fn result(mut self) -> Result<Value> {
        let line = self.line()?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("bad result {line:?}"))
    }
}

/// The arguments of a role.
pub fn role(name: &str, port: &str, cpu: usize, rest: &[(&str, String)]) -> Vec<String> {
    let mut args = vec![name.to_string(), port.to_string(), cpu.to_string()];
    for (flag, value) in rest {
        args.push(format!("--{flag}"));
        args.push(value.clone());
    }
    args
}

/// Starts all, lets them go together, and collects what they say.
pub fn together(actors: Vec<Vec<String>>) -> Result<Vec<Value>> {
    let mut actors = actors.iter().map(|a| Actor::start(a)).collect::<Result<Vec<_>>>()?;
    for actor in &mut actors {
        actor.go()?;
    }
    actors.into_iter().map(Actor::result).collect()
}

/// A figure of a result.
pub fn number(v: &Value, key: &str) -> f64 {
    v[key].as_f64().unwrap_or(0.0)
}

/// Packets per second from one sender to one receiver on a switch, for so long.
pub fn rate(ms: u64, extra: &[(&str, String)]) -> Result<f64> {
    rate_between(["valeB:t", "valeB:r"], ms, extra)
}

/// Packets per second from the one port to the other.
pub fn rate_between([from, to]: [&str; 2], ms: u64, extra: &[(&str, String)]) -> Result<f64> {
    let ms = ms.to_string();
    let mut rx = extra.to_vec();
    rx.extend([("me", "2".into()), ("ms", ms.clone())]);
    let mut tx = extra.to_vec();
    tx.extend([("me", "1".into()), ("dst", "2".into()), ("ms", ms)]);
    let r = together(vec![role("receive", to, 1, &rx), role("send", from, 0, &tx)])?;
    Ok(number(&r[0], "pps"))
}
