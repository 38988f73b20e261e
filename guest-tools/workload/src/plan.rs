//! What a guest is to do, as its command line says: `tx dst=02:00:00:00:00:01 size=60 duration=5s
//! driver=csb ring=4096`. One word names the workload, the others are `key=value` in any order.
//!
//! Invariant: a parsed plan can be run. Everything else is refused here, with the offending word in the message. `-` and `_` are the same in keys.

use core::fmt;

use e1000pv_driver::{Config, Discipline, Interrupts, Kick, RING_MAX, RING_MIN, Report};

use crate::packet::{SIZE_MAX, SIZE_MIN};
use crate::value::{self, Rate};

const SECOND_NS: u64 = 1_000_000_000;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Send numbered packets.
    Tx,
    /// Receive and check packets.
    Rx,
    /// Measure round trips.
    Ping,
    /// Send packets back.
    Echo,
    /// Move packets between two devices.
    Forward,
}

impl Function {
    /// As it is spelled.
    pub fn name(self) -> &'static str {
        match self {
            Function::Tx => "tx",
            Function::Rx => "rx",
            Function::Ping => "ping",
            Function::Echo => "echo",
            Function::Forward => "forward",
        }
    }

    fn named(text: &str) -> Option<Function> {
        use Function::{Echo, Forward, Ping, Rx, Tx};
        [Tx, Rx, Ping, Echo, Forward].into_iter().find(|function| function.name() == text)
    }

    /// Whether a key of the workload, if it is one, changes anything for this function.
    fn heeds(self, key: &str) -> bool {
        use Function::{Echo, Forward, Ping, Rx, Tx};
        const HEADERS: [&str; 9] = [
            "dst", "dst_mac", "src", "src_mac", "dst_ip", "src_ip", "dst_port", "src_port", "size",
        ];
        let one_of = |keys: &[&str]| keys.iter().any(|one| same(key, one));
        let of: &[Function] = if one_of(&HEADERS) {
            &[Tx, Ping]
        } else if same(key, "rate") {
            &[Tx]
        } else if same(key, "interval") {
            &[Ping]
        } else if one_of(&["idle", "wait_first", "delay"]) {
            &[Rx, Echo, Forward]
        } else if same(key, "all") {
            &[Echo]
        } else {
            return true;
        };
        of.contains(&self)
    }

    /// Devices that it needs.
    pub fn nics(self) -> usize {
        if self == Function::Forward { 2 } else { 1 }
    }
}

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub function: Function,
    /// How to drive the devices. The platform fills in the subsystem id.
    pub nic: Config,
    /// Destination of packets.
    pub dst: [u8; 6],
    /// Source of packets; the device's address if `None`.
    pub src: Option<[u8; 6]>,
    /// Destination IPv4 address.
    pub dst_ip: [u8; 4],
    /// Source IPv4 address.
    pub src_ip: [u8; 4],
    /// Destination port.
    pub dst_port: u16,
    /// Source port.
    pub src_port: u16,
    /// Frame size without CRC.
    pub size: usize,
    /// Packets at most.
    pub count: Option<u64>,
    /// Time at most.
    pub duration_ns: Option<u64>,
    /// rx, echo, forward: end when no packet came for so long.
    pub idle_ns: Option<u64>,
    /// Likewise, but for the first packet, whose sender may still have to start; as `idle_ns` if `None`.
    pub wait_first_ns: Option<u64>,
    /// tx: rate.
    pub rate: Option<Rate>,
    /// Packets that are handled between two checks of anything else.
    pub burst: usize,
    /// ping: time from one to the next.
    pub interval_ns: u64,
    /// rx, echo, forward: busy work for each packet.
    pub delay_ns: u64,
    /// echo: answer all UDP over IPv4, not only pings.
    pub all: bool,
    /// Time to wait for the link before the start.
    pub wait_link_ns: u64,
}

/// Why a command line is not a plan. `'a` is the line's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError<'a> {
    /// No workload was named.
    NoFunction,
    /// A word that is neither a workload nor `key=value`, or a second workload.
    Word(&'a str),
    /// A key that nobody knows.
    Key(&'a str),
    /// A key that would change nothing.
    Unheeded {
        /// The key.
        key: &'a str,
        /// The workload that does not look at it.
        function: Function,
    },
    /// A value that its key does not take.
    Value {
        /// The key.
        key: &'a str,
        /// The value.
        value: &'a str,
        /// What it takes.
        takes: &'static str,
    },
}

impl fmt::Display for ParseError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::NoFunction => {
                f.write_str("no workload; name one of tx, rx, ping, echo, forward")
            }
            ParseError::Word(word) => {
                write!(f, "unexpected {word:?}; one of tx, rx, ping, echo, forward, then key=value")
            }
            ParseError::Key(key) => write!(f, "unknown key {key:?}"),
            ParseError::Unheeded { key, function } => {
                write!(f, "{key}= means nothing to {}", function.name())
            }
            ParseError::Value { key, value, takes } => {
                write!(f, "{key}={value}: expected {takes}")
            }
        }
    }
}

