//! The tables of `docs/benchmarks.md`, made from what the benches wrote: `docs/benchmarks/vale.jsonl` is
//! what `scripts/bench vale --json` printed, so are `xdp.jsonl` and `host.jsonl`, and `guest.jsonl` is what
//! `scripts/bench guest --json` wrote; `livelock.jsonl` is from `scripts/nested --curves` and `scripts/livelock --curves`. In the page
//! a table stands between two comments:
//!
//! ```text
//! <!-- bench vale small large -->      the cases of one table; `machine` is the block about the machine
//! <!-- end -->
//! ```
//!
//! Invariant: what is between such comments is a function of the JSON alone, and the rest of the page is
//! left as it is. Tables whose run is not there stay, so that one bench can be run without the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nm_cli::digits::{digits, rare};
use nm_cli::table::{Align, Table};
use serde_json::Value;

const BEGIN: &str = "<!-- bench ";
const END: &str = "<!-- end -->";

/// How a value becomes a cell.
#[derive(Clone, Copy)]
enum Cell {
    /// As it is: words and whole numbers.
    Plain,
    /// Three digits, of so many in one.
    Scaled(f64),
    /// Events per packet.
    Rare,
    /// `yes` or `NO`.
    Met,
    /// The heading, where it is true.
    Flag,
}
use Cell::{Flag, Met, Plain, Rare, Scaled};

const AS_IS: Cell = Scaled(1.0);
const MEGA: Cell = Scaled(1e-6);
const MICRO: Cell = Scaled(1e-3);
const PERCENT: Cell = Scaled(100.0);

/// Heading, key and form of all columns there are, in their order; a table has those of which it has values.
const COLUMNS: [(&str, &str, Cell); 74] = [
    ("", "what", Plain),
    ("step", "step", Plain),
    ("machine", "machine", Plain),
    ("policy", "policy", Plain),
    ("receiver", "receiver", Plain),
    ("backend", "backend", Plain),
    ("driver", "driver", Plain),
    ("must be reached", "target", Plain),
    ("delay ns", "delay_ns", Plain),
    ("guest", "guest", Plain),
    ("load", "load_ratio", AS_IS),
    ("offered/s", "offered_per_s", Plain),
    ("taken/s", "taken_per_s", Plain),
    ("read/s", "read_per_s", Plain),
    ("irqs/s", "interrupts_per_s", Plain),
    ("vCPU %", "vcpu_ratio", PERCENT),
    ("offered", "offered_pps", MEGA),
    ("Mpps", "mpps", AS_IS),
    ("TCP Gbit/s", "tcp_gbps", AS_IS),
    ("of veth", "tcp_of_veth", AS_IS),
    ("UDP 64 B Mpps", "udp_mpps", AS_IS),
    ("of veth", "udp_of_veth", AS_IS),
    ("of bridge", "udp_of_bridge", AS_IS),
    ("ping p50 us", "ping_p50_us", AS_IS),
    ("copies Mpps", "copies_mpps", AS_IS),
    ("Gbit/s", "gbps", AS_IS),
    ("reference Mpps", "reference_mpps", AS_IS),
    ("memif Mpps", "memif_mpps", AS_IS),
    ("memif Gbit/s", "memif_gbps", AS_IS),
    ("ratio", "ratio", AS_IS),
    ("to one", "ratio_to_one", AS_IS),
    ("to one, per copy", "ratio_to_one_per_copy", AS_IS),
    ("to one that sleeps", "ratio_to_one_that_sleeps", AS_IS),
    ("to the best", "ratio_to_best", AS_IS),
    ("cost", "cost_ratio", AS_IS),
    ("p50 us", "p50_us", AS_IS),
    ("p99 us", "p99_us", AS_IS),
    ("open ms", "open_ms", AS_IS),
    ("second handle ms", "open_second_handle_ms", AS_IS),
    ("close ms", "close_ms", AS_IS),
    ("MiB", "memory_mib", AS_IS),
    ("Mpps", "rx_pps", MEGA),
    ("runs", "runs", Plain),
    ("factor", "factor_to_plain", AS_IS),
    ("to plain", "ratio_to_qemu_plain", AS_IS),
    ("to comb.", "ratio_to_qemu_combine", AS_IS),
    ("min", "rx_pps_min", MEGA),
    ("max", "rx_pps_max", MEGA),
    ("loss %", "loss_ratio", PERCENT),
    ("bad", "bad_packets", Plain),
    ("CPU ns/p", "cpu_ns_per_packet", AS_IS),
    ("vCPU", "vcpu_ns_per_packet", AS_IS),
    ("I/O", "io_ns_per_packet", AS_IS),
    ("exits/p", "exits_per_packet", Rare),
    ("kicks/p", "kicks_per_packet", Rare),
    ("wakes/p", "wakeups_per_packet", Rare),
    ("irqs/p", "interrupts_per_packet", Rare),
    ("all/p", "notifications_per_packet", Rare),
    ("p50 us", "rtt_p50_ns", MICRO),
    ("p99 us", "rtt_p99_ns", MICRO),
    ("to plain", "ratio_to_plain", AS_IS),
    ("pings", "pings", Plain),
    ("lost", "lost_pings", Plain),
    ("CPU %", "cpu_ratio", PERCENT),
    ("exits/s", "exits_per_second", AS_IS),
    ("wakes/s", "wakeups_per_second", AS_IS),
    ("boot ms", "boot_ms", AS_IS),
    ("min", "boot_ms_min", AS_IS),
    ("max", "boot_ms_max", AS_IS),
    ("measured", "measured", Rare),
    ("required", "required", AS_IS),
    ("below", "below", Flag),
    ("met", "met", Met),
    ("noisy", "noisy", Flag),
];

