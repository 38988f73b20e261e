//! Classic pcap files, read and written as streams.
//!
//! Invariant: a file cannot make the reader allocate more than [`MAX_SNAPLEN`] bytes, read beyond a
//! record or loop; what is cut off or senseless is an error that names the byte offset, once, and
//! the stream ends there. What the writer wrote is whole records only, as far as they were flushed.
//!
//! Follows the pcap capture file format of the IETF draft `draft-ietf-opsawg-pcap`: microsecond and
//! nanosecond magic in both byte orders, Ethernet only. pcapng is recognised and refused by name.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// Longest record that is read or written: libpcap's `MAXIMUM_SNAPLEN`.
pub const MAX_SNAPLEN: u32 = 262_144;

/// Timestamps in microseconds, the original format.
const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
/// Timestamps in nanoseconds.
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
/// First block type of a pcapng file, the same in both byte orders.
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;
const VERSION: (u16, u16) = (2, 4);
const LINKTYPE_ETHERNET: u16 = 1;
const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;
/// One read or write of the file carries this much.
const BUFFER_BYTES: usize = 256 * 1024;

/// One captured packet. The data are valid until the next call of [`Reader::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Time since the epoch, or since whatever the file counts from.
    pub ts: Duration,
    /// Length on the wire; more than `data.len()` if the capture cut the packet.
    pub orig_len: u32,
    /// What was captured, from the destination MAC address on.
    pub data: &'a [u8],
}

/// Reads a capture record by record.
pub struct Reader<R> {
    input: BufReader<R>,
    path: PathBuf,
    big_endian: bool,
    nanos: bool,
    snaplen: u32,
    offset: u64,
    /// The end was reached, or an error behind which nothing can be found again.
    ended: bool,
    data: Vec<u8>,
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("path", &self.path)
            .field("big_endian", &self.big_endian)
            .field("nanos", &self.nanos)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Reader<Box<dyn Read + Send>> {
    /// Opens a file; `-` is standard input.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let input: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(Error::io("open", path))?)
        };
        Reader::labelled(input, path)
    }
}

impl<R: Read> Reader<R> {
    /// Reads from anything that gives bytes; they are buffered here.
    pub fn new(input: R) -> Result<Self> {
        Reader::labelled(input, Path::new("pcap stream"))
    }

    fn labelled(input: R, path: &Path) -> Result<Self> {
        let mut reader = Reader {
            input: BufReader::with_capacity(BUFFER_BYTES, input),
            path: path.to_owned(),
            big_endian: false,
            nanos: false,
            snaplen: 0,
            offset: 0,
            ended: false,
            data: Vec::new(),
        };
        let mut header = [0; FILE_HEADER_BYTES];
        let got = reader.fill(&mut header)?;
        if got >= 4 && u32_at(&header, 0, true) == MAGIC_PCAPNG {
            return reader.damaged(
                "it is a pcapng file; convert it with `editcap -F nsecpcap IN OUT` or \
                 `tcpdump -r IN -w OUT`",
            );
        }
        if got < header.len() {
            return reader.damaged(&format!(
                "it ends after {got} bytes, a pcap file header has {FILE_HEADER_BYTES}"
            ));
        }
        let magics = [
            (MAGIC_MICROS, false, false),
            (MAGIC_MICROS, true, false),
            (MAGIC_NANOS, false, true),
            (MAGIC_NANOS, true, true),
        ];
        let found = magics.iter().find(|(magic, big, _)| u32_at(&header, 0, *big) == *magic);
        let Some((_, big_endian, nanos)) = found else {
            let magic = u32_at(&header, 0, true);
            return reader.damaged(&format!("it is no pcap file: it begins with {magic:#010x}"));
        };
        (reader.big_endian, reader.nanos) = (*big_endian, *nanos);
        let major = u16_at(&header, 4, *big_endian);
        if major != VERSION.0 {
            return reader.damaged(&format!("pcap version {major} is unknown, 2 is expected"));
        }
        reader.snaplen = u32_at(&header, 16, *big_endian);
        // The upper half of this word tells of a frame check sequence, which nobody records.
        let link = u32_at(&header, 20, *big_endian) & 0xffff;
        if link != u32::from(LINKTYPE_ETHERNET) {
            return reader
                .damaged(&format!("its packets are of link type {link}, not Ethernet (1)"));
        }
        Ok(reader)
    }

    /// The capture length that the file announces; packets may break the promise.
    pub fn snaplen(&self) -> u32 {
        self.snaplen
    }

