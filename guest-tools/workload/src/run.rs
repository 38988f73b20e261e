//! A plan is run: by the function that it names.

use core::fmt;

use e1000pv_driver::{Cpu, Mmio, Nic};

use crate::plan::{Function, Plan};
use crate::session::Run;
use crate::summary::Summary;
use crate::{echo, forward, ping, rx, tx};

/// Why a plan cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunError {
    /// Too few devices.
    Nics {
        /// What needs them.
        function: Function,
        /// How many there are.
        present: usize,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunError::Nics { function, present } = self;
        write!(f, "{} needs {} devices, there are {present}", function.name(), function.nics())
    }
}

impl core::error::Error for RunError {}

/// Runs a plan to its end: its count, its duration, its idle time, or until the platform wants to stop.
/// Needs some 48 KiB of stack.
pub fn run<M: Mmio, C: Cpu>(
    plan: &Plan,
    nics: &mut [Nic<M>],
    cpu: &C,
) -> Result<Summary, RunError> {
    let (function, present) = (plan.function, nics.len());
    let Some(nics) = nics.get_mut(..function.nics()) else {
        return Err(RunError::Nics { function, present });
    };
    Ok(Run::new(plan, nics, cpu).whole(|run| match function {
        Function::Tx => tx::run(run),
        Function::Rx => rx::run(run),
        Function::Ping => ping::run(run),
        Function::Echo => echo::run(run),
        Function::Forward => forward::run(run),
    }))
}
