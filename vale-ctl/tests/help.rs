//! The help texts: their usage lines as users read them, and that every command has one.

#![forbid(unsafe_code)]

mod common;

use clap::CommandFactory;
use common::text;

#[test]
fn every_command_helps_with_h_and_help() {
    let cli = vale_ctl::cli::Cli::command();
    for command in cli.get_subcommands() {
        let name = command.get_name();
        for flag in ["-h", "--help"] {
            let help = text(&[name, flag]);
            assert!(help.contains(&format!("Usage: vale-ctl {name}")), "{name} {flag}:\n{help}");
        }
    }
}

#[test]
fn help_tells_exit_status_environment_and_upstream_flags() {
    let help = text(&["--help"]);
    for part in ["Exit status:", "NETMAP_ROOT", "vale-ctl -h valeA:tap0", "  top  ", "--json"] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}

#[test]
fn summary_is_as_recorded() {
    snapbox::assert_data_eq!(text(&["-h"]), snapbox::file!["summary.txt"]);
}

#[test]
fn version_is_the_packages() {
    assert_eq!(text(&["-V"]), format!("vale-ctl {}\n", env!("CARGO_PKG_VERSION")));
}
