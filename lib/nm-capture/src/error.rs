//! What can go wrong with a capture, each with the message that a user of the tools reads.
//!
//! Invariant: a message says what was wrong with what, and where; the I/O error that caused it is the
//! `source`, not part of the text.

use std::io;
use std::path::PathBuf;

use crate::damage::Damage;
use crate::link::LinkType;
use crate::unpack::Packing;

/// Result of the library's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of reading and writing captures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operating-system call failed, or a decoder.
    #[error("Cannot {what} {path}")]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The bytes are not a capture, or are damaged from some point on.
    #[error("{path} is not usable: {}{damage}", inside(*.packing))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How the file is compressed, if it is; the damage is then in its decompressed content.
        packing: Option<Packing>,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The packets are not Ethernet frames.
    #[error("{path} is not usable: {}", no_ethernet(*.link))]
    LinkType {
        /// The file.
        path: PathBuf,
        /// What they are.
        link: LinkType,
    },
    /// The reader of the capture that is being written has stalled.
    #[error("The reader of {path} takes nothing: {bytes} bytes are lost")]
    Stalled {
        /// The FIFO, or standard output.
        path: PathBuf,
        /// What was not written.
        bytes: usize,
    },
}

fn inside(packing: Option<Packing>) -> String {
    packing.map_or_else(String::new, |packing| format!("inside its {packing} data, "))
}

fn no_ethernet(link: LinkType) -> String {
    let what = format!("its packets are {link}, not Ethernet");
    if link.becomes_ethernet() {
        format!("{what}; --link-to-ethernet gives them Ethernet headers")
    } else {
        format!("{what}, and cannot become that")
    }
}

impl Error {
    /// An I/O error on `path`, for `map_err`.
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
