//! Reading a capture of any supported format, compressed or not, from a file, a FIFO or standard input.
//!
//! Invariant: [`Reader::advance`] never blocks. No file can make the reader use more memory than the bounds in
//! `pcap` and `pcapng`, read beyond a record, or loop. Where a capture is cut off or corrupt, one error says
//! at which byte, and the stream ends there.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::damage::Damage;
use crate::error::{Error, Result};
use crate::feed::{Feed, Fill};
use crate::link::{Addresses, LinkType};
use crate::notes::Notes;
use crate::pcap::Classic;
use crate::pcapng::{self, Ng};
use crate::record::{Found, Record, Trouble};
use crate::source::{Source, is_stdin};
use crate::unpack::Packing;

/// One captured packet. The data are valid until the next call of [`Reader::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Time since the epoch, or since whatever the file counts from.
    pub ts: Duration,
    /// Length on the wire; more than `data.len()` if the capture cut the packet.
    pub orig_len: u32,
    /// What was captured, from the destination MAC address on.
    pub data: &'a [u8],
}

/// What [`Reader::advance`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A packet: see [`Reader::packet`].
    Packet,
    /// Something that is no packet, or one that is left out. Go on.
    Other,
    /// Nothing yet: a live source has no data at the moment.
    Pending,
    /// The end of the capture.
    End,
}

/// What a reader does beside reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave out records that are empty or longer than this, and count them.
    pub longest: Option<usize>,
    /// Turn packets without Ethernet header into Ethernet frames with these addresses.
    pub to_ethernet: Option<Addresses>,
}

impl Options {
    /// The options of a reader whose packets are sent as frames.
    #[must_use]
    pub fn frames(to_ethernet: Option<Addresses>) -> Options {
        Options { longest: Some(crate::MAX_FRAME), to_ethernet }
    }
}

/// Reads a capture record by record.
pub struct Reader {
    feed: Feed,
    path: PathBuf,
    source: Option<Source>,
    options: Options,
    packing: Option<Packing>,
    format: Format,
    notes: Notes,
    current: Current,
    /// The end was reached, or an error after which the next record cannot be found.
    ended: bool,
}

/// What is known of the file's format.
#[derive(Debug)]
enum Format {
    Unknown,
    Header(Classic),
    Classic(Classic),
    Ng(Ng),
}

