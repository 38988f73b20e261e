//! `fdb show`, `fdb flush`: the addresses that a switch has learnt.

use anyhow::Context;
use netmap::Error;
use netmap::control::{FdbEntry, Switch};
use nm_cli::mac::Mac;
use serde_json::{Map, Value, json};

use crate::cli::{Fdb, Target};
use crate::cmd::list::plural;
use crate::json;
use crate::output::Out;
use crate::select::{self, NotThere, Picked};
use nm_cli::table::{Align, Table};

/// Runs the command.
pub fn run(out: &mut Out, args: &Fdb) -> anyhow::Result<()> {
    match args {
        Fdb::Show { names } => show(out, names),
        Fdb::Flush { name, mac, change } => {
            flush(out, name, mac.map(|Mac(mac)| mac), change.dry_run)
        }
    }
}

fn show(out: &mut Out, names: &[Target]) -> anyhow::Result<()> {
    let mut tables = Vec::new();
    for switch in select::named(names)? {
        // A switch that vanished since is not an error: it has no addresses.
        if let Some(entries) = entries(&switch)? {
            tables.push((switch.info.name, entries));
        }
    }
    if out.json {
        out.object(&json::keyed(tables.into_iter().map(|(switch, entries)| {
            let entries: Map<String, Value> = entries.iter().map(object).collect();
            (switch, Value::Object(entries))
        })))?;
        return Ok(out.flush()?);
    }
    let mut table =
        Table::new(&[("MAC", Align::Left), ("PORT", Align::Left), ("AGE", Align::Right)]);
    for (switch, entries) in &tables {
        for entry in entries {
            let age = format!("{:.1}s", entry.age.as_secs_f64());
            table.row([Mac(entry.mac).to_string(), format!("{switch}:{}", entry.port), age]);
        }
    }
    out.table(&table)?;
    Ok(out.flush()?)
}

fn object(entry: &FdbEntry) -> (String, Value) {
    let value = json!({ "port": entry.port, "age_seconds": entry.age.as_secs_f64() });
    (Mac(entry.mac).to_string(), value)
}

/// The entries behind the picked ports, by address; `None` if the switch is gone.
pub fn entries(picked: &Picked) -> anyhow::Result<Option<Vec<FdbEntry>>> {
    let name = &picked.info.name;
    let fdb = match Switch::open(name).and_then(|switch| switch.fdb()) {
        Err(Error::NotFound { .. }) => return Ok(None),
        other => other.with_context(|| format!("reading the addresses of {name}"))?,
    };
    let wanted =
        |entry: &FdbEntry| picked.whole || picked.info.ports.iter().any(|p| p.name == entry.port);
    let mut entries: Vec<FdbEntry> = fdb.into_iter().filter(wanted).collect();
    entries.sort_by_key(|entry| entry.mac);
    Ok(Some(entries))
}

fn flush(out: &mut Out, name: &Target, mac: Option<[u8; 6]>, dry_run: bool) -> anyhow::Result<()> {
    let count = if dry_run {
        let picked = select::named(std::slice::from_ref(name))?;
        let mut found = 0;
        for switch in &picked {
            let entries = entries(switch)?.unwrap_or_default();
            found += entries.iter().filter(|entry| mac.is_none_or(|mac| mac == entry.mac)).count();
        }
        found
    } else {
        let switch = Switch::open(&name.switch);
        match switch.and_then(|switch| switch.fdb_flush(name.port.as_deref(), mac)) {
            Err(Error::NotFound { .. }) => return Err(NotThere::Missing(name.clone()).into()),
            other => other.with_context(|| format!("flushing the addresses of {name}"))?,
        }
    };
    if out.json {
        let value = json!({ "flushed": count, "dry_run": dry_run });
        out.object(&json::keyed([(name.to_string(), value)]))?;
    } else if dry_run {
        out.line(format_args!("would forget {} of {name}", plural(count, "address", "addresses")))?;
    } else if out.verbose {
        nm_cli::say!("{name}: {} forgotten", plural(count, "address", "addresses"));
    }
    Ok(out.flush()?)
}
