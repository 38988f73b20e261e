//! What a guest that has nothing to do costs.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::Plan;
use crate::lab::Lab;
use crate::output::{Output, Table, digits};
use crate::process::pass;
use crate::report::Event;
use crate::step::Step;
use crate::target;
use crate::vm::{Spec, Vm};

/// How long a machine is watched; of a quick run a fifth of it.
const WATCH: Duration = Duration::from_secs(10);
/// After its boot, before that.
const SETTLE: Duration = Duration::from_millis(500);

/// Runs the case.
pub fn run(plan: &Plan, lab: &mut Lab, out: &Output) -> Result<()> {
    let watch = if plan.quick { WATCH / 5 } else { WATCH };
    let table = Table::new(
        &format!("An idle guest with an open NIC, over {} s", watch.as_secs()),
        &[("step", -21), ("CPU %", 7), ("exits/s", 8), ("wakes/s", 8)],
    );
    let mut most = 0.0f64;
    for step in Step::ALL {
        out.doing(&format!("idle: {step}"));
        let port = "valeA:i@conf:slots=1024";
        let spec = Spec { step, ring: 1024, ..Spec::new("idle", port, "02:00:00:00:00:01", "rx") };
        let vm = Vm::ready(lab, &spec)?;
        pass(SETTLE)?;
        let (cpu, counts, begin) = (vm.cpu()?, vm.counts()?, Instant::now());
        pass(watch)?;
        let seconds = begin.elapsed().as_secs_f64();
        let used = vm.cpu()?.since(cpu).total_ns() as f64 / 1e9 / seconds;
        most = most.max(used);
        let counts = vm.counts()?.since(&counts);
        let per_second = |event: Event| counts.value(event.counter()) as f64 / seconds;
        let (exits, wakeups) = (per_second(Event::Exits), per_second(Event::Wakeups));
        vm.stop()?;
        out.done();
        table.row(&[step.to_string(), digits(100.0 * used), digits(exits), digits(wakeups)]);
        let fields = json!({
            "case": "idle", "step": step.name(), "ring": 1024, "seconds": seconds, "cpu_ratio": used,
            "exits_per_second": exits, "wakeups_per_second": wakeups,
        });
        out.record("row", &fields)?;
    }
    out.judged.add(target::IDLE, most);
    Ok(())
}
