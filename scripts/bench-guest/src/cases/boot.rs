//! From the start of a process to its guest's first packet, as a port of the host sees it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netmap::{Interest, Port, Wait};
use serde_json::json;

use crate::Plan;
use crate::lab::Lab;
use crate::output::{Output, Table, digits};
use crate::summary::median;
use crate::target;
use crate::vm::{self, Spec};

const BOOTS: usize = 10;
const QUICK_BOOTS: usize = 3;

/// Runs the case.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<()> {
    let boots = if plan.quick { QUICK_BOOTS } else { BOOTS };
    let mut port = Port::open("valeA:host")?;
    let mut times_ms = Vec::new();
    for i in 0..boots {
        out.doing(&format!("boot: {} of {boots}", i + 1));
        // What an earlier guest sent on its way out is not this one's first packet.
        port.rxsync()?;
        let mut ring = port.rx(0);
        let old = ring.available();
        ring.advance(old);
        port.rxsync()?;
        let spec = Spec::new(
            "boot",
            "valeA:guest",
            "02:00:00:00:00:01",
            "tx dst=ff:ff:ff:ff:ff:ff count=1",
        );
        let spec = Spec { cpus: lab.cpus(1), ..spec };
        let begin = Instant::now();
        let process = vm::launch(lab, &spec)?;
        let ready = port.wait(Interest::RX, Wait::Block, Some(Duration::from_secs(10)))?;
        times_ms.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(!ready.is_empty(), "the guest sent nothing within 10 s");
        vm::end_of(process, spec.name, Duration::ZERO)?;
    }
    out.done();
    let table = Table::new(
        &format!("Boot to first packet, {boots} times"),
        &[("", -10), ("median ms", 9), ("min", 7), ("max", 7)],
    );
    let min = times_ms.iter().copied().fold(f64::INFINITY, f64::min);
    let max = times_ms.iter().copied().fold(0.0, f64::max);
    let median = median(times_ms);
    table.row(&["boot".into(), digits(median), digits(min), digits(max)]);
    out.judged.add(target::BOOT, median);
    let fields = json!({"case": "boot", "runs": boots, "boot_ms": median, "boot_ms_min": min, "boot_ms_max": max});
    out.record("row", &fields)
}
