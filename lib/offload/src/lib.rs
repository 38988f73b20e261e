//! Frames with offloads: what a virtio-net header (VIRTIO 1.2, section 5.1.6) in front of a frame
//! leaves to whoever passes the frame on, and that work, done in software.
//!
//! A sender leaves out checksums (`NEEDS_CSUM`: the field holds the folded sum of the pseudo-header,
//! not inverted) and sends many packets as one (TSO, USO, UFO). [`complete`] gives the frames that
//! this stands for, as a bridge of the Linux kernel would make them for a device that can do
//! neither. [`finish_partial`] fills a checksum where no header says that it was left out.
//!
//! Invariants: nothing in a header or a frame is believed, in particular not `hdr_len`; all lengths
//! are checked against the frame before they are used. What is not understood is a [`Fault`], and
//! never a wrong frame. Nothing is allocated, nothing panics but for a buffer that is too short.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

#[cfg(any(test, feature = "harness"))]
extern crate std;

mod fault;
#[cfg(any(test, feature = "harness"))]
pub mod fuzz;
mod header;
mod layers;
mod partial;
mod segments;
#[cfg(test)]
mod tests;

pub use fault::Fault;
pub use header::{Gso, Header};
pub use partial::finish_partial;
pub use segments::{Segments, complete};
