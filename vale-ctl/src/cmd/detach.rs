//! `detach`: ends the bridge that `attach` left running.

use netmap::Error;
use nm_cli::exit::UsageError;

use crate::bridge;
use crate::cli::Detach;
use crate::notify::Notify;
use crate::output::{Did, Out};
use crate::select;

/// Runs the command.
pub fn run(out: &mut Out, args: &Detach) -> anyhow::Result<()> {
    bridge::interface(&args.name).map_err(UsageError::new)?;
    let dry_run = args.change.dry_run;
    let port = match select::port(&args.name)? {
        Some(port) if !port.users.is_empty() => port,
        _ if args.if_exists => return Ok(out.done(&args.name, Did::Nothing, dry_run)?),
        Some(port) => return bridge::bridges(&args.name, &port).map(drop),
        None => {
            return Err(Error::NotFound { name: args.name.to_string() }.into());
        }
    };
    if dry_run {
        bridge::bridges(&args.name, &port)?;
    } else {
        bridge::stop(&Notify::new()?, &args.name, &port, args.timeout)?;
    }
    Ok(out.done(&args.name, Did::Detach, dry_run)?)
}
