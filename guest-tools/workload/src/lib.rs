//! What a guest does with its devices: send, receive, ping, echo, forward, measured. The page
//! `docs/design/guest-driver.md` describes it together with the driver.
//!
//! ```text
//! let plan = Plan::parse(line)?;             // tx dst=02:00:00:00:00:01 duration=5s driver=csb
//! let nic = Nic::new(bar, dma, cpu, &plan.nic)?;
//! run(&plan, &mut [nic], cpu)?.write_json(console)?;
//! ```
//! no_std, and nothing is allocated.

#![no_std]
#![forbid(unsafe_code)]

mod check;
mod delay;
mod echo;
mod forward;
mod histogram;
mod pacer;
mod packet;
mod ping;
mod plan;
mod run;
mod rx;
mod session;
mod summary;
mod tx;
mod value;

pub use check::{Seen, judge};
pub use packet::{Addresses, SIZE_MAX, SIZE_MIN, Template, turn};
pub use plan::{Function, ParseError, Plan};
pub use run::{RunError, run};
pub use summary::{RoundTrips, Summary, write_error};
pub use value::Rate;
