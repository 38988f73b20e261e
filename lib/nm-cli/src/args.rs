//! Output options that every tool takes, to be flattened into its clap definition:
//! `#[command(flatten)] output: OutputArgs`. They reserve `-q`, `-N` and `-T`.

use std::time::Duration;

use crate::duration;
use crate::units::Units;

/// How results are printed.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print JSON on stdout: one object at the end or, with --interval, one object a line ("start",
    /// "interval", ..., "end"). Numbers are unscaled, the unit is part of the key.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Print comma-separated values with a header: the totals or, with --interval, a row an interval.
    #[arg(long)]
    pub csv: bool,
    /// Print the result only: no interval lines, no progress.
    #[arg(short, long)]
    pub quiet: bool,
    /// Print exact integers, not numbers with k, M, G.
    #[arg(short = 'N', long)]
    pub exact: bool,
    /// Time between two reports, as in 500ms, 2s or 1m; a bare number is milliseconds [default: 1s].
    #[arg(short = 'T', long, value_name = "TIME", value_parser = duration::interval)]
    pub interval: Option<Duration>,
}

impl OutputArgs {
    /// The time between two reports unless the user chooses another.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

    /// The time between two reports.
    pub fn interval(&self) -> Duration {
        self.interval.unwrap_or(Self::DEFAULT_INTERVAL)
    }

    /// How numbers are to be written for people.
    pub fn units(&self) -> Units {
        Units { exact: self.exact }
    }

    /// True when stdout is read by a program.
    pub fn machine(&self) -> bool {
        self.json || self.csv
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn parse(words: &[&str]) -> Result<OutputArgs, clap::Error> {
        let words = std::iter::once("t").chain(words.iter().copied());
        OutputArgs::augment_args(Command::new("t"))
            .try_get_matches_from(words)
            .and_then(|found| OutputArgs::from_arg_matches(&found))
    }

    #[test]
    fn interval_bare_number_is_milliseconds() {
        let args = parse(&["-T", "250"]).expect("valid");
        assert_eq!(args.interval(), Duration::from_millis(250));
        assert_eq!(parse(&[]).expect("valid").interval(), Duration::from_secs(1));
    }

    #[test]
    fn json_and_csv_together_is_refused() {
        assert!(parse(&["--json", "--csv"]).is_err());
    }
}
