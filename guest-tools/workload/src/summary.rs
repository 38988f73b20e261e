//! The result of a run, and its one line of JSON. Keys carry their units and must stay as they are
//! (`schema`); numbers are not scaled.

use core::fmt::{self, Write};

use e1000pv_driver::{Discipline, Stats};

use crate::histogram::Histogram;
use crate::plan::Function;

/// Writes a line of JSON that says why there is no result.
pub fn write_error(out: &mut impl Write, error: impl fmt::Display) -> fmt::Result {
    /// Escapes what JSON does not allow in a string.
    struct Escaped<'a, W>(&'a mut W);

    impl<W: Write> Write for Escaped<'_, W> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            text.chars().try_for_each(|character| match character {
                '"' | '\\' => write!(self.0, "\\{character}"),
                '\0'..='\x1f' => write!(self.0, "\\u{:04x}", character as u32),
                _ => self.0.write_char(character),
            })
        }
    }

    out.write_str(r#"{"schema":1,"error":""#)?;
    write!(Escaped(out), "{error}")?;
    out.write_str("\"}\n")
}

/// Percentiles of round trips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// Answers.
    pub count: u64,
    /// Shortest.
    pub min_ns: u64,
    /// Arithmetic mean.
    pub mean_ns: u64,
    /// Half are not above it.
    pub p50_ns: u64,
    /// 90 % are not above it.
    pub p90_ns: u64,
    /// 99 % are not above it.
    pub p99_ns: u64,
    /// 99.9 % are not above it.
    pub p999_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

impl RoundTrips {
    /// Of a histogram.
    pub fn of(histogram: &Histogram) -> RoundTrips {
        RoundTrips {
            count: histogram.count(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: histogram.per_mille(500),
            p90_ns: histogram.per_mille(900),
            p99_ns: histogram.per_mille(990),
            p999_ns: histogram.per_mille(999),
            max_ns: histogram.max(),
        }
    }
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What was done.
    pub function: Function,
    /// How the device was driven in fact.
    pub driver: Discipline,
    /// Transmit descriptors.
    pub ring: u32,
    /// Packets that this function is about: sent by tx, ping; received by rx; answered; forwarded.
    pub packets: u64,
    /// Their bytes, without CRC.
    pub bytes: u64,
    /// From the first packet to the last.
    pub duration_ns: u64,
    /// Numbers that did not come; pings without an answer.
    pub lost: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Packets that came again.
    pub duplicated: u64,
    /// Packets with a wrong length or checksum, or that the device reported as bad.
    pub bad: u64,
    /// Packets without a mark of ours.
    pub foreign: u64,
    /// Packets that were never sent: the run ended first.
    pub unsent: u64,
    /// Of all devices, during the run.
    pub stats: Stats,
    /// Interrupts taken.
    pub interrupts: u32,
    /// Times that the CPU went idle.
    pub idles: u64,
    /// Interrupts that did not come in time.
    pub lost_interrupts: u64,
    /// ping only.
    pub rtt: Option<RoundTrips>,
}

impl Summary {
    /// Packets per second from the first to the last.
    pub fn pps(&self) -> u64 {
        let packets = u128::from(self.packets) * 1_000_000_000;
        packets.checked_div(self.duration_ns.into()).map_or(0, |pps| pps as u64)
    }

    /// True if every packet was what it should be, and none is missing.
    pub fn flawless(&self) -> bool {
        self.lost + self.reordered + self.duplicated + self.bad + self.unsent == 0
    }

    /// Writes the line, with its end.
    pub fn write_json(&self, out: &mut impl Write) -> fmt::Result {
        let (name, driver) = (self.function.name(), self.driver.name());
        write!(out, r#"{{"schema":1,"workload":"{name}","driver":"{driver}""#)?;
        let kicks = self.stats.tdt_writes + self.stats.rdt_writes;
        let numbers = [
            ("ring", self.ring.into()),
            ("packets", self.packets),
            ("bytes", self.bytes),
            ("duration_ns", self.duration_ns),
            ("pps", self.pps()),
            ("lost", self.lost),
            ("reordered", self.reordered),
            ("duplicated", self.duplicated),
            ("bad", self.bad),
            ("foreign", self.foreign),
            ("unsent", self.unsent),
            ("kicks", kicks),
            ("tdt_writes", self.stats.tdt_writes),
            ("rdt_writes", self.stats.rdt_writes),
            ("interrupts", self.interrupts.into()),
            ("lost_interrupts", self.lost_interrupts),
            ("idles", self.idles),
            ("mmio_reads", self.stats.mmio_reads),
            ("mmio_writes", self.stats.mmio_writes),
            ("rx_overruns", self.stats.rx_overruns),
            ("csb_bad", self.stats.csb_bad),
        ];
        for (key, value) in numbers {
            write!(out, r#","{key}":{value}"#)?;
        }
        if let Some(rtt) = self.rtt {
            let times = [
                ("rtt_count", rtt.count),
                ("rtt_min_ns", rtt.min_ns),
                ("rtt_mean_ns", rtt.mean_ns),
                ("rtt_p50_ns", rtt.p50_ns),
                ("rtt_p90_ns", rtt.p90_ns),
                ("rtt_p99_ns", rtt.p99_ns),
                ("rtt_p999_ns", rtt.p999_ns),
                ("rtt_max_ns", rtt.max_ns),
            ];
            for (key, value) in times {
                write!(out, r#","{key}":{value}"#)?;
            }
        }
        writeln!(out, "}}")
    }
}
