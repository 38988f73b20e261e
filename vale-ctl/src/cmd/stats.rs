//! `stats`: the counters as they stand, every one of them, in a form that is easily searched.

use serde_json::{Map, Value, json};

use crate::cli::Stats;
use crate::json;
use crate::output::Out;
use crate::select::{self, Picked};

/// Runs the command.
pub fn run(out: &mut Out, args: &Stats) -> anyhow::Result<()> {
    let picked = select::named(&args.names)?;
    if out.json {
        let value = json::keyed(picked.iter().flat_map(|p| entities(p, args.rings)));
        out.object(&value)?;
        return Ok(out.flush()?);
    }
    for switch in &picked {
        if switch.whole {
            print(out, &switch.info.name, &switch.info.counters.named())?;
        }
        for port in &switch.info.ports {
            let name = format!("{}:{}", switch.info.name, port.name);
            print(out, &name, &port.counters.named())?;
            for ring in port.rings.iter().filter(|_| args.rings) {
                let name = format!("{name} {}", json::ring_name(ring));
                print(out, &name, &ring.counters.named())?;
            }
        }
    }
    Ok(out.flush()?)
}

fn print(out: &mut Out, name: &str, counters: &[(&'static str, u64)]) -> anyhow::Result<()> {
    out.line(format_args!("{name}:"))?;
    for (counter, value) in counters {
        out.line(format_args!("    {counter}: {value}"))?;
    }
    Ok(())
}

/// A switch with its ports inside, or single ports.
fn entities(picked: &Picked, with_rings: bool) -> Vec<(String, Value)> {
    let ports: Vec<(String, Value)> = picked
        .info
        .ports
        .iter()
        .map(|port| {
            let mut value = json!({ "counters": json::counters(&port.counters) });
            if with_rings {
                value["rings"] = json::rings(&port.rings);
            }
            (port.name.clone(), value)
        })
        .collect();
    if picked.whole {
        let counters = json::counters(&picked.info.counters);
        let ports: Map<String, Value> = ports.into_iter().collect();
        return vec![(picked.info.name.clone(), json!({ "counters": counters, "ports": ports }))];
    }
    let full = |name: String| format!("{}:{name}", picked.info.name);
    ports.into_iter().map(|(name, value)| (full(name), value)).collect()
}
