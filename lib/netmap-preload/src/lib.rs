//! Runs unmodified netmap programs on VALE in user space.
//!
//! ```text
//!   program --- open, ioctl, mmap, poll, close ---> interpose       the C library's functions, by their names
//!                                                      |
//!                                    control  wait  epoll  ...      netmap's requests, its poll
//!                                                      |
//!                                                    table          what is behind each descriptor
//!                                                      |
//!                                              netmap (lib/netmap)  ports, rings, switches
//! ```
//!
//! `LD_PRELOAD=libnetmap_preload.so pkt-gen -i valeA:x`: what the program does with `/dev/netmap` is done here, and all
//! else passes. See docs/design/preload.md.

#![deny(unsafe_code)]
// Unit tests leave their own process's calls alone, and so do not reach what those lead to.
#![cfg_attr(test, allow(dead_code))]

#[allow(unsafe_code)]
pub mod abi;
#[allow(unsafe_code)]
mod cancel;
#[allow(unsafe_code)]
mod control;
mod csb;
#[allow(unsafe_code)]
mod epoll;
mod events;
#[allow(unsafe_code)]
mod faults;
#[allow(unsafe_code)]
mod handle;
#[cfg(not(test))]
#[allow(unsafe_code)]
mod interpose;
#[allow(unsafe_code)]
mod jumps;
#[allow(unsafe_code)]
mod kicks;
#[allow(unsafe_code)]
mod kloop;
#[allow(unsafe_code)]
mod lock;
#[allow(unsafe_code)]
mod next;
mod panics;
#[allow(unsafe_code)]
mod place;
mod poll;
#[allow(unsafe_code)]
mod process;
mod request;
mod set;
#[allow(unsafe_code)]
mod spawn;
#[allow(unsafe_code)]
mod stack;
#[allow(unsafe_code)]
mod table;
#[allow(unsafe_code)]
mod user;
#[allow(unsafe_code)]
mod wait;
