//! The command line. Short flags and positional arguments are those of netmap's `bridge(8)` and keep
//! their meaning; everything else has a long name. What upstream replaced silently (a bad burst) is
//! an error here. This file uses nothing of the rest of the program, so that man page and completions
//! can be made from it alone.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use nm_cli::args::OutputArgs;
use nm_cli::duration;
use nm_cli::exit::{self, UsageError};
use nm_cli::units::Count;
use nm_cli::wait::WaitMode;

/// Largest batch, as upstream.
const BURST_MAX: u64 = 8192;
/// Batch when none is asked for, as upstream.
const BURST_DEFAULT: usize = 1024;

const EXAMPLES: &str = "\
Examples:
  nm-bridge -i tap:t0 -i valeA:host     the host's stack joins the switch
  nm-bridge valeA:left valeB:right      join two switches
  nm-bridge stream:/tmp/vm1 valeA:vm1   QEMU or passt joins the switch
  nm-bridge -c vale0:a vale1:b 256      copy, at most 256 slots at once
  nm-bridge --json -T 1s valeA:l valeB:r | jq .a_to_b_pps";

/// Join two ports and move packets both ways.
///
/// Packets are moved by swapping buffers if both ports live in the same memory region, and copied
/// otherwise. Ports of VALE switches that nm-bridge itself creates share a region unless --copy or
/// @ID says otherwise. A bridge drops nothing: if one side is full, the other waits, and what it
/// cannot take is counted there. What an interface or a socket loses (it is down, nobody is there, a
/// frame is too long) is counted with its reason, here and at the switch's port (vale-ctl stats:
/// far_drop_down and its kin).
///
/// A pcap: port replays its file if there is one, as fast as the other side takes it, and else
/// records to it. Of two pcap: ports the first is read and the second written; the same holds for
/// pcap:- and FIFOs, whichever the other port is. The bridge ends when neither port can give
/// anything any more.
///
/// Two ports of one switch make a loop, in which a broadcast multiplies for ever: refused without
/// --loop.
///
/// With one name, that port is joined to its own host rings (NAME^), as upstream does.
///
/// Rates are those of whole frames without CRC (L2). L1 rates add CRC, preamble and gap, 24 bytes a
/// frame, and count short frames as 60 bytes.
#[derive(Clone, Debug, Parser)]
#[command(name = "nm-bridge", version, after_help = EXAMPLES,
          after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub struct Cli {
    /// A port: valeX:P, tap:NAME, xdp:NAME, stream:PATH, dgram:PATH, pcap:FILE, null:, and more (man 7 vale). Give it twice.
    #[arg(short = 'i', long = "port", value_name = "PORT")]
    pub ports: Vec<String>,

    /// Ports as positional arguments, and the burst as a third: `A [B [BURST]]`.
    #[arg(value_name = "PORT", num_args = 0..=3)]
    pub words: Vec<String>,

    /// Most slots moved at once in one direction [default: 1024].
    #[arg(short, long, value_name = "SLOTS")]
    pub burst: Option<String>,

    /// Wait this long before the first packet, as in 4s, for NICs whose link must come up first [default:
    /// as long as the link of a NIC is down, 4s at most].
    #[arg(short = 'w', long, value_name = "TIME", value_parser = duration::seconds)]
    pub wait_link: Option<Duration>,

    /// Copy packets even where buffers could be swapped, and share no memory.
    #[arg(short, long)]
    pub copy: bool,

    /// Let no frames carry virtio-net headers: each is complete before it is moved. Without this flag a tap: port and a
    /// port of a switch leave segmentation and checksums to whoever gets the frames in the end.
    #[arg(long)]
    pub no_offload: bool,

    /// Say on stderr what was opened and how packets will be moved.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Join two ports of one switch all the same.
    #[arg(long = "loop")]
    pub allow_loop: bool,

    /// Send what a single port receives back out of the same port.
    #[arg(short = 'L', long)]
    pub loopback: bool,

    /// Stop after this many packets, both directions together. Takes k, M, G, as in 10M; 0 is no limit.
    #[arg(long, value_name = "PACKETS", default_value = "0")]
    pub count: Count,

    /// Stop after this time, as in 500ms, 10s, 5m or 1h; a bare number is seconds.
    #[arg(long, value_name = "TIME", value_parser = duration::nonzero_seconds)]
    pub duration: Option<Duration>,

    /// Print rates every --interval, with --json and --csv too.
    #[arg(long, conflicts_with = "quiet")]
    pub stats: bool,

    /// Write every packet that is moved to a pcap file (- is stdout; reports then go to stderr).
    #[arg(long, value_name = "FILE")]
    pub pcap_out: Option<PathBuf>,

    /// Keep this many bytes of each packet in --pcap-out (0: all).
    #[arg(long, value_name = "BYTES", default_value_t = 0, requires = "pcap_out")]
    pub snaplen: u32,

    /// Run on this CPU.
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,

    /// How to wait when there is nothing to move.
    #[arg(long, value_enum, default_value_t = WaitMode::Adaptive)]
    pub wait_mode: WaitMode,

    /// The same as --wait-mode busy: never sleep.
    #[arg(long, conflicts_with = "wait_mode")]
    pub busy_poll: bool,

    /// Started by `vale-ctl attach` for the switches in this directory: tells it which bridge this is,
    /// and sends the reason of a failure to the system's log.
    #[arg(long, value_name = "ROOT", hide = true)]
    pub attached: Option<PathBuf>,

    /// Say "ready" there once both ports are open, and close it.
    #[arg(long, value_name = "FD", hide = true)]
    pub ready_fd: Option<i32>,

    /// End when nobody holds the other end of this pipe any more: the other bridge of a NIC and its host.
    #[arg(long, value_name = "FD", hide = true)]
    pub with: Option<i32>,

    /// How results are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The ports' names and the burst, wherever they were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operands {
    /// First port.
    pub a: String,
    /// Second port, if one was named.
    pub b: Option<String>,
    /// Most slots moved at once.
    pub burst: usize,
}