    /// The next packet; `None` at the end of the file and for ever after it or after an error.
    #[expect(clippy::should_implement_trait, reason = "lends its buffer, which Iterator cannot")]
    pub fn next(&mut self) -> Result<Option<Packet<'_>>> {
        if self.ended {
            return Ok(None);
        }
        self.ended = true; // Taken back once the whole record is in.
        let start = self.offset;
        let mut header = [0; RECORD_HEADER_BYTES];
        match self.fill(&mut header)? {
            0 => return Ok(None),
            RECORD_HEADER_BYTES => {}
            got => {
                return self.damaged(&format!(
                    "it is cut off: the record at byte {start} has {got} of its \
                     {RECORD_HEADER_BYTES} header bytes"
                ));
            }
        }
        let word = |at| u32_at(&header, at, self.big_endian);
        let (seconds, fraction, len, orig_len) = (word(0), word(4), word(8), word(12));
        if len > MAX_SNAPLEN {
            return self.damaged(&format!(
                "the record at byte {start} claims {len} bytes; more than {MAX_SNAPLEN} is \
                 never written, so the file is corrupt from here on"
            ));
        }
        let mut data = std::mem::take(&mut self.data);
        data.resize(len as usize, 0);
        let got = self.fill(&mut data)?;
        self.data = data;
        if got < len as usize {
            return self.damaged(&format!(
                "it is cut off: the record at byte {start} has {got} of its {len} bytes"
            ));
        }
        self.ended = false;
        let fraction = match self.nanos {
            true => Duration::from_nanos(fraction.into()),
            false => Duration::from_micros(fraction.into()),
        };
        let ts = Duration::from_secs(seconds.into()) + fraction;
        Ok(Some(Packet { ts, orig_len, data: &self.data }))
    }

    /// Reads until `bytes` is full or the input ends; returns how much came.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let mut got = 0;
        while got < bytes.len() {
            match self.input.read(&mut bytes[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path)(error)),
            }
        }
        self.offset += got as u64;
        Ok(got)
    }

    fn damaged<T>(&self, why: &str) -> Result<T> {
        Err(Error::Damaged { path: self.path.clone(), why: why.to_owned() })
    }
}

fn u32_at(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

fn u16_at(bytes: &[u8], at: usize, big_endian: bool) -> u16 {
    let word = [bytes[at], bytes[at + 1]];
    if big_endian { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) }
}

/// Writes a capture with nanosecond timestamps, little-endian. Buffered: what is written reaches the
/// file on [`Writer::flush`], on drop, and when the buffer is full.
pub struct Writer<W: Write> {
    output: BufWriter<W>,
    path: PathBuf,
    snaplen: u32,
}

impl<W: Write> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("path", &self.path)
            .field("snaplen", &self.snaplen)
            .finish_non_exhaustive()
    }
}

impl Writer<Box<dyn Write + Send>> {
    /// Creates or replaces a file; `-` is standard output. `snaplen` 0 keeps whole packets.
    pub fn create(path: impl AsRef<Path>, snaplen: u32) -> Result<Self> {
        let path = path.as_ref();
        let output: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).map_err(Error::io("create", path))?)
        };
        Writer::labelled(output, snaplen, path)
    }
}

impl<W: Write> Writer<W> {
    /// Writes to anything that takes bytes. `snaplen` 0 keeps whole packets.
    pub fn new(output: W, snaplen: u32) -> Result<Self> {
        Writer::labelled(output, snaplen, Path::new("pcap stream"))
    }

    fn labelled(output: W, snaplen: u32, path: &Path) -> Result<Self> {
        let snaplen = if snaplen == 0 { MAX_SNAPLEN } else { snaplen.min(MAX_SNAPLEN) };
        let mut header = [0; FILE_HEADER_BYTES];
        header[0..4].copy_from_slice(&MAGIC_NANOS.to_le_bytes());
        header[4..6].copy_from_slice(&VERSION.0.to_le_bytes());
        header[6..8].copy_from_slice(&VERSION.1.to_le_bytes());
        header[16..20].copy_from_slice(&snaplen.to_le_bytes());
        header[20..22].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        let output = BufWriter::with_capacity(BUFFER_BYTES, output);
        let mut writer = Writer { output, path: path.to_owned(), snaplen };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Appends a packet, cut to the capture length. `orig_len` is its length on the wire, at least
    /// that of `data`.
    pub fn write(&mut self, ts: Duration, orig_len: u32, data: &[u8]) -> Result<()> {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let kept = len.min(self.snaplen);
        // The format's seconds end in 2106; a later time is written as that moment.
        let seconds = u32::try_from(ts.as_secs()).unwrap_or(u32::MAX);
        let mut header = [0; RECORD_HEADER_BYTES];
        header[0..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&ts.subsec_nanos().to_le_bytes());
        header[8..12].copy_from_slice(&kept.to_le_bytes());
        header[12..16].copy_from_slice(&orig_len.max(len).to_le_bytes());
        self.put(&header)?;
        self.put(&data[..kept as usize])
    }

    /// Hands everything written so far to the file.
    pub fn flush(&mut self) -> Result<()> {
        self.output.flush().map_err(Error::io("write", &self.path))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(Error::io("write", &self.path))
    }
}

#[cfg(test)]
mod tests;
