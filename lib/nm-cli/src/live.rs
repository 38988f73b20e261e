//! A progress bar for bounded runs. It is shown only if stderr is a terminal that can draw it and the user
//! did not pass `--quiet`. Result lines are printed above it.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::OutputArgs;

/// What bounds a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A number of packets.
    Packets(u64),
    /// A time.
    Time(Duration),
}

/// The progress bar, or nothing where none can be drawn.
#[derive(Debug)]
pub struct Live {
    bar: Option<ProgressBar>,
    goal: Goal,
}

/// Whether a progress bar may be drawn on stderr.
pub fn interactive(output: &OutputArgs) -> bool {
    let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    !output.quiet && unset("NO_COLOR") && !dumb && std::io::stderr().is_terminal()
}

impl Live {
    /// A bar for a bounded run; without a goal, or where no bar can be drawn, all calls do nothing.
    #[expect(clippy::missing_panics_doc, reason = "a constant template is valid")]
    pub fn new(goal: Option<Goal>, output: &OutputArgs) -> Live {
        let (Some(goal), true) = (goal, interactive(output)) else {
            return Live { bar: None, goal: Goal::Packets(0) };
        };
        let length = match goal {
            Goal::Packets(packets) => packets,
            Goal::Time(time) => time.as_millis() as u64,
        };
        let bar =
            ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{percent:>3}% [{bar:40}] {msg} eta {eta}");
        bar.set_style(style.expect("constant template is valid").progress_chars("=> "));
        Live { bar: Some(bar), goal }
    }

    /// True if there is a bar to move.
    pub fn is_shown(&self) -> bool {
        self.bar.is_some()
    }

    /// Moves the bar and shows a message beside it, such as the rate.
    pub fn update(&self, packets: u64, elapsed: Duration, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(message());
            bar.set_position(match self.goal {
                Goal::Packets(_) => packets,
                Goal::Time(_) => elapsed.as_millis() as u64,
            });
        }
    }

    /// Runs `print` while the bar is hidden.
    pub fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_run_has_no_bar_and_still_prints() {
        let output = OutputArgs { quiet: true, ..OutputArgs::default() };
        let live = Live::new(Some(Goal::Packets(10)), &output);
        assert!(live.bar.is_none());
        live.update(5, Duration::ZERO, || panic!("no message is made for no bar"));
        assert_eq!(live.suspend(|| 7), 7);
        live.finish();
    }
}
