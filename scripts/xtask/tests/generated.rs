//! Pages and completions are there for every tool and leave out no flag.

#![forbid(unsafe_code)]

use std::fs;

use clap::Command;

use xtask::TOOLS;

fn long_flags(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
}

/// roff writes a dash that is to be copied as `\-`.
fn plain(roff: &str) -> String {
    roff.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "")
}

#[test]
fn man_pages_cover_every_tool_and_every_long_flag() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = xtask::man::write(dir.path()).expect("pages");
    for tool in TOOLS {
        assert!(files.contains(&dir.path().join(format!("{tool}.8"))), "no page for {tool}");
    }
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
fn generation_is_reproducible() {
    let (first, second) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let names = |files: Vec<std::path::PathBuf>| -> Vec<_> {
        files.iter().map(|file| file.file_name().expect("a name").to_owned()).collect()
    };
    let a = names(xtask::man::write(first.path()).expect("pages"));
    let b = names(xtask::man::write(second.path()).expect("pages"));
    assert_eq!(a, b);
    for name in a {
        let read = |dir: &tempfile::TempDir| fs::read(dir.path().join(&name)).expect("a page");
        assert_eq!(read(&first), read(&second), "{name:?} differs");
    }
}
