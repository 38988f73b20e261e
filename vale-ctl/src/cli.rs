//! The command line of `vale-ctl`, as data: `--help`, the manual page and the completions all come
//! from here.
//!
//! Invariant: this file only describes. Upstream's one-letter flags are not part of this definition; they
//! are translated into it by `legacy`, because upstream's rules (the last action wins, `-h IF`
//! attaches) are not those of a subcommand interface. Nor is anything of the library or of the rest of
//! this program used, so that pages and completions are made without either.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nm_cli::duration;
use nm_cli::mac::Mac;
use nm_cli::ring_config::RingConfig;

/// Show and control VALE switches in user space.
#[derive(Debug, Parser)]
#[command(
    name = "vale-ctl",
    version,
    about = "Show and control VALE switches in user space",
    long_about = "Show and control VALE switches in user space.\n\n\
        A switch is named valeA, a port of it valeA:x. Switches appear when their first port is \
        opened and vanish with the last one, unless they were made persistent. No root is needed: \
        whoever may write the switch's files may control it. Without a command, all switches are \
        listed.",
    after_long_help = AFTER_HELP
)]
pub struct Cli {
    /// Print JSON: an object keyed by the name of the switch or port, with "schema": 1
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more: what was changed, and in `list` the memory of each port
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// What to do; nothing means `list`
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Closing part of the long help and of the manual page.
const AFTER_HELP: &str = "\
Upstream's flags:
  -g, -d, -a, -h, -n, -r, -l, -p, -P with a port name, and -C, -m, -v, mean what they mean in
  netmap's vale-ctl: show, detach, attach, attach with the host stack, create, delete, list, start
  and stop polling; the last action wins. Note that `vale-ctl -h valeA:tap0` attaches. `-h` alone
  and `--help` print help.

Exit status:
  0    done, also when top or watch were ended by SIGINT, SIGTERM or SIGHUP
  1    failed
  2    the command line makes no sense
  3    a switch or port that was named does not exist, or is not attached
  129, 130, 143  third SIGHUP, SIGINT, SIGTERM, each a second after the one before: ended at once

Environment:
  NETMAP_ROOT   directory that holds the switches, in place of /dev/shm/netmap-UID

Examples:
  vale-ctl list
  vale-ctl attach valeA:tap0 && ip addr add 10.0.0.1/24 dev tap0
  vale-ctl fdb show valeA --json | jq '.valeA | keys'
  vale-ctl set valeA ageing 60s backpressure on
  vale-ctl top -n 1 --interval 5s";

/// The end of a subcommand's help.
fn examples(lines: &[&str]) -> String {
    lines.iter().fold("Examples:".to_owned(), |text, line| text + "\n  " + line)
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List switches and their ports, one line each
    #[command(after_help = examples(&[
        "vale-ctl list",
        "vale-ctl list valeA || echo \"no such switch\"",
        "vale-ctl list --json | jq keys",
    ]))]
    List(List),
    /// Show everything about one switch or port
    #[command(after_help = examples(&[
        "vale-ctl show valeA",
        "vale-ctl show valeA:x",
    ]))]
    Show(Show),
    /// Create a persistent port, or a persistent switch without ports
    #[command(after_help = examples(&[
        "vale-ctl create valeA:x    a port that stays when its user goes",
        "vale-ctl create valeA --may-exist",
        "vale-ctl create valeA:big -C 4096,4096,4,4    4 ring pairs of 4096 slots",
    ]))]
    Create(Create),
    /// Delete a persistent port, or a switch nobody uses
    #[command(after_help = examples(&[
        "vale-ctl delete valeA:x",
        "vale-ctl delete valeA --if-exists",
    ]))]
    Delete(Delete),
    /// Join an interface of the host to a switch: starts a bridge that keeps running
    ///
    /// Succeeds once the bridge says that it is ready, with both its ports open. Should it fail later,
    /// the reason is in the system's log.
    #[command(after_help = examples(&[
        "vale-ctl attach valeA:tap0 && ip addr add 10.0.0.1/24 dev tap0",
        "vale-ctl attach valeA:tap0 --busy-poll --cpu 3",
        "vale-ctl attach valeA:blue --netns blue --interface eth0    a container joins",
        "vale-ctl attach valeA:eth1 --host    a NIC joins, and its host with it",
    ]))]
    Attach(Attach),
    /// End the bridge that `attach` started
    #[command(after_help = examples(&[
        "vale-ctl detach valeA:tap0",
    ]))]
    Detach(Detach),
    /// Show or flush the table of learnt MAC addresses
    #[command(after_help = examples(&[
        "vale-ctl fdb show valeA",
        "vale-ctl fdb show valeA --json | jq '.valeA | keys'",
        "vale-ctl fdb flush valeA",
    ]))]
    #[command(subcommand)]
    Fdb(Fdb),
    /// Print the counters of switches and ports; a switch's are the sum of its present ports'
    #[command(after_help = examples(&[
        "vale-ctl stats",
        "vale-ctl stats valeA:x --rings",
        "vale-ctl stats valeA --json",
    ]))]
    Stats(Stats),
    /// Show rates, drops and batch sizes of all ports, live
    #[command(after_help = examples(&[
        "vale-ctl top",
        "vale-ctl top valeA -n 1 --interval 5s    one table",
    ]))]
    Top(Top),
    /// Print what happens: ports that appear and vanish, addresses learnt, moved and forgotten
    #[command(after_help = examples(&[
        "vale-ctl watch",
        "vale-ctl watch valeA -n 1    wait for the next event",
    ]))]
    Watch(Watch),
    /// Change settings of a switch or a port
    #[command(after_help = examples(&[
        "vale-ctl set valeA ageing 60s backpressure on",
        "vale-ctl set valeA persistent=on",
        "vale-ctl set valeA:x vnet-hdr=12",
    ]))]
    Set(Set),
    /// Show, set or end the mirror of a port: another port, which gets copies of all its packets
    ///
    /// The mirror gets what the port sends and what is sent to it, each packet once. Copies that the
    /// mirror has no room for are dropped and counted there; they never hold up the sender. A mirror
    /// ends with either of the two ports.
    #[command(after_help = examples(&[
        "vale-ctl create valeA:m && vale-ctl mirror valeA:x valeA:m",
        "nm-pktgen -i valeA:m -f rx --pcap-out - | tcpdump -nr -",
        "vale-ctl mirror valeA:x        which port is it?",
        "vale-ctl mirror valeA:x off",
    ]))]
    Mirror(Mirror),
    /// Show or set how long a learnt address is kept
    #[command(after_help = examples(&[
        "vale-ctl ageing valeA",
        "vale-ctl ageing valeA 60s",
    ]))]
    Ageing(Ageing),
    /// Show or set whether senders wait for a full receiver
    #[command(after_help = examples(&[
        "vale-ctl backpressure valeA",
        "vale-ctl backpressure valeA on    nothing is lost",
    ]))]
    Backpressure(Backpressure),
    /// Let the bridge of an attached interface busy-wait, or sleep again
    #[command(after_help = examples(&[
        "vale-ctl poll start valeA:tap0 --cpu 3",
        "vale-ctl poll stop valeA:tap0",
    ]))]
    #[command(subcommand)]
    Poll(Poll),
}

