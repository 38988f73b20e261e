//! `attach`: joins an interface of the host to a switch by a bridge process that goes on running.

use nm_cli::exit::UsageError;
use nm_cli::signal::Signals;
use serde_json::json;

use crate::bridge;
use crate::cli::Attach;
use crate::cmd::list;
use crate::json;
use crate::output::{Did, Out};
use crate::select;

/// Runs the command. `--host` asks for what a tap is anyway: the other end is the host stack.
pub fn run(out: &mut Out, args: &Attach) -> anyhow::Result<()> {
    let port = bridge::interface(&args.name).map_err(UsageError::new)?;
    let iface = args.interface.as_deref().unwrap_or(port);
    let far = bridge::far_end(iface, args.netns.as_deref()).map_err(UsageError::new)?;
    if args.may_exist && !bridge::find(&args.name)?.is_empty() {
        return Ok(out.done(&args.name, Did::Nothing, args.change.dry_run)?);
    }
    if let Some(port) = select::port(&args.name)?.filter(|port| !port.users.is_empty()) {
        let users = list::users(&port);
        anyhow::bail!("{} is busy: attached or open already, by {users}", args.name);
    }
    if args.change.dry_run {
        return Ok(out.done(&args.name, Did::Attach, true)?);
    }
    let pid = bridge::start(&Signals::install()?, &args.name, &far, &args.bridge, args.timeout)?;
    if out.json {
        let value = json!({ "action": "attached", "dry_run": false, "pid": pid });
        out.object(&json::keyed([(args.name.to_string(), value)]))?;
    } else {
        // A process goes on running, which the user should know even without --verbose.
        nm_cli::say!("{}: attached, bridged by process {pid}", args.name);
    }
    Ok(out.flush()?)
}
