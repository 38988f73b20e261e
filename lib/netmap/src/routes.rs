//! Whether the host's default route goes through an interface: who takes that from the host may cut himself off.
//!
//! Invariant: at most [`LIMIT`] bytes of a table are read, however many routes there are. The kernel writes default routes
//! before all others of their table. Of IPv4, it shows the main table here, and the first of several next hops.
//!
//! Follows what `fib_route_seq_show` (net/ipv4/fib_trie.c) and `ipv6_route_native_seq_show` (net/ipv6/ip6_fib.c) of the
//! kernel write.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};

use crate::error::{Error, Result};

/// Most bytes of a table: some 100000 routes of IPv6.
const LIMIT: u64 = 16 << 20;
/// The interface of a table's line, if that is a default route.
type OfLine = fn(&str) -> Option<&str>;
/// The thread's own: `/proc/net` is of the namespace of the process's first thread.
const TABLES: [(&str, OfLine); 2] =
    [("/proc/thread-self/net/route", of_ipv4), ("/proc/thread-self/net/ipv6_route", of_ipv6)];
/// `RTF_REJECT`: whatever goes there is refused.
const REJECT: u32 = 0x200;

/// Whether a default route of the calling thread's network namespace goes through `interface`.
///
/// # Errors
/// A table cannot be read. One that is not there, as without IPv6, has no routes.
pub fn default_goes_through(interface: &str) -> Result<bool> {
    for (path, of_line) in TABLES {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        for line in BufReader::new(file.take(LIMIT)).split(b'\n') {
            let line = line.map_err(Error::io("read", path))?;
            if of_line(&String::from_utf8_lossy(&line)) == Some(interface) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The interface of a default route: name, destination, gateway, flags, three numbers, mask.
fn of_ipv4(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let (interface, destination) = (words.next()?, hex(words.next()?)?);
    let flags = hex(words.nth(1)?)?;
    let mask = hex(words.nth(3)?)?;
    (destination == 0 && mask == 0 && flags & REJECT == 0).then_some(interface)
}

/// The interface of a default route: destination, its length, source, its length, gateway, three numbers, flags, name.
fn of_ipv6(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let destination = words.next()?;
    let length = hex(words.next()?)?;
    let flags = hex(words.nth(6)?)?;
    let interface = words.next()?;
    let any = destination.bytes().all(|digit| digit == b'0');
    (any && length == 0 && flags & REJECT == 0 && interface != "lo").then_some(interface)
}

fn hex(word: &str) -> Option<u32> {
    u32::from_str_radix(word, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let head =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
        assert_eq!(of_ipv4(head), None);
        assert_eq!(
            of_ipv4("eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0"),
            Some("eth0")
        );
        // Half of all addresses, a network, and a refusal.
        assert_eq!(of_ipv4("tun0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000080\t0\t0\t0"), None);
        assert_eq!(of_ipv4("eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0"), None);
        assert_eq!(of_ipv4("*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0"), None);
        for cut in ["", "eth0", "eth0 00000000 0 3 0 0 0", "eth0 x 0 3 0 0 0 0"] {
            assert_eq!(of_ipv4(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn default_routes_of_ipv6_are_told_from_others() {
        let line = |destination: &str, length: &str, flags: &str, interface: &str| {
            let any = "0".repeat(32);
            format!(
                "{destination} {length} {any} 00 {any} 00000400 00000001 00000000 {flags} {interface:>8}"
            )
        };
        let any = "0".repeat(32);
        let of = |line: String| of_ipv6(&line).map(str::to_owned);
        assert_eq!(of(line(&any, "00", "00000003", "eth0")).as_deref(), Some("eth0"));
        assert_eq!(of(line(&any, "00", "00200200", "lo")), None);
        assert_eq!(of(line(&any, "00", "00000001", "lo")), None);
        assert_eq!(of(line(&any, "00", "00000201", "eth0")), None);
        assert_eq!(of(line(&any, "60", "00000001", "eth0")), None);
        let network = format!("fe80{}", "0".repeat(28));
        assert_eq!(of(line(&network, "00", "00000001", "eth0")), None);
        assert_eq!(of_ipv6(&line(&any, "00", "00000003", "")), None);
        assert_eq!(of_ipv6(""), None);
    }
}