/// What the rows of a table have in common, and stands above it.
const TITLES: [(&str, &str); 11] = [
    ("consumer", "delay per packet in the {}"),
    ("cores", "cores {}"),
    ("capacity_pps", "capacity {} packets/s"),
    ("capacity_per_s", "capacity {} a second"),
    ("topology", "{}"),
    ("backend", "over {}"),
    ("case", "{}"),
    ("size_bytes", "{} B without CRC"),
    ("ring", "{} descriptors"),
    ("delay_ns", "{} ns of work a packet"),
    ("hugepages", "huge pages: {}"),
];

/// Words for values, as the bench says them on a terminal.
const WORDS: [(&str, &str, &str); 16] = [
    ("topology", "null", "guest to null:"),
    ("topology", "receive", "nm-pktgen to guest"),
    ("topology", "pair", "guest to guest"),
    ("topology", "forward", "guest through guest to guest"),
    ("step", "plain", "plain e1000"),
    ("step", "moderation", "+ moderation"),
    ("step", "combining", "+ combining"),
    ("step", "both", "+ both"),
    ("step", "csb", "CSB"),
    ("step", "csb-more", "CSB + more"),
    ("step", "csb-more-indirect", "CSB + more + indirect"),
    ("machine", "qemu-plain", "QEMU's e1000, plain"),
    ("machine", "qemu-combine", "QEMU's e1000, combining"),
    ("machine", "plain", "e1000pv-vmm, plain"),
    ("machine", "both", "e1000pv-vmm, + both"),
    ("machine", "top", "e1000pv-vmm, ladder top"),
];

