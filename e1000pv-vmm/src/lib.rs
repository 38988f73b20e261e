//! e1000pv-vmm: a small virtual machine monitor for KVM, with a paravirtual e1000 on netmap ports.
//!
//! ```text
//!   cli -> plan -> run    command line, resolved settings, a machine's life;  report: its records;  input: what is typed
//!            |
//!   guest                 its execution: vCPUs of KVM, or a thread
//!   net                   NICs: lib/e1000-device on a board and a port, and the thread that serves it
//!   machine               what a guest sees: bus, PCI, lines, serial port, idle call
//!   stats                 counters in shared memory, and the names of machines
//!   host                  memory, threads, filters, terminal of this process
//! ```
//! A folder uses those below it and none above.
//!
//! `docs/design/vmm.md` is the page of the monitor; the device has its own.
//!
//! Unsafe code is in the modules that say so, and nowhere else.

#![deny(unsafe_code)]
// The macros of std panic if the output fails. Use nm_cli::say!, and writes whose errors are checked.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod cli;
pub mod guest;
mod halt;
pub mod host;
mod input;
pub mod machine;
pub mod net;
pub mod plan;
pub mod report;
mod run;
pub mod stats;

pub use run::run;
