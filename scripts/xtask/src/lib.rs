//! What users install beside the programs: manual pages and shell completions, made from the very
//! definitions that the tools parse their arguments with, so that they cannot disagree. And the tables of
//! the page of benchmarks, made from what the benches wrote.
//!
//! The definitions alone are compiled, not the tools: each tool's `cli.rs` uses clap and `nm-cli`, and
//! nothing else of the tool or of the library.
//!
//! Invariant: the same sources give the same files, byte for byte (no dates), and nothing is
//! written outside the directory named.

#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};

pub mod benchmarks;
pub mod completions;
pub mod deb;
pub mod man;

#[path = "../../../e1000pv-vmm/src/cli.rs"]
pub mod e1000pv_vmm;
#[path = "../../../nm-bridge/src/cli.rs"]
pub mod nm_bridge;
#[path = "../../../nm-pktgen/src/cli.rs"]
pub mod nm_pktgen;
#[path = "../../../vale-ctl/src/cli.rs"]
pub mod vale_ctl;

/// The tools' names.
pub const TOOLS: [&str; 4] = ["nm-pktgen", "nm-bridge", "vale-ctl", "e1000pv-vmm"];

/// The day of this version, in pages and in the package's changelog. It goes with the version.
pub const DATE: &str = "2026-11-26";

/// The command lines of all tools.
#[must_use]
pub fn tools() -> [Command; 4] {
    [
        nm_pktgen::Cli::command(),
        nm_bridge::Cli::command(),
        vale_ctl::Cli::command(),
        e1000pv_vmm::Cli::command(),
    ]
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}
