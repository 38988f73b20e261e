//! What a run will do, validated: combinations that make no sense end here, each with one sentence and
//! exit code 2, so that nothing after this has to doubt its input.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use netmap::{Capabilities, Options, PortName, RingSel, Wait};
use nm_capture::Addresses;
use nm_cli::addr::AddrRange;
use nm_cli::args::OutputArgs;
use nm_cli::exit::UsageError;
use nm_cli::mac::{Mac, MacRange};
use nm_cli::units::{L1_OVERHEAD_BYTES, Rate, Sizes};
use nm_cli::wait::WaitMode;
use nm_stream::Mark;

use crate::cli::{Cli, Function, Speed};
use crate::packet::cut::Cut;
use crate::packet::ip::Family;
use crate::packet::source::Recipe;
use crate::packet::template;
use crate::rate::{Target, Unit};

/// Longest packet: what netmap's 16-bit lengths and UDP's can say.
const MAX_PACKET: usize = 65_535;

/// Replay of a capture file.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The file; `-` is stdin.
    pub path: PathBuf,
    /// Its timing; `Max` when a rate decides.
    pub speed: Speed,
    /// Times to play it; 0 is for ever.
    pub times: u64,
    /// Longer gaps between its packets are shortened to this.
    pub longest_gap: Duration,
}

/// A validated run.
#[derive(Debug)]
pub struct Plan {
    /// What to do.
    pub function: Function,
    /// One name per thread.
    pub ports: Vec<PortName>,
    /// How to open them.
    pub options: Options,
    /// Packets over all threads; `None` is no limit.
    pub count: Option<u64>,
    /// Time limit.
    pub duration: Option<Duration>,
    /// Not counted at the beginning.
    pub warmup: Duration,
    /// Packets per sync.
    pub burst: usize,
    /// Rate of all threads together.
    pub rate: Option<Target>,
    /// Time before the start.
    pub wait_link: Duration,
    /// How to wait for packets.
    pub wait: Wait,
    /// End when traffic has ended.
    pub exit_if_empty: bool,
    /// Exit code 3 on loss.
    pub fail_on_loss: bool,
    /// What packets look like.
    pub recipe: Recipe,
    /// The source MAC was not given: a port that has one of its own uses that.
    pub own_mac: bool,
    /// The header in front of frames is the port's.
    pub own_header: bool,
    /// How they are cut.
    pub cut: Cut,
    /// Send by reference.
    pub indirect: bool,
    /// Do not send by reference.
    pub no_indirect: bool,
    /// Send what the buffers hold.
    pub no_init: bool,
    /// Replay instead.
    pub replay: Option<Replay>,
    /// Packets of captures that have no Ethernet header get one.
    pub link_to_ethernet: bool,
    /// Capture file and snap length.
    pub pcap_out: Option<(PathBuf, u32)>,
    /// CPU of each thread.
    pub cpus: Option<Vec<usize>>,
    /// Reports.
    pub output: OutputArgs,
    /// Mean and deviation in reports.
    pub rate_stats: bool,
    /// Print packets.
    pub hexdump: bool,
    /// Histogram file.
    pub latency_out: Option<PathBuf>,
    /// How much to say on stderr.
    pub verbose: u8,
    /// Flags that were given and have no effect.
    pub idle: Vec<&'static str>,
}

fn usage<T>(why: impl Into<String>) -> anyhow::Result<T> {
    Err(UsageError::new(why).into())
}

impl Function {
    /// True if it makes packets.
    pub fn sends(self) -> bool {
        matches!(self, Function::Tx | Function::Txseq | Function::Ping | Function::Pong)
    }

    /// True if it takes packets.
    pub fn receives(self) -> bool {
        !matches!(self, Function::Tx | Function::Txseq)
    }

    /// What chooses it.
    pub fn flag(self) -> &'static str {
        match self {
            Function::Tx => "-f tx",
            Function::Rx => "-f rx",
            Function::Ping => "-f ping",
            Function::Pong => "-f pong",
            Function::Txseq => "-f txseq",
            Function::Rxseq => "-f rxseq",
        }
    }

    /// True if its packets carry a mark.
    fn marks(self) -> bool {
        matches!(self, Function::Txseq | Function::Ping)
    }
}

