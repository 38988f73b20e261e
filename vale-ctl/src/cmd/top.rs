//! `top`: what every port does now, as rates over the last interval.
//!
//! Invariant: a table is drawn over the one before only on a terminal; into a file or pipe it is
//! one line per port and interval under one header. Directions are the port owner's: tx is what it
//! sends into the switch. Rates are L2 (frames without CRC), as the counters are.

use std::collections::HashMap;
use std::time::Instant;

use netmap::Counters;
use nm_cli::units::Units;
use serde_json::{Map, Value, json};
use terminal_size::{Height, Width, terminal_size};

use crate::cli::{Target, Top};
use crate::full;
use crate::json::SCHEMA;
use crate::notify::Notify;
use crate::output::Out;
use crate::select::{self, Picked};
use nm_cli::table::{Align, Table};

/// One switch or port over one interval.
#[derive(Debug)]
struct Row {
    name: String,
    delta: Counters,
    /// Its receiver does not keep up.
    full: Option<&'static str>,
}

/// Counters by name, with the time they were read.
#[derive(Debug)]
struct Sample {
    at: Instant,
    counters: Vec<(String, Counters)>,
    /// Ports whose receive rings were full then, with what that does.
    full: HashMap<String, &'static str>,
}

/// Runs the command.
pub fn run(out: &mut Out, args: &Top) -> anyhow::Result<()> {
    let mut before = sample(&select::named(&args.names)?);
    let mut notify = Notify::new()?;
    notify.wake_on(&[signal_hook::consts::SIGWINCH])?;
    if out.json {
        out.json_line(&json!({
            "schema": SCHEMA,
            "type": "start",
            "interval_seconds": args.interval.as_secs_f64(),
        }))?;
        out.flush()?;
    }
    let begin = before.at;
    let mut intervals = 0;
    while (args.count == 0 || intervals < args.count) && !notify.signals().stopped() {
        // From the last table, not from the start: after a stop (Ctrl-Z) no tables are made up.
        wait(&notify, before.at + args.interval);
        if notify.signals().stopped() {
            break;
        }
        let after = sample(&select::present(&args.names)?);
        let rows = rows(&before, &after);
        let seconds = (after.at - before.at).as_secs_f64();
        show(out, &rows, seconds, intervals == 0)?;
        before = after;
        intervals += 1;
    }
    if out.json {
        out.json_line(&json!({
            "schema": SCHEMA,
            "type": "end",
            "intervals": intervals,
            "seconds": begin.elapsed().as_secs_f64(),
        }))?;
    }
    Ok(out.flush()?)
}

/// Until the interval is over, a signal asks to stop, or SIGUSR1 asks for a table now. A changed
/// window size takes effect with the next table.
fn wait(notify: &Notify, deadline: Instant) {
    while Instant::now() < deadline && !notify.signals().stopped() {
        if notify.signals().take_report() {
            return;
        }
        notify.wait_until(deadline);
    }
}

fn sample(picked: &[Picked]) -> Sample {
    let (mut counters, mut full) = (Vec::new(), HashMap::new());
    for switch in picked {
        let name = &switch.info.name;
        if switch.whole {
            counters.push((Target { switch: name.clone(), port: None }, switch.info.counters));
        }
        for port in &switch.info.ports {
            let target = Target { switch: name.clone(), port: Some(port.name.clone()) };
            full.extend(full::note(&switch.info, port).map(|note| (target.to_string(), note)));
            counters.push((target, port.counters));
        }
    }
    let counters = counters.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    Sample { at: Instant::now(), counters, full }
}

