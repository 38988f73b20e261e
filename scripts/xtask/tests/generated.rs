//! Manual pages and help texts: there for every command, with all flags and sections, and in a form
//! that formatters and terminals take.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command as Process;

use clap::Command;
use support::{installed, skip};
use xtask::TOOLS;

fn long_flags(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
}

/// roff writes a dash that is to be copied as `\-`.
fn plain(roff: &str) -> String {
    roff.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "")
}

fn pages() -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().expect("a directory");
    let files = xtask::man::write(dir.path()).expect("pages");
    (dir, files)
}

#[test]
fn man_pages_cover_every_tool_and_every_long_flag() {
    let (dir, files) = pages();
    for tool in TOOLS {
        assert!(files.contains(&dir.path().join(format!("{tool}.8"))), "no page for {tool}");
    }
    assert!(files.contains(&dir.path().join("vale.7")));
    let mut flags = 0;
    for command in xtask::man::pages() {
        let name = xtask::man::page_name(&command);
        let roff = fs::read_to_string(dir.path().join(&name)).expect("a page");
        let page = plain(&roff);
        assert!(page.contains(".TH ") && roff.contains(" 8 "), "{name}: not of section 8");
        for flag in long_flags(&command) {
            assert!(page.contains(&format!("--{flag}")), "{name} does not mention --{flag}");
            flags += 1;
        }
    }
    assert!(flags > 50, "only {flags} flags were looked at");
}

#[test]
fn man_pages_have_the_sections_that_readers_look_for() {
    let (_dir, files) = pages();
    assert!(files.len() > 20, "subcommands have pages of their own");
    for file in files {
        let page = fs::read_to_string(&file).expect("a page");
        let mut wanted = vec!["NAME", "DESCRIPTION", "ENVIRONMENT", "FILES", "EXAMPLES"];
        if file.extension().is_some_and(|section| section == "8") {
            wanted.extend(["SYNOPSIS", "OPTIONS", "\"EXIT STATUS\""]);
        }
        wanted.push("\"SEE ALSO\"");
        let titles: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        for title in wanted {
            let quoted = title.trim_matches('"');
            assert!(
                titles.iter().any(|found| found.trim_matches('"') == quoted),
                "{} has no {title}: {titles:?}",
                file.display()
            );
        }
        assert!(!titles.contains(&"EXTRA"), "{}", file.display());
    }
}

#[test]
fn pages_of_commands_refer_to_each_other() {
    let (dir, _) = pages();
    let read = |name: &str| plain(&fs::read_to_string(dir.path().join(name)).expect("a page"));
    let parent = read("vale-ctl.8");
    for command in xtask::man::pages() {
        let name = xtask::man::page_name(&command);
        let Some(name) = name.strip_suffix(".8").filter(|name| name.starts_with("vale-ctl-"))
        else {
            continue;
        };
        assert!(parent.contains(&format!("{name}(8)")), "vale-ctl(8) does not refer to {name}");
        assert!(read(&format!("{name}.8")).contains("vale-ctl(8)"), "{name}");
    }
}

#[test]
fn man_pages_pass_the_formatters_without_warnings() {
    const NAME: &str = "man_pages_pass_the_formatters_without_warnings";
    let (_dir, files) = pages();
    let formatters =
        [("groff", &["-man", "-Tutf8", "-ww"][..]), ("mandoc", &["-Tlint", "-Wwarning"])];
    for (program, flags) in formatters {
        if !installed(program) {
            skip(NAME, &format!("{program} is not installed"));
            continue;
        }
        let output = Process::new(program).args(flags).args(&files).output().expect(program);
        let mut talk = String::from_utf8_lossy(&output.stderr).into_owned();
        if program == "mandoc" {
            talk += &String::from_utf8_lossy(&output.stdout);
        }
        assert!(output.status.success() && talk.is_empty(), "{program}: {talk}");
    }
}

#[test]
fn generation_is_reproducible() {
    let ((first, a), (second, b)) = (pages(), pages());
    let names = |files: Vec<PathBuf>| -> Vec<_> {
        files.iter().map(|file| file.file_name().expect("a name").to_owned()).collect()
    };
    let (a, b) = (names(a), names(b));
    assert_eq!(a, b);
    for name in a {
        let read = |dir: &tempfile::TempDir| fs::read(dir.path().join(&name)).expect("a page");
        assert_eq!(read(&first), read(&second), "{name:?} differs");
    }
}

#[test]
fn help_fits_terminals_of_80_columns() {
    for command in xtask::man::pages() {
        let name = xtask::man::page_name(&command);
        for width in [80, 100] {
            let help = command.clone().term_width(width).render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= width, "{name} at {width} columns: {line}");
            }
        }
        // Examples are copied, so they must not be wrapped.
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in examples.lines() {
            assert!(line.chars().count() < 80, "{name}: {line}");
        }
    }
}

#[test]
fn help_names_the_units_of_times_and_the_suffixes_of_counts() {
    let mut times = 0;
    for command in xtask::man::pages() {
        for arg in command.get_arguments() {
            let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string);
            let help = help.unwrap_or_default();
            let value = arg.get_value_names().map(|names| names[0].to_string()).unwrap_or_default();
            if value.starts_with("TIME") && !arg.is_hide_set() {
                times += 1;
                let named = ["500ms", "250ms", "2s", "4s", "5s", "90s", "1ms"];
                assert!(
                    named.iter().any(|time| help.contains(time)),
                    "{} {}: {help}",
                    command.get_name(),
                    arg.get_id()
                );
            }
            if arg.get_id() == "count" && command.get_name().starts_with("nm-") {
                assert!(help.contains("k, M, G"), "{help}");
            }
        }
    }
    assert!(times >= 10, "only {times} times were looked at");
}
