//! What threads do: one file per function, or per pair of functions that share a wire format. Each
//! `run` returns when the count is reached or the run is stopped.

mod fill;
mod ping;
mod pong;
mod replay;
mod rx;
mod tx;

use anyhow::Context;

use crate::cli::Function;
use crate::worker::Worker;

/// Works until the run ends.
pub fn run(worker: &mut Worker<'_>) -> anyhow::Result<()> {
    let name = worker.plan.ports[worker.index].clone();
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
