//! `list`: switches and ports, one line each.

use std::time::Duration;

use netmap::control::{MonitorInfo, PortInfo, SwitchInfo};
use nm_cli::exit::Outcome;

use crate::cli::List;
use crate::full;
use crate::json::{self, Detail};
use crate::output::Out;
use crate::select;
use nm_cli::table::{Align, Table};

/// Runs the command.
pub fn run(out: &mut Out, args: &List) -> anyhow::Result<Outcome> {
    let (picked, hidden) = select::named_of_seen(&args.names)?;
    // A script must be able to tell an incomplete list from a complete one.
    let outcome =
        if hidden && args.names.is_empty() { Outcome::ConditionNotMet } else { Outcome::Done };
    if out.json {
        out.object(&json::picked(&picked, Detail::Short))?;
        out.flush()?;
        return Ok(outcome);
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("INDEX", Align::Right),
        ("RINGS", Align::Left),
        ("SLOTS", Align::Left),
        ("USERS", Align::Left),
        ("NOTES", Align::Left),
    ]);
    for switch in &picked {
        if switch.whole {
            let empty = String::new;
            table.row([
                switch.info.name.clone(),
                empty(),
                empty(),
                empty(),
                empty(),
                notes(&switch.info),
            ]);
        }
        for port in &switch.info.ports {
            table.row(cells(&switch.info, port, out.verbose));
        }
    }
    if picked.is_empty() && hidden {
        nm_cli::say!("no other switches");
    } else if picked.is_empty() {
        nm_cli::say!("no switches; a port that is opened makes one: nm-pktgen -i valeA:x -f rx");
    } else {
        out.table(&table)?;
    }
    if out.verbose {
        for note in netmap::control::root_notes() {
            nm_cli::say!("vale-ctl: {note}");
        }
    }
    out.flush()?;
    Ok(outcome)
}

fn cells(switch: &SwitchInfo, port: &PortInfo, verbose: bool) -> [String; 6] {
    let mut notes = Vec::new();
    if port.persistent {
        notes.push("persistent".to_owned());
    }
    if port.vnet_hdr_len != 0 {
        notes.push(format!("vnet-hdr {}", port.vnet_hdr_len));
    }
    notes.extend(port.monitor.as_ref().map(monitor));
    if let Some(why) = &port.damaged {
        notes.push(format!("damaged: {why}"));
    }
    notes.extend(full::note(switch, port).map(str::to_owned));
    if verbose {
        let kib = port.memory_backed_bytes / 1024;
        notes.push(format!("memory @{} ({kib} KiB)", port.memory_id));
    }
    [
        format!("{}:{}", switch.name, port.name),
        port.index.to_string(),
        format!("{} tx, {} rx", port.tx_rings, port.rx_rings),
        format!("{}/{}", port.tx_slots, port.rx_slots),
        users(port),
        notes.join(", "),
    ]
}

/// `monitor of x, sent and received`.
pub fn monitor(info: &MonitorInfo) -> String {
    let of = info.of.as_deref().unwrap_or("a port that has gone");
    let ring = info.ring.map_or_else(String::new, |ring| format!(" ring {ring}"));
    let what = match (info.tx, info.rx) {
        (true, true) => "sent and received",
        (true, false) => "sent",
        _ => "received",
    };
    let how = if info.zero_copy { ", zero-copy" } else { "" };
    format!("monitor of {of}{ring}, {what}{how}")
}

/// `nm-pktgen(4242)`, or a dash.
pub fn users(port: &PortInfo) -> String {
    if port.users.is_empty() {
        return "-".to_owned();
    }
    let users: Vec<String> =
        port.users.iter().map(|user| format!("{}({})", user.command, user.pid)).collect();
    users.join(" ")
}

/// The notes about a switch as a whole.
pub fn notes(info: &SwitchInfo) -> String {
    let pipes = info.ports.iter().filter(|port| port.pipe_of.is_some()).count();
    let mut notes = vec![
        plural(info.ports.len() - pipes, "port", "ports"),
        plural(info.fdb_entries, "address", "addresses"),
        format!("ageing {}", ageing(info.ageing)),
    ];
    if pipes > 0 {
        notes.insert(1, plural(pipes / 2, "pipe", "pipes"));
    }
    if info.backpressure {
        notes.push("backpressure".to_owned());
    }
    if info.persistent {
        notes.push("persistent".to_owned());
    }
    notes.join(", ")
}

/// `300s` as it was typed, or `off`.
pub fn ageing(age: Option<Duration>) -> String {
    match age {
        None => "off".to_owned(),
        Some(age) if age.subsec_nanos() == 0 => format!("{}s", age.as_secs()),
        Some(age) => humantime::format_duration(age).to_string(),
    }
}

/// `1 port`, `2 ports`.
pub fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
