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

/// Slots and burst of each figure: of bursts a short one, half the ring at most, and the default, which fills
/// a small ring, so that the two sides work in turns.
fn settings() -> Vec<(usize, usize)> {
    let mut settings = Vec::new();
    for slots in [128, 256, 512, 1024, 2048, 4096] {
        let mut bursts = vec![SHORT_BURST, (slots / 2).min(DEFAULT_BURST), DEFAULT_BURST];
        bursts.dedup();
        settings.extend(bursts.into_iter().map(|burst| (slots, burst)));
    }
    settings
}

/// Measures all in turns.
pub fn run(plan: &Plan, rows: &Rows) -> Result<()> {
    let settings = settings();
    let results = in_turns(plan, settings.len(), LEN, |k, plan| {
        let (slots, burst) = settings[k];
        let args = [("len", LEN), ("slots", slots), ("burst", burst)]
            .map(|(flag, n)| (flag, n.to_string()));
        rate(plan.ms, &args)
    })?;
    let best = results.iter().map(|(_, cost)| *cost).fold(f64::INFINITY, f64::min);
    for ((slots, burst), (pps, cost)) in settings.into_iter().zip(results) {
        rows.add(json!({"what": format!("1514 B, {slots} slots, bursts of {burst}"),
            "slots": slots, "burst": burst, "mpps": pps / 1e6,
            "gbps": pps * LEN as f64 * 8.0 / 1e9, "ratio_to_best": best / cost}))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ring_has_a_burst_of_half_its_slots_and_the_default() {
        let settings = settings();
        assert_eq!(&settings[..2], [(128, 64), (128, 512)]);
        assert!(settings.contains(&(256, 128)) && settings.contains(&(4096, 512)));
        assert!(
            settings.iter().all(|&(slots, burst)| burst <= slots / 2 || burst == DEFAULT_BURST)
        );
    }
}