/// A switch (`valeA`, `valeA:`) or one port of it (`valeA:x`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The switch, with its prefix: `valeA`.
    pub switch: String,
    /// The port, `x`; none means the switch itself.
    pub port: Option<String>,
}

impl FromStr for Target {
    type Err = Infallible;

    /// Splits a name at the colon; `target` checks it.
    fn from_str(name: &str) -> Result<Target, Infallible> {
        Ok(match name.split_once(':') {
            Some((switch, port)) if !port.is_empty() => {
                Target { switch: switch.to_owned(), port: Some(port.to_owned()) }
            }
            Some((switch, _)) => Target { switch: switch.to_owned(), port: None },
            None => Target { switch: name.to_owned(), port: None },
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.port {
            Some(port) => write!(f, "{}:{port}", self.switch),
            None => f.write_str(&self.switch),
        }
    }
}

/// Arguments of `list`.
#[derive(Debug, Default, Args)]
pub struct List {
    /// Switches or ports; all when none is named. Exit status 3 if one does not exist
    #[arg(value_name = "NAME")]
    pub names: Vec<Target>,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Switch or port
    pub name: Target,
}

/// Options of every command that changes something.
#[derive(Clone, Debug, Default, Args)]
pub struct Change {
    /// Check and say what would be done, but do not do it
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// valeA:x for a port; valeA for a switch that stays without ports
    pub name: Target,
    /// Succeed, changing nothing, if it exists
    #[arg(long)]
    pub may_exist: bool,
    /// Slots and rings: `TX_SLOTS[,RX_SLOTS[,TX_RINGS[,RX_RINGS]]]`; what is left out follows the
    /// value before it
    #[arg(short = 'C', long, value_name = "CONFIG")]
    pub ring_config: Option<RingConfig>,
    /// Memory region to take the buffers from, shared by all ports that name it (0: one of its own)
    #[arg(short, long, value_name = "ID")]
    pub mem_id: Option<u16>,
    /// Size of that region in MiB, if it is made for the port, up to 528; fixed from then on. By default 32, or twice
    /// what the port needs, and 256 with --mem-id
    #[arg(long, value_name = "N")]
    pub mem_mib: Option<u32>,
    /// Whether to do it.
    #[command(flatten)]
    pub change: Change,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Port or switch
    pub name: Target,
    /// Succeed if it does not exist
    #[arg(long)]
    pub if_exists: bool,
    /// Whether to do it.
    #[command(flatten)]
    pub change: Change,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// valeA:IFACE; a NIC of that name, which the switch then has to itself, or else the tap interface IFACE, created
    /// if there is none
    #[arg(value_name = "SWITCH:IFACE")]
    pub name: Target,
    /// With the host stack (upstream's -h): a NIC's host goes on using it, through the switch's port IFACE_host. The
    /// other end of a tap is the host anyway
    #[arg(long)]
    pub host: bool,
    /// Take a NIC from its host although the default route goes through it: who is logged in by it is cut off
    #[arg(long)]
    pub force: bool,
    /// Succeed if it is attached already
    #[arg(long)]
    pub may_exist: bool,
    /// The interface, a NIC or a tap, is in this network namespace, one of /run/netns: a container's, for instance
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    /// What the interface is called, if not as the port
    #[arg(long, value_name = "IFACE")]
    pub interface: Option<String>,
    /// How the bridge is to run.
    #[command(flatten)]
    pub bridge: BridgeOptions,
    /// How long to wait for the bridge, as in 500ms or 5s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::nonzero_seconds)]
    pub timeout: Duration,
    /// Whether to do it.
    #[command(flatten)]
    pub change: Change,
}

/// How the bridge of an attached interface runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct BridgeOptions {
    /// Let the bridge busy-wait: lower latency, one CPU's whole time
    #[arg(long)]
    pub busy_poll: bool,
    /// CPU for the bridge
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,
    /// Finish checksums and segments before frames enter the switch, one by one
    #[arg(long)]
    pub no_offload: bool,
}

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct Detach {
    /// The port that `attach` made
    #[arg(value_name = "SWITCH:IFACE")]
    pub name: Target,
    /// Succeed if it is not attached
    #[arg(long)]
    pub if_exists: bool,
    /// How long to wait for the bridge to end, as in 500ms or 5s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::nonzero_seconds)]
    pub timeout: Duration,
    /// Whether to do it.
    #[command(flatten)]
    pub change: Change,
}

/// Subcommands of `fdb`.
#[derive(Debug, Subcommand)]
pub enum Fdb {
    /// Show which address was learnt behind which port, and how long ago it was last seen
    #[command(after_help = examples(&["vale-ctl fdb show", "vale-ctl fdb show valeA:x"]))]
    Show {
        /// Switches; with a port's name, only what is behind that port; all when none is named
        #[arg(value_name = "NAME")]
        names: Vec<Target>,
    },
    /// Forget learnt addresses
    #[command(after_help = examples(&[
        "vale-ctl fdb flush valeA",
        "vale-ctl fdb flush valeA --mac 02:00:00:00:00:01",
    ]))]
    Flush {
        /// Switch; with a port's name, only what is behind that port
        name: Target,
        /// Only this address
        #[arg(long)]
        mac: Option<Mac>,
        /// Whether to do it.
        #[command(flatten)]
        change: Change,
    },
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Switches or ports; all when none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<Target>,
    /// Also each ring's own counters
    #[arg(long)]
    pub rings: bool,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Switches or ports; all when none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<Target>,
    /// Stop after so many intervals (0: until stopped)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    pub count: u64,
    /// Time from one table to the next, as in 500ms, 2s or 1m; a bare number is milliseconds
    #[arg(short = 'T', long, value_name = "TIME", default_value = "1s", value_parser = duration::interval)]
    pub interval: Duration,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Switches or ports; all when none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<Target>,
    /// Stop after so many events (0: until stopped)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    pub count: u64,
    /// How often to look at the address tables, as in 250ms or 2s; ports are noticed at once
    #[arg(short = 'T', long, value_name = "TIME", default_value = "250ms", value_parser = duration::interval)]
    pub interval: Duration,
}

