//! `watch`: what changes, one line an event: switches and ports that come and go, ports that get
//! and lose their users, addresses learnt, moved and forgotten.
//!
//! Invariant: events are the differences between two looks, so what comes and goes between two
//! looks is not seen; the state at the start is no event, and whatever happens after the start line
//! is. Files that come or go cause a look at once, everything else is found at the next interval.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use netmap::control::User;
use nm_cli::mac::Mac;
use serde_json::{Value, json};

use crate::cli::Watch;
use crate::cmd::fdb;
use crate::cmd::list::plural;
use crate::json::SCHEMA;
use crate::notify::Notify;
use crate::output::Out;
use crate::select::{self, Picked};

/// One look at everything.
#[derive(Clone, Debug, Default)]
struct State {
    switches: BTreeMap<String, Switch>,
}

/// A switch as far as events are concerned.
#[derive(Clone, Debug, Default)]
struct Switch {
    /// Users by port.
    ports: BTreeMap<String, Vec<(u32, String)>>,
    /// Port by address.
    fdb: BTreeMap<Mac, String>,
}

/// What happened to what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    kind: &'static str,
    switch: String,
    detail: Detail,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Detail {
    Switch,
    Port { port: String, users: Vec<(u32, String)> },
    Address { mac: Mac, port: String, from: Option<String> },
}

/// Runs the command.
pub fn run(out: &mut Out, args: &Watch) -> anyhow::Result<()> {
    let notify = Notify::new()?;
    notify.watch_root();
    let mut before = look(&args.names)?;
    let mut seen = 0;
    if out.json {
        let start = json!({ "schema": SCHEMA, "type": "start", "time": now() });
        out.json_line(&start)?;
    } else {
        nm_cli::say!("watching; end with Ctrl-C");
    }
    out.flush()?;
    'watching: while !notify.signals().stopped() {
        notify.wait_until(Instant::now() + args.interval);
        if notify.signals().take_report() {
            nm_cli::say!("{} so far", plural(seen as usize, "event", "events"));
        }
        notify.watch_root();
        let after = look(&args.names)?;
        for event in events(&before, &after) {
            if out.json {
                out.json_line(&object(&event))?;
            } else {
                out.line(format_args!("{} {}", now(), text(&event)))?;
            }
            seen += 1;
            if seen == args.count {
                break 'watching;
            }
        }
        out.flush()?;
        before = after;
    }
    if out.json {
        let end = json!({ "schema": SCHEMA, "type": "end", "time": now(), "events": seen });
        out.json_line(&end)?;
    }
    Ok(out.flush()?)
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn look(names: &[crate::cli::Target]) -> anyhow::Result<State> {
    let mut state = State::default();
    for picked in select::present(names).context("looking at the switches")? {
        let fdb = fdb::entries(&picked)?.unwrap_or_default();
        let Picked { info, .. } = picked;
        let users =
            |users: Vec<User>| users.into_iter().map(|user| (user.pid, user.command)).collect();
        let switch = Switch {
            ports: info.ports.into_iter().map(|port| (port.name, users(port.users))).collect(),
            fdb: fdb.into_iter().map(|entry| (Mac(entry.mac), entry.port)).collect(),
        };
        state.switches.insert(info.name, switch);
    }
    Ok(state)
}

/// In the order in which they make sense: what goes, from the small to the large; then what comes,
/// from the large to the small.
fn events(before: &State, after: &State) -> Vec<Event> {
    let mut events = Vec::new();
    let none = Switch::default();
    for (name, old) in &before.switches {
        let new = after.switches.get(name);
        gone(&mut events, name, old, new.unwrap_or(&none));
        if new.is_none() {
            push(&mut events, "switch-removed", name, Detail::Switch);
        }
    }
    for (name, new) in &after.switches {
        let old = before.switches.get(name);
        if old.is_none() {
            push(&mut events, "switch-added", name, Detail::Switch);
        }
        came(&mut events, name, old.unwrap_or(&none), new);
    }
    events
}

fn push(events: &mut Vec<Event>, kind: &'static str, switch: &str, detail: Detail) {
    events.push(Event { kind, switch: switch.to_owned(), detail });
}

fn gone(events: &mut Vec<Event>, switch: &str, old: &Switch, new: &Switch) {
    for (mac, port) in old.fdb.iter().filter(|(mac, _)| !new.fdb.contains_key(*mac)) {
        let detail = Detail::Address { mac: *mac, port: port.clone(), from: None };
        push(events, "fdb-forgotten", switch, detail);
    }
    for (port, users) in &old.ports {
        let detail = || Detail::Port { port: port.clone(), users: users.clone() };
        match new.ports.get(port) {
            None => push(events, "port-removed", switch, detail()),
            Some(now) if !users.is_empty() && disjoint(users, now) => {
                push(events, "port-closed", switch, detail());
            }
            Some(_) => {}
        }
    }
}

