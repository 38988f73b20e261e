//! Completions for bash, zsh and fish: short scripts that ask the tools (`nm_cli::complete`) and contain only
//! their names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A shell, the script for it, and what a tool's file is called there.
#[derive(Debug)]
pub struct Shell {
    /// Its name.
    pub name: &'static str,
    script: &'static str,
    file: fn(&str) -> String,
}

/// Shells that completions are made for.
pub const SHELLS: [Shell; 3] = [
    Shell {
        name: "bash",
        script: include_str!("../completions/bash"),
        file: |tool| format!("{tool}.bash"),
    },
    Shell {
        name: "zsh",
        script: include_str!("../completions/zsh"),
        file: |tool| format!("_{tool}"),
    },
    Shell {
        name: "fish",
        script: include_str!("../completions/fish"),
        file: |tool| format!("{tool}.fish"),
    },
];

/// Writes the completions of all tools for all shells into `dir`; returns the files.
pub fn write(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    crate::make_dir(dir)?;
    let mut files = Vec::new();
    for tool in crate::tools() {
        let tool = tool.get_name();
        for shell in &SHELLS {
            let file = dir.join((shell.file)(tool));
            fs::write(&file, shell.script.replace("TOOL", tool))
                .with_context(|| format!("writing {}", file.display()))?;
            files.push(file);
        }
    }
    Ok(files)
}
