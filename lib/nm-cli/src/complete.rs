//! Completion of command lines. The function that a shell calls at TAB starts the tool itself, with
//! [`VARIABLE`] set and the words typed so far after `--`. The tool answers from its clap definition and from
//! the switches, ports and machines that exist at that moment, so the shell scripts contain no flags and cannot
//! go out of date.
//!
//! The answer has a line for each candidate: the word, and after a tab what it is.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Command;
use clap_complete::CompletionCandidate;
use clap_complete::engine::{ArgValueCandidates, complete};

/// The environment variable by which the shell's function asks for completions.
pub const VARIABLE: &str = "_NM_COMPLETE";

/// Candidates for an argument: its id in the clap definition, and a function that lists them.
pub type Sources = [(&'static str, fn() -> Vec<String>)];

/// Answers if a shell asks. Returns whether it did, in which case the process must end.
#[must_use]
pub fn answered(command: Command, sources: &Sources) -> bool {
    if std::env::var_os(VARIABLE).is_none() {
        return false;
    }
    let words = std::env::args_os().skip(2).collect();
    // A failure cannot be reported here, since the output is the shell's; it then offers nothing.
    let _ = io::stdout().write_all(answer(command, sources, words).as_bytes());
    true
}

fn answer(command: Command, sources: &Sources, words: Vec<OsString>) -> String {
    let Some(last) = words.len().checked_sub(1) else { return String::new() };
    let wants_flag = words[last].to_string_lossy().starts_with('-');
    let here = std::env::current_dir().ok();
    let mut command = with_sources(command, sources);
    let found = complete(&mut command, words, last, here.as_deref()).unwrap_or_default();
    // The engine offers flags everywhere. They are noise unless the user has typed a dash.
    let flag = |c: &CompletionCandidate| c.get_value().to_string_lossy().starts_with('-');
    let others = !found.iter().all(flag);
    let mut lines = String::new();
    for candidate in found.iter().filter(|c| wants_flag || !others || !flag(c)) {
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.lines().next().unwrap_or_default();
        lines += &format!("{}\t{help}\n", candidate.get_value().to_string_lossy());
    }
    lines
}

/// Attaches the candidates to the arguments of a command and of all its subcommands.
fn with_sources(command: Command, sources: &Sources) -> Command {
    command
        .mut_args(|arg| match sources.iter().find(|(id, _)| arg.get_id() == id) {
            Some(&(_, source)) => arg.add(ArgValueCandidates::new(move || {
                source().into_iter().map(CompletionCandidate::new).collect()
            })),
            None => arg,
        })
        .mut_subcommands(|command| with_sources(command, sources))
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    fn words(line: &str) -> Vec<String> {
        let tool = Command::new("tool")
            .arg(Arg::new("verbose").short('v').long("verbose").help("Say more"))
            .subcommand(
                Command::new("show").about("Show it").arg(Arg::new("name").value_name("NAME")),
            )
            .subcommand(Command::new("flush"));
        let sources: &Sources = &[("name", || vec!["valeA:x".into(), "valeB:y".into()])];
        let typed = line.split(' ').map(OsString::from).collect();
        answer(tool, sources, typed).lines().map(str::to_owned).collect()
    }

    #[test]
    fn subcommands_come_with_their_help_and_flags_when_a_dash_was_typed() {
        assert_eq!(words("tool s"), ["show\tShow it"]);
        assert!(words("tool ").iter().all(|line| !line.starts_with('-')));
        assert_eq!(words("tool --v"), ["--verbose\tSay more"]);
    }

    #[test]
    fn names_come_from_their_source() {
        assert_eq!(words("tool show valeA"), ["valeA:x\t"]);
        assert_eq!(words("tool show vale").len(), 2);
        assert_eq!(words("tool flush vale"), [""; 0]);
    }
}