/// What was counted between two samples. A port that was not there before has counted everything
/// since; so has one that was made anew under the same name, which its smaller numbers tell.
fn rows(before: &Sample, after: &Sample) -> Vec<Row> {
    let old: HashMap<&str, &Counters> =
        before.counters.iter().map(|(name, counters)| (name.as_str(), counters)).collect();
    let row = |(name, now): &(String, Counters)| {
        let same =
            |old: &&Counters| now.tx_packets >= old.tx_packets && now.rx_packets >= old.rx_packets;
        let base = old.get(name.as_str()).copied().filter(same).copied().unwrap_or_default();
        Row { name: name.clone(), delta: now.since(&base), full: after.full.get(name).copied() }
    };
    let mut rows: Vec<Row> = after.counters.iter().map(row).collect();
    // A switch's counters are the sums over its present ports, so they shrink when a port leaves. What the
    // switch did in the interval is therefore computed from its ports.
    for i in 0..rows.len() {
        if !rows[i].name.contains(':') {
            let ports = format!("{}:", rows[i].name);
            let of_it = rows.iter().filter(|r| r.name.starts_with(&ports));
            rows[i].delta = of_it.map(|r| r.delta).sum();
        }
    }
    rows
}

fn show(out: &mut Out, rows: &[Row], seconds: f64, first: bool) -> anyhow::Result<()> {
    if out.json {
        let entities: Map<String, Value> =
            rows.iter().map(|row| (row.name.clone(), object(&row.delta, seconds))).collect();
        out.json_line(&json!({
            "schema": SCHEMA,
            "type": "interval",
            "seconds": seconds,
            "rates": entities,
        }))?;
    } else if out.terminal {
        let mut text =
            format!("vale-ctl top: {} in {seconds:.2} s\n{}", count(rows), table(rows, seconds));
        stuck(rows).for_each(|line| text.push_str(&format!("{line}\n")));
        out.raw(&screen(&text, first))?;
    } else {
        let text = table(rows, seconds).to_string();
        let lines = text.lines().skip(usize::from(!first));
        for line in lines {
            out.line(line)?;
        }
        // Beside the table: its lines are read by programs too.
        stuck(rows).for_each(|line| nm_cli::say!("{line}"));
    }
    Ok(out.flush()?)
}

/// One line for each port that does not keep up.
fn stuck(rows: &[Row]) -> impl Iterator<Item = String> {
    rows.iter().filter_map(|row| row.full.map(|note| format!("{} is {note}", row.name)))
}

fn count(rows: &[Row]) -> String {
    match rows.iter().filter(|row| row.name.contains(':')).count() {
        1 => "1 port".to_owned(),
        ports => format!("{ports} ports"),
    }
}

/// Narrow enough for 80 columns. The header's widths hold for every usual value, so that the lines
/// of different intervals align.
fn table(rows: &[Row], seconds: f64) -> Table {
    let mut table = Table::new(&[
        ("NAME      ", Align::Left),
        (" TX pps", Align::Right),
        (" TX bps", Align::Right),
        (" batch", Align::Right),
        (" drop/s", Align::Right),
        (" RX pps", Align::Right),
        (" RX bps", Align::Right),
        (" batch", Align::Right),
        (" drop/s", Align::Right),
    ]);
    for Row { name, delta, .. } in rows {
        let rate = |count: u64| short(count as f64 / seconds);
        table.row([
            name.clone(),
            rate(delta.tx_packets),
            rate(delta.tx_bytes.saturating_mul(8)),
            format!("{:.1}", batch(delta.tx_packets, delta.tx_batches)),
            rate(delta.tx_drops()),
            rate(delta.rx_packets),
            rate(delta.rx_bytes.saturating_mul(8)),
            format!("{:.1}", batch(delta.rx_packets, delta.rx_batches)),
            rate(received_and_lost(delta)),
        ]);
    }
    table
}

/// What a port's ring had no room for, and what was dropped behind it by what a bridge joins it to.
fn received_and_lost(delta: &Counters) -> u64 {
    delta.rx_drops().saturating_add(delta.far_drops())
}

/// `12.35M`; the header names the unit.
fn short(rate: f64) -> String {
    Units::default().count(rate.round() as u64).replace(' ', "")
}

