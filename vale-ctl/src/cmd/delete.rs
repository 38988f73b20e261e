//! `delete`: a persistent port, or a switch without users. What is in use is refused by the library
//! with the names of its users.

use anyhow::{Context, anyhow};
use netmap::Error;
use netmap::control::{self, PortInfo, Switch};

use crate::cli::{Delete, Target};
use crate::cmd::create::port_name;
use crate::cmd::list;
use crate::output::{Did, Out};
use crate::select;

/// Runs the command.
pub fn run(out: &mut Out, args: &Delete) -> anyhow::Result<()> {
    let dry_run = args.change.dry_run;
    let deleted = if dry_run { check(&args.name) } else { delete(&args.name) };
    let did = match deleted {
        Ok(()) => Did::Delete,
        Err(error) if args.if_exists && is_missing(&error) => Did::Nothing,
        Err(error) => return Err(error),
    };
    Ok(out.done(&args.name, did, dry_run)?)
}

fn delete(name: &Target) -> anyhow::Result<()> {
    let context = || format!("deleting {name}");
    match name.port {
        None => Switch::open(&name.switch).with_context(context)?.delete().with_context(context),
        Some(_) => control::delete_port(&port_name(name)?).with_context(context),
    }
}

/// What `delete` would say, as far as it can be known beforehand.
fn check(name: &Target) -> anyhow::Result<()> {
    let refuse = |ports: &[PortInfo]| match ports.iter().find(|port| !port.users.is_empty()) {
        None => Ok(()),
        Some(port) => {
            let users = list::users(port);
            Err(anyhow!("{}:{} is busy: in use by {users}", name.switch, port.name))
        }
    };
    let missing = || Error::NotFound { name: name.to_string() };
    if name.port.is_some() {
        return refuse(&[select::port(name)?.ok_or_else(missing)?]);
    }
    let switch = select::all()?.into_iter().find(|info| info.name == name.switch);
    refuse(&switch.ok_or_else(missing)?.ports)
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::NotFound { .. }))
}
