//! The page on trust names the files that have unsafe code, and no others; and each crate denies it
//! elsewhere.

#![forbid(unsafe_code)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where crates are, below the repository.
const CRATES: [&str; 7] =
    ["lib", "guest-tools", "scripts", "nm-pktgen", "nm-bridge", "vale-ctl", "e1000pv-vmm"];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// All crates' source directories. Tests, benchmarks and fuzz targets are no part of what is shipped.
fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    if below.join("Cargo.toml").is_file() && below.join("src").is_dir() {
        found.push(below.join("src"));
        return;
    }
    for entry in fs::read_dir(below).expect("a directory").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sources(&entry.path(), found);
        }
    }
}

fn files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether there is the word among a file's words that are no comment.
fn has_unsafe(text: &str) -> bool {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .any(|word| word == "unsafe")
}

/// What is between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// `x/{a,b}.rs` are two files.
fn each(name: &str) -> Vec<String> {
    let parts = name.split_once('{').and_then(|(before, rest)| {
        rest.split_once('}').map(|(inner, after)| (before, inner, after))
    });
    match parts {
        None => vec![name.to_owned()],
        Some((before, inner, after)) => {
            inner.split(',').map(|part| format!("{before}{part}{after}")).collect()
        }
    }
}

#[test]
fn page_on_trust_lists_the_files_with_unsafe_code_and_no_others() {
    let repository = support::repository();
    let page = read(&repository.join("docs/trust.md"));
    let heading = "Where unsafe code is";
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let mut crate_of_table = None;
    let mut listed = BTreeSet::new();
    for line in section.lines() {
        match line.strip_prefix('|') {
            Some(row) => {
                let names = quoted(row.split('|').next().unwrap_or(row));
                for file in names.filter(|name| name.ends_with(".rs")).flat_map(each) {
                    let of: &str = crate_of_table.expect("a crate in front of its table");
                    listed.insert(repository.join(of).join("src").join(file));
                }
            }
            None => {
                let named = quoted(line).filter(|name| repository.join(name).join("src").is_dir());
                crate_of_table = named.last().or(crate_of_table);
            }
        }
    }
    let mut roots = Vec::new();
    CRATES.iter().for_each(|part| sources(&repository.join(part), &mut roots));
    assert!(roots.len() >= 15, "{roots:?}");
    let mut found = Vec::new();
    roots.iter().for_each(|root| files(root, &mut found));
    let found: BTreeSet<PathBuf> =
        found.into_iter().filter(|file| has_unsafe(&read(file))).collect();
    let missing: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "have unsafe code that docs/trust.md does not list: {missing:?}");
    let stale: Vec<_> = listed.difference(&found).collect();
    assert!(stale.is_empty(), "docs/trust.md lists, but have no unsafe code: {stale:?}");
    // A crate's root says where it is allowed, if anywhere.
    for root in roots {
        let text = ["lib.rs", "main.rs"].map(|name| root.join(name)).into_iter();
        for file in text.filter(|file| file.is_file()) {
            let text = read(&file);
            let denies = ["#![forbid(unsafe_code)]", "#![deny(unsafe_code)]"];
            let denied = denies.iter().any(|line| text.contains(line));
            assert!(denied, "{} does not deny unsafe code", file.display());
        }
    }
}

#[test]
fn words_of_comments_and_longer_words_are_not_the_word() {
    assert!(has_unsafe("let x = unsafe { y() };") && has_unsafe("#[unsafe(no_mangle)]"));
    assert!(!has_unsafe("// unsafe\n#![deny(unsafe_code)] // unsafe"));
}