impl core::error::Error for ParseError<'_> {}

impl Plan {
    /// Of a function, with everything at its default.
    pub fn new(function: Function) -> Plan {
        Plan {
            function,
            nic: Config { promiscuous: function == Function::Forward, ..Config::default() },
            dst: [0xff; 6],
            src: None,
            dst_ip: [10, 1, 0, 1],
            src_ip: [10, 0, 0, 1],
            dst_port: 1234,
            src_port: 1234,
            size: SIZE_MIN,
            count: None,
            duration_ns: None,
            idle_ns: None,
            wait_first_ns: None,
            rate: None,
            burst: 256,
            interval_ns: 1_000_000,
            delay_ns: 0,
            all: false,
            wait_link_ns: 2 * SECOND_NS,
        }
    }

    /// Parses a command line.
    pub fn parse(line: &str) -> Result<Plan, ParseError<'_>> {
        let words = || line.split_ascii_whitespace();
        let mut named = words().filter(|word| !word.contains('='));
        let word = named.next().ok_or(ParseError::NoFunction)?;
        let function = Function::named(word).ok_or(ParseError::Word(word))?;
        if let Some(second) = named.next() {
            return Err(ParseError::Word(second));
        }
        let mut plan = Plan::new(function);
        for (key, text) in words().filter_map(|word| word.split_once('=')) {
            let error = |takes| ParseError::Value { key, value: text, takes };
            let known = plan.set(key, text).or_else(|| plan.nic_key(key, text));
            known.ok_or(ParseError::Key(key))?.map_err(error)?;
            if !function.heeds(key) {
                return Err(ParseError::Unheeded { key, function });
            }
        }
        Ok(plan)
    }

    /// Sets a key of the workload; `None` if it has no such key, `Err` with what it takes.
    fn set(&mut self, key: &str, text: &str) -> Option<Result<(), &'static str>> {
        const COUNT: &str = "a number such as 1000, 10k, 1.5M, 1e6";
        const TIME: &str = "a time such as 5s, 100ms, 50us, 2m, 1h";
        const MAC: &str = "an address such as 02:00:00:00:00:01";
        const IP: &str = "an address such as 10.0.0.1";
        const PORT: &str = "a port from 0 to 65535";
        let seconds = |text| value::duration_ns(text, SECOND_NS);
        let port = |text| value::count(text).and_then(|port| u16::try_from(port).ok());
        let done = if same(key, "dst") || same(key, "dst_mac") {
            store(&mut self.dst, value::mac(text), MAC)
        } else if same(key, "src") || same(key, "src_mac") {
            store(&mut self.src, value::mac(text).map(Some), MAC)
        } else if same(key, "dst_ip") {
            store(&mut self.dst_ip, value::ip(text), IP)
        } else if same(key, "src_ip") {
            store(&mut self.src_ip, value::ip(text), IP)
        } else if same(key, "dst_port") {
            store(&mut self.dst_port, port(text), PORT)
        } else if same(key, "src_port") {
            store(&mut self.src_port, port(text), PORT)
        } else if same(key, "size") {
            let size = within(text, SIZE_MIN as u64, SIZE_MAX as u64);
            store(&mut self.size, size.map(|size| size as usize), "a size from 60 to 1514")
        } else if same(key, "count") {
            // 0 is no limit, as in pkt-gen.
            store(&mut self.count, value::count(text).map(|n| (n > 0).then_some(n)), COUNT)
        } else if same(key, "duration") {
            store(&mut self.duration_ns, seconds(text).map(Some), TIME)
        } else if same(key, "idle") {
            store(&mut self.idle_ns, seconds(text).map(Some), TIME)
        } else if same(key, "wait_first") {
            store(&mut self.wait_first_ns, seconds(text).map(Some), TIME)
        } else if same(key, "rate") {
            store(&mut self.rate, value::rate(text).map(Some), "a rate such as 1M, 10Mpps, 1Gbps")
        } else if same(key, "burst") {
            let burst = within(text, 1, RING_MAX.into());
            store(&mut self.burst, burst.map(|burst| burst as usize), "a number from 1 to 4096")
        } else if same(key, "interval") {
            store(&mut self.interval_ns, seconds(text), TIME)
        } else if same(key, "delay") {
            let delay = value::duration_ns(text, 1).filter(|&ns| ns <= SECOND_NS);
            store(&mut self.delay_ns, delay, "a time in ns, at most 1s")
        } else if same(key, "all") {
            store(&mut self.all, value::switch(text), "on or off")
        } else if same(key, "wait_link") {
            store(&mut self.wait_link_ns, seconds(text), TIME)
        } else {
            return None;
        };
        Some(done)
    }

    /// Sets a key of the device.
    fn nic_key(&mut self, key: &str, text: &str) -> Option<Result<(), &'static str>> {
        const UNITS: &str = "a time such as 125us, or the register's value";
        let nic = &mut self.nic;
        let register = |unit_ns: u64| {
            let units = value::duration_ns(text, unit_ns)?.div_ceil(unit_ns);
            u16::try_from(units).ok()
        };
        let delay = || value::duration_ns(text, 1).filter(|&ns| ns <= SECOND_NS);
        let done = if same(key, "driver") {
            use Discipline::{Combine, Csb, Plain};
            let known = [Plain, Combine, Csb].into_iter().find(|known| known.name() == text);
            store(&mut nic.discipline, known, "plain, combine or csb")
        } else if same(key, "ring") {
            let n = within(text, RING_MIN.into(), RING_MAX.into()).filter(|n| n % 8 == 0);
            let n = n.map(|n| n as u32);
            store(&mut nic.tx_descriptors, n, "a multiple of 8 from 8 to 4096")
                .and_then(|()| store(&mut nic.rx_descriptors, n, ""))
        } else if same(key, "kick") {
            let kick = either(text, ("packet", Kick::Packet), ("batch", Kick::Batch));
            store(&mut nic.kick, kick, "packet or batch")
        } else if same(key, "rs") {
            let report = either(text, ("all", Report::All), ("batch", Report::Batch));
            store(&mut nic.report, report, "all or batch")
        } else if same(key, "irq") {
            let masked = ("masked", Interrupts::Masked);
            store(
                &mut nic.interrupts,
                either(text, ("always", Interrupts::Always), masked),
                "always or masked",
            )
        } else if same(key, "promiscuous") {
            store(&mut nic.promiscuous, value::switch(text), "on or off")
        } else if same(key, "mac") {
            let mac = value::mac(text).filter(|mac| mac[0] & 1 == 0);
            store(&mut nic.mac, mac.map(Some), "an address that is no group's")
        } else if same(key, "itr") {
            store(&mut nic.itr, register(256), UNITS)
        } else if same(key, "tidv") {
            store(&mut nic.tidv, register(1024), UNITS)
        } else if same(key, "tadv") {
            store(&mut nic.tadv, register(1024), UNITS)
        } else if same(key, "rdtr") {
            store(&mut nic.rdtr, register(1024), UNITS)
        } else if same(key, "radv") {
            store(&mut nic.radv, register(1024), UNITS)
        } else if same(key, "kick_batch") {
            let batch = within(text, 0, RING_MAX.into()).map(|batch| batch as u32);
            store(&mut nic.kick_batch, batch, "a number from 0 (half of the ring) to 4096")
        } else if same(key, "kick_delay") {
            store(&mut nic.kick_delay_ns, delay(), "a time in ns, at most 1s")
        } else if same(key, "txcycles") {
            let rounds = within(text, 0, u32::MAX.into()).map(|rounds| rounds as u32);
            store(&mut nic.txcycles_lim, rounds, "a number of rounds")
        } else if same(key, "spin") {
            store(&mut nic.spin_ns, delay(), "a time in ns, at most 1s")
        } else {
            return None;
        };
        Some(done)
    }
}

