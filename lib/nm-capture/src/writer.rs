//! Writing a capture: the classic format, little-endian, nanoseconds, Ethernet.
//!
//! Invariant: a file holds whole records, up to the last flush. What a stalled reader does not take is kept,
//! up to a limit, and nothing waits for such a reader without a limit.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use offload::{Header, complete};

use crate::MAX_SNAPLEN;
use crate::error::{Error, Result};
use crate::link::LinkType;
use crate::output::Output;
use crate::pcap::{FILE_HEADER_BYTES, MAGIC_NANOS, RECORD_HEADER_BYTES, VERSION};
use crate::source::is_stdout;

/// One write of a file carries this much.
const BUFFER_BYTES: usize = 256 * 1024;
/// Most bytes that are kept for a stalled reader.
const PENDING_BYTES: usize = 1024 * 1024;
/// At the end, a reader that takes nothing for this long is given up.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait between two checks of the stop flag, and of whether a FIFO has a reader by now.
const LOOK: Duration = Duration::from_millis(20);

/// Writes a capture. Buffered: what is written goes out on [`Writer::flush`], on drop, and when the
/// buffer is full.
pub struct Writer {
    output: Output,
    path: PathBuf,
    snaplen: u32,
    pending: Vec<u8>,
    /// One of the frames that a packet with offloads stands for.
    frame: Vec<u8>,
    incomplete: u64,
    stop: Option<Arc<AtomicBool>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("output", &self.output)
            .field("path", &self.path)
            .field("snaplen", &self.snaplen)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Creates or replaces a file; `-` is standard output. `snaplen` 0 keeps whole packets.
    ///
    /// # Errors
    /// `Io`: it cannot be made, or its header cannot be written.
    pub fn create(path: impl AsRef<Path>, snaplen: u32) -> Result<Writer> {
        let path = path.as_ref();
        let output = Output::create(path).map_err(Error::io("create", path))?;
        let path = if is_stdout(path) { Path::new("standard output") } else { path };
        let snaplen = if snaplen == 0 { MAX_SNAPLEN } else { snaplen.min(MAX_SNAPLEN) };
        let pending = file_header(snaplen).to_vec();
        let mut writer = Writer {
            output,
            path: path.to_owned(),
            snaplen,
            pending,
            frame: Vec::new(),
            incomplete: 0,
            stop: None,
        };
        // A reader of the file finds a capture in it from the start.
        writer.flush()?;
        Ok(writer)
    }

    /// Once `stop` is set, [`Writer::write`] no longer waits for a stalled reader.
    #[must_use]
    pub fn stopped_by(mut self, stop: Arc<AtomicBool>) -> Writer {
        self.stop = Some(stop);
        self
    }

    /// Appends a packet, cut to the capture length. `orig_len` is its length on the wire, at least
    /// that of `data`. Waits while there is no room.
    ///
    /// # Errors
    /// `Io`: it cannot be written.
    pub fn write(&mut self, ts: Duration, orig_len: u32, data: &[u8]) -> Result<()> {
        while !self.has_room() && !self.stopped() {
            self.wait(LOOK)?;
            self.push()?;
        }
        append_record(&mut self.pending, self.snaplen, ts, orig_len, data);
        if self.pending.len() >= BUFFER_BYTES { self.push() } else { Ok(()) }
    }

    /// Appends the frames that a packet behind a virtio-net header of so many bytes stands for; one that cannot be completed
    /// is left out, and counted. Without a header it is as `write`.
    ///
    /// # Errors
    /// `Io`: it cannot be written.
    pub fn write_completed(&mut self, ts: Duration, header: usize, packet: &[u8]) -> Result<()> {
        if header == 0 {
            return self.write(ts, packet.len() as u32, packet);
        }
        let (head, frame) = packet.split_at(header.min(packet.len()));
        let segments = Header::read(head).and_then(|header| complete(&header, frame).ok());
        let Some(mut segments) = segments else {
            self.incomplete += 1;
            return Ok(());
        };
        let mut out = std::mem::take(&mut self.frame);
        out.resize(segments.longest().max(out.len()), 0);
        let mut written = Ok(());
        while written.is_ok()
            && let Some(len) = segments.next_into(&mut out)
        {
            written = self.write(ts, len as u32, &out[..len]);
        }
        self.frame = out;
        written
    }

