//! Manual pages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_mangen::Man;

/// Manual section of administration tools.
pub const SECTION: &str = "8";

/// Every command that has a page: the tools, and their subcommands under `TOOL-SUBCOMMAND`.
#[must_use]
pub fn pages() -> Vec<Command> {
    let mut pages = Vec::new();
    for tool in crate::tools() {
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
pub fn write(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    crate::make_dir(dir)?;
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