/// Arguments of `set`.
#[derive(Debug, Args)]
pub struct Set {
    /// Switch, or a port of it
    pub switch: Target,
    /// `ageing TIME|off`, `backpressure on|off`, `persistent on|off` of a switch; `vnet-hdr 0|10|12` of a port: the bytes
    /// of the virtio-net header in front of each frame, unless a program has the port open that counts on another length;
    /// `key=value` works too
    #[arg(value_name = "KEY VALUE", required = true, num_args = 1..)]
    pub words: Vec<String>,
    /// Whether to do it.
    #[command(flatten)]
    pub change: Change,
}

/// Arguments of `ageing`.
#[derive(Debug, Args)]
pub struct Ageing {
    /// Switch
    pub switch: Target,
    /// A time such as 90s, 5m or 1h, or off to keep addresses for ever; shown when left out
    #[arg(value_name = "TIME|off", value_parser = age)]
    pub value: Option<Age>,
}

/// Arguments of `backpressure`.
#[derive(Debug, Args)]
pub struct Backpressure {
    /// Switch
    pub switch: Target,
    /// on: a sender waits for room at a full receiver; off: the surplus is dropped; shown when
    /// left out
    pub value: Option<OnOff>,
}

/// Arguments of `mirror`.
#[derive(Debug, Args)]
pub struct Mirror {
    /// Port whose packets are copied
    pub name: Target,
    /// Port of the same switch that gets the copies; `off` ends it; shown when left out
    #[arg(value_name = "PORT")]
    pub to: Option<MirrorTo>,
}

