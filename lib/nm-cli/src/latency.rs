//! Latencies in a High Dynamic Range histogram: 1 ns to 100 s at three significant digits, in constant
//! memory, mergeable between threads.
//!
//! The text output is HdrHistogram's percentile distribution (`.hgrm`), which HdrHistogram's plotters read.

use std::io::{self, Write};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that the histogram resolves; longer ones count as this one.
const LONGEST_NS: u64 = 100_000_000_000;

/// A histogram of latencies in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

/// The summary of a histogram. Field names are the JSON keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Number of samples.
    pub rtt_count: u64,
    /// Shortest.
    pub rtt_min_ns: u64,
    /// Arithmetic mean.
    pub rtt_mean_ns: f64,
    /// Half of the samples are not above this.
    pub rtt_p50_ns: u64,
    /// 90 % are not above this.
    pub rtt_p90_ns: u64,
    /// 99 % are not above this.
    pub rtt_p99_ns: u64,
    /// 99.9 % are not above this.
    pub rtt_p999_ns: u64,
    /// Longest.
    pub rtt_max_ns: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}

impl Latency {
    /// An empty histogram.
    #[expect(clippy::missing_panics_doc, reason = "constant bounds are valid")]
    pub fn new() -> Latency {
        let histogram =
            Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("constant bounds are valid");
        Latency { histogram }
    }

    /// Adds a sample. No allocation.
    pub fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns);
    }

    /// Adds all samples of another histogram.
    #[expect(clippy::missing_panics_doc, reason = "all histograms have the same bounds")]
    pub fn merge(&mut self, other: &Latency) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
    }

    /// Number of samples.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Forgets all samples.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// The percentiles that reports show; all zero when there are no samples.
    pub fn summary(&self) -> Summary {
        let h = &self.histogram;
        if h.is_empty() {
            return Summary::default();
        }
        // The value of a bucket is its upper bound, which may exceed the largest sample.
        let at = |quantile| h.value_at_quantile(quantile).min(h.max());
        Summary {
            rtt_count: h.len(),
            rtt_min_ns: h.min(),
            rtt_mean_ns: h.mean(),
            rtt_p50_ns: at(0.5),
            rtt_p90_ns: at(0.9),
            rtt_p99_ns: at(0.99),
            rtt_p999_ns: at(0.999),
            rtt_max_ns: h.max(),
        }
    }

    /// Writes the percentile distribution, five steps per halving of the distance to 100 %.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_hgrm(&self, out: &mut impl Write) -> io::Result<()> {
        let h = &self.histogram;
        writeln!(
            out,
            "{:>12} {:>14} {:>10} {:>14}",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        writeln!(out)?;
        let mut total = 0;
        for step in h.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let (value, quantile) =
                (step.value_iterated_to().min(h.max()), step.quantile_iterated_to());
            if quantile < 1.0 {
                writeln!(
                    out,
                    "{value:>12} {quantile:>2.12} {total:>10} {:>14.2}",
                    1.0 / (1.0 - quantile)
                )?;
            } else {
                writeln!(out, "{value:>12} {quantile:>2.12} {total:>10} {:>14}", "inf")?;
            }
        }
        writeln!(out, "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]", h.mean(), h.stdev())?;
        writeln!(out, "#[Max     = {:>12}, Total count    = {:>12}]", h.max(), h.len())?;
        writeln!(
            out,
            "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
            h.buckets(),
            h.distinct_values()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_thousand_known_samples() {
        let mut latency = Latency::new();
        let mut other = Latency::new();
        (1..=500).for_each(|ns| latency.record(ns));
        (501..=1000).for_each(|ns| other.record(ns));
        latency.merge(&other);
        let summary = latency.summary();
        assert_eq!((summary.rtt_count, summary.rtt_min_ns, summary.rtt_max_ns), (1000, 1, 1000));
        assert_eq!(
            (summary.rtt_p50_ns, summary.rtt_p90_ns, summary.rtt_p99_ns, summary.rtt_p999_ns),
            (500, 900, 990, 999)
        );
        assert!((summary.rtt_mean_ns - 500.5).abs() < 0.01);
    }

    #[test]
    fn extremes_saturate_and_emptiness_is_zero() {
        let mut latency = Latency::new();
        assert_eq!(latency.summary(), Summary::default());
        latency.record(u64::MAX);
        latency.record(0);
        assert!(latency.summary().rtt_max_ns >= LONGEST_NS);
    }

    #[test]
    fn hgrm_ends_at_all_samples() {
        let mut latency = Latency::new();
        (1..=100).for_each(|ns| latency.record(ns * 1000));
        let mut text = Vec::new();
        latency.write_hgrm(&mut text).expect("memory");
        let text = String::from_utf8(text).expect("ASCII");
        let last = text.lines().rfind(|line| !line.starts_with('#')).expect("has rows");
        let columns: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(columns[1..], ["1.000000000000", "100", "inf"]);
        assert!(text.contains("Total count    =          100"));
    }
}
