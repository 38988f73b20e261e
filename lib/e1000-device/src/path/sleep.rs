//! Before a sleep and after it: who asks whom to be woken, and the look after asking (docs/design/csb.md).
//!
//! Invariant: what is published after the look finds a kick or a bell asked for, so that no sleep outlasts work.

use e1000pv::csb;

use super::{DataPath, Mapped, used};
use crate::core::Core;
use crate::memory::GuestMemory;
use crate::port::{Await, NetPort};

impl<M: GuestMemory, P: NetPort> DataPath<M, P> {
    /// Asks the guest for a kick, and looks again. False: it has published something meanwhile.
    pub(super) fn ask_for_kicks(&mut self, core: &Core<M>) -> bool {
        if self.broken || self.blocked || !self.tx.is_enabled(core) || !self.is_connected(core) {
            return true;
        }
        let Self { tx, csb, .. } = self;
        let next = tx.queue().next();
        match used(csb) {
            None => tx.look(core, None) == Ok(next),
            Some(page) => match csb::host_tx_sleep(page, next, tx.queue().n()) {
                Ok(may_sleep) => may_sleep,
                Err(wild) => {
                    self.found(core, wild);
                    true
                }
            },
        }
    }

    /// Before a sleep: raises deferred interrupts, asks for kicks (`tx`: this thread transmits) and bells, and
    /// looks again. False: there is work. In both cases `after_sleep` must be called next.
    pub fn before_sleep(&mut self, core: &Core<M>, tx: bool) -> bool {
        self.settle(core, None);
        self.asked = tx;
        if tx || self.left {
            if !self.ask_for_kicks(core) {
                return false;
            }
            self.left = false;
        }
        let mut what = Await::empty();
        if !self.broken && self.is_connected(core) {
            what.set(Await::SPACE, self.has_backlog());
            let Self { rx, csb, .. } = self;
            if rx.is_enabled(core) {
                match rx.wait(core, used(csb)) {
                    // Without buffers a packet is no reason to wake up, but for the first one of which a guest
                    // without CSB is told (RNBC, RXO): it waits in the port, and what comes after a full ring
                    // is dropped by its sender, before any copy.
                    Ok(has_buffers) => {
                        let first = used(csb).is_none() && !rx.has_waiting();
                        what.set(Await::PACKET, has_buffers || first);
                    }
                    Err(wild) => {
                        self.found(core, wild);
                    }
                }
            }
        }
        if self.looped {
            // What is to be received is there already, or nobody will tell.
            self.armed = None;
            return self.loopback.arm(what);
        }
        self.armed = Some(what);
        self.port.arm(what)
    }

    /// After a sleep, or instead of one.
    pub fn after_sleep(&mut self) {
        if self.armed.take().is_some() {
            self.port.disarm();
        }
        let Self { csb, asked, .. } = self;
        if let Some(Mapped { page, .. }) = csb {
            csb::host_rx_start(page);
            // In inline mode the kicks are addressed to the vCPU thread and stay enabled.
            if std::mem::take(asked) {
                csb::host_tx_start(page);
            }
        }
    }

    /// What the port was last asked to wait for.
    pub fn awaits(&self) -> Await {
        self.armed.unwrap_or_default()
    }
}
