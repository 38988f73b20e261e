//! `pcap:FILE`: a capture file as a port. Received packets are those of the file, as fast as they
//! are taken (nm-pktgen replays with the file's timing); sent packets are appended to a new file. `-` is
//! standard input or output, and FIFOs are streams: packets pass on when they come.
//!
//! Invariant: a file that can be replayed is never overwritten by accident. A port opened for one
//! direction does what it is told; one opened for both, as a bridge does, replays what is there to be
//! read (a file, a FIFO, standard input) and refuses to send, or else records and has nothing to receive.

use std::io::IsTerminal;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nm_capture::{Addresses, Next, Options, Reader, Times, Writer, is_stdin, is_stdout};

use crate::adapter::Kind;
use crate::backend::packets::Packets;
use crate::backend::{Device, Sent};
use crate::error::{Error, Invalid, Result};
use crate::name::{Capabilities, PortName, Scheme, Syntax};
use crate::options::Direction;

/// What such a port can do.
const CAPABILITIES: Capabilities = Capabilities::RECEIVE.union(Capabilities::OFFLOAD_HEADERS);

/// The kind.
pub const KIND: Kind = Kind {
    scheme: Scheme {
        prefix: "pcap",
        syntax: Syntax::File,
        is_bare: |_| false,
        capabilities: CAPABILITIES,
    },
    open: |name, options| {
        let path = name.path().unwrap_or(Path::new(""));
        let rx = options.direction != Direction::TxOnly;
        let tx = options.direction != Direction::RxOnly;
        let open = |_| Ok(vec![PcapDevice::open(path, rx, tx, options.to_ethernet)?]);
        Ok(Box::new(Packets::new(name, options, CAPABILITIES, 1, open)?))
    },
};

/// The device behind `pcap:`.
#[derive(Debug)]
pub enum PcapDevice {
    /// Replays.
    Replay {
        /// The file.
        reader: Box<Reader>,
        /// Bytes of zeros in front of each packet: a virtio-net header that leaves nothing to others.
        header: u8,
    },
    /// Records.
    Record {
        /// The file.
        writer: Writer,
        /// Times of the batch that is being sent.
        times: Option<Times>,
        /// Bytes of the virtio-net header in front of what is sent. The file gets what it stands for.
        header: u8,
    },
}

impl PcapDevice {
    /// Opens `path` to be received from (`rx`), sent to (`tx`), or whichever the file allows.
    pub fn open(
        path: &Path,
        rx: bool,
        tx: bool,
        to_ethernet: Option<Addresses>,
    ) -> Result<PcapDevice> {
        let replays = if rx && tx { can_be_replayed(path)? } else { rx };
        Ok(if replays {
            let reader = Box::new(Reader::open(path, Options::frames(to_ethernet))?);
            PcapDevice::Replay { reader, header: 0 }
        } else {
            PcapDevice::Record { writer: Writer::create(path, 0)?, times: None, header: 0 }
        })
    }
}

/// Whether a file that was opened for both directions is there to be read.
fn can_be_replayed(path: &Path) -> Result<bool> {
    if is_stdin(path) {
        if std::io::stdin().is_terminal() {
            let name = format!("pcap:{}", path.display());
            return Err(Error::invalid(name, Invalid::Terminal));
        }
        return Ok(true);
    }
    Ok(!is_stdout(path) && path.exists())
}

impl Device for PcapDevice {
    fn send(&mut self, packet: &[u8]) -> Result<Sent> {
        let PcapDevice::Record { writer, times, header } = self else {
            return Ok(Sent::Refused);
        };
        if !writer.has_room() {
            writer.flush()?;
            if !writer.has_room() {
                return Ok(Sent::Again);
            }
        }
        let now = times.get_or_insert_with(Times::now).next().unwrap_or_default();
        let before = writer.incomplete();
        writer.write_completed(now, usize::from(*header), packet)?;
        Ok(if writer.incomplete() == before { Sent::Done } else { Sent::Refused })
    }

    fn flush(&mut self) -> Result<()> {
        if let PcapDevice::Record { writer, times, .. } = self {
            *times = None;
            writer.flush()?;
        }
        Ok(())
    }

