//! Manual pages: one for each tool and each of its subcommands; `vale(7)` and `nm-run(8)` are written by hand.
//!
//! A tool's long help is the source of all sections. What stands there behind a heading (`Examples:`,
//! `Exit status:`) becomes a section of that name. Its form is that of every `--help` here: lines are
//! indented by two; a word and its meaning, or an example and what it does, are two blanks apart.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

/// Manual section of administration tools.
pub const SECTION: &str = "8";

/// Written by hand: the page on switches and the names of ports, and that of a script.
const BY_HAND: [(&str, &str); 2] = [
    ("vale.7", include_str!("../../../docs/man/vale.7")),
    ("nm-run.8", include_str!("../../../docs/man/nm-run.8")),
];

/// In the footer.
const MANUAL: &str = "VALE in user space";

/// Environment variables that all tools use.
const ENVIRONMENT: &str =
    "  NETMAP_ROOT  directory that holds the switches, in place of /dev/shm/netmap-UID; see vale(7)
  NO_COLOR  if it is set, nothing moves on the terminal";

/// Files of every tool, and then of one tool.
const FILES: [(&str, &str); 5] = [
    (
        "",
        "  /dev/shm/netmap-UID  the switches of user UID, unless NETMAP_ROOT names another directory",
    ),
    ("nm-pktgen", "  /dev/net/tun  where taps come from, for tap: ports"),
    ("nm-bridge", "  /dev/net/tun  where taps come from, for tap: ports"),
    ("vale-ctl", "  /dev/net/tun  where taps come from, for attach"),
    (
        "e1000pv-vmm",
        "  /dev/kvm  what executes guests; without it threads do
  ROOT/vm/NAME  leads --stats to the counters of machine NAME",
    ),
];

/// Pages of others.
const OTHERS: [(&str, &[&str]); 4] = [
    ("nm-pktgen", &["tcpdump(8)"]),
    ("nm-bridge", &["ip(8)", "tcpdump(8)"]),
    ("vale-ctl", &["bridge(8)", "ip(8)"]),
    ("e1000pv-vmm", &["qemu-system-x86_64(1)"]),
];

/// Sections of the long help that have their place at a page's end, in this order.
const LAST: [&str; 5] = ["EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES", "EXAMPLES"];

/// Every command that has a page: the tools, and their subcommands under `TOOL-SUBCOMMAND`.
#[must_use]
pub fn pages() -> Vec<Command> {
    crate::tools().into_iter().flat_map(pages_of).collect()
}

/// A tool's command and all below it.
fn pages_of(tool: Command) -> Vec<Command> {
    fn collect(command: &Command, pages: &mut Vec<Command>) {
        pages.push(command.clone());
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            collect(sub, pages);
        }
    }
    let mut tool = tool.disable_help_subcommand(true);
    tool.build(); // propagates global flags and full names to the subcommands
    let mut pages = Vec::new();
    collect(&tool, &mut pages);
    pages
}

/// Name of a command's page: `vale-ctl-attach`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// File name of a command's page: `vale-ctl-attach.8`.
#[must_use]
pub fn page_name(command: &Command) -> String {
    format!("{}.{SECTION}", name(command))
}

/// Writes all manual pages into `dir`; returns the files.
pub fn write(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    crate::make_dir(dir)?;
    let mut texts: Vec<_> = BY_HAND.map(|(name, page)| (name.to_owned(), of_today(page))).into();
    for tool in crate::tools() {
        let pages = pages_of(tool);
        for command in &pages {
            texts.push((page_name(command), page(command, &pages)?));
        }
    }
    let mut files = Vec::new();
    for (name, text) in texts {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        files.push(file);
    }
    Ok(files)
}

fn of_today(page: &str) -> String {
    page.replace("@DATE@", crate::DATE).replace("@VERSION@", env!("CARGO_PKG_VERSION"))
}

/// The page of one command; `family` are its tool and all commands of that.
fn page(command: &Command, family: &[Command]) -> anyhow::Result<String> {
    let tool = &family[0];
    let man = Man::new(command.clone());
    let mut middle = Vec::new();
    man.render_description_section(&mut middle)?;
    man.render_options_section(&mut middle)?;

    let mut front = Roff::new();
    let version = format!("{} {}", tool.get_name(), env!("CARGO_PKG_VERSION"));
    front.control("TH", [&name(command).to_uppercase(), SECTION, crate::DATE, &version, MANUAL]);
    front.control("SH", ["NAME"]);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    front.text([roman(format!("{} - {}", name(command), about.trim_end_matches('.')))]);
    front.control("SH", ["SYNOPSIS"]);
    front.text(synopsis(command));

    let mut back = Roff::new();
    commands(&mut back, command);
    let mut sections = sections(command);
    for section in sections.iter().filter(|section| !LAST.contains(&section.title.as_str())) {
        section.write(&mut back);
    }
    let of_tool = self::sections(tool);
    for title in LAST {
        let own = sections.iter().position(|section| section.title == title);
        let section = match own.map(|at| sections.swap_remove(at)) {
            Some(section) => Some(section),
            // A subcommand's examples are its own; the rest is as with its tool.
            None if title == "EXAMPLES" => None,
            None => of_tool.iter().find(|section| section.title == title).cloned(),
        };
        let fallback = |body: String| Section { title: title.to_owned(), body };
        let section = match title {
            "ENVIRONMENT" => section.or_else(|| Some(fallback(ENVIRONMENT.to_owned()))),
            "FILES" => section.or_else(|| Some(fallback(files(tool.get_name())))),
            _ => section,
        };
        if let Some(section) = section {
            section.write(&mut back);
        }
    }
    see_also(&mut back, command, family);

    let middle = String::from_utf8(middle)?;
    Ok([front.render(), without_preamble(&middle), without_preamble(&back.render())].concat())
}