fn object(delta: &Counters, seconds: f64) -> Value {
    let rate = |count: u64| count as f64 / seconds;
    json!({
        "tx_pps": rate(delta.tx_packets),
        "tx_bps_l2": rate(delta.tx_bytes) * 8.0,
        "tx_avg_batch": batch(delta.tx_packets, delta.tx_batches),
        "tx_drops_per_second": rate(delta.tx_drops()),
        "rx_pps": rate(delta.rx_packets),
        "rx_bps_l2": rate(delta.rx_bytes) * 8.0,
        "rx_avg_batch": batch(delta.rx_packets, delta.rx_batches),
        "rx_drops_per_second": rate(received_and_lost(delta)),
    })
}

fn batch(packets: u64, batches: u64) -> f64 {
    if batches == 0 { 0.0 } else { packets as f64 / batches as f64 }
}

/// Draws over the previous table: home, each line cleared to its end, the rest of the screen
/// cleared; cut to the window, because a wrapped or scrolled line would spoil the next drawing.
fn screen(text: &str, first: bool) -> String {
    let size = terminal_size().unwrap_or((Width(80), Height(24)));
    let (width, height) = (usize::from(size.0.0), usize::from(size.1.0).max(3));
    let mut drawn = String::from(if first { "\x1b[2J\x1b[H" } else { "\x1b[H" });
    let lines: Vec<&str> = text.lines().collect();
    let fits = if lines.len() < height { lines.len() } else { height - 2 };
    for line in &lines[..fits] {
        drawn.extend(line.chars().take(width));
        drawn.push_str("\x1b[K\n");
    }
    if fits < lines.len() {
        drawn.push_str(&format!("... {} more\x1b[K\n", lines.len() - fits));
    }
    drawn.push_str("\x1b[J");
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(tx_packets: u64, tx_batches: u64) -> Counters {
        Counters { tx_packets, tx_batches, tx_bytes: tx_packets * 60, ..Counters::default() }
    }

    fn sample_of(rows: &[(&str, Counters)]) -> Sample {
        let counters = rows.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Sample { at: Instant::now(), counters, full: HashMap::new() }
    }

    #[test]
    fn rows_known_new_and_remade_ports() {
        let before = sample_of(&[("valeA:x", counters(100, 10)), ("valeA:old", counters(500, 5))]);
        let after = sample_of(&[
            ("valeA:x", counters(300, 20)),
            ("valeA:old", counters(40, 4)),
            ("valeA:new", counters(7, 7)),
        ]);
        let sent: Vec<u64> = rows(&before, &after).iter().map(|row| row.delta.tx_packets).collect();
        assert_eq!(sent, [200, 40, 7]);
    }

    #[test]
    fn object_scales_by_the_interval() {
        let value = object(&counters(1000, 10), 2.0);
        assert_eq!(value["tx_pps"], 500.0);
        assert_eq!(value["tx_bps_l2"], 240_000.0);
        assert_eq!(value["tx_avg_batch"], 100.0);
        assert_eq!(value["rx_avg_batch"], 0.0);
    }

    #[test]
    fn what_is_lost_behind_a_port_is_among_what_it_received() {
        let delta = Counters { rx_drop_full: 1, far_drop_long: 2, ..Counters::default() };
        assert_eq!(object(&delta, 1.0)["rx_drops_per_second"], 3.0);
    }

    #[test]
    fn table_of_large_rates_fits_80_columns() {
        let delta = Counters {
            tx_packets: 99_999_000,
            tx_bytes: 124_000_000_000,
            tx_batches: 97_655,
            tx_drop_full: 99_999_000,
            ..Counters::default()
        };
        let text =
            table(&[Row { name: "valeA:port".to_owned(), delta, full: None }], 1.0).to_string();
        assert!(text.contains("100.00M") && text.contains("992.00G"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn screen_is_cut_to_the_window_height() {
        let text = "line\n".repeat(1000);
        let drawn = screen(&text, false);
        assert!(drawn.lines().count() < 200, "a table of 1000 lines was drawn whole");
        assert!(drawn.contains(" more\x1b[K"));
    }
}
