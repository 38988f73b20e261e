//! A network namespace with a kernel bridge and taps on it: what taps are measured with, apart from
//! the machine's own network.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A namespace; removed when dropped, with all that is in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Why there can be no namespace here.
pub fn unable() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("network namespaces need root");
    }
    if !std::fs::exists("/dev/net/tun").unwrap_or(false) {
        return Some("there is no /dev/net/tun");
    }
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if ip.is_err() { Some("ip (iproute2) is not installed") } else { None }
}

impl Namespace {
    /// Makes one.
    pub fn new() -> Result<Namespace> {
        if let Some(why) = unable() {
            bail!("{why}");
        }
        let name = format!("bench{}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Namespace { name })
    }

    /// Adds a bridge. It forwards at once, and sends nothing of its own.
    pub fn bridge(&self, bridge: &str) -> Result<()> {
        let kind =
            ["type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"];
        self.ip(&[&["link", "add", bridge], &kind[..]].concat())?;
        self.ip(&["link", "set", bridge, "addrgenmode", "none", "up"])
    }

    /// Adds a tap that is a port of `bridge`.
    pub fn tap(&self, tap: &str, bridge: &str) -> Result<()> {
        self.ip(&["tuntap", "add", "dev", tap, "mode", "tap"])?;
        self.ip(&["link", "set", tap, "addrgenmode", "none", "master", bridge, "up"])
    }

    /// `command` inside. The process is the same: `ip` executes it.
    pub fn exec(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name]).arg(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", self.name.as_str()], args].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing can be done about a failure; the name says whose it was.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("running ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
