//! `attach`: joins an interface of the host to a switch by a bridge process that goes on running.

use nm_cli::exit::UsageError;
use nm_cli::signal::Signals;
use serde_json::json;

use crate::bridge::{self, Plan};
use crate::cli::Attach;
use crate::cmd::list;
use crate::json;
use crate::output::{Did, Out};
use crate::select;

/// Most characters of a port's name.
const LONGEST_PORT: usize = 15;

/// Runs the command. `--host` asks for what a tap is anyway: the other end is the host stack. A NIC's host gets a port
/// of its own, so that it goes on using the NIC, through the switch.
pub fn run(out: &mut Out, args: &Attach) -> anyhow::Result<()> {
    let port = bridge::interface(&args.name).map_err(UsageError::new)?;
    let iface = args.interface.as_deref().unwrap_or(port);
    let far = bridge::far_end(iface, args.netns.as_deref()).map_err(UsageError::new)?;
    let host = bridge::host_rings(&far).filter(|_| args.host);
    let host = host.map(|rings| (bridge::host_of(&args.name), rings));
    if let Some((name, _)) = &host
        && name.port.as_ref().is_some_and(|port| port.len() > LONGEST_PORT)
    {
        let why = format!("the host's port would be {name}, longer than {LONGEST_PORT} characters");
        return Err(UsageError::new(why).into());
    }
    if args.may_exist && !bridge::find(&args.name)?.is_empty() {
        return Ok(out.done(&args.name, Did::Nothing, args.change.dry_run)?);
    }
    if let Some(port) = select::port(&args.name)?.filter(|port| !port.users.is_empty()) {
        let users = list::users(&port);
        anyhow::bail!("{} is busy: attached or open already, by {users}", args.name);
    }
    if host.is_none()
        && !args.force
        && let Some(route) = bridge::takes_default_route(&far)?
    {
        anyhow::bail!(
            "The {route}, and a switch that has {iface} alone would cut the host off, and who is logged in from elsewhere; \
             attach it with --host, so that the host goes on using it, or insist with --force"
        );
    }
    if args.change.dry_run {
        return Ok(out.done(&args.name, Did::Attach, true)?);
    }
    let signals = Signals::install()?;
    let plan = |name, far| Plan { name, far, options: &args.bridge };
    let host = host.as_ref().map(|(name, rings)| plan(name, rings));
    let pid = bridge::start(&signals, &plan(&args.name, &far), host.as_ref(), args.timeout)?;
    if out.json {
        let value = json!({ "action": "attached", "dry_run": false, "pid": pid });
        out.object(&json::keyed([(args.name.to_string(), value)]))?;
    } else {
        // A process goes on running, which the user should know even without --verbose.
        nm_cli::say!("{}: attached, bridged by process {pid}", args.name);
    }
    Ok(out.flush()?)
}