/// The record that was found last.
#[derive(Debug, Default)]
struct Current {
    ts: Duration,
    orig_len: u32,
    /// Where its data lie in the feed; nowhere if `frame` holds them.
    data: Option<Range<usize>>,
    frame: Vec<u8>,
    /// Bytes of the feed that it takes.
    total: usize,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("path", &self.path)
            .field("packing", &self.packing)
            .field("format", &self.format)
            .field("offset", &self.feed.offset())
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a file or FIFO; `-` is standard input. That a file is not a capture is reported here; for a live
    /// stream it is reported as soon as its first bytes have arrived.
    ///
    /// # Errors
    /// It cannot be opened or read; a file is no capture, or its packets are no Ethernet frames
    /// and cannot become such.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Reader> {
        let path = path.as_ref();
        let source = Source::open(path).map_err(Error::io("open", path))?;
        let name = if is_stdin(path) { Path::new("standard input") } else { path };
        let mut reader = Reader::over(Box::new(source.clone()), name, options);
        reader.source = Some(source);
        reader.begin()?;
        Ok(reader)
    }

    /// Reads from any source of bytes, which need not be buffered. If it returns `WouldBlock`, the reader
    /// returns [`Next::Pending`].
    ///
    /// # Errors
    /// What there is to read at once is no capture, or cannot be read.
    pub fn new(input: impl Read + Send + 'static, options: Options) -> Result<Reader> {
        let mut reader = Reader::over(Box::new(input), Path::new("capture stream"), options);
        reader.begin()?;
        Ok(reader)
    }

    fn over(input: Box<dyn Read + Send>, path: &Path, options: Options) -> Reader {
        Reader {
            feed: Feed::new(input),
            path: path.to_owned(),
            source: None,
            options,
            packing: None,
            format: Format::Unknown,
            notes: Notes::default(),
            current: Current::default(),
            ended: false,
        }
    }

    /// Looks for the next packet, without waiting.
    ///
    /// # Errors
    /// `Damaged`: the capture is cut off or corrupt here. `LinkType`: a packet is no Ethernet
    /// frame and cannot become one. `Io`: it cannot be read, or unpacked. The capture ends with
    /// any of them.
    pub fn advance(&mut self) -> Result<Next> {
        self.feed.take(std::mem::take(&mut self.current.total));
        if self.ended {
            return Ok(Next::End);
        }
        self.ended = true; // Taken back unless this is the end.
        if !self.begin()? {
            self.ended = false;
            return Ok(Next::Pending);
        }
        let found = match &mut self.format {
            Format::Classic(classic) => classic.next(&mut self.feed),
            Format::Ng(ng) => ng.next(&mut self.feed),
            Format::Unknown | Format::Header(_) => Ok(Found::End),
        };
        let next = match found.map_err(|trouble| self.error(trouble))? {
            Found::Record(record) => self.look(record)?,
            Found::Other => Next::Other,
            Found::Pending => Next::Pending,
            Found::End => return Ok(Next::End),
        };
        self.ended = false;
        Ok(next)
    }

    /// The packet that [`Reader::advance`] found last.
    #[must_use]
    pub fn packet(&self) -> Packet<'_> {
        let Current { ts, orig_len, data, frame, .. } = &self.current;
        let data = match data {
            Some(range) => &self.feed.bytes()[range.clone()],
            None => frame,
        };
        Packet { ts: *ts, orig_len: *orig_len, data }
    }

    /// Waits for the next packet and returns it; `None` at the end of the file, and in all calls after it or
    /// after an error.
    ///
    /// # Errors
    /// As [`Reader::advance`].
    #[expect(clippy::should_implement_trait, reason = "lends its buffer, which Iterator cannot")]
    pub fn next(&mut self) -> Result<Option<Packet<'_>>> {
        loop {
            match self.advance()? {
                Next::Packet => return Ok(Some(self.packet())),
                Next::Other => {}
                Next::Pending => self.wait(Duration::MAX)?,
                Next::End => return Ok(None),
            }
        }
    }

    /// After [`Next::Pending`]: waits until there may be more, a signal arrives, or the time is over.
    ///
    /// # Errors
    /// `Io`: poll(2) failed.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let Some(fd) = self.fd() else {
            return Ok(());
        };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::NONE);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::io("wait for", &self.path)(errno.into())),
        }
    }

    /// Readable when there may be more, as a file always is; `None` after the end.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().filter(|_| !self.ended).map(Source::fd)
    }

    /// True at the end of the capture, and after an error.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What the reader did to records so far, besides passing them on.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The capture length that the file announces, or 0 as long as it is not known. Packets may be longer all
    /// the same.
    #[must_use]
    pub fn snaplen(&self) -> u32 {
        match &self.format {
            Format::Classic(classic) => classic.snaplen,
            Format::Ng(ng) => ng.snaplen(),
            Format::Unknown | Format::Header(_) => 0,
        }
    }

    /// Finds out the format and takes the file's header; false if it is not there yet.
    fn begin(&mut self) -> Result<bool> {
        loop {
            match &mut self.format {
                Format::Classic(_) | Format::Ng(_) => return Ok(true),
                Format::Header(classic) => {
                    let begun = classic.begin(&mut self.feed);
                    if !begun.map_err(|trouble| self.error(trouble))? {
                        return Ok(false);
                    }
                    let Format::Header(classic) = &self.format else { continue };
                    let classic = *classic;
                    self.format = Format::Classic(classic);
                    self.check(classic.link)?;
                }
                Format::Unknown => {
                    if !self.detect()? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Looks at the first bytes; false if they are not there yet.
    fn detect(&mut self) -> Result<bool> {
        let filled = self.feed.need(4);
        match filled.map_err(|error| self.error(Trouble::Io(error)))? {
            Fill::Enough => {}
            Fill::Pending => return Ok(false),
            Fill::Short(0) => return self.refuse(Damage::Empty),
            Fill::Short(bytes) => return self.refuse(Damage::Short { bytes }),
        }
        let bytes = self.feed.bytes();
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if let Some(classic) = Classic::of(magic) {
            self.format = Format::Header(classic);
        } else if magic == pcapng::SECTION.to_be_bytes() {
            self.format = Format::Ng(Ng::default());
        } else if let (Some(packing), None) = (Packing::of(magic), self.packing) {
            self.packing = Some(packing);
            let packed = std::mem::replace(&mut self.feed, Feed::new(Box::new(std::io::empty())));
            let unpacked = packing.decoder(packed.rewound());
            self.feed = Feed::new(unpacked.map_err(|error| self.error(Trouble::Io(error)))?);
        } else {
            return self.refuse(Damage::NoCapture { magic });
        }
        Ok(true)
    }

    /// Passes a record on as a packet, converts it, or leaves it out.
    fn look(&mut self, record: Record) -> Result<Next> {
        let Record { at, odd_fraction, orig_len, link, fcs_bytes, data, total } = record;
        self.check(link)?;
        self.current.total = total;
        if let Some(at) = at {
            let seconds = u64::try_from(at / 1_000_000_000).unwrap_or(u64::MAX);
            self.current.ts = Duration::new(seconds, (at % 1_000_000_000) as u32);
        }
        // Some programs write 0 as the length on the wire. And of a frame that the capture truncated, part of
        // the check sequence or all of it is missing.
        let whole = orig_len.max(data.len() as u32).saturating_sub(fcs_bytes);
        let kept = whole.min(data.len() as u32);
        if self.options.longest.is_some() && kept == 0 {
            self.notes.empty += 1;
            return Ok(Next::Other);
        }
        self.current.orig_len = whole;
        self.current.data = Some(data.start..data.start + kept as usize);
        if link != LinkType::ETHERNET {
            let addresses = self.options.to_ethernet.unwrap_or_default();
            let packet = &self.feed.bytes()[data.start..data.start + kept as usize];
            if !link.to_ethernet(packet, addresses, &mut self.current.frame) {
                self.notes.unconvertible += 1;
                return Ok(Next::Other);
            }
            self.current.data = None;
            self.current.orig_len = (self.current.frame.len() as u32).saturating_add(whole - kept);
        }
        let len = self.packet().data.len();
        if self.options.longest.is_some_and(|longest| len > longest) {
            self.notes.oversized += 1;
            return Ok(Next::Other);
        }
        self.notes.converted += u64::from(link != LinkType::ETHERNET);
        self.notes.fcs += u64::from(fcs_bytes > 0 && kept < data.len() as u32);
        self.notes.cut += u64::from(kept < whole);
        self.notes.fractions += u64::from(odd_fraction);
        Ok(Next::Packet)
    }

    fn check(&self, link: LinkType) -> Result<()> {
        let converts = self.options.to_ethernet.is_some() && link.becomes_ethernet();
        if link == LinkType::ETHERNET || converts {
            return Ok(());
        }
        Err(Error::LinkType { path: self.path.clone(), link })
    }

    fn refuse<T>(&self, damage: Damage) -> Result<T> {
        Err(self.error(Trouble::Damaged(damage)))
    }

    fn error(&self, trouble: Trouble) -> Error {
        let path = self.path.clone();
        match (trouble, self.packing) {
            (Trouble::Io(source), None) => Error::Io { what: "read", path, source },
            (Trouble::Io(source), Some(packing)) => {
                let what = match packing {
                    Packing::Gzip => "unpack (gzip)",
                    Packing::Zstd => "unpack (zstd)",
                    Packing::Xz => "unpack (xz)",
                };
                Error::Io { what, path, source }
            }
            (Trouble::Damaged(damage), packing) => Error::Damaged { path, packing, damage },
        }
    }
}

#[cfg(test)]
mod tests;
