//! `poll start|stop`: upstream's polling cores. There the kernel polls a NIC for a switch; here the
//! bridge of an attached interface busy-waits instead of sleeping. The bridge is replaced, so the
//! port is away for a moment; its learnt addresses go with it and come back with the next frames.

use anyhow::Context;
use netmap::Error;
use nm_cli::exit::UsageError;

use crate::bridge;
use crate::cli::{BridgeOptions, Poll, Target};
use crate::notify::Notify;
use crate::output::{Did, Out};
use crate::select;

/// Runs the command.
pub fn run(out: &mut Out, args: &Poll) -> anyhow::Result<()> {
    let (name, options, timeout): (&Target, _, _) = match args {
        Poll::Start { name, cpu, timeout } => {
            (name, BridgeOptions { busy_poll: true, cpu: *cpu }, *timeout)
        }
        Poll::Stop { name, timeout } => (name, BridgeOptions::default(), *timeout),
    };
    bridge::interface(name).map_err(UsageError::new)?;
    let port = select::port(name)?.ok_or_else(|| Error::NotFound { name: name.to_string() })?;
    let mut notify = Notify::new()?;
    bridge::stop(&notify, name, &port, timeout)?;
    bridge::start(&mut notify, name, &options, timeout)
        .with_context(|| format!("{name} is detached now, and could not be attached again"))?;
    Ok(out.done(name, Did::Set, false)?)
}
