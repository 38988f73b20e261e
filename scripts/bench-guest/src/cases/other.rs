//! Guest to guest at the top, by this build's monitor and by another build's, in turns.
//!
//! Of the other build nothing is known but its options, so neither's counters are looked at: the figures are what the guests
//! report, who bring their own drivers.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::Plan;
use crate::lab::Lab;
use crate::output::{Output, Table, digits, mega};
use crate::scene::Scene;
use crate::summary::{Run, Summary, median};

/// Descriptors: what fits the second-level caches of two cores, and what does not.
const RINGS: [u32; 2] = [1024, 4096];
/// Frame without CRC.
const SIZE: usize = 60;

/// Runs the case; `other` is a monitor.
pub fn run(plan: &Plan, other: &Path, lab: &mut Lab, out: &Output) -> Result<()> {
    let other = other.canonicalize().with_context(|| format!("{}", other.display()))?;
    let table = Table::new(
        "guest to guest over VALE, 64 B, top, this build and another in turns; ratios are medians over neighbours",
        &[
            ("descriptors", 11),
            ("this", 7),
            ("other", 7),
            ("ratio", 7),
            ("min", 7),
            ("max", 7),
            ("", -5),
        ],
    );
    for ring in RINGS {
        let scene = Scene::pair(SIZE, ring, plan.duration);
        let mut runs: [Vec<Run>; 2] = Default::default();
        for i in 0..plan.runs {
            for (monitor, runs) in [None, Some(&*other)].into_iter().zip(&mut runs) {
                out.doing(&format!("in turns: {} of {}, {ring}", i + 1, plan.runs));
                runs.push(scene.run_unwatched(lab, monitor)?);
            }
        }
        out.done();
        let [own, theirs] = &runs;
        let ratios: Vec<f64> =
            own.iter().zip(theirs).map(|(own, other)| own.pps / other.pps).collect();
        let range = ratios
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(low, high), &r| (low.min(r), high.max(r)));
        let (ratio, rows) = (median(ratios), [Summary::of(own), Summary::of(theirs)]);
        let noisy = rows.iter().any(|row| row.noisy);
        table.row(&[
            ring.to_string(),
            mega(rows[0].pps),
            mega(rows[1].pps),
            digits(ratio),
            digits(range.0),
            digits(range.1),
            if noisy { "noisy".into() } else { String::new() },
        ]);
        let fields = json!({
            "case": "other", "machine": "e1000pv", "backend": "vale", "size_bytes": SIZE, "ring": ring,
            "runs": rows[0].runs, "rx_pps": rows[0].pps, "rx_pps_min": rows[0].range_pps.0,
            "rx_pps_max": rows[0].range_pps.1, "other_pps": rows[1].pps, "ratio_to_other": ratio, "noisy": noisy,
        });
        out.record("row", &fields)?;
    }
    Ok(())
}
