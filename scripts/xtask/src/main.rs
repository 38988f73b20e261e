//! `cargo run -p xtask -- man DIR`, `... -- completions DIR` and `... -- deb DIR`: chores of building a
//! release; `... -- benchmarks` remakes the tables of docs/benchmarks.md.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

/// Make what users install beside the programs.
#[derive(Debug, Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

/// The chores.
#[derive(Debug, Subcommand)]
enum Task {
    /// Write the manual pages (section 8) of all tools
    Man {
        /// Directory to write into; made if missing
        #[arg(default_value = "target/dist/man")]
        dir: PathBuf,
    },
    /// Write completions for bash, zsh and fish of all tools
    Completions {
        /// Directory to write into; made if missing
        #[arg(default_value = "target/dist/completions")]
        dir: PathBuf,
    },
    /// Build the Debian package (needs make, binutils and dpkg-dev)
    Deb {
        /// Directory to write into; made if missing
        #[arg(default_value = "target/dist/deb")]
        dir: PathBuf,
        /// Profile of Cargo to build the tools with
        #[arg(long, default_value = "release")]
        profile: String,
    },
    /// Remake the tables of docs/benchmarks.md from docs/benchmarks/*.jsonl
    Benchmarks,
}

fn main() -> anyhow::Result<()> {
    let files = match Cli::parse().task {
        Task::Man { dir } => xtask::man::write(&dir)?,
        Task::Completions { dir } => xtask::completions::write(&dir)?,
        Task::Benchmarks => vec![xtask::benchmarks::write(Path::new("."))?],
        Task::Deb { dir, profile } => vec![xtask::deb::build(&dir, &profile)?],
    };
    for file in files {
        println!("{}", file.display());
    }
    Ok(())
}