/// Whether a key as typed is the one that is meant.
fn same(typed: &str, key: &str) -> bool {
    let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
    typed.len() == key.len() && typed.bytes().zip(key.bytes()).all(|(a, b)| plain(a) == b)
}

fn store<T>(place: &mut T, value: Option<T>, takes: &'static str) -> Result<(), &'static str> {
    *place = value.ok_or(takes)?;
    Ok(())
}

fn within(text: &str, low: u64, high: u64) -> Option<u64> {
    value::count(text).filter(|value| (low..=high).contains(value))
}

fn either<T>(text: &str, a: (&str, T), b: (&str, T)) -> Option<T> {
    if text == a.0 {
        Some(a.1)
    } else if text == b.0 {
        Some(b.1)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::{String, ToString};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn line_of_the_documentation_means_what_it_says() {
        let line = "tx dst=02:00:00:00:00:01 size=60 count=1.5k duration=5s rate=1M burst=64 \
            driver=csb ring=4096 kick-batch=2048 kick_delay=20us spin=500";
        let plan = Plan::parse(line).expect("valid");
        let nic = Config {
            discipline: Discipline::Csb,
            tx_descriptors: 4096,
            rx_descriptors: 4096,
            kick_batch: 2048,
            kick_delay_ns: 20_000,
            spin_ns: 500,
            ..Config::default()
        };
        let expected = Plan {
            nic,
            dst: [2, 0, 0, 0, 0, 1],
            count: Some(1500),
            duration_ns: Some(5_000_000_000),
            rate: Some(Rate::Pps(1_000_000)),
            burst: 64,
            ..Plan::new(Function::Tx)
        };
        assert_eq!(plan, expected);
    }

    #[test]
    fn every_key_is_known_and_order_is_free() {
        let line = "src=02:00:00:00:00:09 dst_ip=1.2.3.4 src_ip=5.6.7.8 dst_port=9 src_port=10 \
            interval=2ms size=61 ping";
        let expected = Plan {
            src: Some([2, 0, 0, 0, 0, 9]),
            dst_ip: [1, 2, 3, 4],
            src_ip: [5, 6, 7, 8],
            dst_port: 9,
            src_port: 10,
            interval_ns: 2_000_000,
            size: 61,
            ..Plan::new(Function::Ping)
        };
        assert_eq!(Plan::parse(line), Ok(expected));
        let line = "idle=1 wait_first=1h delay=30 all=on wait_link=0 echo kick=batch rs=batch \
            irq=masked promiscuous=on mac=02:00:00:00:00:07 itr=125us tidv=1 tadv=2 rdtr=3 radv=1024us \
            txcycles=5 driver=combine";
        let plan = Plan::parse(line).expect("valid");
        let nic = Config {
            discipline: Discipline::Combine,
            kick: Kick::Batch,
            report: Report::Batch,
            interrupts: Interrupts::Masked,
            promiscuous: true,
            mac: Some([2, 0, 0, 0, 0, 7]),
            itr: 489,
            tidv: 1,
            tadv: 2,
            rdtr: 3,
            radv: 1000,
            txcycles_lim: 5,
            ..Config::default()
        };
        let expected = Plan {
            nic,
            idle_ns: Some(1_000_000_000),
            wait_first_ns: Some(3_600_000_000_000),
            delay_ns: 30,
            all: true,
            wait_link_ns: 0,
            ..Plan::new(Function::Echo)
        };
        assert_eq!(plan, expected);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |line| Plan::parse(line).expect_err(line).to_string();
        assert_eq!(error(""), "no workload; name one of tx, rx, ping, echo, forward");
        assert!(error("send").contains("\"send\""));
        assert!(error("tx rx").contains("\"rx\""));
        assert_eq!(error("tx colour=red"), "unknown key \"colour\"");
        assert_eq!(error("tx size=59"), "size=59: expected a size from 60 to 1514");
        assert_eq!(error("rx ring=100"), "ring=100: expected a multiple of 8 from 8 to 4096");
        assert!(error("rx driver=virtio").contains("plain, combine or csb"));
        assert!(error("rx mac=03:00:00:00:00:00").contains("no group's"));
        assert!(error("rx itr=1s").contains("register"));
        for line in
            ["rate=1M rx", "tx idle=1s", "tx interval=1ms", "ping all=on", "forward dst-ip=1.1.1.1"]
        {
            assert!(error(line).contains("means nothing to"), "{line}");
        }
    }

    #[test]
    fn forwarding_listens_to_everybody() {
        assert!(Plan::parse("forward").expect("valid").nic.promiscuous);
        assert!(!Plan::parse("forward promiscuous=off").expect("valid").nic.promiscuous);
    }

    proptest! {
        #[test]
        fn any_line_is_a_plan_or_an_error(line: String) {
            let _ = Plan::parse(&line);
        }

        #[test]
        fn any_value_of_a_known_key_is_taken_or_refused(
            key in "size|count|duration|rate|burst|ring|itr|delay|kick_batch|spin", value in "[0-9._kMGnusbp]{0,22}",
        ) {
            let line = std::format!("tx {key}={value}");
            if let Ok(plan) = Plan::parse(&line) {
                prop_assert!((SIZE_MIN..=SIZE_MAX).contains(&plan.size));
                prop_assert!((1..=4096).contains(&plan.burst));
            }
        }
    }
}