/// Rewrites the page below that directory, the repository's; returns its path.
///
/// # Errors
/// A file cannot be read or written, or what is in it is not what it should be.
pub fn write(repository: &Path) -> anyhow::Result<PathBuf> {
    let path = repository.join("docs/benchmarks.md");
    let page = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let page = render(&page, |run| recorded(repository, run))?;
    fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// What is recorded of a run; nothing if there is no such file.
///
/// # Errors
/// There is a file that cannot be read.
pub fn recorded(repository: &Path, run: &str) -> anyhow::Result<Option<String>> {
    let path = repository.join(format!("docs/benchmarks/{run}.jsonl"));
    if !path.exists() {
        return Ok(None);
    }
    fs::read_to_string(&path).map(Some).with_context(|| format!("reading {}", path.display()))
}

/// The page with its tables made anew. `recorded` returns the lines of a run.
///
/// # Errors
/// A table that has no end; lines that are no JSON.
pub fn render(
    page: &str,
    recorded: impl Fn(&str) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<String> {
    let mut made = String::new();
    let mut rest = page;
    while let Some(at) = rest.find(BEGIN) {
        let (before, from) = rest.split_at(at);
        let (head, _) = from.split_once('\n').unwrap_or((from, ""));
        let to = from.find(END).with_context(|| format!("{head} has no {END}"))?;
        let words = head.trim_start_matches(BEGIN).trim_end_matches("-->").trim();
        let mut words = words.split(' ');
        let run = words.next().with_context(|| format!("{head} names no run"))?;
        made += before;
        match recorded(run)? {
            Some(lines) => {
                let lines = lines.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>();
                let lines = lines.with_context(|| format!("{run}.jsonl"))?;
                let block = block(&lines, &words.collect::<Vec<_>>()).context(head.to_owned())?;
                made += &format!("{head}\n```\n{block}```\n");
            }
            None => made += &from[..to],
        }
        made += END;
        rest = &from[to + END.len()..];
    }
    Ok(made + rest)
}

/// The runs that a page's tables are of.
#[must_use]
pub fn runs(page: &str) -> BTreeSet<&str> {
    page.split(BEGIN).skip(1).filter_map(|from| from.split(' ').next()).collect()
}

fn block(lines: &[Value], cases: &[&str]) -> anyhow::Result<String> {
    if cases == ["machine"] {
        let machine = lines.iter().find(|line| line["type"] == "machine");
        return Ok(machine_block(machine.context("there is no line of type machine")?));
    }
    let mut blocks = Vec::new();
    let (mut rows, mut absent) = (Vec::<&Value>::new(), Vec::new());
    for case in cases {
        let of = |line: &&Value| match line["type"].as_str() {
            Some("row") => line["case"] == *case,
            kind => kind == Some(case),
        };
        let before = rows.len();
        rows.extend(lines.iter().filter(of));
        if rows.len() == before {
            absent.push(format!("{case}: not part of this run\n"));
        }
    }
    // A table for each run of rows with the same title and the same figures.
    let keys = |row: &Value| row.as_object().map(|row| row.keys().cloned().collect::<Vec<_>>());
    for rows in rows.chunk_by(|a, b| title(a) == title(b) && keys(a) == keys(b)) {
        blocks.push(format!("{}{}", title(rows[0]), table(rows)));
    }
    blocks.extend(absent);
    Ok(blocks.join("\n"))
}

fn machine_block(machine: &Value) -> String {
    let text = |key: &str| cell(machine, key, Plain).unwrap_or_else(|| "?".into());
    let caches = machine["caches"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let caches = caches.collect::<Vec<_>>().join(", ");
    let lines = [
        ("processor", format!("{}, {} CPU(s)", text("cpu"), text("cpus"))),
        ("caches", caches),
        ("kernel", text("kernel")),
        ("compiler", text("rust")),
        ("revision", text("revision")),
        ("date", text("date")),
        ("load", text("load")),
    ];
    lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

/// What is above a table: what its rows have in common. Of some cases a key is no title but a column.
fn title(row: &Value) -> String {
    let case = row["case"].as_str().unwrap_or_default();
    let parts = TITLES.iter().filter(|(key, _)| titles(case, key)).filter_map(|(key, words)| {
        let value = cell(row, key, if *key == "capacity_pps" { AS_IS } else { Plain })?;
        Some(words.replace("{}", &value))
    });
    let title = parts.collect::<Vec<_>>().join(", ");
    if title.is_empty() { title } else { title + "\n" }
}

fn titles(case: &str, key: &str) -> bool {
    match key {
        "case" => matches!(case, "latency" | "idle" | "boot" | "livelock"),
        "backend" => case == "ladder",
        "delay_ns" => case == "livelock",
        _ => true,
    }
}

fn table(rows: &[&Value]) -> String {
    let case = rows[0]["case"].as_str().unwrap_or_default();
    let titled = |key: &str| TITLES.iter().any(|(name, _)| *name == key) && titles(case, key);
    let shown: Vec<_> = COLUMNS
        .iter()
        .filter(|(_, key, form)| {
            !titled(key)
                && rows.iter().any(|row| cell(row, key, *form).is_some_and(|c| !c.is_empty()))
        })
        .collect();
    let words = |(_, key, _): &(&str, &str, Cell)| rows.iter().any(|row| row[*key].is_string());
    let align = |column| if words(column) { Align::Left } else { Align::Right };
    let heads: Vec<_> = shown.iter().map(|&column| (column.0, align(column))).collect();
    let (skipped, rows): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["skipped"].is_string());
    let mut text = String::new();
    if !rows.is_empty() {
        let mut table = Table::new(&heads);
        for row in rows {
            table.row(shown.iter().map(|(_, key, form)| cell(row, key, *form).unwrap_or_default()));
        }
        text = table.to_string();
    }
    for row in skipped {
        let [what, why] = ["what", "skipped"].map(|key| row[key].as_str().unwrap_or_default());
        text += &format!("{what}: {why}\n");
    }
    text
}

/// `None`: the row has no such thing. Null is what was not measured.
fn cell(row: &Value, key: &str, form: Cell) -> Option<String> {
    let value = row.get(key)?;
    let number = value.as_f64().unwrap_or(f64::NAN);
    Some(match form {
        Plain => match value {
            Value::Null => return None,
            Value::String(text) => {
                let known = WORDS.iter().find(|(of, value, _)| *of == key && value == text);
                known.map_or(text.clone(), |(.., words)| (*words).to_owned())
            }
            value => value.to_string(),
        },
        Scaled(by) => digits(number * by),
        Rare => rare(number),
        Met => if value == true { "yes" } else { "NO" }.into(),
        Flag => if value == true { key } else { "" }.into(),
    })
}
