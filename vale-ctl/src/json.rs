//! Switches, ports and counters as JSON.
//!
//! Invariant: every object printed has `"schema": 1` beside the entities' names (which always begin
//! with `vale`, so the two cannot collide); numbers are unscaled with the unit in the key, and keys
//! are only ever added within a schema number. Described in docs/schema/vale-ctl.json.

use netmap::Counters;
use netmap::control::{PortInfo, RingDir, RingInfo, SwitchInfo};
use serde_json::{Map, Value, json};

use crate::select::Picked;

/// Version of the objects' meaning.
pub const SCHEMA: u32 = 1;

/// An object keyed by entity name.
pub fn keyed(entities: impl IntoIterator<Item = (String, Value)>) -> Value {
    let mut object = Map::new();
    object.insert("schema".to_owned(), json!(SCHEMA));
    object.extend(entities);
    Value::Object(object)
}

/// How much of a port is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What it is and who uses it.
    Short,
    /// Also its counters and rings.
    Full,
}

/// Everything picked: switches under their names, single ports under `valeA:x`.
pub fn picked(picked: &[Picked], detail: Detail) -> Value {
    keyed(picked.iter().flat_map(|p| {
        if p.whole {
            return vec![(p.info.name.clone(), switch(&p.info, detail))];
        }
        let name = |port_name: &str| format!("{}:{port_name}", p.info.name);
        p.info.ports.iter().map(|info| (name(&info.name), port(info, detail))).collect()
    }))
}

/// A switch.
pub fn switch(info: &SwitchInfo, detail: Detail) -> Value {
    let ports: Map<String, Value> =
        info.ports.iter().map(|p| (p.name.clone(), port(p, detail))).collect();
    let mut value = json!({
        "persistent": info.persistent,
        "backpressure": info.backpressure,
        "ageing_seconds": info.ageing.map(|age| age.as_secs_f64()),
        "fdb_entries": info.fdb_entries,
        "ports": ports,
    });
    if detail == Detail::Full {
        value["counters"] = counters(&info.counters);
    }
    value
}

/// A port.
pub fn port(info: &PortInfo, detail: Detail) -> Value {
    let users: Vec<Value> =
        info.users.iter().map(|user| json!({ "pid": user.pid, "command": user.command })).collect();
    let mut value = json!({
        "index": info.index,
        "persistent": info.persistent,
        "tx_rings": info.tx_rings,
        "rx_rings": info.rx_rings,
        "tx_slots": info.tx_slots,
        "rx_slots": info.rx_slots,
        "memory": info.memory,
        "memory_id": info.memory_id,
        "memory_bytes": info.memory_bytes,
        "memory_backed_bytes": info.memory_backed_bytes,
        "users": users,
    });
    if info.vnet_hdr_len != 0 {
        value["vnet_hdr_len"] = json!(info.vnet_hdr_len);
    }
    if let Some(base) = &info.pipe_of {
        value["pipe_of"] = json!(base);
    }
    if let Some(mirror) = &info.mirror {
        value["mirror"] = json!(mirror);
    }
    if let Some(monitor) = &info.monitor {
        value["monitor"] = json!({
            "of": monitor.of,
            "ring": monitor.ring,
            "tx": monitor.tx,
            "rx": monitor.rx,
            "zero_copy": monitor.zero_copy,
        });
    }
    if let Some(why) = &info.damaged {
        value["damaged"] = json!(why);
    }
    if detail == Detail::Full {
        value["counters"] = counters(&info.counters);
        value["rings"] = rings(&info.rings);
    }
    value
}

/// Rings under `tx0`, `rx0` ...
pub fn rings(rings: &[RingInfo]) -> Value {
    rings
        .iter()
        .map(|ring| {
            let value = json!({ "used": ring.used, "counters": counters(&ring.counters) });
            (ring_name(ring), value)
        })
        .collect()
}

/// `tx0`, `rx3`.
pub fn ring_name(ring: &RingInfo) -> String {
    let dir = match ring.dir {
        RingDir::Tx => "tx",
        RingDir::Rx => "rx",
    };
    format!("{dir}{}", ring.index)
}

/// Counters under their field names.
pub fn counters(counters: &Counters) -> Value {
    counters.named().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
}
