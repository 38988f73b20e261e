//! `detach`: ends the bridge that `attach` left running.

use anyhow::bail;
use nm_cli::exit::UsageError;
use nm_cli::signal::Signals;

use crate::bridge;
use crate::cli::{Detach, Target};
use crate::cmd::list;
use crate::output::{Did, Out};
use crate::select::{self, NotThere};

/// Runs the command.
pub fn run(out: &mut Out, args: &Detach) -> anyhow::Result<()> {
    bridge::interface(&args.name).map_err(UsageError::new)?;
    let dry_run = args.change.dry_run;
    let attached = if dry_run {
        !bridge::find(&args.name)?.is_empty()
    } else {
        let signals = Signals::install()?;
        let ended = bridge::stop(&signals, &args.name, args.timeout)?;
        ended.port.or(ended.host).is_some()
    };
    if !attached {
        not_attached(&args.name, args.if_exists)?;
    }
    let did = if attached { Did::Detach } else { Did::Nothing };
    Ok(out.done(&args.name, did, dry_run)?)
}

/// Why there is no bridge to end: an error, unless that is fine and nobody else has the port open.
pub fn not_attached(name: &Target, fine: bool) -> anyhow::Result<()> {
    match select::port(name)? {
        Some(port) if !port.users.is_empty() => bail!(
            "{name} is open, but not by a bridge that `vale-ctl attach` started for this user: by its \
             own account the port's user is {}",
            list::users(&port)
        ),
        _ if fine => Ok(()),
        Some(_) => Err(NotThere::NotAttached(name.clone()).into()),
        None => Err(NotThere::Missing(name.clone()).into()),
    }
}
