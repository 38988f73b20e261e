//! `poll start|stop`: upstream's polling cores. There the kernel polls a NIC for a switch; here the
//! bridge of an attached interface busy-waits instead of sleeping. The bridge is replaced, so the
//! port is missing for a moment, and its learnt addresses are lost until the next frames arrive.

use anyhow::Context;
use nm_cli::exit::UsageError;
use nm_cli::signal::Signals;

use crate::bridge;
use crate::cli::{BridgeOptions, Poll, Target};
use crate::cmd::detach;
use crate::output::{Did, Out};

/// Runs the command.
pub fn run(out: &mut Out, args: &Poll) -> anyhow::Result<()> {
    let (name, options, timeout): (&Target, _, _) = match args {
        Poll::Start { name, cpu, timeout } => {
            (name, BridgeOptions { busy_poll: true, cpu: *cpu, ..Default::default() }, *timeout)
        }
        Poll::Stop { name, timeout } => (name, BridgeOptions::default(), *timeout),
    };
    bridge::interface(name).map_err(UsageError::new)?;
    let signals = Signals::install()?;
    // That of a NIC's host ends with the NIC's, and begins with the next.
    let host = bridge::stop_host(&signals, name, timeout)?.pop();
    let Some(far) = bridge::stop(&signals, name, timeout)?.pop() else {
        return detach::not_attached(name, false);
    };
    let lost = |name: &Target| format!("{name} is detached now, and could not be attached again");
    let pid =
        bridge::start(&signals, name, &far, &options, timeout, None).with_context(|| lost(name))?;
    if let Some(rings) = host {
        let (name, options) = (bridge::host_of(name), BridgeOptions::default());
        bridge::start(&signals, &name, &rings, &options, timeout, Some(pid))
            .with_context(|| lost(&name))?;
    }
    Ok(out.done(name, Did::Set, false)?)
}
