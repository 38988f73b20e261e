//! What threads do: one file per function, or per pair of functions that share a wire format. Each
//! `run` returns when the count is reached or the run is stopped.

mod fill;
mod ping;
mod pong;
pub mod replay;
mod rx;
mod schedule;
mod tx;

use anyhow::Context;

use crate::cli::Function;
use crate::worker::Worker;

/// Works until the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let name = worker.plan.ports[worker.index].clone();
    // Counting begins now, not with the first packet: drops come before it at times.
    worker.publish(worker.control.clock.now_ns());
    let done = match worker.plan.function {
        Function::Tx if worker.plan.replay.is_some() => replay::run(worker),
        Function::Tx | Function::Txseq => tx::run(worker),
        Function::Rx | Function::Rxseq => rx::run(worker),
        Function::Ping => ping::run(worker),
        Function::Pong => pong::run(worker),
    };
    worker.finish();
    done.with_context(|| format!("running on {name}"))
}
