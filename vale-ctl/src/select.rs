//! Finds the switches and ports that the command line names.
//!
//! Invariant: the answer follows the order of the switches (by name), each once, however often and
//! in whatever order they were named; something named that is not there is an error of its own
//! kind, which `main` turns into exit status 3.

use std::collections::HashMap;
use std::fmt;

use anyhow::Context;
use netmap::control::{self, PortInfo, SwitchInfo};

use crate::cli::Target;

/// A switch, with the ports that were asked for.
#[derive(Debug)]
pub struct Picked {
    /// The switch; its ports are only those asked for.
    pub info: SwitchInfo,
    /// The switch itself was asked for (not only some ports of it).
    pub whole: bool,
}

/// A named switch or port is not in the state that the command needs.
#[derive(Debug)]
pub enum NotThere {
    /// It does not exist.
    Missing(Target),
    /// It exists, and no bridge has it open.
    NotAttached(Target),
}

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotThere::Missing(name) => {
                write!(f, "There is no {name} in {}", control::root().display())
            }
            NotThere::NotAttached(name) => {
                write!(f, "{name} is not attached: nobody has it open")
            }
        }
    }
}

impl std::error::Error for NotThere {}

/// All switches that can be looked at.
pub fn all() -> anyhow::Result<Vec<SwitchInfo>> {
    Ok(seen()?.0)
}

/// All switches that can be looked at, and whether there are others, of which this has warned.
pub fn seen() -> anyhow::Result<(Vec<SwitchInfo>, bool)> {
    let (mut switches, errors) = control::list().context("listing the switches")?;
    let hidden = !errors.is_empty();
    for error in errors {
        // The other switches are shown nevertheless.
        nm_cli::say!("vale-ctl: warning: {:#}", anyhow::Error::from(error));
    }
    switches.sort_by(|a, b| a.name.cmp(&b.name));
    for switch in &mut switches {
        sort(&mut switch.ports);
        for port in &mut switch.ports {
            // The library lists every handle, but a process that has one handle per ring is one user.
            port.users.sort_by_key(|user| user.pid);
            port.users.dedup_by_key(|user| user.pid);
        }
    }
    Ok((switches, hidden))
}

/// By index, but the pipes of a port behind it, both ends of each together.
fn sort(ports: &mut [PortInfo]) {
    let index: HashMap<String, u8> = ports.iter().map(|p| (p.name.clone(), p.index)).collect();
    ports.sort_by_cached_key(|port| match &port.pipe_of {
        None => (port.index, String::new()),
        Some(base) => {
            let (mark, id) = port.name[base.len()..].split_at(1);
            (index.get(base).copied().unwrap_or(port.index), format!("{id} {mark}"))
        }
    });
}

/// The switches and ports that `names` select; all of them if there are no names.
pub fn named(names: &[Target]) -> anyhow::Result<Vec<Picked>> {
    Ok(named_of_seen(names)?.0)
}

/// The same, and whether there are switches that cannot be looked at.
pub fn named_of_seen(names: &[Target]) -> anyhow::Result<(Vec<Picked>, bool)> {
    let (switches, hidden) = seen()?;
    for target in names {
        if !switches.iter().any(|info| contains(info, target)) {
            return Err(NotThere::Missing(target.clone()).into());
        }
    }
    Ok((pick(switches, names), hidden))
}

/// As `named`, but leaves out what does not exist: for commands that wait for it to appear.
pub fn present(names: &[Target]) -> anyhow::Result<Vec<Picked>> {
    Ok(pick(all()?, names))
}

/// One switch.
pub fn switch(name: &Target) -> anyhow::Result<SwitchInfo> {
    let found = all()?.into_iter().find(|info| info.name == name.switch);
    found.ok_or_else(|| NotThere::Missing(name.clone()).into())
}

/// One port, if it is there.
pub fn port(name: &Target) -> anyhow::Result<Option<PortInfo>> {
    let wanted = name.port.as_deref();
    let Some(info) = all()?.into_iter().find(|info| info.name == name.switch) else {
        return Ok(None);
    };
    Ok(info.ports.into_iter().find(|port| Some(port.name.as_str()) == wanted))
}

fn contains(info: &SwitchInfo, target: &Target) -> bool {
    info.name == target.switch
        && match &target.port {
            None => true,
            Some(port) => info.ports.iter().any(|p| p.name == *port),
        }
}

fn pick(switches: Vec<SwitchInfo>, names: &[Target]) -> Vec<Picked> {
    let wanted = |info: &SwitchInfo, port: &PortInfo| {
        names
            .iter()
            .any(|t| t.switch == info.name && t.port.as_ref().is_some_and(|p| *p == port.name))
    };
    let mut picked = Vec::new();
    for mut info in switches {
        let whole =
            names.is_empty() || names.iter().any(|t| t.switch == info.name && t.port.is_none());
        if !whole {
            let ports = std::mem::take(&mut info.ports);
            info.ports = ports.into_iter().filter(|port| wanted(&info, port)).collect();
            if info.ports.is_empty() {
                continue;
            }
        }
        picked.push(Picked { info, whole });
    }
    picked
}

/// Switches and ports as a command line may name them, for completion.
pub fn typed() -> Vec<String> {
    control::names().iter().map(|name| name.trim_end_matches(':').to_owned()).collect()
}

/// Switches, for completion.
pub fn typed_switches() -> Vec<String> {
    control::names().iter().filter_map(|name| name.strip_suffix(':')).map(str::to_owned).collect()
}
