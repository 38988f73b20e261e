//! Opening what a port had that has just been closed: a test of the same process that starts a program has copies of all
//! descriptors until that program runs, so a device may have its last user for a moment still.

use std::time::{Duration, Instant};

use netmap::{Error, Port};

/// Far beyond what starting a program takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// What `open` returns once the port is not busy any more.
pub fn patient(mut open: impl FnMut() -> netmap::Result<Port>) -> netmap::Result<Port> {
    let end = Instant::now() + DEADLINE;
    loop {
        match open() {
            Err(Error::Busy { .. }) if Instant::now() < end => std::thread::yield_now(),
            done => return done,
        }
    }
}
