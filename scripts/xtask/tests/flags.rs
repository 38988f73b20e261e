//! A type of flags for words that a guest, a peer or a program writes keeps the bits that it has no name for. Those of
//! `bitflags` drop them in complements and truncations unless they say `const _ = !0`: so each type says it, or
//! is listed here as one whose words are made in this code alone.

#![forbid(unsafe_code)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Sets of this code's own: no word from outside becomes one.
const OWN: [&str; 4] = ["Await", "Capabilities", "Interest", "NameFlags"];

/// The types of flags in a text, and whether they keep bits without a name.
fn types(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or(line).trim();
        let begins = code.starts_with("bitflags! {") || code.starts_with("bitflags::bitflags! {");
        inside = (inside || begins) && line != "}";
        if !inside {
            continue;
        }
        if let Some((_, rest)) = code.split_once("struct ") {
            found.push((rest.split(':').next().unwrap_or(rest).to_owned(), false));
        } else if code == "const _ = !0;" {
            found.last_mut().expect("a type in front of its bits").1 = true;
        }
    }
    found
}

fn all(below: &Path, found: &mut Vec<(String, bool)>) {
    for entry in fs::read_dir(below).expect("a directory").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            all(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "flags.rs"
        {
            found.extend(types(&fs::read_to_string(&path).expect("text")));
        }
    }
}

#[test]
fn flags_of_words_from_outside_keep_bits_without_a_name() {
    let mut found = Vec::new();
    all(&support::repository(), &mut found);
    assert!(found.len() >= 16, "{found:?}");
    let dropping: BTreeSet<&str> =
        found.iter().filter(|(_, keeps)| !keeps).map(|(name, _)| name.as_str()).collect();
    assert_eq!(dropping, BTreeSet::from(OWN), "these have no `const _ = !0`");
}

#[test]
fn types_are_found_with_what_they_say() {
    let text = "bitflags! {\n    pub struct A: u8 {\n        const X = 1; // const _ = !0;\n    }\n    \
                pub struct B: u8 {\n        const _ = !0;\n    }\n}\nstruct C { d: u8 }\n";
    assert_eq!(types(text), [("A".to_owned(), false), ("B".to_owned(), true)]);
}