    /// Packets that `write_completed` left out.
    #[must_use]
    pub fn incomplete(&self) -> u64 {
        self.incomplete
    }

    /// Whether [`Writer::write`] would return without waiting. Files always have room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pending.len() < PENDING_BYTES
    }

    /// Passes on what was written so far: all of it to a file, and to a live reader as much as it takes now.
    ///
    /// # Errors
    /// `Io`: it cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.push()
    }

    /// Passes on all that was written, and waits for a live reader as long as it makes progress.
    ///
    /// # Errors
    /// `Io`: it cannot be written. `Stalled`: the reader takes nothing for a second, and what is
    /// left is lost.
    pub fn finish(&mut self) -> Result<()> {
        let mut since = Instant::now();
        loop {
            let before = self.pending.len();
            self.push()?;
            if self.pending.is_empty() {
                return Ok(());
            }
            if self.pending.len() < before {
                since = Instant::now();
            } else if since.elapsed() > TIMEOUT {
                let bytes = std::mem::take(&mut self.pending).len();
                return Err(Error::Stalled { path: self.path.clone(), bytes });
            }
            self.wait(LOOK)?;
        }
    }

    /// Writable when a live reader makes room; `None` for files, and for a FIFO that nobody reads yet.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.output.fd()
    }

    fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    fn push(&mut self) -> Result<()> {
        match self.output.push(&self.pending) {
            Ok(done) => {
                self.pending.drain(..done);
                Ok(())
            }
            Err(error) => {
                // After an error the rest cannot be written later either, so it is dropped.
                self.pending.clear();
                Err(Error::io("write", &self.path)(error))
            }
        }
    }

    fn wait(&self, time: Duration) -> Result<()> {
        let Some(fd) = self.fd() else {
            std::thread::sleep(time);
            return Ok(());
        };
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::io("wait for", &self.path)(errno.into())),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Callers that need to see errors call `finish` first.
        let _ = self.finish();
    }
}

/// Times for the packets of one batch, which arrive at a program together: the clock is read once, and
/// each packet is a nanosecond after the one before, so that their order can be told.
#[derive(Clone, Copy, Debug)]
pub struct Times(Duration);

impl Times {
    /// For a batch that arrives now.
    #[must_use]
    pub fn now() -> Times {
        Times(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl Iterator for Times {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let time = self.0;
        self.0 += Duration::from_nanos(1);
        Some(time)
    }
}

/// What a file begins with.
pub(crate) fn file_header(snaplen: u32) -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[0..4].copy_from_slice(&MAGIC_NANOS.to_le_bytes());
    header[4..6].copy_from_slice(&VERSION.0.to_le_bytes());
    header[6..8].copy_from_slice(&VERSION.1.to_le_bytes());
    header[16..20].copy_from_slice(&snaplen.to_le_bytes());
    header[20..24].copy_from_slice(&LinkType::ETHERNET.0.to_le_bytes());
    header
}

/// Appends a record to the bytes of a file.
pub(crate) fn append_record(
    file: &mut Vec<u8>,
    snaplen: u32,
    ts: Duration,
    orig_len: u32,
    data: &[u8],
) {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let kept = len.min(snaplen);
    // The format's seconds end in 2106; a later time is written as that moment.
    let seconds = u32::try_from(ts.as_secs()).unwrap_or(u32::MAX);
    let mut header = [0; RECORD_HEADER_BYTES];
    header[0..4].copy_from_slice(&seconds.to_le_bytes());
    header[4..8].copy_from_slice(&ts.subsec_nanos().to_le_bytes());
    header[8..12].copy_from_slice(&kept.to_le_bytes());
    header[12..16].copy_from_slice(&orig_len.max(len).to_le_bytes());
    file.extend_from_slice(&header);
    file.extend_from_slice(&data[..kept as usize]);
}

#[cfg(test)]
mod tests;