fn came(events: &mut Vec<Event>, switch: &str, old: &Switch, new: &Switch) {
    for (port, users) in &new.ports {
        let detail = || Detail::Port { port: port.clone(), users: users.clone() };
        match old.ports.get(port) {
            None => push(events, "port-added", switch, detail()),
            Some(was) if !users.is_empty() && disjoint(was, users) => {
                push(events, "port-opened", switch, detail());
            }
            Some(_) => {}
        }
    }
    for (mac, port) in &new.fdb {
        let detail = |from| Detail::Address { mac: *mac, port: port.clone(), from };
        match old.fdb.get(mac) {
            None => push(events, "fdb-learnt", switch, detail(None)),
            Some(was) if was != port => {
                push(events, "fdb-moved", switch, detail(Some(was.clone())));
            }
            Some(_) => {}
        }
    }
}

/// No process in common: somebody else has it now.
fn disjoint(a: &[(u32, String)], b: &[(u32, String)]) -> bool {
    !a.iter().any(|(pid, _)| b.iter().any(|(other, _)| pid == other))
}

fn text(event: &Event) -> String {
    let Event { kind, switch, detail } = event;
    match detail {
        Detail::Switch => format!("{kind} {switch}"),
        Detail::Port { port, users } => {
            let users: String = users.iter().map(|(pid, name)| format!(" {name}({pid})")).collect();
            format!("{kind} {switch}:{port}{users}")
        }
        Detail::Address { mac, port, from: None } => format!("{kind} {mac} {switch}:{port}"),
        Detail::Address { mac, port, from: Some(from) } => {
            format!("{kind} {mac} {switch}:{from} -> {switch}:{port}")
        }
    }
}

fn object(event: &Event) -> Value {
    let mut value = json!({
        "schema": SCHEMA,
        "type": event.kind,
        "time": now(),
        "switch": event.switch,
    });
    match &event.detail {
        Detail::Switch => {}
        Detail::Port { port, users } => {
            let user = |(pid, command): &(u32, String)| json!({ "pid": pid, "command": command });
            value["port"] = json!(port);
            value["users"] = users.iter().map(user).collect();
        }
        Detail::Address { mac, port, from } => {
            value["mac"] = json!(mac);
            value["port"] = json!(port);
            if let Some(from) = from {
                value["from"] = json!(from);
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn state(ports: &[(&str, &[u32])], address_behind: Option<&str>) -> State {
        let users = |pids: &[u32]| pids.iter().map(|pid| (*pid, "t".to_owned())).collect();
        let switch = Switch {
            ports: ports.iter().map(|(name, pids)| ((*name).to_owned(), users(pids))).collect(),
            fdb: address_behind.iter().map(|port| (MAC, (*port).to_owned())).collect(),
        };
        State { switches: [("valeA".to_owned(), switch)].into() }
    }

    fn kinds(before: &State, after: &State) -> Vec<&'static str> {
        events(before, after).iter().map(|event| event.kind).collect()
    }

    #[test]
    fn a_life_of_a_switch_is_told_in_order() {
        let nothing = State::default();
        let busy = state(&[("x", &[1])], Some("x"));
        assert_eq!(kinds(&nothing, &busy), ["switch-added", "port-added", "fdb-learnt"]);
        assert_eq!(kinds(&busy, &nothing), ["fdb-forgotten", "port-removed", "switch-removed"]);
        assert!(kinds(&busy, &busy).is_empty());
    }

    #[test]
    fn an_address_that_moves_names_both_ports() {
        let before = state(&[("x", &[1]), ("y", &[2])], Some("x"));
        let after = state(&[("x", &[1]), ("y", &[2])], Some("y"));
        let events = events(&before, &after);
        assert_eq!(events.len(), 1);
        assert_eq!(text(&events[0]), "fdb-moved 02:00:00:00:00:01 valeA:x -> valeA:y");
        assert_eq!(object(&events[0])["from"], "x");
    }

    #[test]
    fn users_of_a_port_come_go_and_change() {
        let (unused, first, second) =
            (state(&[("x", &[])], None), state(&[("x", &[1])], None), state(&[("x", &[2])], None));
        assert_eq!(kinds(&unused, &first), ["port-opened"]);
        assert_eq!(kinds(&first, &unused), ["port-closed"]);
        assert_eq!(kinds(&first, &second), ["port-closed", "port-opened"]);
        assert!(kinds(&first, &state(&[("x", &[1, 2])], None)).is_empty());
    }
}
