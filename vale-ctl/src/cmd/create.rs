//! `create`: a port that stays without users, or a switch that stays without ports.

use anyhow::Context;
use netmap::control::{self, Switch, SwitchOptions};
use netmap::{Error, Memory, Options, PortName};
use nm_cli::exit::UsageError;

use crate::cli::{Create, Target};
use crate::output::{Did, Out};
use crate::select;

/// Runs the command.
pub fn run(out: &mut Out, args: &Create) -> anyhow::Result<()> {
    let dry_run = args.change.dry_run;
    let made = match &args.name.port {
        None => create_switch(args),
        Some(_) => create_port(args),
    };
    let did = match made {
        Ok(()) => Did::Create,
        Err(error) if args.may_exist && is_exists(&error) => Did::Nothing,
        Err(error) => return Err(error),
    };
    Ok(out.done(&args.name, did, dry_run)?)
}

fn create_switch(args: &Create) -> anyhow::Result<()> {
    if args.ring_config.is_some() || args.mem_id.is_some() || args.mem_mib.is_some() {
        let why = "--ring-config, --mem-id and --mem-mib belong to a port: name one, as in valeA:x";
        return Err(UsageError::new(why).into());
    }
    let name = &args.name.switch;
    // The library would give an existing switch the default settings.
    let there = select::all()?.iter().any(|info| info.name == *name);
    refuse_existing(there, &args.name)?;
    if !args.change.dry_run {
        Switch::create(name, &SwitchOptions::default())
            .with_context(|| format!("creating {name}"))?;
    }
    Ok(())
}

fn create_port(args: &Create) -> anyhow::Result<()> {
    let name = port_name(&args.name)?;
    let config = args.ring_config.unwrap_or_default();
    let options = Options {
        tx_slots: config.tx_slots,
        rx_slots: config.rx_slots,
        tx_rings: config.tx_rings,
        rx_rings: config.rx_rings,
        memory: match args.mem_id {
            None | Some(0) => Memory::Private,
            Some(id) => Memory::Id(id),
        },
        memory_bytes: args.mem_mib.map(|mib| u64::from(mib) << 20),
        ..Options::default()
    };
    if args.change.dry_run {
        return refuse_existing(select::port(&args.name)?.is_some(), &args.name);
    }
    control::create_port(&name, &options).with_context(|| format!("creating {name}"))
}

/// The library's name of a port; a name it refuses is a usage error.
pub fn port_name(name: &Target) -> anyhow::Result<PortName> {
    name.to_string().parse::<PortName>().map_err(|why| UsageError::new(why.to_string()).into())
}

fn refuse_existing(there: bool, name: &Target) -> anyhow::Result<()> {
    if there { Err(Error::Exists { name: name.to_string() }.into()) } else { Ok(()) }
}

fn is_exists(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::Exists { .. }))
}
