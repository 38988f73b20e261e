//! What keeps a NIC from taking all that its port has: a rate, or the guest itself (`governor`).
//!
//! The governor counts no TCP but segments that begin a connection: a receiver of TCP tells its sender how much it takes, so
//! nothing is dropped at its socket's queue, and to hold back what it asked for costs it more than half of its rate
//! (docs/benchmarks.md). What frames say of themselves decides how they are counted, and nothing else.

use std::sync::Arc;

use shared_bytes::Span;

use crate::host::load::{Load, Meter};
use crate::net::governor::Governor;
use crate::net::limit::Limit;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxLimit {
    /// So many packets a second.
    Rate(u32),
    /// As many as the guest consumes.
    Auto,
}

/// It at work.
#[derive(Debug)]
pub enum Limiter {
    /// A rate.
    Rate(Limit),
    /// Windows.
    Auto(Governor, Meter),
}

impl Limiter {
    /// `load` is that of the guest's vCPUs.
    #[must_use]
    pub fn new(limit: RxLimit, load: &Arc<Load>) -> Limiter {
        match limit {
            RxLimit::Rate(per_second) => Limiter::Rate(Limit::new(per_second)),
            RxLimit::Auto => Limiter::Auto(Governor::default(), Meter::new(load)),
        }
    }

    /// What may be taken now, as a cost: packets as long as there is some of it left; `None`: all.
    pub fn room(&mut self, now_ns: u64) -> Option<u64> {
        match self {
            Limiter::Rate(limit) => Some(limit.packets(now_ns)),
            Limiter::Auto(governor, meter) => governor.room(now_ns, meter),
        }
    }

    /// What a slot costs; `more`: its packet goes on in the next one. `uncounted` is for the slots of one packet: its first says
    /// whether it counts.
    #[must_use]
    pub fn cost(&self, frame: Span<'_>, more: bool, uncounted: &mut Option<bool>) -> u64 {
        match self {
            Limiter::Rate(_) => u64::from(!more),
            Limiter::Auto(..) => {
                let is = *uncounted.get_or_insert_with(|| is_of_tcp_connection(frame));
                if !more {
                    *uncounted = None;
                }
                if is { 0 } else { Governor::cost(frame.len()) }
            }
        }
    }

    /// All that is allowed now may be taken next.
    pub fn close(&mut self) {
        if let Limiter::Auto(governor, meter) = self {
            governor.close(meter);
        }
    }

    /// So much was taken.
    pub fn take(&mut self, cost: u64) {
        match self {
            Limiter::Rate(limit) => limit.take(cost),
            Limiter::Auto(governor, _) => governor.take(cost),
        }
    }

    /// When to ask for room again, of a thread that is about to sleep. `held`: packets are held back. `postponed_ns`: when
    /// the guest will be told of what it has got, if it was not yet.
    pub fn due_ns(&mut self, held: bool, postponed_ns: Option<u64>) -> Option<u64> {
        match self {
            Limiter::Rate(limit) => held.then(|| limit.next_ns()),
            Limiter::Auto(governor, meter) => governor.due_ns(postponed_ns, meter),
        }
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Customer's and service's tag.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const SYN: u8 = 2;

/// Whether a frame is a TCP segment that begins no connection, behind up to two VLAN tags. Only what is in its first slot is
/// looked at, at most 94 bytes; extension headers of IPv6 are not followed.
fn is_of_tcp_connection(frame: Span<'_>) -> bool {
    let byte = |at: usize| (at < frame.len()).then(|| frame.u8_at(at));
    let half = |at: usize| (at + 2 <= frame.len()).then(|| frame.be16_at(at));
    let tags = (0..2).take_while(|tag| half(12 + 4 * tag).is_some_and(|is| TAGS.contains(&is)));
    let ip = 14 + 4 * tags.count();
    let segment = match half(ip - 2) {
        // Another fragment than the first has no ports and flags.
        Some(IPV4)
            if byte(ip + 9) == Some(TCP) && half(ip + 6).is_some_and(|at| at & 0x1fff == 0) =>
        {
            byte(ip).map(|version| ip + 4 * usize::from(version & 15))
        }
        Some(IPV6) if byte(ip + 6) == Some(TCP) => Some(ip + 40),
        _ => None,
    };
    segment.and_then(|segment| byte(segment + 13)).is_some_and(|flags| flags & SYN == 0)
}

#[cfg(test)]
mod tests {
    use e1000_device::{GuestMemory, GuestRam};

    use super::*;

    /// Ethernet, so many tags, and an IP header of this kind with what follows.
    fn frame(tags: usize, kind: u16, protocol: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for tag in TAGS.iter().cycle().take(tags) {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 5]);
        }
        frame.extend(kind.to_be_bytes());
        let ip = frame.len();
        // Of IPv4 with an option, which moves what follows.
        frame.resize(ip + if kind == IPV4 { 24 } else { 40 }, 0);
        if kind == IPV4 {
            frame[ip] = 0x46;
            frame[ip + 9] = protocol;
        } else {
            frame[ip] = 0x60;
            frame[ip + 6] = protocol;
        }
        let segment = frame.len();
        frame.resize(segment + 20, 0);
        frame[segment + 13] = flags;
        frame
    }

    fn is(bytes: &[u8]) -> bool {
        let ram = GuestRam::anonymous(4096).unwrap();
        assert!(ram.write(0, bytes));
        is_of_tcp_connection(ram.span(0, bytes.len()).unwrap())
    }

    #[test]
    fn only_segments_of_connections_are_not_counted() {
        for kind in [IPV4, IPV6] {
            for tags in 0..3 {
                assert!(is(&frame(tags, kind, TCP, 0x10)), "{kind:x}, {tags} tags");
                assert!(!is(&frame(tags, kind, TCP, SYN)), "{kind:x}: it begins one");
                assert!(!is(&frame(tags, kind, 17, 0x10)), "{kind:x}: UDP");
            }
            assert!(!is(&frame(3, kind, TCP, 0x10)), "a third tag");
        }
        let mut fragment = frame(0, IPV4, TCP, 0x10);
        fragment[14 + 7] = 1;
        assert!(!is(&fragment));
        // Cut anywhere before the flags it is nothing that is known.
        for kind in [IPV4, IPV6] {
            let whole = frame(1, kind, TCP, 0x10);
            for len in 1..whole.len() - 6 {
                assert!(!is(&whole[..len]), "{len}");
            }
        }
    }

    #[test]
    fn packets_of_several_slots_count_by_their_own_first_ones() {
        let ram = GuestRam::anonymous(4096).unwrap();
        let limiter = Limiter::new(RxLimit::Auto, &Load::new(1));
        let mut uncounted = None;
        let mut cost = |bytes: &[u8], more: bool| {
            assert!(ram.write(0, bytes));
            limiter.cost(ram.span(0, bytes.len()).unwrap(), more, &mut uncounted)
        };
        let (segment, datagram) = (frame(0, IPV4, TCP, 0x10), frame(0, IPV4, 17, 0));
        let (rest, one) = ([0; 100], Governor::cost(100));
        for _ in 0..2 {
            assert_eq!((cost(&segment, true), cost(&rest, false)), (0, 0));
            assert_eq!(
                (cost(&datagram, true), cost(&rest, false)),
                (Governor::cost(datagram.len()), one)
            );
        }
    }
}
