//! `--pcap-out`: every packet that was moved, in the order in which it was.
//!
//! Invariant: the file holds what was moved and nothing else. A packet must be looked at before it
//! is moved, because a swap takes its buffer away, and it is not known before how many will fit; so
//! a batch is staged first and the part of it that went is written afterwards.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use netmap::RxRing;
use nm_capture::{MAX_SNAPLEN, Times, Writer};

/// Longest packet that is staged whole.
const PACKET_MAX: usize = MAX_SNAPLEN as usize;

/// A capture in progress.
#[derive(Debug)]
pub struct Capture {
    writer: Writer,
    bytes: Vec<u8>,
    /// Of each whole packet staged: where it ends in `bytes`.
    ends: Vec<usize>,
    /// Something was written since the last flush.
    dirty: bool,
}

impl Capture {
    /// Creates the file, or takes stdout for `-`.
    ///
    /// Once `stop` is set, a reader of it that stands still is not waited for.
    pub fn create(path: &Path, snaplen: u32, stop: Arc<AtomicBool>) -> netmap::Result<Capture> {
        let writer = Writer::create(path, snaplen)?.stopped_by(stop);
        Ok(Capture { writer, bytes: Vec::new(), ends: Vec::new(), dirty: false })
    }

    /// Copies the packets of the first `max` slots.
    pub fn stage(&mut self, rx: &RxRing<'_>, max: usize) {
        self.bytes.clear();
        self.ends.clear();
        for i in 0..rx.available().min(max) {
            let slot = rx.slot(i);
            let begin = self.bytes.len();
            let packet = begin - self.ends.last().copied().unwrap_or(0);
            self.bytes.resize(begin + slot.len().min(PACKET_MAX - packet.min(PACKET_MAX)), 0);
            slot.frame().copy_to(&mut self.bytes[begin..]);
            if !slot.more_frag() {
                self.ends.push(self.bytes.len());
            }
        }
    }

    /// Writes the first `packets` of those staged: behind virtio-net headers of `header` bytes, the frames that they stand for.
    pub fn commit(&mut self, packets: usize, header: usize) -> netmap::Result<()> {
        if packets == 0 {
            return Ok(());
        }
        self.dirty = true;
        let mut begin = 0;
        for (&end, ts) in self.ends.iter().take(packets).zip(Times::now()) {
            let packet = &self.bytes[begin..end];
            self.writer.write_completed(ts, header, packet)?;
            begin = end;
        }
        Ok(())
    }

    /// Hands on what was written since the last time.
    pub fn flush(&mut self) -> netmap::Result<()> {
        if std::mem::take(&mut self.dirty) {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Packets that it does not hold, because their headers cannot be followed.
    pub fn incomplete(&self) -> u64 {
        self.writer.incomplete()
    }

    /// Hands on everything, and waits for a reader as long as it takes something.
    pub fn finish(&mut self) -> netmap::Result<()> {
        Ok(self.writer.finish()?)
    }
}
