//! The command line, and nothing else: flags are pkt-gen's short ones with long names beside them.
//! Manual page and completions are generated from here, and from here alone: this file uses nothing of
//! the rest of the program. What flags mean together is checked in `plan`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use nm_cli::addr::AddrRange;
use nm_cli::args::OutputArgs;
use nm_cli::cpulist::CpuList;
use nm_cli::mac::MacRange;
use nm_cli::ring_config::RingConfig;
use nm_cli::units::{Bps, Count, Rate, Sizes};
use nm_cli::wait::WaitMode;
use nm_cli::{duration, exit};
use serde::Serialize;

const LONG_ABOUT: &str = "\
Sends, receives and measures packets on a netmap port: a VALE switch port (valeA:x, made on the fly), \
tap:NAME, pcap:FILE or null:. Flags of netmap's pkt-gen keep their meaning. Packets of another form, with \
VLAN tags for example, are sent from a capture (--pcap-in).

Sizes are frames without CRC, as a netmap slot counts them. L2 rates count these bytes; L1 rates add \
24 bytes a frame (CRC, preamble, gap) and count frames shorter than 60 bytes as 60.";

const EXAMPLES: &str = "\
Examples:
  nm-pktgen -i valeA:r -f rx    receive, with a line a second, until Ctrl-C
  nm-pktgen -i valeA:t -f tx -n 200M    send 200 million packets
  nm-pktgen -i valeA:t -f tx -R 1M -t 10s --json | jq .tx_pps
  nm-pktgen -i valeA:p -f pong    answer, for the next
  nm-pktgen -i valeA:q -f ping -n 100k    round trips
  nm-pktgen -i valeA:s -f txseq -n 1M    numbered packets, for the next
  nm-pktgen -i valeA:d -f rxseq --fail-on-loss    lost, reordered, duplicated
  nm-pktgen -i valeA:x -f tx -P trace.pcap --pcap-speed x2    replay
  nm-pktgen -i valeA:y -f rx --pcap-out seen.pcap    capture";

/// Packet generator, receiver and latency meter on netmap ports.
#[derive(Clone, Debug, Parser)]
#[command(name = "nm-pktgen", version, long_about = LONG_ABOUT, after_help = EXAMPLES,
          after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub struct Cli {
    /// What to do, as with --function.
    #[arg(value_enum, conflicts_with = "function")]
    pub what: Option<Function>,

    /// Port: valeA:x, tap:NAME, xdp:NAME, e1000:PCI-ADDRESS, pcap:FILE, null:, and more (man 7 vale); a bare NAME is
    /// netmap:NAME.
    #[arg(short = 'i', long, value_name = "PORT", required = true)]
    pub port: String,
    /// What to do [default: rx].
    #[arg(short = 'f', long, value_enum)]
    pub function: Option<Function>,
    /// Stop after this many packets, over all threads; 0 is no limit. Takes k, M, G, T, as in 10M, or 1e6.
    #[arg(short = 'n', long, value_name = "N", default_value = "0")]
    pub count: Count,
    /// Stop after this time, as in 500ms, 10s, 5m or 1h; a bare number is seconds.
    #[arg(short = 't', long, value_name = "TIME", value_parser = duration::nonzero_seconds)]
    pub duration: Option<Duration>,
    /// Do not count what happens in this time at the beginning, as in 500ms or 2s.
    #[arg(short = 'O', long, value_name = "TIME", default_value = "0", value_parser = duration::seconds)]
    pub warmup: Duration,
    /// Packets per sync [default: 512; 1 for ping and pong].
    #[arg(short = 'b', long, value_name = "N")]
    pub burst: Option<Count>,
    /// Send at this rate: packets a second (1000, 1M, 10Mpps), bits (1Gbps, L2 or with --framing L1),
    /// or 50% of --line-rate. Takes k, M, G; 0 is no limit.
    #[arg(short = 'R', long)]
    pub rate: Option<Rate>,
    /// What 100 % of --rate is, on L1.
    #[arg(long, value_name = "RATE", default_value = "10Gbps")]
    pub line_rate: Bps,
    /// Wait this long for the link before starting, as in 2s [default: 2s; 0 for VALE ports].
    #[arg(short = 'w', long, value_name = "TIME", value_parser = duration::seconds)]
    pub wait_link: Option<Duration>,
    /// How to wait when there is nothing to receive.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = WaitMode::Adaptive)]
    pub wait_mode: WaitMode,
    /// Receivers: once packets came, end when none came for a second.
    #[arg(short = 'W', long)]
    pub exit_if_empty: bool,
    /// Exit with 3 if packets were lost or dropped, if a sender had nobody to send to, or if a receiver got
    /// nothing.
    #[arg(long)]
    pub fail_on_loss: bool,

    /// Packet contents.
    #[command(flatten)]
    pub packet: PacketArgs,
    /// Replay and capture.
    #[command(flatten)]
    pub pcap: PcapArgs,
    /// Threads and rings.
    #[command(flatten)]
    pub threads: ThreadArgs,
    /// Reports.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Reports: add mean and standard deviation of the rate over the last 40 intervals.
    #[arg(short = 'A', long, help_heading = "Output")]
    pub rate_stats: bool,
    /// Bit rates of --rate count 24 bytes of framing a packet. (Reports always show L2 and L1.)
    #[arg(short = 'B', long, help_heading = "Output")]
    pub framing: bool,
    /// Print each packet in hexadecimal.
    #[arg(short = 'X', long, help_heading = "Output")]
    pub hexdump: bool,
    /// ping: write the latency histogram here (HdrHistogram's text form).
    #[arg(long, value_name = "FILE.hgrm", help_heading = "Output")]
    pub latency_out: Option<PathBuf>,
    /// Say more on stderr; twice for more.
    #[arg(short = 'v', action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,

    /// pkt-gen's bit mask of options: 32 -I, 64 -X, 256 -r, 512 -z, 1024 -Z, 2048 -A; others are ignored.
    #[arg(short = 'o', hide = true, value_name = "BITS", default_value_t = 0)]
    pub options: u32,
}

