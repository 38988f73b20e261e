//! Packets of 1514 bytes through rings of all sizes, with several bursts: whether a ring whose buffers do
//! not fit a core's own cache moves less than the best size does.

use anyhow::Result;
use serde_json::json;

use crate::actors::rate;
use crate::plan::{Plan, in_turns};
use crate::rows::Rows;

const LEN: usize = 1514;
/// pkt-gen's burst, and nm-pktgen's.
const DEFAULT_BURST: usize = 512;
const SHORT_BURST: usize = 64;

/// What one figure is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting {
    slots: usize,
    burst: usize,
    /// One packet in the sender's memory, as nm-pktgen sends, in place of one in each slot's buffer.
    reference: bool,
}

/// Of bursts a short one, half the ring at most, and the default, which fills a small ring, so that the two
/// sides work in turns; by reference half the ring at most.
fn settings() -> Vec<Setting> {
    let sizes = [128, 256, 512, 1024, 2048, 4096];
    let half = |slots: usize| (slots / 2).min(DEFAULT_BURST);
    let copied = sizes.into_iter().flat_map(|slots| {
        let mut bursts = vec![SHORT_BURST, half(slots), DEFAULT_BURST];
        bursts.dedup();
        bursts.into_iter().map(move |burst| Setting { slots, burst, reference: false })
    });
    let referred =
        sizes.map(|slots| Setting { slots, burst: half(slots), reference: true }).into_iter();
    copied.chain(referred).collect()
}

/// Measures all in turns.
pub fn run(plan: &Plan, rows: &Rows) -> Result<()> {
    let settings = settings();
    let results = in_turns(plan, settings.len(), LEN, |k, plan| {
        let Setting { slots, burst, reference } = settings[k];
        let args = [
            ("len", LEN.to_string()),
            ("slots", slots.to_string()),
            ("burst", burst.to_string()),
            ("reference", reference.to_string()),
        ];
        rate(plan.ms, &args)
    })?;
    let best = |reference: bool| {
        let same = settings.iter().zip(&results).filter(|(s, _)| s.reference == reference);
        same.map(|(_, (_, cost))| *cost).fold(f64::INFINITY, f64::min)
    };
    for (&Setting { slots, burst, reference }, (pps, cost)) in settings.iter().zip(&results) {
        let how = if reference { ", by reference" } else { "" };
        rows.add(json!({"what": format!("1514 B{how}, {slots} slots, bursts of {burst}"),
            "slots": slots, "burst": burst, "mpps": pps / 1e6,
            "gbps": pps * LEN as f64 * 8.0 / 1e9, "ratio_to_best": best(reference) / cost}))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ring_has_a_burst_of_half_its_slots_and_the_default() {
        let settings = settings();
        let has = |slots, burst, reference| settings.contains(&Setting { slots, burst, reference });
        assert!(has(128, 64, false) && has(128, 512, false) && has(256, 128, false));
        assert!([128, 1024, 4096].into_iter().all(|slots| has(slots, DEFAULT_BURST, false)));
        assert!(has(128, 64, true) && has(4096, 512, true));
        assert!(settings.iter().all(|s| s.burst <= s.slots / 2 || s.burst == DEFAULT_BURST));
    }
}
