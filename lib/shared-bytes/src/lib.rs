//! Bytes that somebody else may be writing to: guest memory, or the buffers of a switch.
//!
//! ```text
//!   Span    a checked stretch of such bytes: what everybody above uses
//!   copy    moving lines of them with the widest moves that the CPU has
//!   arch    loads, stores and copies that the compiler does not see through
//! ```
//!
//! The rule: no reference to plain bytes that another process or a guest can write ever exists. They are
//! loaded and copied by assembly, so a byte that changes meanwhile yields the old or the new value and
//! nothing worse. What is used twice is copied out once.

#![deny(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

#[allow(unsafe_code)]
mod arch;
#[allow(unsafe_code)]
pub mod copy;
#[allow(unsafe_code)]
mod span;

pub use span::{Mover, Span};
