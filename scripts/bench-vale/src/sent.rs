//! Packets of 1514 bytes, each written anew into its slot's buffer: the sender's buffers pass through its cache twice. Three
//! ways to keep to few of them: none, an exchange of the next slots' buffers with those that were sent last, and a
//! short transmit ring.

use anyhow::Result;
use serde_json::json;

use crate::actors::rate;
use crate::plan::{Plan, in_turns};
use crate::rows::Rows;

const LEN: usize = 1514;
const BURST: usize = 64;

/// What one figure is measured with.
#[derive(Clone, Copy, Debug)]
struct Setting {
    rx_slots: u32,
    tx_slots: u32,
    exchange: bool,
}

fn settings() -> Vec<Setting> {
    let of = |rx_slots, tx_slots, exchange| Setting { rx_slots, tx_slots, exchange };
    let ways = |n: u32| [of(n, n, false), of(n, n, true), of(n, 256, false), of(n, 128, false)];
    [1024, 4096].into_iter().flat_map(ways).collect()
}

/// Measures all in turns.
pub fn run(plan: &Plan, rows: &Rows) -> Result<()> {
    let settings = settings();
    let results = in_turns(plan, settings.len(), LEN, |k, plan| {
        let Setting { rx_slots, tx_slots, exchange } = settings[k];
        let args = [
            ("len", LEN.to_string()),
            ("slots", rx_slots.to_string()),
            ("tx-slots", tx_slots.to_string()),
            ("burst", BURST.to_string()),
            ("anew", "true".into()),
            ("exchange", exchange.to_string()),
        ];
        rate(plan.ms, &args)
    })?;
    for (setting, (pps, cost)) in settings.iter().zip(results) {
        let Setting { rx_slots, tx_slots, exchange } = setting;
        let how = if *exchange { ", sent buffers exchanged" } else { "" };
        rows.add(
            json!({"what": format!("1514 B written anew, {tx_slots} slots to {rx_slots}{how}"),
            "rx_slots": rx_slots, "tx_slots": tx_slots, "exchange": exchange,
            "mpps": pps / 1e6, "ratio_to_first": 1.0 / cost}),
        )?;
    }
    Ok(())
}