impl Plan {
    /// Takes the length of the port's virtio-net headers, unless another was asked for.
    pub fn take_header(&mut self, len: u8) -> anyhow::Result<()> {
        if self.own_header {
            fits(self.recipe.sizes, len.into())?;
            self.recipe.vnet = len.into();
        }
        Ok(())
    }

    /// The length of headers that the port is to have, if that was asked for. With 0 the port keeps its own, and packets are what
    /// the capture or the program has for them, headers among them.
    pub fn asked_header(&self) -> Option<u8> {
        let len = u8::try_from(self.recipe.vnet).ok().filter(|&len| len > 0)?;
        (!self.own_header).then_some(len)
    }

    /// Checks what was typed.
    pub fn new(mut cli: Cli) -> anyhow::Result<Plan> {
        apply_option_bits(&mut cli);
        let function = cli.what.or(cli.function).unwrap_or(Function::Rx);
        let name: PortName = match cli.port.parse::<PortName>() {
            Ok(name) => name,
            Err(error) => return usage(error.to_string()),
        };
        check_files(&cli, function, &name)?;
        let idle = crate::idle::flags(&cli, function);
        let ports = thread_ports(&name, cli.threads.threads)?;
        let recipe = recipe(&cli, function, &name)?;
        if recipe.vnet > 0 && !name.can(Capabilities::OFFLOAD_HEADERS) {
            return usage(format!("{name} takes no virtio-net headers; leave --vnet-hdr out"));
        }
        let cut = cut(&cli, recipe.vnet, recipe.sizes)?;
        if cli.packet.indirect {
            if !name.can(Capabilities::INDIRECT) {
                return usage(format!(
                    "{name} cannot take packets from elsewhere: leave --indirect out"
                ));
            }
            if !recipe.constant()
                || function != Function::Tx
                || cut != (Cut { frags: None, size: None })
            {
                return usage(
                    "--indirect sends one constant packet: use it with -f tx, one size and one address each",
                );
            }
            if cli.packet.no_init {
                return usage("--indirect and --no-init exclude each other");
            }
        }
        if cli.packet.no_init && function != Function::Tx {
            return usage("--no-init only makes sense with -f tx");
        }
        let burst = match cli.burst {
            Some(burst) if (1..=4096).contains(&burst.0) => burst.0 as usize,
            Some(_) => return usage("--burst is between 1 and 4096"),
            None if matches!(function, Function::Ping | Function::Pong) => 1,
            None => 512,
        };
        Ok(Plan {
            ports,
            options: options(&cli, &name)?,
            count: Some(cli.count.0).filter(|&count| count > 0),
            duration: cli.duration,
            warmup: cli.warmup,
            burst,
            rate: rate(&cli),
            wait_link: cli.wait_link.unwrap_or(match name.can(Capabilities::LINK_STATE) {
                true => Duration::from_secs(2),
                false => Duration::ZERO,
            }),
            wait: match cli.wait_mode {
                WaitMode::Busy => Wait::Busy,
                WaitMode::Adaptive => Wait::default(),
                WaitMode::Block => Wait::Block,
            },
            exit_if_empty: cli.exit_if_empty,
            fail_on_loss: cli.fail_on_loss,
            recipe,
            own_mac: cli.packet.src_mac.is_none(),
            own_header: cli.packet.vnet_hdr.is_none(),
            cut,
            indirect: cli.packet.indirect,
            no_indirect: cli.packet.no_indirect,
            no_init: cli.packet.no_init,
            replay: cli.pcap.pcap_in.map(|path| Replay {
                path,
                speed: cli.pcap.pcap_speed.unwrap_or(if cli.rate.is_some() {
                    Speed::Max
                } else {
                    Speed::Times(1.0)
                }),
                times: cli.pcap.pcap_loop.0,
                longest_gap: cli.pcap.pcap_max_gap,
            }),
            link_to_ethernet: cli.pcap.link_to_ethernet,
            pcap_out: cli.pcap.pcap_out.map(|path| (path, cli.pcap.snaplen)),
            cpus: cli.threads.cpu.map(|list| {
                list.for_threads(cli.threads.threads.into(), cli.threads.cpus.map(usize::from))
            }),
            output: cli.output,
            rate_stats: cli.rate_stats,
            hexdump: cli.hexdump,
            latency_out: cli.latency_out,
            verbose: cli.verbose,
            idle,
            function,
        })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.ports.len()
    }

