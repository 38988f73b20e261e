//! What a guest and its monitor say at the end, as numbers. All names that the bench reads are here.
//!
//! ```text
//!   {"type":"end", "guest": {"workload": "rx", "packets": .., "pps": .., "lost": ..},
//!    "counters": {"exits": .., "nics": [{"kicks": .., ..}]}, "accel": "kvm"}
//! ```
//! A guest under QEMU prints only what is under `guest`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Counters by name; those of NICs are summed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// From the monitor's `counters`.
    pub fn parse(counters: &Value) -> Result<Counts> {
        let mut all = Counts::default();
        all.add(counters);
        for nic in counters["nics"].as_array().into_iter().flatten() {
            all.add(nic);
        }
        // A renamed counter must not pass for one that never moved.
        for name in [Event::Exits, Event::Kicks, Event::Wakeups, Event::Interrupts] {
            if !all.0.contains_key(name.counter()) {
                bail!("the monitor has no counter {:?}", name.counter());
            }
        }
        Ok(all)
    }

    fn add(&mut self, counters: &Value) {
        for (name, value) in counters.as_object().into_iter().flatten() {
            if let Some(value) = value.as_u64() {
                *self.0.entry(name.clone()).or_default() += value;
            }
        }
    }

    /// A counter; 0 if there is none.
    pub fn value(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Counts) -> Counts {
        let change = |(name, value): (&String, &u64)| {
            (name.clone(), value.saturating_sub(before.value(name)))
        };
        Counts(self.0.iter().map(change).collect())
    }

    /// Both together: of several machines.
    pub fn plus(mut self, other: &Counts) -> Counts {
        for (name, value) in &other.0 {
            *self.0.entry(name.clone()).or_default() += value;
        }
        self
    }
}

/// What costs time beyond moving packets, in the order of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Returns of a vCPU to the monitor.
    Exits,
    /// Wake-ups of an I/O thread by a guest's TDT write.
    Kicks,
    /// Wake-ups of an I/O thread from sleep for whatever reason, kicks among them.
    Wakeups,
    /// Interrupts raised.
    Interrupts,
}

impl Event {
    /// All, in order.
    pub const ALL: [Event; 4] = [Event::Exits, Event::Kicks, Event::Wakeups, Event::Interrupts];

    /// The monitor's counter of it.
    pub fn counter(self) -> &'static str {
        match self {
            Event::Exits => "exits",
            Event::Kicks => "kicks",
            Event::Wakeups => "io_wakeups",
            Event::Interrupts => "interrupts",
        }
    }
}

/// What the workload in a guest measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guest {
    /// What it did: tx, rx, ping, echo, forward.
    pub workload: String,
    /// The driver that it ran with in the end: plain, combine, csb.
    pub driver: String,
    /// Packets sent, or received and found good.
    pub packets: u64,
    /// From the first to the last.
    pub duration_ns: u64,
    /// Gaps in the received sequence.
    pub lost: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Packets that failed a check.
    pub bad: u64,
    /// Median round trip.
    pub rtt_p50_ns: u64,
    /// 99th percentile of round trips.
    pub rtt_p99_ns: u64,
}

impl Guest {
    /// From the guest's line.
    pub fn parse(line: &Value) -> Result<Guest> {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| line[key].as_u64().unwrap_or(0);
        let packets = line["packets"].as_u64();
        let packets =
            packets.with_context(|| format!("no packets in the guest's result: {line}"))?;
        Ok(Guest {
            workload: text("workload"),
            driver: text("driver"),
            packets,
            duration_ns: number("duration_ns"),
            lost: number("lost"),
            reordered: number("reordered"),
            bad: number("bad"),
            rtt_p50_ns: number("rtt_p50_ns"),
            rtt_p99_ns: number("rtt_p99_ns"),
        })
    }

