//! The page on troubleshooting has every counter, and every error of the library by its words.

#![forbid(unsafe_code)]

mod support;

use std::fs;

fn read(file: &str) -> String {
    fs::read_to_string(support::repository().join(file))
        .unwrap_or_else(|why| panic!("{file}: {why}"))
}

/// The rows of a section's tables: the first column.
fn first_columns(page: &str, heading: &str) -> String {
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let rows = section.lines().filter(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('|').nth(1)).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_counter_is_explained() {
    let page = read("docs/troubleshooting.md");
    let listed = first_columns(&page, "Counters of ports");
    let source = read("lib/netmap/src/stats.rs");
    let table = source.split("\ncounters! {").nth(1).and_then(|rest| rest.split("\n}").next());
    let names = table.expect("the table").lines().map(str::trim);
    let names: Vec<_> = names
        .filter(|line| !line.starts_with("//"))
        .filter_map(|line| line.strip_suffix(','))
        .collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        assert!(listed.contains(&format!("`{name}`")), "{name} is not explained");
    }

    let listed = first_columns(&page, "Counters of machines");
    let source =
        read("e1000pv-vmm/src/stats/counters.rs") + &read("lib/e1000-device/src/counters.rs");
    let names: Vec<_> = source
        .lines()
        .filter(|line| line.contains(" = ") && line.trim_end().ends_with("\";"))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert!(names.len() >= 20, "{names:?}");
    for name in names {
        assert!(listed.contains(&format!("`{name}`")), "{name} is not explained");
    }
}

/// The words of a message, without what is filled in.
fn words(message: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut depth = 0;
    for c in message.chars() {
        match c {
            '{' => {
                depth += 1;
                words.push(String::new());
            }
            '}' => depth -= 1,
            ':' if depth == 0 => break,
            c if depth == 0 => words.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    words.into_iter().map(|part| part.trim().to_owned()).filter(|part| part.len() > 3).collect()
}

#[test]
fn every_error_of_the_library_is_explained() {
    let page = read("docs/troubleshooting.md");
    let page: String = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut seen = 0;
    for file in ["lib/netmap/src/error.rs", "lib/nm-capture/src/error.rs"] {
        let source = read(file);
        for message in source.split("#[error(").skip(1) {
            let Some(message) = message.trim_start().strip_prefix('"') else { continue };
            let message = message.split('"').next().unwrap_or_default().replace("\\\n", "");
            seen += 1;
            for part in words(&message.split_whitespace().collect::<Vec<_>>().join(" ")) {
                assert!(page.contains(&part), "{file}: {part:?} of {message:?} is not on the page");
            }
        }
    }
    assert!(seen >= 12, "only {seen} messages were looked at");
}