    /// True if stdout carries a capture.
    pub fn stdout_is_capture(&self) -> bool {
        let out = self.pcap_out.as_ref().map(|(path, _)| path);
        let port = self.ports.iter().find_map(PortName::path).filter(|_| self.function.sends());
        out.map(PathBuf::as_path).into_iter().chain(port).any(nm_capture::is_stdout)
    }

    /// True if what is said beside the results goes to stderr: stdout is read by a program.
    pub fn talks_on_stderr(&self) -> bool {
        self.output.machine() || self.stdout_is_capture()
    }

    /// MAC addresses for packets of captures that have none, if they are wanted.
    pub fn to_ethernet(&self) -> Option<Addresses> {
        self.link_to_ethernet.then_some(Addresses {
            src: self.recipe.src_mac.first.0,
            dst: self.recipe.dst_mac.first.0,
        })
    }
}

/// Bits of pkt-gen's `-o` that mean what a flag means too.
fn apply_option_bits(cli: &mut Cli) {
    let bit = |bit: u32| cli.options & bit != 0;
    let (indirect, dump, rubbish, src, dst, stats) =
        (bit(32), bit(64), bit(256), bit(512), bit(1024), bit(2048));
    cli.packet.indirect |= indirect;
    cli.hexdump |= dump;
    cli.packet.no_init |= rubbish;
    cli.packet.random_src |= src;
    cli.packet.random_dst |= dst;
    cli.rate_stats |= stats;
}

fn check_files(cli: &Cli, function: Function, name: &PortName) -> anyhow::Result<()> {
    let pcap = &cli.pcap;
    if let Some(path) = &pcap.pcap_in {
        if function != Function::Tx {
            return usage("--pcap-in sends packets: use it with -f tx");
        }
        if cli.threads.threads > 1 {
            return usage("--pcap-in replays in order, which takes one thread");
        }
        let packet = &cli.packet;
        if packet.indirect
            || packet.no_init
            || packet.frags.is_some()
            || packet.frag_size.is_some()
            || !packet.size.is_empty()
        {
            return usage(
                "--pcap-in sends packets as they are: it excludes --size, --frags, --frag-size, --indirect and --no-init",
            );
        }
        if nm_capture::is_stdin(path) && pcap.pcap_loop.0 != 1 {
            return usage("--pcap-loop needs a file that can be read again, not stdin");
        }
    }
    if pcap.link_to_ethernet
        && pcap.pcap_in.is_none()
        && !(name.path().is_some() && function.receives())
    {
        return usage(
            "--link-to-ethernet is about captures that are read: --pcap-in or a pcap: port",
        );
    }
    if name.path().is_some() && matches!(function, Function::Ping | Function::Pong) {
        return usage(format!("{name} is a file, and ping and pong need somebody who answers"));
    }
    if pcap.pcap_out.is_some() && !matches!(function, Function::Rx | Function::Rxseq) {
        return usage("--pcap-out writes what is received: use it with -f rx or rxseq");
    }
    if cli.latency_out.is_some() && function != Function::Ping {
        return usage("--latency-out holds round trips: use it with -f ping");
    }
    if cli.exit_if_empty && !matches!(function, Function::Rx | Function::Rxseq | Function::Pong) {
        return usage(
            "--exit-if-empty is about received packets: use it with -f rx, rxseq or pong",
        );
    }
    if cli.rate.is_some() && (!function.sends() || function == Function::Pong) {
        return usage("--rate is about sending: use it with -f tx, txseq or ping");
    }
    Ok(())
}