/// Where the copies of a port's packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorTo {
    /// Nowhere.
    Off,
    /// To that port.
    Port(Target),
}

impl MirrorTo {
    /// The port, if there is one.
    pub fn port(&self) -> Option<&Target> {
        match self {
            MirrorTo::Off => None,
            MirrorTo::Port(port) => Some(port),
        }
    }
}

impl FromStr for MirrorTo {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<MirrorTo, Infallible> {
        Ok(match word {
            "off" => MirrorTo::Off,
            name => {
                let Ok(port) = name.parse();
                MirrorTo::Port(port)
            }
        })
    }
}

/// Subcommands of `poll`.
#[derive(Debug, Subcommand)]
pub enum Poll {
    /// The bridge busy-waits from now on
    #[command(after_help = examples(&["vale-ctl poll start valeA:tap0 --cpu 3"]))]
    Start {
        /// An attached port
        #[arg(value_name = "SWITCH:IFACE")]
        name: Target,
        /// CPU for the bridge, if not the one that it has
        #[arg(long, value_name = "CPU")]
        cpu: Option<usize>,
        /// How long to wait for the bridge, as in 500ms or 5s
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::nonzero_seconds)]
        timeout: Duration,
    },
    /// The bridge sleeps while there is nothing to do, as it does after attach
    #[command(after_help = examples(&["vale-ctl poll stop valeA:tap0"]))]
    Stop {
        /// An attached port
        #[arg(value_name = "SWITCH:IFACE")]
        name: Target,
        /// How long to wait for the bridge, as in 500ms or 5s
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::nonzero_seconds)]
        timeout: Duration,
    },
}

/// A switch that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// Enabled.
    On,
    /// Disabled.
    Off,
}

/// How long a learnt address is kept; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(pub Option<Duration>);

/// Parses `300s`, `5m`, `300` or `off`.
pub(crate) fn age(text: &str) -> Result<Age, String> {
    if text == "off" {
        return Ok(Age(None));
    }
    let why = |why| format!("{why}; `off` keeps addresses for ever");
    duration::nonzero_seconds(text).map(|age| Age(Some(age))).map_err(why)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn target_with_and_without_a_port() {
        for (text, switch, port) in
            [("valeA", "valeA", None), ("valeA:", "valeA", None), ("valeA:x", "valeA", Some("x"))]
        {
            let target: Target = text.parse().expect(text);
            assert_eq!((target.switch.as_str(), target.port.as_deref()), (switch, port));
        }
    }
}
