//! QEMU's e1000 over a stream socket to a VALE switch, beside the same two QEMUs joined by a stream socket alone, in turns.

use anyhow::Result;
use serde_json::json;

use crate::Plan;
use crate::lab::Lab;
use crate::output::{Output, Table, digits, mega};
use crate::qemu::{self, Link, Pair};
use crate::summary::{Run, Summary, median};
use crate::target;

/// Descriptors.
const RING: u32 = 4096;
/// Frame without CRC.
const SIZE: usize = 60;

/// Runs the case.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<()> {
    if let Some(why) = qemu::unable() {
        println!("\nskipped: QEMU over sockets ({why})");
        return Ok(());
    }
    let pair =
        |link| Pair { link, driver: "combine", ring: RING, size: SIZE, duration: plan.duration };
    let pairs = [pair(Link::Stream), pair(Link::Vale)];
    let mut runs: [Vec<Run>; 2] = Default::default();
    for i in 0..plan.runs {
        for (pair, runs) in pairs.iter().zip(&mut runs) {
            out.doing(&format!("in turns: {} of {}, {}", i + 1, plan.runs, pair.link));
            runs.push(pair.run(lab)?);
        }
    }
    out.done();
    let [direct, _] = &runs;
    let ratio = |own: &[Run]| {
        median(own.iter().zip(direct).map(|(own, direct)| own.pps / direct.pps).collect())
    };
    out.judged.add(target::SOCKETS_TO_STREAM, ratio(&runs[1]));
    let table = Table::new(
        "QEMU's e1000, combining, guest to guest, 64 B, in turns; ratios are medians over neighbours",
        &[("joined by", -14), ("Mpps", 7), ("to direct", 9), ("loss %", 6), ("", -5)],
    );
    for (pair, own) in pairs.iter().zip(&runs) {
        let row = Summary::of(own);
        table.row(&[
            pair.link.to_string(),
            mega(row.pps),
            digits(ratio(own)),
            digits(row.loss * 100.0),
            if row.noisy { "noisy".into() } else { String::new() },
        ]);
        let fields = json!({
            "case": "sockets", "machine": "qemu-combine", "backend": pair.link.to_string(),
            "size_bytes": SIZE, "ring": RING, "runs": row.runs, "rx_pps": row.pps,
            "rx_pps_min": row.range_pps.0, "rx_pps_max": row.range_pps.1, "loss_ratio": row.loss,
            "bad_packets": row.bad, "ratio_to_stream": ratio(own), "noisy": row.noisy,
        });
        out.record("row", &fields)?;
    }
    Ok(())
}