/// Whether all threads share one handle, of which each has a ring: the port cannot be opened twice.
pub fn is_split(name: &PortName, threads: u16) -> bool {
    threads > 1 && name.can(Capabilities::SEVERAL_RINGS) && !name.can(Capabilities::SEVERAL_HANDLES)
}

/// `valeA:x` for one thread, `valeA:x-0`, `valeA:x-1`, ... for more.
fn thread_ports(name: &PortName, threads: u16) -> anyhow::Result<Vec<PortName>> {
    if threads == 1 {
        return Ok(vec![name.clone()]);
    }
    let (handles, rings) = (Capabilities::SEVERAL_HANDLES, Capabilities::SEVERAL_RINGS);
    match name.rings {
        _ if !name.can(rings) && name.can(handles) => {
            Ok(vec![name.clone(); usize::from(threads)]) // each a port of its own
        }
        _ if !name.can(rings) => usage(format!("{name} serves one thread; leave --threads out")),
        RingSel::All if is_split(name, threads) => Ok(vec![name.clone(); usize::from(threads)]),
        RingSel::All => {
            Ok((0..threads).map(|ring| name.clone().with_rings(RingSel::One(ring))).collect())
        }
        _ => {
            usage(format!("{name} names its rings, and --threads chooses them too; leave one out"))
        }
    }
}

fn options(cli: &Cli, name: &PortName) -> anyhow::Result<Options> {
    let config = cli.threads.ring_config.unwrap_or_default();
    let threads = Some(cli.threads.threads).filter(|&threads| threads > 1);
    // What the name says in @conf: wins: it is nearer to the port.
    let rings = |conf: Option<u16>, flag: Option<u16>| conf.or(flag).or(threads);
    let (tx, rx) =
        (rings(name.conf.tx_rings, config.tx_rings), rings(name.conf.rx_rings, config.rx_rings));
    for rings in [tx, rx].into_iter().flatten() {
        if rings < cli.threads.threads && name.can(Capabilities::SEVERAL_RINGS) {
            return usage(format!(
                "{} threads need as many rings, not {rings}",
                cli.threads.threads
            ));
        }
        if rings > cli.threads.threads && is_split(name, cli.threads.threads) {
            return usage(format!(
                "each of the {rings} rings of {name} needs a thread; say --threads {rings}"
            ));
        }
    }
    Ok(Options {
        tx_slots: name.conf.tx_slots.or(config.tx_slots),
        rx_slots: name.conf.rx_slots.or(config.rx_slots),
        tx_rings: tx,
        rx_rings: rx,
        ..Options::default()
    })
}

fn recipe(cli: &Cli, function: Function, name: &PortName) -> anyhow::Result<Recipe> {
    let packet = &cli.packet;
    let wants_v6 =
        packet.ipv6 || [packet.src, packet.dst].iter().flatten().any(|range| range.is_ipv6());
    let family = if wants_v6 && !packet.ipv4 { Family::V6 } else { Family::V4 };
    let default = |v4: Ipv4Addr, v6: Ipv6Addr| {
        AddrRange::one(if family == Family::V4 { IpAddr::from(v4) } else { IpAddr::from(v6) })
    };
    let src = packet.src.unwrap_or_else(|| {
        default(Ipv4Addr::new(10, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))
    });
    let dst = packet.dst.unwrap_or_else(|| {
        default(Ipv4Addr::new(10, 1, 0, 1), Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1))
    });
    if [src, dst].iter().any(|range| range.is_ipv6() != (family == Family::V6)) {
        return usage("source, destination and -4 or -6 must be of one address family");
    }
    let vnet = packet.vnet_hdr.as_deref().unwrap_or("0");
    let vnet = vnet.parse().context("virtio-net header length")?;
    Ok(Recipe {
        family,
        vnet,
        sizes: sizes(&packet.size, family, function, vnet)?,
        src,
        dst,
        random_src: packet.random_src,
        random_dst: packet.random_dst,
        src_mac: packet.src_mac.unwrap_or_else(|| MacRange::from(own_mac(name))),
        dst_mac: packet.dst_mac.unwrap_or(MacRange::from(Mac::BROADCAST)),
        seed: packet.seed.unwrap_or_else(fresh_seed),
    })
}

