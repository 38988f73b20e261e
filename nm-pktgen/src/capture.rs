//! The capture file that receiving threads write together. Packets of one batch carry one time stamp:
//! that of the batch's arrival at the program, read once.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use netmap::pcap::Writer;

use crate::stats::lock;

/// An open capture.
#[derive(Debug)]
pub struct Capture {
    writer: Mutex<Writer<Box<dyn std::io::Write + Send>>>,
}

impl Capture {
    /// Creates the file; `-` is stdout.
    pub fn create(path: &Path, snaplen: u32) -> anyhow::Result<Capture> {
        let writer = Writer::create(path, snaplen)
            .with_context(|| format!("creating {}", path.display()))?;
        Ok(Capture { writer: Mutex::new(writer) })
    }

    /// Appends a batch: the bytes of all packets, and where each ends.
    pub fn write(&self, bytes: &[u8], ends: &[usize]) -> netmap::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut writer = lock(&self.writer);
        let mut begin = 0;
        for &end in ends {
            writer.write(now, (end - begin) as u32, &bytes[begin..end])?;
            begin = end;
        }
        Ok(())
    }

    /// Hands what was written to the file: readers of a pipe want to see it while nothing happens.
    pub fn flush(&self) -> netmap::Result<()> {
        lock(&self.writer).flush()
    }
}
