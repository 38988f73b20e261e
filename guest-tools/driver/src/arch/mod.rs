//! What is written for one kind of processor. A port to another is a file beside `x86_64.rs` with the
//! same functions.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("register accesses and prefetches are written for x86-64");
