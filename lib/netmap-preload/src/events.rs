//! Events of poll(2) and epoll(7), and what the library calls them.

use libc::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use netmap::Interest;

/// What poll(2) asks for, as the library knows it.
#[must_use]
pub fn interest(events: i16) -> Interest {
    let mut what = Interest::empty();
    what.set(Interest::RX, events & (POLLIN | POLLRDNORM) != 0);
    what.set(Interest::TX, events & (POLLOUT | POLLWRNORM) != 0);
    what
}

/// What is told of `ready`, of those events that were asked for.
#[must_use]
pub fn events(ready: Interest, asked: i16) -> i16 {
    let mut events = 0;
    if ready.contains(Interest::RX) {
        events |= asked & (POLLIN | POLLRDNORM);
    }
    if ready.contains(Interest::TX) {
        events |= asked & (POLLOUT | POLLWRNORM);
    }
    events
}