/// roff's definition of an apostrophe, which every part brings and one page needs once; and a gap that
/// is one paragraph, not two breaks, as formatters complain of.
fn without_preamble(part: &str) -> String {
    let preamble = Roff::new().render();
    part.replace(&preamble, "").replace("\n.br\n\n.br\n", "\n.IP\n")
}

/// As in `--help`: `nm-pktgen [OPTIONS] --port <PORT> [WHAT]`.
fn synopsis(command: &Command) -> Vec<clap_mangen::roff::Inline> {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    let program = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let rest = usage.strip_prefix(program).unwrap_or(usage);
    vec![bold(program), roman(rest.to_owned())]
}

fn commands(roff: &mut Roff, command: &Command) {
    if !command.has_subcommands() {
        return;
    }
    roff.control("SH", ["COMMANDS"]);
    roff.text([roman("Each has a page of its own.")]);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        roff.control("TP", []);
        roff.text([bold(name(sub)), roman(format!("({SECTION})"))]);
        roff.text([roman(sub.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
}

fn files(tool: &str) -> String {
    let lines = FILES.iter().filter(|(of, _)| of.is_empty() || *of == tool).map(|(_, line)| *line);
    lines.collect::<Vec<_>>().join("\n")
}

fn see_also(roff: &mut Roff, command: &Command, family: &[Command]) {
    let tool = &family[0];
    let relatives = family.iter().map(name).filter(|other| {
        *other != name(command) && (name(command) == tool.get_name() || *other == tool.get_name())
    });
    let mut pages: Vec<String> = relatives.map(|name| format!("{name}({SECTION})")).collect();
    if name(command) == tool.get_name() {
        let tools = crate::TOOLS.iter().filter(|other| **other != tool.get_name());
        pages.extend(tools.map(|other| format!("{other}({SECTION})")));
        let others = OTHERS.iter().find(|(of, _)| *of == tool.get_name());
        pages.extend(others.iter().flat_map(|(_, pages)| pages.iter().map(|p| (*p).to_owned())));
    }
    pages.push("vale(7)".to_owned());
    pages.sort();
    roff.control("SH", ["SEE ALSO"]);
    let mut inlines = Vec::new();
    for (n, page) in pages.iter().enumerate() {
        let (name, section) = page.split_at(page.find('(').expect("a section"));
        let comma = if n + 1 < pages.len() { ", " } else { "" };
        inlines.extend([bold(name), roman(format!("{section}{comma}"))]);
    }
    roff.text(inlines);
}

/// A part of the long help with its heading.
#[derive(Clone)]
struct Section {
    title: String,
    body: String,
}

/// What follows the options in `--help`, by headings: lines that begin with a few words and a colon.
fn sections(command: &Command) -> Vec<Section> {
    let text = command.get_after_long_help().or(command.get_after_help());
    let text = text.map(ToString::to_string).unwrap_or_default();
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines() {
        let heading = |title: &str| title.len() < 20 && title.starts_with(char::is_uppercase);
        match line.split_once(':').filter(|(title, _)| heading(title)) {
            Some((title, rest)) => {
                let body = rest.trim().to_owned();
                sections.push(Section { title: title.to_uppercase(), body });
            }
            None => {
                let section = sections.last_mut().expect("text begins with a heading");
                section.body += "\n";
                section.body += line;
            }
        }
    }
    sections
}

impl Section {
    fn write(&self, roff: &mut Roff) {
        roff.control("SH", [self.title.as_str()]);
        if self.title == "EXAMPLES" { self.write_examples(roff) } else { self.write_words(roff) }
    }

    /// As they are typed, each below what it does.
    fn write_examples(&self, roff: &mut Roff) {
        roff.control("EX", []);
        let lines = self.body.lines().map(str::trim).filter(|line| !line.is_empty());
        for (n, line) in lines.enumerate() {
            let (example, meaning) = line.split_once("  ").unwrap_or((line, ""));
            let gap = if n == 0 { "" } else { "\n" };
            let meaning = match meaning.trim() {
                "" => String::new(),
                meaning => format!("# {meaning}\n"),
            };
            for line in format!("{gap}{meaning}{}", folded(example)).lines() {
                roff.text([roman(line)]);
            }
        }
        roff.control("EE", []);
    }

    /// Words and their meanings, or just sentences.
    fn write_words(&self, roff: &mut Roff) {
        for line in self.body.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            let entry = line.strip_prefix("  ").filter(|line| !line.starts_with(' '));
            match entry.and_then(|line| line.split_once("  ")) {
                Some((word, meaning)) => {
                    roff.control("TP", []);
                    roff.text([italic(word)]);
                    roff.text([roman(meaning.trim())]);
                }
                None => {
                    roff.text([roman(line.trim())]);
                }
            }
        }
    }
}

/// Breaks an example that is too long for a terminal in front of a flag.
fn folded(example: &str) -> String {
    const WIDTH: usize = 68;
    let mut lines = vec![String::new()];
    for part in example.split_inclusive(' ').fold(Vec::<String>::new(), parts) {
        let line = lines.last_mut().expect("one is always there");
        if line.is_empty() || line.len() + part.trim_end().len() <= WIDTH {
            line.push_str(&part);
        } else {
            line.push('\\');
            lines.push(format!("    {part}"));
        }
    }
    lines.join("\n")
}

/// Keeps a flag's values, and what is in quotes, with the flag.
fn parts(mut parts: Vec<String>, word: &str) -> Vec<String> {
    match parts.last_mut() {
        Some(last) if !word.starts_with('-') || last.matches('\'').count() % 2 == 1 => {
            last.push_str(word);
        }
        _ => parts.push(word.to_owned()),
    }
    parts
}
