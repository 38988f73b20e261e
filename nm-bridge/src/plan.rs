//! From the command line to two open ports.
//!
//! Invariant: buffers are swapped only if both ports really lie in one region, whatever was planned;
//! the plan merely arranges for that by making the second port in the first one's memory.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::Context;
use netmap::{Capabilities, PortName, RingSel};
use netmap::{Direction, Memory, Options, Port, SLOTS, control};
use nm_capture::{is_stdin, is_stdout};
use nm_cli::exit::UsageError;

use crate::cli::{Cli, Operands};
use crate::headers::{agree, can_have};

/// A virtio-net header with all its fields.
const LONGEST_HEADER: u8 = 12;

/// The two names and how they are to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// First port.
    pub a: PortName,
    /// Second port; the same as the first for a loopback.
    pub b: PortName,
    /// One port, back to itself.
    pub loopback: bool,
    /// Whether the second port is to be made in the memory of the first.
    pub share: bool,
    /// Of each port, what it is opened for.
    pub directions: [Direction; 2],
}

/// Two open ports.
#[derive(Debug)]
pub struct Pair {
    /// First port.
    pub a: Port,
    /// Second port.
    pub b: Port,
    /// Swap buffers instead of copying.
    pub zero_copy: bool,
}

impl Plan {
    /// Reads the names. With one name (or the same twice) the port is joined to its own host rings,
    /// unless it is looped back.
    pub fn new(cli: &Cli, operands: &Operands) -> anyhow::Result<Plan> {
        let parse =
            |text: &str| text.parse::<PortName>().map_err(|e| UsageError::new(e.to_string()));
        let mut a = parse(&operands.a)?;
        let b = parse(operands.b.as_ref().unwrap_or(&operands.a))?;
        let is_filter = a.path().is_some_and(|path| is_stdin(path) && is_stdout(path));
        if !cli.loopback && a == b && !is_filter {
            a = host_side(&b)?;
        }
        // The memory of the two can be one, unless it was chosen by @ID.
        let free = |name: &PortName| name.can(Capabilities::ZERO_COPY) && name.mem_id.is_none();
        let share = !cli.copy && !cli.loopback && free(&a) && free(&b);
        if let (Some(left), Some(right)) = (a.switch_port(), b.switch_port())
            && left.switch == right.switch
            // What comes out of a pipe does not come from the switch.
            && a.pipe().is_some() == b.pipe().is_some()
            && !cli.loopback
            && !cli.allow_loop
        {
            return Err(UsageError::new(format!(
                "{a} and {b} are ports of one switch, {}: a broadcast would go round for ever; \
                 join two switches, or insist with --loop",
                left.switch
            ))
            .into());
        }
        let directions = if cli.loopback {
            // Two handles of one port: each side of `forward` borrows its own.
            [Direction::RxOnly, Direction::TxOnly]
        } else {
            directions(&a, &b)
        };
        let plan = Plan { a, b, loopback: cli.loopback, share, directions };
        if plan.port_on_stdout() && cli.pcap_out.as_ref().is_some_and(|path| is_stdout(path)) {
            return Err(UsageError::new("stdout cannot hold two captures").into());
        }
        Ok(plan)
    }

    /// Whether packets go out of one of the ports to standard output.
    pub fn port_on_stdout(&self) -> bool {
        let ports = [&self.a, &self.b].into_iter().zip(self.directions);
        ports.into_iter().any(|(name, direction)| {
            direction == Direction::TxOnly && name.path().is_some_and(is_stdout)
        })
    }

    /// Opens both ports.
    pub fn open(&self, cli: &Cli) -> anyhow::Result<Pair> {
        // A stream's window of frames of 64 KiB, so that few are lost when the bridge comes late. A port that is there
        // already has the rings that it has.
        let host =
            |name: &PortName| name.interface().is_some() && name.can(Capabilities::OFFLOAD_HEADERS);
        let deep = !cli.no_offload && (host(&self.a) || host(&self.b));
        let open = |name: &PortName, direction| {
            let any = Options { direction, ..Options::default() };
            let deep = deep && name.switch_port().is_some();
            let opened = if deep {
                let deep = Options { rx_slots: Some(*SLOTS.end()), ..any.clone() };
                Port::open_with(name, &deep).or_else(|_| Port::open_with(name, &any))
            } else {
                Port::open_with(name, &any)
            };
            opened.with_context(|| format!("opening port {name}"))
        };
        let (mut a, mut b) =
            if self.loopback && self.a.switch_port().is_none() && self.a.path().is_none() {
                // Its device has one user at a time, whose halves these are.
                let whole = open(&self.a, Direction::Both)?;
                let (tx, rx) = whole.split().with_context(|| format!("sharing port {}", self.a))?;
                (rx, tx)
            } else {
                self.open_two(open)?
            };
        let zero_copy = !cli.copy && a.same_memory(&b);
        let before = [a.vnet_hdr_len(), b.vnet_hdr_len()];
        let header = self.header(cli, before, [&a, &b].map(can_have));
        agree(&mut a, &mut b, header)?;
        Ok(Pair { a, b, zero_copy })
    }

