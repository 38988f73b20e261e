//! `pcap:FILE`: a capture file as a port. Received packets are those of the file, as fast as they
//! are taken (nm-pktgen replays with the file's timing); sent packets are appended to a new file.
//!
//! Invariant: a file that can be replayed is never overwritten by accident. A port opened for one
//! direction does what it is told; one opened for both, as a bridge does, replays a file that
//! exists and refuses to send, or else records and has nothing to receive.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::{Device, Sent};
use crate::error::{Error, Result};
use crate::pcap::{Reader, Writer};

/// The device behind `pcap:`.
#[derive(Debug)]
pub enum PcapDevice {
    /// Replays.
    Replay {
        /// The file, one packet ahead of what was received.
        reader: Reader<Box<dyn std::io::Read + Send>>,
        /// The next packet: whether there is one must be known before it is asked for.
        next: Option<Vec<u8>>,
    },
    /// Records.
    Record {
        /// The file.
        writer: Writer<Box<dyn std::io::Write + Send>>,
        /// When the batch that is being sent began: one look at the clock for all of it.
        now: Option<Duration>,
    },
}

impl PcapDevice {
    /// Opens `path` to be received from (`rx`), sent to (`tx`), or whichever the file allows.
    pub fn open(path: &Path, rx: bool, tx: bool) -> Result<PcapDevice> {
        if rx && tx && path == Path::new("-") {
            return Err(Error::Invalid {
                name: "pcap:-".into(),
                why: "stdin and stdout cannot both be meant; open it for one direction".into(),
            });
        }
        if !tx || (rx && path.exists()) {
            let mut replay = PcapDevice::Replay { reader: Reader::open(path)?, next: None };
            replay.read_ahead()?;
            return Ok(replay);
        }
        let mut writer = Writer::create(path, 0)?;
        writer.flush()?; // A reader of the file finds a capture in it from the start.
        Ok(PcapDevice::Record { writer, now: None })
    }

    fn read_ahead(&mut self) -> Result<()> {
        if let PcapDevice::Replay { reader, next } = self {
            let mut buffer = next.take().unwrap_or_default();
            if let Some(packet) = reader.next()? {
                buffer.clear();
                buffer.extend_from_slice(packet.data);
                *next = Some(buffer);
            }
        }
        Ok(())
    }
}

impl Device for PcapDevice {
    fn send(&mut self, packet: &[u8]) -> Result<Sent> {
        let PcapDevice::Record { writer, now } = self else {
            return Ok(Sent::Refused);
        };
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ts = *now.get_or_insert_with(clock);
        let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        writer.write(ts, len, packet)?;
        Ok(Sent::Done)
    }

    fn flush(&mut self) -> Result<()> {
        if let PcapDevice::Record { writer, now } = self {
            *now = None;
            writer.flush()?;
        }
        Ok(())
    }

    fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let PcapDevice::Replay { next: Some(packet), .. } = self else {
            return Ok(None);
        };
        // A record can be longer than any packet of a port; what does not fit is cut off.
        let len = packet.len().min(buf.len());
        buf[..len].copy_from_slice(&packet[..len]);
        self.read_ahead()?;
        Ok(Some(len))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn has_more(&self) -> bool {
        matches!(self, PcapDevice::Replay { next: Some(_), .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_then_replayed_gives_packets_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let mut record = PcapDevice::open(&path, true, true).unwrap();
        let mut buf = [0; 64];
        assert!(!record.has_more() && record.receive(&mut buf).unwrap().is_none());
        for n in 1..=3 {
            assert_eq!(record.send(&[n; 60]).unwrap(), Sent::Done);
        }
        record.flush().unwrap();

        let mut replay = PcapDevice::open(&path, true, true).unwrap();
        assert_eq!(replay.send(&[9; 60]).unwrap(), Sent::Refused);
        for n in 1..=3 {
            assert!(replay.has_more());
            assert_eq!(replay.receive(&mut buf).unwrap(), Some(60));
            assert_eq!(buf[..60], [n; 60]);
        }
        assert!(!replay.has_more());
        assert_eq!(replay.receive(&mut buf).unwrap(), None);
    }

    #[test]
    fn open_for_receiving_a_missing_file_is_an_error() {
        let error = PcapDevice::open(Path::new("/nonexistent/a.pcap"), true, false).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/a.pcap"), "{error}");
    }

    #[test]
    fn open_for_sending_replaces_and_for_both_replays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let mut record = PcapDevice::open(&path, false, true).unwrap();
        record.send(&[1; 60]).unwrap();
        drop(record);
        assert!(PcapDevice::open(&path, true, true).unwrap().has_more());
        drop(PcapDevice::open(&path, false, true).unwrap());
        assert!(!PcapDevice::open(&path, true, true).unwrap().has_more());
        assert!(PcapDevice::open(Path::new("-"), true, true).is_err());
    }
}
