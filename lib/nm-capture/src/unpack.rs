//! Compressed captures: which compression it is, and its decoder.
//!
//! Invariant: decoders work on a stream, in bounded memory, and may be interrupted by `WouldBlock`
//! between any two bytes.

use std::fmt;
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

/// Bytes that a decoder is given at once.
const INPUT_BYTES: usize = 64 * 1024;
/// Most memory that an xz decoder may take: `xz -9` asks for 65 MiB.
const XZ_BYTES: u64 = 256 << 20;
/// Largest window of a zstd stream, as a power of two: what `zstd` itself reads without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A compression that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952, also with several members.
    Gzip,
    /// RFC 8878, also with several frames.
    Zstd,
    /// The .xz format, also with several streams.
    Xz,
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Xz => "xz",
        })
    }
}

impl Packing {
    /// The compression of a file that begins like this.
    pub fn of(magic: [u8; 4]) -> Option<Packing> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Packing::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Packing::Zstd),
            [0xfd, b'7', b'z', b'X'] => Some(Packing::Xz),
            _ => None,
        }
    }

    /// A reader of the decompressed content of `input`.
    ///
    /// # Errors
    /// There is no memory for the decoder.
    pub fn decoder(self, input: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        let input = BufReader::with_capacity(INPUT_BYTES, input);
        Ok(match self {
            Packing::Gzip => Box::new(MultiGzDecoder::new(input)),
            Packing::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Packing::Xz => {
                let stream = Stream::new_stream_decoder(XZ_BYTES, CONCATENATED)?;
                Box::new(XzDecoder::new_stream(input, stream))
            }
        })
    }
}