    /// Opens two ports, in one memory if they can be.
    fn open_two(
        &self,
        open: impl Fn(&PortName, Direction) -> anyhow::Result<Port>,
    ) -> anyhow::Result<(Port, Port)> {
        // A port of a switch has memory that others can be made in, so it comes first.
        let swapped = self.a.switch_port().is_none() && self.b.switch_port().is_some();
        let mut sides = [(&self.a, self.directions[0]), (&self.b, self.directions[1])];
        if swapped {
            sides.reverse();
        }
        let [first, second] = sides;
        let one = open(first.0, first.1)?;
        let memory = one.memory().filter(|_| self.share).map(Memory::With);
        let shared = memory.map(|memory| Options { memory, ..Options::default() });
        let other = match shared.map(|options| Port::open_with(second.0, &options)) {
            Some(Ok(other)) => other,
            // A port that is there already keeps its memory; any other reason shows again.
            _ => open(second.0, second.1)?,
        };
        Ok(if swapped { (other, one) } else { (one, other) })
    }

    /// Bytes of the virtio-net header that both ports are to have: what the one has that cannot change it. If both can,
    /// the longest, if one of them is the host's; else what the one has that has any, since others may depend on
    /// it. A capture then gets the frames that the headers stand for.
    fn header(&self, cli: &Cli, before: [u8; 2], can: [bool; 2]) -> u8 {
        let host = self.a.interface().or(self.b.interface()).is_some();
        match can {
            [false, _] => before[0],
            [_, false] => before[1],
            _ if cli.no_offload => 0,
            _ if host => LONGEST_HEADER,
            _ => before[0].max(before[1]),
        }
    }

    /// What the user should be told before the host loses a NIC, unless the other port is the host's end of it.
    pub fn default_route_notes(&self) -> impl Iterator<Item = String> {
        let same = (self.a.address == self.b.address) && self.a.netns == self.b.netns;
        let joined = same && (self.a.is_host_rings() || self.b.is_host_rings());
        let names = [&self.a, &self.b].into_iter().take(if self.loopback { 1 } else { 2 });
        names.filter(move |_| !joined).filter_map(control::default_route_note)
    }

    /// Whether a NIC is involved, whose link may need time to come up.
    pub fn has_nic(&self) -> bool {
        [&self.a, &self.b].iter().any(|name| name.can(Capabilities::HOST_RINGS))
    }
}

/// What each port is opened for. A capture goes one way. Of two, the first is the source; so is a
/// stream that could be either, a FIFO or `-`, if it is the first port. A file next to another kind of
/// port is read if it is there, and written if not: the library sees to that.
fn directions(a: &PortName, b: &PortName) -> [Direction; 2] {
    let capture = |name: &PortName| name.path().map(Path::to_path_buf);
    let ways = [Direction::RxOnly, Direction::TxOnly];
    match (capture(a), capture(b)) {
        (Some(_), Some(_)) => ways,
        (Some(path), None) => [one_way(&path, ways[0]), Direction::Both],
        (None, Some(path)) => [Direction::Both, one_way(&path, ways[1])],
        (None, None) => [Direction::Both; 2],
    }
}

/// The direction of a stream, which is `place` if its name does not say; `Both` for a file.
fn one_way(path: &Path, place: Direction) -> Direction {
    match (is_stdin(path), is_stdout(path)) {
        (true, false) => Direction::RxOnly,
        (false, true) => Direction::TxOnly,
        (true, true) => place,
        _ if path.metadata().is_ok_and(|file| file.file_type().is_fifo()) => place,
        _ => Direction::Both,
    }
}

