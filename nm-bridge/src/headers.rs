//! The length of the virtio-net headers in front of frames, which both ports of a bridge have: frames are moved as they are.
//!
//! The bridge borrows that length for each port that can have one, and nobody chooses another for it then. Those of a monitor
//! are the port's that it sees: when they change, the other port follows. What came or was to be sent in the other form is
//! discarded.

use anyhow::{Context, bail};
use netmap::{Capabilities, Port};

/// Whether a length can be chosen for a port.
pub fn can_have(port: &Port) -> bool {
    port.can(Capabilities::OFFLOAD_HEADERS)
}

/// Gives headers of `header` bytes to both ports, as long as the bridge has them open.
pub fn agree(a: &mut Port, b: &mut Port, header: u8) -> anyhow::Result<()> {
    for port in [&mut *a, &mut *b] {
        if can_have(port) {
            // Borrowed: nobody changes it meanwhile, and a port that stays on its switch is as it was, even if this bridge is killed.
            port.borrow_vnet_hdr_len(header)
                .with_context(|| format!("setting the header of {}", port.name()))?;
        }
    }
    if a.vnet_hdr_len() != b.vnet_hdr_len() {
        // A monitor's are its port's, which is not for its watcher to change.
        bail!(
            "{} has virtio-net headers of {} bytes, and {} of {}; no port here can complete its frames",
            a.name(),
            a.vnet_hdr_len(),
            b.name(),
            b.vnet_hdr_len()
        );
    }
    Ok(())
}

/// What the ports have agreed on.
#[derive(Debug)]
pub struct Headers {
    agreed: u8,
    /// Which ports' may change: those of switches, monitors among them. A device's are its user's, and asking it takes a lock.
    may_change: [bool; 2],
    /// What has become of a monitor's, until it is told.
    news: Option<String>,
}

/// Packets discarded because they were of the other form, of those that were to be sent the slots: from A to B, and from B to A.
pub type Discarded = [u64; 2];

impl Headers {
    /// Of two ports that have agreed.
    pub fn of(a: &Port, b: &Port) -> Headers {
        let may_change = [a, b].map(|port| port.name().switch_port().is_some());
        Headers { agreed: a.vnet_hdr_len(), may_change, news: None }
    }

    /// Looks whether both ports still have them, and sees to it else.
    pub fn follow(&mut self, a: &mut Port, b: &mut Port) -> anyhow::Result<Discarded> {
        let now = |port: &Port, may: bool| if may { port.vnet_hdr_len() } else { self.agreed };
        let has = [now(a, self.may_change[0]), now(b, self.may_change[1])];
        if has == [self.agreed; 2] {
            return Ok([0; 2]);
        }
        let (header, of) = match [can_have(a), can_have(b)] {
            [false, _] => (has[0], &*a),
            [_, false] => (has[1], &*b),
            // Neither changes by itself, but whoever is on the switch may write to its memory.
            _ => (self.agreed, &*a),
        };
        let of = of.name().to_string();
        if header != self.agreed {
            self.news =
                Some(format!("frames of {of} carry virtio-net headers of {header} bytes now"));
        }
        // Before: a port that gets other headers empties its rings, and says nothing of what was there.
        let (there, back) = (discard_received(a) + withdraw(b), discard_received(b) + withdraw(a));
        agree(a, b, header)?;
        self.agreed = header;
        Ok([there, back])
    }

    /// What is to be told, once. A length may be chosen very often, so only the last is told.
    pub fn news(&mut self) -> Option<String> {
        self.news.take()
    }
}

/// Throws away what has come to a port.
fn discard_received(port: &mut Port) -> u64 {
    let mut packets = 0;
    for i in 0..port.rx_rings() {
        let mut ring = port.rx(i);
        let slots = ring.available();
        packets += ring.batch(slots).filter(|slot| !slot.more_frag()).count() as u64;
        ring.advance(slots);
    }
    packets
}

/// Takes back what a port was to send.
fn withdraw(port: &mut Port) -> u64 {
    (0..port.tx_rings()).map(|i| port.tx(i).withdraw() as u64).sum()
}
