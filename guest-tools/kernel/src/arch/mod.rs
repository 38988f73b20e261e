//! What is written for one kind of processor. A port to another is a file beside `x86_64.rs` with the
//! same functions, and an entry that calls `guest_main`.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