    /// Finds the guest's line among what a console printed.
    pub fn find(lines: &[String]) -> Result<Guest> {
        for line in lines.iter().rev() {
            // QEMU's firmware prints escape sequences right before the first line.
            let Some(start) = line.find('{') else { continue };
            if let Ok(value) = serde_json::from_str::<Value>(&line[start..])
                && value["packets"].is_u64()
            {
                return Guest::parse(&value);
            }
        }
        bail!("the guest printed no result:\n  {}", lines.join("\n  "));
    }
}

/// The last line of a monitor.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// The guest's part; a guest that was told to stop before it began has none.
    pub guest: Option<Guest>,
    /// Counters of the whole run.
    pub counts: Counts,
    /// What ran the guest: kvm, thread.
    pub accel: String,
}

impl End {
    /// Finds it in the monitor's output.
    pub fn find(lines: &[String]) -> Result<End> {
        let value = lines
            .iter()
            .rev()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|value| value["type"] == "end")
            .with_context(|| format!("no end line:\n  {}", lines.join("\n  ")))?;
        let guest = &value["guest"];
        Ok(End {
            guest: guest.is_object().then(|| Guest::parse(guest)).transpose()?,
            counts: Counts::parse(&value["counters"])?,
            accel: value["accel"].as_str().unwrap_or("?").to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"type":"end","schema":1,"guest":{"workload":"rx","driver":"csb","ring":1024,
        "packets":2000,"bytes":120000,"duration_ns":1000000,"pps":2e9,"lost":3,"reordered":1,"bad":0,
        "kicks":4,"interrupts":5,"idles":6},"counters":{"exits":70,"halts":1,"nics":[
        {"kicks":4,"io_wakeups":5,"interrupts":6},{"kicks":1,"io_wakeups":1,"interrupts":1}]},"accel":"kvm"}"#;

    #[test]
    fn end_reads_guest_and_sums_nics() {
        let lines = ["{\"type\":\"start\"}".into(), LINE.replace('\n', " "), String::new()];
        let end = End::find(&lines).expect("an end line");
        let guest = end.guest.expect("a guest part");
        assert_eq!(
            (guest.packets, guest.duration_ns, guest.lost, guest.reordered),
            (2000, 1_000_000, 3, 1)
        );
        assert_eq!((guest.workload.as_str(), guest.driver.as_str()), ("rx", "csb"));
        assert_eq!(Event::ALL.map(|event| end.counts.value(event.counter())), [70, 5, 6, 7]);
        assert_eq!(end.accel, "kvm");
    }

    #[test]
    fn end_without_a_counter_is_an_error_not_a_zero() {
        let lines = [LINE.replace('\n', " ").replace("io_wakeups", "io_woken")];
        let error = End::find(&lines).expect_err("a counter is missing");
        assert!(error.to_string().contains("io_wakeups"), "{error}");
    }

    #[test]
    fn end_that_is_missing_shows_what_was_there() {
        let error = End::find(&["panic at the disco".into()]).expect_err("no JSON");
        assert!(error.to_string().contains("disco"), "{error}");
    }

    #[test]
    fn guest_is_found_behind_firmware_noise() {
        let lines =
            ["\u{1b}c\u{1b}[?7l{\"workload\":\"tx\",\"packets\":10,\"duration_ns\":1000}".into()];
        let guest = Guest::find(&lines).expect("a result");
        assert_eq!((guest.packets, guest.duration_ns), (10, 1000));
        Guest::find(&["{\"packets\":\"many\"}".into()]).expect_err("not a number");
    }

    #[test]
    fn counts_change_is_per_name() {
        let counts = |kicks: u64| {
            Counts::parse(&serde_json::json!({"exits": 1, "nics":
                [{"kicks": kicks, "io_wakeups": 2, "interrupts": 3}]}))
            .expect("all there")
        };
        let change = counts(9).since(&counts(4));
        assert_eq!((change.value("kicks"), change.value("exits"), change.value("none")), (5, 0, 0));
        assert_eq!(change.plus(&counts(1)).value("kicks"), 6);
    }
}
