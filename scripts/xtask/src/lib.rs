//! What users install beside the programs: manual pages and shell completions, made from the very
//! definitions that the tools parse their arguments with, so that they cannot disagree.
//!
//! The definitions alone are compiled, not the tools: each tool's `cli.rs` uses clap and `nm-cli`, and
//! nothing else of the tool or of the library.
//!
//! Invariant: the same sources give the same files, byte for byte (no dates), and nothing is
//! written outside the directory named.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

#[path = "../../../e1000pv-vmm/src/cli.rs"]
pub mod e1000pv_vmm;
#[path = "../../../nm-bridge/src/cli.rs"]
pub mod nm_bridge;
#[path = "../../../nm-pktgen/src/cli.rs"]
pub mod nm_pktgen;
#[path = "../../../vale-ctl/src/cli.rs"]
pub mod vale_ctl;

/// Manual section of administration tools.
pub const SECTION: &str = "8";

/// Shells that completions are made for.
pub const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// The command lines of all tools.
#[must_use]
pub fn tools() -> Vec<Command> {
    vec![
        nm_pktgen::Cli::command(),
        nm_bridge::Cli::command(),
        vale_ctl::Cli::command(),
        e1000pv_vmm::Cli::command(),
    ]
}

/// Every command that has a page: the tools, and their subcommands under `TOOL-SUBCOMMAND`.
#[must_use]
pub fn pages() -> Vec<Command> {
    let mut pages = Vec::new();
    for tool in tools() {
        let mut tool = tool.disable_help_subcommand(true);
        tool.build(); // propagates global flags and full names to the subcommands
        collect(&tool, &mut pages);
    }
    pages
}

fn collect(command: &Command, pages: &mut Vec<Command>) {
    pages.push(command.clone());
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        collect(sub, pages);
    }
}

/// File name of a command's page: `vale-ctl-attach.8`.
#[must_use]
pub fn page_name(command: &Command) -> String {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    format!("{name}.{SECTION}")
}

/// Writes all manual pages into `dir`; returns the files.
pub fn write_man(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    make_dir(dir)?;
    let mut files = Vec::new();
    for command in pages() {
        let file = dir.join(page_name(&command));
        let mut text = Vec::new();
        Man::new(command).section(SECTION).manual("vale-rs").date("").render(&mut text)?;
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        files.push(file);
    }
    Ok(files)
}

/// Writes the completions of all tools for all shells into `dir`; returns the files.
pub fn write_completions(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    make_dir(dir)?;
    let mut files = Vec::new();
    for mut tool in tools() {
        let name = tool.get_name().to_owned();
        for shell in SHELLS {
            let file = clap_complete::generate_to(shell, &mut tool, &name, dir)
                .with_context(|| format!("writing the {shell} completion of {name}"))?;
            files.push(file);
        }
    }
    Ok(files)
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}