fn sizes(
    given: &[Sizes],
    family: Family,
    function: Function,
    vnet: usize,
) -> anyhow::Result<Sizes> {
    let sizes = match *given {
        [] if family == Family::V6 => Sizes::Fixed(80),
        [] => Sizes::Fixed(60),
        [one] => one,
        [Sizes::Fixed(a), Sizes::Fixed(b)] if a == b => Sizes::Fixed(a),
        [Sizes::Fixed(a), Sizes::Fixed(b)] => Sizes::Range(a.min(b), a.max(b)),
        _ => {
            return usage(
                "--size may be given twice only with one number each: the ends of a range",
            );
        }
    };
    let marked = template::header_bytes(family) + Mark::LEN;
    let least = if function.marks() {
        marked
    } else if matches!(sizes, Sizes::Fixed(_)) {
        16
    } else {
        // Varying sizes rewrite the length fields, so the headers must be there.
        template::header_bytes(family)
    };
    let low = *sizes.bounds().start();
    if low < least {
        return usage(format!(
            "--size {sizes} is too short: these packets need at least {least} bytes"
        ));
    }
    fits(sizes, vnet)?;
    Ok(sizes)
}

/// Packets of these sizes behind such a header are not longer than packets can be.
fn fits(sizes: Sizes, vnet: usize) -> anyhow::Result<()> {
    if sizes.bounds().end() + vnet > MAX_PACKET {
        return usage(format!(
            "--size {sizes} is too long: at most {MAX_PACKET} bytes with the virtio-net header"
        ));
    }
    Ok(())
}

fn cut(cli: &Cli, vnet: usize, sizes: Sizes) -> anyhow::Result<Cut> {
    let frags = cli.packet.frags.map(usize::from).filter(|&frags| frags > 1);
    let cut = Cut { frags, size: cli.packet.frag_size.map(usize::from) };
    let (low, high) = sizes.bounds().into_inner();
    if let Some(frags) = frags
        && (low + vnet) / frags < 14
    {
        return usage(format!("{low} bytes are too few for {frags} fragments of at least 14"));
    }
    if let (None, Some(size)) = (frags, cut.size)
        && (high + vnet).div_ceil(size) > 63
    {
        return usage(format!("fragments of {size} bytes make more than 63 of a packet"));
    }
    Ok(cut)
}

fn rate(cli: &Cli) -> Option<Target> {
    let overhead = if cli.framing { L1_OVERHEAD_BYTES } else { 0 };
    match cli.rate {
        None => None,
        Some(Rate::Pps(pps)) if pps.0 == 0.0 => None,
        Some(Rate::Pps(pps)) => Some(Target { per_second: pps.0, unit: Unit::Packets }),
        Some(Rate::Bps(bps)) => Some(Target { per_second: bps.0, unit: Unit::Bits { overhead } }),
        Some(Rate::Percent(percent)) => {
            let unit = Unit::Bits { overhead: L1_OVERHEAD_BYTES };
            Some(Target { per_second: cli.line_rate.0 * percent / 100.0, unit })
        }
    }
}

/// A locally administered address for a port that has none: the same name gives the same address, so
/// that a run after the other does not fill forwarding tables.
fn own_mac(name: &PortName) -> Mac {
    let mut hasher = DefaultHasher::new();
    (name.scheme.prefix, &name.address).hash(&mut hasher);
    Mac::from_u64(hasher.finish() & 0x00ff_ffff_ffff | 0x0200_0000_0000)
}

fn fresh_seed() -> u64 {
    let mut hasher = DefaultHasher::new();
    std::time::SystemTime::now().hash(&mut hasher);
    std::process::id().hash(&mut hasher);
    // Short enough to be typed again.
    hasher.finish() >> 32
}

#[cfg(test)]
mod tests;
