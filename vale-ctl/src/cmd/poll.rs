//! `poll start|stop`: upstream's polling cores. There the kernel polls a NIC for a switch; here the
//! bridge of an attached interface busy-waits instead of sleeping. The bridge is replaced by one that is like it else, so the
//! port is missing for a moment, and its learnt addresses are lost until the next frames arrive.

use anyhow::Context;
use nm_cli::exit::UsageError;
use nm_cli::signal::Signals;

use crate::bridge::{self, Plan};
use crate::cli::{BridgeOptions, Poll};
use crate::cmd::detach;
use crate::output::{Did, Out};

/// Runs the command.
pub fn run(out: &mut Out, args: &Poll) -> anyhow::Result<()> {
    let (name, timeout) = match args {
        Poll::Start { name, timeout, .. } | Poll::Stop { name, timeout } => (name, *timeout),
    };
    bridge::interface(name).map_err(UsageError::new)?;
    let signals = Signals::install()?;
    let ended = bridge::stop(&signals, name, timeout)?;
    let Some(was) = ended.port else { return detach::not_attached(name, false) };
    let options = match args {
        Poll::Start { cpu, .. } => {
            BridgeOptions { busy_poll: true, cpu: cpu.or(was.options.cpu), ..was.options }
        }
        Poll::Stop { .. } => BridgeOptions { busy_poll: false, ..was.options },
    };
    let host_name = bridge::host_of(name);
    let host = ended.host.as_ref();
    let host = host.map(|was| Plan { name: &host_name, far: &was.far, options: &was.options });
    let plan = Plan { name, far: &was.far, options: &options };
    bridge::start(&signals, &plan, host.as_ref(), timeout)
        .with_context(|| format!("{name} is detached now, and could not be attached again"))?;
    Ok(out.done(name, Did::Set, false)?)
}