    fn receive(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        /// Records that are no packets, looked over in one call: it returns in bounded time.
        const OTHERS: usize = 4096;
        let PcapDevice::Replay { reader, header } = self else {
            return Ok(None);
        };
        for _ in 0..OTHERS {
            match reader.advance()? {
                Next::Packet => {
                    let data = reader.packet().data;
                    // `Options::frames` bounds the packet; the buffer has room for a header as well.
                    let (head, frame) = buf.split_at_mut(usize::from(*header));
                    head.fill(0);
                    frame[..data.len()].copy_from_slice(data);
                    return Ok(Some(head.len() + data.len()));
                }
                Next::Other => {}
                Next::Pending | Next::End => break,
            }
        }
        Ok(None)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            PcapDevice::Replay { reader, .. } => reader.fd(),
            PcapDevice::Record { writer, .. } => writer.fd(),
        }
    }

    fn vnet_hdr_len(&self) -> u8 {
        let (PcapDevice::Replay { header, .. } | PcapDevice::Record { header, .. }) = self;
        *header
    }

    fn set_vnet_hdr_len(&mut self, name: &PortName, len: u8) -> Result<()> {
        if ![0, 10, 12].contains(&len) {
            return Err(Error::invalid(name, Invalid::VnetHeader { asked: len }));
        }
        let (PcapDevice::Replay { header, .. } | PcapDevice::Record { header, .. }) = self;
        *header = len;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        match self {
            PcapDevice::Replay { .. } => Ok(()),
            PcapDevice::Record { writer, .. } => Ok(writer.finish()?),
        }
    }

    fn ended(&self) -> bool {
        match self {
            PcapDevice::Replay { reader, .. } => reader.ended(),
            PcapDevice::Record { .. } => true,
        }
    }

    fn left_out(&self) -> u64 {
        match self {
            PcapDevice::Replay { reader, .. } => reader.notes().left_out(),
            PcapDevice::Record { .. } => 0,
        }
    }

    fn remarks(&self) -> Vec<String> {
        match self {
            PcapDevice::Replay { reader, .. } => reader.notes().sentences(reader.path()),
            PcapDevice::Record { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, rx: bool, tx: bool) -> Result<PcapDevice> {
        PcapDevice::open(path, rx, tx, None)
    }

    #[test]
    fn recorded_then_replayed_gives_packets_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let mut record = open(&path, true, true).unwrap();
        let mut buf = [0; 64];
        assert!(record.receive(&mut buf).unwrap().is_none());
        for n in 1..=3 {
            assert_eq!(record.send(&[n; 60]).unwrap(), Sent::Done);
        }
        record.flush().unwrap();

        let mut replay = open(&path, true, true).unwrap();
        assert_eq!(replay.send(&[9; 60]).unwrap(), Sent::Refused);
        for n in 1..=3 {
            assert!(!replay.ended());
            assert_eq!(replay.receive(&mut buf).unwrap(), Some(60));
            assert_eq!(buf[..60], [n; 60]);
        }
        assert_eq!(replay.receive(&mut buf).unwrap(), None);
        assert!(replay.ended() && replay.fd().is_none());
    }

    #[test]
    fn open_for_receiving_a_missing_file_is_an_error_and_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mistyped.pcap");
        let error = open(&path, true, false).unwrap_err();
        assert!(error.to_string().contains("mistyped.pcap"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn open_for_sending_replaces_and_for_both_replays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let mut record = open(&path, false, true).unwrap();
        record.send(&[1; 60]).unwrap();
        drop(record);
        let mut buf = [0; 64];
        assert_eq!(open(&path, true, true).unwrap().receive(&mut buf).unwrap(), Some(60));
        drop(open(&path, false, true).unwrap());
        assert_eq!(open(&path, true, true).unwrap().receive(&mut buf).unwrap(), None);
    }

    #[test]
    fn records_that_are_no_frames_are_left_out_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let mut writer = Writer::create(&path, 0).unwrap();
        for len in [70_000, 0, 60] {
            writer.write(std::time::Duration::ZERO, len, &vec![2; len as usize]).unwrap();
        }
        drop(writer);
        let mut replay = open(&path, true, false).unwrap();
        assert_eq!(replay.receive(&mut [0; 1 << 16]).unwrap(), Some(60));
        assert_eq!((replay.left_out(), replay.remarks().len()), (2, 2));
    }
}
