//! Output to stdout.
//!
//! Invariant: results go through here and a failing write is an error of the command (a closed pipe
//! ends it quietly), never a panic as with `println!`. Messages for people besides the result go to
//! stderr.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde_json::{Value, json};

use crate::cli::Target;
use crate::json;
use nm_cli::table::Table;

/// Where results go, and in which form.
#[derive(Debug)]
pub struct Out {
    /// JSON was asked for.
    pub json: bool,
    /// More was asked for.
    pub verbose: bool,
    /// stdout is a terminal that understands cursor movements.
    pub terminal: bool,
    stdout: BufWriter<StdoutLock<'static>>,
}

impl Out {
    /// The output for the rest of the process.
    pub fn new(json: bool, verbose: bool) -> Out {
        let stdout = io::stdout();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let terminal = stdout.is_terminal() && !dumb;
        Out { json, verbose, terminal, stdout: BufWriter::new(stdout.lock()) }
    }

    /// One line of text.
    pub fn line(&mut self, line: impl fmt::Display) -> io::Result<()> {
        writeln!(self.stdout, "{line}")
    }

    /// A table.
    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        self.stdout.write_all(table.to_string().as_bytes())
    }

    /// Text as it is, such as cursor movements.
    pub fn raw(&mut self, text: &str) -> io::Result<()> {
        self.stdout.write_all(text.as_bytes())
    }

    /// An object over many lines: the whole result of a command.
    pub fn object(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.stdout, value)?;
        writeln!(self.stdout)
    }

    /// An object on one line: one of many.
    pub fn json_line(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        writeln!(self.stdout)
    }

    /// Flushes, so that the reader gets everything now.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }

    /// What a changing command did to `target`: nothing is printed, as is the custom, except JSON,
    /// and what a dry run would have done.
    pub fn done(&mut self, target: &Target, did: Did, dry_run: bool) -> io::Result<()> {
        let (past, future) = did.words();
        if self.json {
            let value = json!({ "action": past, "dry_run": dry_run });
            self.object(&json::keyed([(target.to_string(), value)]))?;
        } else if dry_run {
            self.line(format_args!("would {future} {target}"))?;
        } else if self.verbose {
            nm_cli::say!("{target}: {past}");
        }
        self.flush()
    }
}

/// What a command does to a switch or port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// It was not there before.
    Create,
    /// It is gone.
    Delete,
    /// A bridge runs.
    Attach,
    /// The bridge ended.
    Detach,
    /// A setting changed.
    Set,
    /// Nothing: everything was as requested already.
    Nothing,
}

impl Did {
    /// Past for what was done, infinitive for what would be.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Did::Create => ("created", "create"),
            Did::Delete => ("deleted", "delete"),
            Did::Attach => ("attached", "attach"),
            Did::Detach => ("detached", "detach"),
            Did::Set => ("set", "change the settings of"),
            Did::Nothing => ("unchanged", "leave as it is"),
        }
    }
}