impl Cli {
    /// What 100 % of a rate is, unless the user says otherwise.
    pub const LINE_RATE: Bps = Bps(10e9);
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// Send packets.
    Tx,
    /// Receive and count packets.
    Rx,
    /// Send packets to a pong and measure the round trip; exit with 1 if nobody answers.
    Ping,
    /// Send what ping sends back to it.
    Pong,
    /// Send packets with sequence numbers.
    Txseq,
    /// Receive packets of txseq; count lost, reordered and duplicated ones.
    Rxseq,
}

/// What packets look like.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Packets")]
pub struct PacketArgs {
    /// Frame size without CRC: 60, 60-1514 (random) or imix; twice: random between both [default: 60; 80
    /// with IPv6].
    #[arg(short = 'l', long, value_name = "SIZE", action = ArgAction::Append)]
    pub size: Vec<Sizes>,
    /// IPv4 (the default unless an address is IPv6).
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// IPv6.
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Source, or a range to go through: `IP[:PORT[-IP:PORT]]`, IPv6 as `[IP]:PORT` [default: 10.0.0.1:1234,
    /// fd00::1].
    #[arg(short = 's', long, value_name = "RANGE")]
    pub src: Option<AddrRange>,
    /// Destination, or a range to go through [default: 10.1.0.1:1234, fd01::1].
    #[arg(short = 'd', long, value_name = "RANGE")]
    pub dst: Option<AddrRange>,
    /// Source MAC, or a range MAC-MAC to go through [default: the port's own].
    #[arg(short = 'S', long, value_name = "MAC")]
    pub src_mac: Option<MacRange>,
    /// Destination MAC, or a range MAC-MAC to go through [default: broadcast].
    #[arg(short = 'D', long, value_name = "MAC")]
    pub dst_mac: Option<MacRange>,
    /// Random source address and port in each packet.
    #[arg(short = 'z', long, conflicts_with = "src")]
    pub random_src: bool,
    /// Random destination address and port in each packet.
    #[arg(short = 'Z', long, conflicts_with = "dst")]
    pub random_dst: bool,
    /// Seed of all that is random; the same seed sends the same packets [default: a new one each run].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Send each packet in this many slots (NS_MOREFRAG).
    #[arg(short = 'F', long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=63))]
    pub frags: Option<u8>,
    /// Bytes in each of these slots, if less than an equal share.
    #[arg(short = 'M', long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(14..))]
    pub frag_size: Option<u16>,
    /// Insist on sending by reference (NS_INDIRECT): one constant packet, copied inside the sync.
    ///
    /// A port of a switch does so of itself when all packets are equal.
    #[arg(short = 'I', long)]
    pub indirect: bool,
    /// Send from the port's own buffers, even if all packets are equal.
    ///
    /// What a killed sender had queued there is sent by the next user of the port.
    #[arg(long, conflicts_with = "indirect")]
    pub no_indirect: bool,
    /// Do not write packets: send what the buffers happen to hold.
    #[arg(short = 'r', long)]
    pub no_init: bool,
    /// Bytes of virtio-net header in front of each frame, if not the port's own: the port has them meanwhile. With 0 it keeps its
    /// own, and packets begin with what --pcap-in has for it.
    #[arg(short = 'H', long, value_name = "BYTES", value_parser = ["0", "10", "12"])]
    pub vnet_hdr: Option<String>,
}

/// Replay and capture.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Capture files")]
pub struct PcapArgs {
    /// tx: send the packets of this capture: pcap or pcapng, also packed by gzip, zstd or xz; - is stdin.
    #[arg(short = 'P', long, value_name = "FILE")]
    pub pcap_in: Option<PathBuf>,
    /// Timing of the replay: real, xN (N times as fast, as in x2) or max [default: real, or --rate].
    #[arg(long, value_name = "SPEED", requires = "pcap_in", conflicts_with = "rate")]
    pub pcap_speed: Option<Speed>,
    /// Replay the file this many times; 0 is until stopped.
    #[arg(long, value_name = "N", requires = "pcap_in", default_value = "1")]
    pub pcap_loop: Count,
    /// Shorten gaps between two packets of the file to this, as in 500ms or 2s, and say so.
    #[arg(long, value_name = "TIME", requires = "pcap_in", default_value = "60s", value_parser = duration::nonzero_seconds)]
    pub pcap_max_gap: Duration,
    /// Give packets without Ethernet header one (Linux cooked, raw IP, BSD loopback), with --src-mac and
    /// --dst-mac unless the packet knows better. For --pcap-in and pcap: ports.
    #[arg(long)]
    pub link_to_ethernet: bool,
    /// rx, rxseq: write what is received to this pcap file; - is stdout (reports go to stderr then).
    #[arg(long, value_name = "FILE")]
    pub pcap_out: Option<PathBuf>,
    /// Keep only this many bytes of each packet; 0 is all.
    #[arg(long, value_name = "BYTES", requires = "pcap_out", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=262_144))]
    pub snaplen: u32,
}

/// Threads, CPUs and rings.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Threads")]
pub struct ThreadArgs {
    /// Threads, each with a ring pair of its own.
    #[arg(short = 'p', long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=16))]
    pub threads: u16,
    /// Pin threads to these CPUs (0,2-3) in turn; a single CPU is that of the first thread.
    #[arg(short = 'a', long, value_name = "LIST")]
    pub cpu: Option<CpuList>,
    /// With a single --cpu: go on with CPU 0 after this many CPUs [default: all there are].
    #[arg(short = 'c', long, value_name = "N", requires = "cpu")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub cpus: Option<u16>,
    /// Slots and rings of the port: `TX[,RX[,TXRINGS[,RXRINGS]]]`.
    #[arg(short = 'C', long, value_name = "CONFIG")]
    pub ring_config: Option<RingConfig>,
}

/// Timing of a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Gaps of the file divided by this.
    Times(f64),
    /// No gaps.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Speed, String> {
        match text {
            "real" => Ok(Speed::Times(1.0)),
            "max" => Ok(Speed::Max),
            _ => match text.strip_prefix('x').and_then(|times| times.parse::<f64>().ok()) {
                Some(times) if (1e-3..=1e6).contains(&times) => Ok(Speed::Times(times)),
                Some(_) => Err("a speed is between x0.001 and x1000000".to_string()),
                None => Err("not a speed; write real, x2, x0.5 or max".to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn speeds_parse() {
        assert_eq!("x2".parse(), Ok(Speed::Times(2.0)));
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert!("x0".parse::<Speed>().is_err() && "fast".parse::<Speed>().is_err());
    }
}