impl Cli {
    /// Sorts `-i`, positionals and `-b` out: names come first, a word behind two of them is the
    /// burst.
    pub fn operands(&self) -> anyhow::Result<Operands> {
        let mut words = self.ports.iter().chain(&self.words).cloned();
        let (a, b, third) = (words.next(), words.next(), words.next());
        let usage = |why: &str| Err(UsageError::new(why).into());
        let Some(a) = a else {
            return usage("which ports? For instance: nm-bridge -i valeA:left -i valeB:right");
        };
        if self.ports.len() > 2 || words.next().is_some() {
            return usage("a bridge has two ports; start another nm-bridge for a third");
        }
        if third.is_some() && self.burst.is_some() {
            return usage("the burst is given twice, by -b and as a third word");
        }
        if self.loopback && b.as_ref().is_some_and(|b| *b != a) {
            return usage("--loopback takes one port");
        }
        let burst = match third.as_ref().or(self.burst.as_ref()) {
            None => BURST_DEFAULT,
            Some(text) => burst(text)?,
        };
        Ok(Operands { a, b, burst })
    }

    /// How to wait, `--busy-poll` considered.
    pub fn wait(&self) -> WaitMode {
        if self.busy_poll { WaitMode::Busy } else { self.wait_mode }
    }

    /// Whether interval lines were asked for.
    pub fn wants_intervals(&self) -> bool {
        self.stats || self.output.interval.is_some()
    }
}

fn burst(text: &str) -> Result<usize, UsageError> {
    match text.parse::<Count>() {
        Ok(Count(slots @ 1..=BURST_MAX)) => {
            Ok(usize::try_from(slots).expect("at most BURST_MAX, which fits"))
        }
        _ => Err(UsageError::new(format!(
            "invalid burst {text:?}: a number of slots from 1 to {BURST_MAX} is expected"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn operands(line: &str) -> anyhow::Result<Operands> {
        Cli::try_parse_from(line.split_whitespace())?.operands()
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn operands_from_flags_or_words_are_the_same() {
        let expected = Operands { a: "a".into(), b: Some("b".into()), burst: 256 };
        for line in ["br -i a -i b -b 256", "br a b 256", "br -i a b -b 256", "br -i a -i b 256"] {
            assert_eq!(operands(line).unwrap(), expected, "{line}");
        }
        assert_eq!(operands("br a").unwrap(), Operands { a: "a".into(), b: None, burst: 1024 });
    }

    #[test]
    fn operands_nonsense_is_a_usage_error() {
        for line in [
            "br",
            "br -i a -i b -i c",
            "br a b 0",
            "br a b 8193",
            "br a b x",
            "br a b 1 -b 1",
            "br -i a -i b 1 2",
            "br -L a b",
        ] {
            let error = operands(line).expect_err(line);
            assert!(error.downcast_ref::<UsageError>().is_some(), "{line}: {error}");
        }
    }

    #[test]
    fn busy_poll_is_a_wait_mode() {
        let wait = |line: &str| Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.wait());
        assert_eq!(wait("br a --busy-poll").unwrap(), WaitMode::Busy);
        assert_eq!(wait("br a --wait-mode block").unwrap(), WaitMode::Block);
        assert!(wait("br a --busy-poll --wait-mode block").is_err());
    }
}