fn host_side(name: &PortName) -> Result<PortName, UsageError> {
    if !name.can(Capabilities::HOST_RINGS) {
        return Err(UsageError::new(format!(
            "{name} has no host rings to be joined to; name a second port, or use --loopback"
        )));
    }
    if name.rings != RingSel::All {
        return Err(UsageError::new(format!(
            "{name} names rings already; give the port alone, or both sides"
        )));
    }
    Ok(name.clone().with_rings(RingSel::Host))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn plan(line: &str) -> anyhow::Result<Plan> {
        let cli = Cli::try_parse_from(line.split_whitespace())?;
        Plan::new(&cli, &cli.operands()?)
    }

    #[test]
    fn one_nic_is_joined_to_its_host_rings() {
        for line in ["br eth0", "br eth0 eth0", "br -i netmap:eth0"] {
            let plan = plan(line).unwrap();
            assert_eq!(plan.a.to_string(), "netmap:eth0^", "{line}");
            assert_eq!(plan.b.to_string(), "netmap:eth0", "{line}");
            assert!(plan.has_nic());
        }
    }

    #[test]
    fn ports_without_host_rings_alone_are_a_usage_error() {
        for line in ["br valeA:x", "br tap:t0", "br eth0^", "br valeA:x valeA:x", "br valeA:"] {
            let error = plan(line).expect_err(line);
            assert!(error.downcast_ref::<UsageError>().is_some(), "{line}: {error}");
        }
    }

    #[test]
    fn two_ports_of_one_switch_are_a_loop() {
        for line in ["br valeA:x valeA:y", "br -i valeA:x-0 -i valeA:x-1", "br -c valeA:x valeA:y"]
        {
            let error = plan(line).expect_err(line);
            assert!(error.to_string().contains("--loop"), "{line}: {error}");
            assert!(error.downcast_ref::<UsageError>().is_some(), "{line}: {error}");
            plan(&format!("{line} --loop")).expect(line);
        }
        plan("br valeA:x valeB:x").expect("two switches");
        plan("br -L valeA:x").expect("asked for");
    }

    #[test]
    fn streams_go_from_the_first_port_to_the_second() {
        use Direction::{Both, RxOnly, TxOnly};
        for (line, directions, stdout) in [
            ("br pcap:- null:", [RxOnly, Both], false),
            ("br null: pcap:-", [Both, TxOnly], true),
            ("br pcap:/dev/stdout valeA:x", [TxOnly, Both], true),
            ("br valeA:x pcap:/dev/stdin", [Both, RxOnly], false),
            ("br pcap:- pcap:-", [RxOnly, TxOnly], true),
            ("br pcap:in.pcap pcap:out.pcap", [RxOnly, TxOnly], false),
            ("br pcap:file.pcap valeA:x", [Both, Both], false),
        ] {
            let plan = plan(line).expect(line);
            assert_eq!((plan.directions, plan.port_on_stdout()), (directions, stdout), "{line}");
        }
        assert!(plan("br valeA:x pcap:- --pcap-out -").is_err(), "two captures on stdout");
    }

    #[test]
    fn headers_are_those_that_both_ports_can_have() {
        for (line, before, header) in [
            ("br tap:t0 valeA:x", [0, 0], 12),
            ("br valeA:x tap:t0", [10, 0], 12),
            ("br tap:t0 tap:t1", [0, 0], 12),
            ("br --no-offload tap:t0 valeA:x", [0, 12], 0),
            ("br --pcap-out f tap:t0 valeA:x", [0, 0], 12),
            ("br tap:t0 pcap:f", [0, 0], 12),
            ("br valeA:x stream:s", [12, 0], 0),
            ("br tap:t0 null:", [0, 0], 0),
            ("br valeA:x pcap:f", [12, 0], 12),
            ("br valeA:x pcap:f", [0, 0], 0),
            ("br valeA:x valeB:x", [0, 0], 0),
            ("br valeA:x valeB:x", [0, 10], 10),
        ] {
            let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
            let plan = Plan::new(&cli, &cli.operands().unwrap()).unwrap();
            let can = |name: &PortName| name.can(Capabilities::OFFLOAD_HEADERS);
            let can = [can(&plan.a), can(&plan.b)];
            assert_eq!(plan.header(&cli, before, can), header, "{line}");
        }
        // The frames of a monitor have its port's headers, come what may.
        let cli = Cli::try_parse_from("br --no-offload valeA:x/t pcap:f".split(' ')).unwrap();
        let plan = Plan::new(&cli, &cli.operands().unwrap()).unwrap();
        assert_eq!(plan.header(&cli, [12, 0], [false, true]), 12);
        assert_eq!(plan.header(&cli, [0, 12], [true, false]), 12);
    }

    #[test]
    fn memory_is_shared_unless_chosen_or_refused() {
        for (line, share) in [
            ("br valeA:x valeB:y", true),
            ("br -c valeA:x valeB:y", false),
            ("br tap:t0 valeB:y", true),
            ("br tap:t0 null:", false),
            ("br valeA:x@3 valeB:y", false),
            ("br valeA:x valeB:y@3", false),
            ("br -L valeA:x", false),
        ] {
            assert_eq!(plan(line).unwrap().share, share, "{line}");
        }
    }
}
