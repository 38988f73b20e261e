//! `show`: everything about one switch or port.

use netmap::Counters;
use netmap::control::{PortInfo, SwitchInfo};

use crate::cli::Show;
use crate::cmd::list;
use crate::full;
use crate::json::{self, Detail};
use crate::output::Out;
use crate::select;

/// Runs the command.
pub fn run(out: &mut Out, args: &Show) -> anyhow::Result<()> {
    let picked = select::named(std::slice::from_ref(&args.name))?;
    if out.json {
        out.object(&json::picked(&picked, Detail::Full))?;
        return Ok(out.flush()?);
    }
    for switch in &picked {
        if switch.whole {
            let on_off = |on| if on { "on" } else { "off" };
            out.line(&switch.info.name)?;
            out.line(format_args!("    ports: {}", switch.info.ports.len()))?;
            out.line(format_args!("    learnt addresses: {}", switch.info.fdb_entries))?;
            out.line(format_args!("    ageing: {}", list::ageing(switch.info.ageing)))?;
            out.line(format_args!("    backpressure: {}", on_off(switch.info.backpressure)))?;
            out.line(format_args!("    persistent: {}", on_off(switch.info.persistent)))?;
            counters(out, &switch.info.counters)?;
        }
        for info in &switch.info.ports {
            port(out, &switch.info, info)?;
        }
    }
    Ok(out.flush()?)
}

fn port(out: &mut Out, switch: &SwitchInfo, port: &PortInfo) -> anyhow::Result<()> {
    out.line(format_args!("{}:{}", switch.name, port.name))?;
    out.line(format_args!("    index: {}", port.index))?;
    out.line(format_args!("    persistent: {}", if port.persistent { "on" } else { "off" }))?;
    out.line(format_args!("    users: {}", list::users(port)))?;
    if let Some(base) = &port.pipe_of {
        out.line(format_args!("    pipe of: {}:{base}", switch.name))?;
    }
    if let Some(mirror) = &port.mirror {
        out.line(format_args!("    mirror: {}:{mirror}", switch.name))?;
    }
    if port.vnet_hdr_len != 0 {
        out.line(format_args!("    virtio-net header: {} bytes", port.vnet_hdr_len))?;
    }
    if let Some(monitor) = &port.monitor {
        out.line(format_args!("    {}", list::monitor(monitor).replacen(' ', ": ", 1)))?;
    }
    if let Some(why) = &port.damaged {
        out.line(format_args!("    damaged: {why}"))?;
        return Ok(());
    }
    out.line(format_args!(
        "    memory: @{} ({}, {} bytes, {} of them used)",
        port.memory_id, port.memory, port.memory_bytes, port.memory_backed_bytes
    ))?;
    out.line(format_args!("    tx: {} x {} slots", port.tx_rings, port.tx_slots))?;
    out.line(format_args!("    rx: {} x {} slots", port.rx_rings, port.rx_slots))?;
    if let Some(note) = full::note(switch, port) {
        out.line(format_args!("    receiving: {note}"))?;
    }
    counters(out, &port.counters)?;
    for ring in &port.rings {
        out.line(format_args!("    {}: {} slots in use", json::ring_name(ring), ring.used))?;
        nonzero(out, "        ", &ring.counters)?;
    }
    Ok(())
}

/// If all counters are zero, one line says so.
fn counters(out: &mut Out, counters: &Counters) -> anyhow::Result<()> {
    if counters.named().iter().all(|(_, value)| *value == 0) {
        out.line("    counters: all 0")?;
        return Ok(());
    }
    out.line("    counters:")?;
    nonzero(out, "        ", counters)
}

fn nonzero(out: &mut Out, indent: &str, counters: &Counters) -> anyhow::Result<()> {
    for (name, value) in counters.named() {
        if value > 0 {
            out.line(format_args!("{indent}{name}: {value}"))?;
        }
    }
    Ok(())
}
