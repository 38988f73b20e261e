//! The capture file that receiving threads write together. The time of a batch is that
//! of its arrival at the program.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use nm_capture::{Times, Writer};

use crate::stats::lock;

/// An open capture.
#[derive(Debug)]
pub struct Capture {
    writer: Mutex<Writer>,
}

impl Capture {
    /// Creates the file; `-` is stdout.
    pub fn create(path: &Path, snaplen: u32, stop: Arc<AtomicBool>) -> anyhow::Result<Capture> {
        let writer = Writer::create(path, snaplen)
            .with_context(|| format!("creating {}", path.display()))?;
        Ok(Capture { writer: Mutex::new(writer.stopped_by(stop)) })
    }

    /// Appends a batch: the bytes of all packets, and where each ends. Behind headers of `vnet` bytes, it is the frames that
    /// they stand for.
    pub fn write(&self, bytes: &[u8], ends: &[usize], vnet: usize) -> nm_capture::Result<()> {
        let mut writer = lock(&self.writer);
        let mut begin = 0;
        for (&end, now) in ends.iter().zip(Times::now()) {
            writer.write_completed(now, vnet, &bytes[begin..end])?;
            begin = end;
        }
        Ok(())
    }

    /// Hands all that was written to the file, at the end of the run.
    pub fn finish(&self) -> nm_capture::Result<()> {
        lock(&self.writer).finish()
    }

    /// Packets that it does not hold, because their headers cannot be followed.
    pub fn incomplete(&self) -> u64 {
        lock(&self.writer).incomplete()
    }

    /// Hands what was written to the file: readers of a pipe want to see it while nothing happens.
    pub fn flush(&self) -> nm_capture::Result<()> {
        lock(&self.writer).flush()
    }
}
