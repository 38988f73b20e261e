//! Receivers that do not keep up: ports whose receive rings are full, and the consequences for senders.

use netmap::control::{PortInfo, RingDir, SwitchInfo};

/// The warning about a port whose receive ring is full.
pub fn note(switch: &SwitchInfo, port: &PortInfo) -> Option<&'static str> {
    // One slot of a ring is always empty.
    let full = |used: u32| port.rx_slots > 0 && used.saturating_add(1) >= port.rx_slots;
    let stuck = port.rings.iter().any(|ring| ring.dir == RingDir::Rx && full(ring.used));
    stuck.then_some(if port.monitor.is_some() {
        "full, so it loses packets"
    } else if switch.backpressure || port.pipe_of.is_some() {
        "full, so senders wait for it"
    } else {
        "full, so packets to it are dropped"
    })
}
