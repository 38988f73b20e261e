//! One batch in one direction: from the receive rings of one port to the transmit rings of another.
//!
//! Invariant: what the destination has no room for stays in the source's ring, in order. Ring `i`
//! always goes to the same ring of the other side, so order is kept per ring as well. Only a chain
//! of slots without an end is thrown away: ports publish whole packets, so it is damage, and it
//! would block the ring for ever.

use netmap::abi::NETMAP_MAX_FRAGS;
use netmap::{Moved, Port, RxRing, TxRing, transfer_packets};
use nm_cli::report::Flow;

use crate::capture::Capture;
use crate::stats::count_batch;

/// How packets are moved.
#[derive(Debug)]
pub struct Mover {
    /// Most slots moved at once.
    pub burst: usize,
    /// Swap buffers.
    pub zero_copy: bool,
    /// Where moved packets are written as well.
    pub capture: Option<Capture>,
    /// Packets still to be moved, in both directions together.
    pub left: u64,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Packets moved.
    pub packets: u64,
    /// The destination was full and something waits for it in the source.
    pub blocked: bool,
}

impl Mover {
    /// Moves a batch from each ring of `src` to `dst`. The caller has synced `src`, and syncs `dst`.
    pub fn forward(
        &mut self,
        src: &mut Port,
        dst: &mut Port,
        flow: &mut Flow,
    ) -> netmap::Result<Batch> {
        let mut batch = Batch::default();
        let tx_rings = dst.tx_rings();
        if tx_rings == 0 {
            return Ok(batch);
        }
        let header = if self.capture.is_some() { src.vnet_hdr_len().into() } else { 0 };
        for i in 0..src.rx_rings() {
            let mut rx = src.rx(i);
            if rx.available() == 0 || self.left == 0 {
                continue;
            }
            let mut tx = dst.tx(i % tx_rings);
            let mut moved = self.transfer(&mut rx, &mut tx, self.burst, header)?;
            if moved.packets == 0 && self.burst < NETMAP_MAX_FRAGS {
                // The first packet alone has more slots than a burst.
                moved = self.transfer(&mut rx, &mut tx, NETMAP_MAX_FRAGS, header)?;
            }
            let left = rx.available();
            if moved.packets == 0 && left > 0 {
                let chain = left.min(NETMAP_MAX_FRAGS);
                if tx.space() >= chain || tx.pending() == 0 {
                    // Nothing stands in its way, and nothing that could be waited for.
                    rx.advance(chain);
                    flow.drops += 1;
                } else {
                    batch.blocked = true;
                }
            }
            batch.packets += moved.packets as u64;
            count_batch(flow, moved.packets as u64, moved.bytes as u64);
        }
        Ok(batch)
    }

    fn transfer(
        &mut self,
        rx: &mut RxRing<'_>,
        tx: &mut TxRing<'_>,
        max: usize,
        header: usize,
    ) -> netmap::Result<Moved> {
        let Some(capture) = &mut self.capture else {
            let moved = transfer_packets(rx, tx, max, self.left as usize, self.zero_copy);
            self.left -= moved.packets as u64;
            return Ok(moved);
        };
        capture.stage(rx, max);
        let moved = transfer_packets(rx, tx, max, self.left as usize, self.zero_copy);
        self.left -= moved.packets as u64;
        capture.commit(moved.packets, header)?;
        Ok(moved)
    }
}
