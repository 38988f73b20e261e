//! Port names: netmap's grammar, read once at the door and never guessed at again.
//!
//! ```text
//! name    = kind [rings] { "/" flags | "@" memid } { "@conf:" key "=" value { "," ... } | "@netns:" netns }
//! kind    = "vale" [id] ":" id [pipe] | "netmap:" ifname | "xdp:" tapname | "tap:" tapname | "pcap:" path | "null" [":"]
//!         | "e1000:" [domain ":"] bus ":" device "." function  (in hexadecimal, as lspci writes it)
//!         | "tap..."  (bare, a tap as in pkt-gen) | ifname (bare, as `netmap:ifname`)
//! pipe    = ("{" | "}") id
//! rings   = "*" | "^" [number] | "-" number
//! flags   = { "x" | "z" | "t" | "r" | "R" | "T" }
//! id      = { "0".."9" | "A".."Z" | "a".."z" | "_" }      ifname = the same and "."
//! tapname = the same as ifname and "-": rings of a tap cannot be chosen. Behind "xdp:", "-" number at the end is a ring, unless
//!           "*" or "^" follows
//! netns   = the same as tapname, up to 255 of them
//! ```
//!
//! Invariant: a [`PortName`] that came out of the parser is safe as a file name. Identifiers hold no
//! separator, an interface name is never `.` or `..`, and lengths keep the kernel's rules (switch
//! below 16 characters, port at most 16 with its colon, interface below 16). A name built by hand
//! is held to the same by [`PortName::check`]. Only `pcap:` names a path, and is meant to.
//!
//! Follows `nmport_parse` of libnetmap and netmap's naming rules in the kernel; what we cannot do
//! (pipes of interfaces, `@extmem`, ...) is refused at its character instead of being ignored.

use std::fmt;
use std::path::{Path, PathBuf};

use bitflags::bitflags;

mod error;
mod parse;
mod pci;
mod pipe;

pub use error::{NameError, NameFault};
pub use parse::parse_switch;
pub(crate) use parse::parse_with;
pub use pci::PciAddress;
pub(crate) use pipe::valid_port;
pub use pipe::{PipeEnd, PipeName};

/// Most characters of a switch, a port or an interface: `IFNAMSIZ`, the kernel's room for an interface
/// name and its NUL, whose number netmap borrows.
const NAME_MOST: usize = 15;

/// Whether a name is an identifier of the grammar, and so safe as a file name.
#[must_use]
pub(crate) fn valid_name(name: &str) -> bool {
    (1..=16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether an entry in a switch's table of ports, and the file behind it, may be called this: as a port, or as a
/// monitor of one, by its own index (`x#3`).
pub(crate) fn valid_entry(name: &str) -> bool {
    match name.split_once('#') {
        None => pipe::valid_port(name),
        Some((of, index)) => {
            pipe::valid_port(of) && index.parse::<u8>().is_ok_and(|i| i.to_string() == index)
        }
    }
}

bitflags! {
    /// What ports can do. Those of a name are what its kind can at most.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Capabilities: u32 {
        /// Packets may be received at some time.
        const RECEIVE = 1;
        /// Buffers can be exchanged with another port in the same memory, which can be chosen.
        const ZERO_COPY = 1 << 1;
        /// Slots can point to a program's own memory (`Port::allow_indirect`).
        const INDIRECT = 1 << 2;
        /// Frames can carry a virtio-net header.
        const OFFLOAD_HEADERS = 1 << 3;
        /// A full destination can keep packets queued.
        const BACKPRESSURE = 1 << 4;
        /// The port can outlive those who have it open.
        const PERSISTENT = 1 << 5;
        /// There is a link, which may take time to come up.
        const LINK_STATE = 1 << 6;
        /// There may be a hardware address.
        const HARDWARE_ADDRESS = 1 << 7;
        /// More than one ring pair.
        const SEVERAL_RINGS = 1 << 8;
        /// Can be opened several times at once.
        const SEVERAL_HANDLES = 1 << 9;
        /// A handle can be passed to another process.
        const PASSABLE = 1 << 11;
        /// Rings towards the host stack.
        const HOST_RINGS = 1 << 10;
        /// Whoever opens it takes what an interface receives from the host, unless it is the host's rings.
        const TAKES_INTERFACE = 1 << 12;
    }
}

/// What may stand behind a comma after a socket's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// `server` or `client`, behind the last comma that is not within the path.
    Side,
    /// The path of the peer's socket, behind the first comma.
    Peer,
}

/// What dashes mean in the name of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dashes {
    /// The first one ends it and begins a ring's number, as in netmap's own names.
    BeginRing,
    /// They belong to it, and so no ring can be chosen by one.
    InName,
    /// They belong to it, but for one with a number behind it at the end, which is a ring's: `xdp:veth-a-2`. With `*` or `^` at
    /// the end, that belongs to the name as well: `xdp:veth-2*`.
    InNameBeforeRing,
}

impl Dashes {
    /// Where a name ends in `text`, which holds nothing but what may be in one, if `next` follows.
    fn end(self, text: &str, next: Option<u8>) -> usize {
        let ring = match self {
            Dashes::BeginRing => text.find('-'),
            Dashes::InNameBeforeRing if !matches!(next, Some(b'*' | b'^')) => {
                text.rfind('-').filter(|&dash| is_number(&text[dash + 1..]))
            }
            Dashes::InName | Dashes::InNameBeforeRing => None,
        };
        ring.unwrap_or(text.len())
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// How the ports of a kind are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// `valeA:x`: the prefix begins the name of a switch.
    SwitchPort,
    /// `tap:t0`: an interface.
    Interface {
        /// What a dash means in it.
        dashes: Dashes,
    },
    /// `pcap:FILE`: everything behind the colon is a path.
    File,
    /// `stream:PATH`: the path of a socket, and what the kind takes behind a comma.
    Socket {
        /// What that is.
        behind: Behind,
    },
    /// `e1000:0000:00:03.0`: a PCI device.
    Pci,
    /// `null:`: there is nothing to be chosen.
    Nothing,
}

/// The naming of a kind of port, and what its ports can do at most.
#[derive(Debug)]
pub struct Scheme {
    /// What names begin with.
    pub prefix: &'static str,
    /// What follows.
    pub syntax: Syntax,
    /// Whether a word without a prefix names a port of this kind.
    pub is_bare: fn(&str) -> bool,
    /// What its ports can do.
    pub capabilities: Capabilities,
}

/// Which port of its kind is named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Port of a VALE switch, created when first opened.
    SwitchPort {
        /// The switch with its prefix: `valeA`.
        switch: String,
        /// The port on it: `x`, or `x{1`, the end of a pipe.
        port: String,
    },
    /// An interface of the host.
    Interface(String),
    /// A file; `-` is standard input or output.
    File(PathBuf),
    /// A unix socket, or two, as the kind reads it.
    Socket(String),
    /// A PCI device.
    Pci(PciAddress),
    /// There is but one.
    Nothing,
}

/// Which of a port's rings a handle binds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RingSel {
    /// All that the port has: a bare name, or `*`.
    #[default]
    All,
    /// All hardware rings without the host's. No spelling of its own: a program that asks for
    /// `NR_REG_ALL_NIC` means this, and without host rings it is the same as [`RingSel::All`].
    Nic,
    /// The rings towards the host stack: `^`.
    Host,
    /// One ring pair: `-N`.
    One(u16),
    /// One pair of host rings: `^N`.
    HostOne(u16),
}

bitflags! {
    /// The letters behind `/`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct NameFlags: u8 {
        /// `x`: nobody else may have the port open.
        const EXCLUSIVE = 1;
        /// `z`: zero-copy monitor.
        const ZCOPY_MON = 2;
        /// `t`: monitor of what the port sends.
        const MON_TX = 4;
        /// `r`: monitor of what the port receives.
        const MON_RX = 8;
        /// `R`: bind the receive rings only.
        const RX_ONLY = 16;
        /// `T`: bind the transmit rings only.
        const TX_ONLY = 32;
    }
}

/// Letter and meaning, in the order in which they are printed.
const FLAG_LETTERS: [(u8, NameFlags); 6] = [
    (b'x', NameFlags::EXCLUSIVE),
    (b'z', NameFlags::ZCOPY_MON),
    (b't', NameFlags::MON_TX),
    (b'r', NameFlags::MON_RX),
    (b'R', NameFlags::RX_ONLY),
    (b'T', NameFlags::TX_ONLY),
];

/// `@conf:`: the shape that a new port should have. `None` is the port's own default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Conf {
    /// `tx-rings`, or `rings` for both directions.
    pub tx_rings: Option<u16>,
    /// `rx-rings`, or `rings` for both directions.
    pub rx_rings: Option<u16>,
    /// `host-tx-rings`, or `host-rings` for both directions.
    pub host_tx_rings: Option<u16>,
    /// `host-rx-rings`, or `host-rings` for both directions.
    pub host_rx_rings: Option<u16>,
    /// `tx-slots`, or `slots` for both directions.
    pub tx_slots: Option<u32>,
    /// `rx-slots`, or `slots` for both directions.
    pub rx_slots: Option<u32>,
    /// `mem-mib`: size of the memory, if it is made for the port.
    pub mem_mib: Option<u32>,
    /// `vnet-hdr`: bytes of the virtio-net header in front of each frame, of a port that is there as well.
    pub vnet_hdr_len: Option<u8>,
    /// `mode`, of `xdp:` ports: how the interface is to run the program; else as it can.
    pub xdp_mode: Option<XdpMode>,
    /// `busy-poll-us`, of `xdp:` ports: microseconds for which receiving polls the NIC in place of interrupts.
    pub busy_poll_us: Option<u32>,
    /// `driver`, of `e1000:` ports: when the device is told of packets to send; else what suits it best.
    pub driver: Option<NicDriver>,
    /// `force=yes`, of `e1000:` ports: the device is taken although its interface is up.
    pub force: bool,
}

/// How an `e1000:` port drives its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NicDriver {
    /// By a CSB where the device offers one, else by send combining.
    Auto,
    /// One register access for each batch of packets.
    Plain,
    /// None while the device still has packets to send.
    Combine,
    /// By a communication status block in memory.
    Csb,
}

impl NicDriver {
    /// All, with their spelling.
    pub(crate) const ALL: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("plain", Self::Plain),
        ("combine", Self::Combine),
        ("csb", Self::Csb),
    ];
}

/// Who runs the program of an `xdp:` port, and who copies its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// The interface's driver, and the NIC reads and writes the port's memory.
    ZeroCopy,
    /// The interface's driver, and the kernel copies.
    Native,
    /// The kernel, for any interface; it copies.
    Generic,
}

impl XdpMode {
    /// All, with their spelling.
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("zerocopy", Self::ZeroCopy), ("native", Self::Native), ("generic", Self::Generic)];
}

/// A port name, taken apart.
#[derive(Clone, Debug)]
pub struct PortName {
    /// Its kind.
    pub scheme: &'static Scheme,
    /// Which port of that kind.
    pub address: Address,
    /// Which rings of it.
    pub rings: RingSel,
    /// `@N`: the memory region that the port is to live in.
    pub mem_id: Option<u16>,
    /// `/...`
    pub flags: NameFlags,
    /// `@conf:...`
    pub conf: Conf,
    /// `@netns:NAME`: the network namespace that the interface is in.
    pub netns: Option<String>,
}

/// A port of a switch by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchPort<'a> {
    /// The switch with its prefix: `valeA`.
    pub switch: &'a str,
    /// The port on it: `x`, or `x{1`, the end of a pipe.
    pub port: &'a str,
}

impl PortName {
    /// The plain name: all rings, no flags, no options.
    pub fn new(scheme: &'static Scheme, address: Address) -> PortName {
        PortName {
            scheme,
            address,
            rings: RingSel::All,
            mem_id: None,
            flags: NameFlags::empty(),
            conf: Conf::default(),
            netns: None,
        }
    }

    /// What the port can do at most, as far as its name tells.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.scheme.capabilities
    }

    /// Whether it can do all of `what`, as far as its name tells.
    #[must_use]
    pub fn can(&self, what: Capabilities) -> bool {
        self.capabilities().contains(what)
    }

    /// Switch and port, if it is a port of a switch.
    #[must_use]
    pub fn switch_port(&self) -> Option<SwitchPort<'_>> {
        match &self.address {
            Address::SwitchPort { switch, port } => Some(SwitchPort { switch, port }),
            _ => None,
        }
    }

    /// The end of a pipe, if it is one.
    #[must_use]
    pub fn pipe(&self) -> Option<PipeName<'_>> {
        PipeName::of(self.switch_port()?.port)
    }

    /// Whether it asks for a monitor of a port, not for the port.
    #[must_use]
    pub fn is_monitor(&self) -> bool {
        self.flags.intersects(NameFlags::ZCOPY_MON | NameFlags::MON_RX | NameFlags::MON_TX)
    }

    /// Whether it means rings towards the host stack.
    #[must_use]
    pub fn is_host_rings(&self) -> bool {
        matches!(self.rings, RingSel::Host | RingSel::HostOne(_))
    }

    /// The interface, if it is one of the host.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match &self.address {
            Address::Interface(name) => Some(name),
            _ => None,
        }
    }

    /// The path, if packets come from a file or go to one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.address {
            Address::File(path) => Some(path),
            _ => None,
        }
    }

    /// What is behind the colon, if packets go through a unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<&str> {
        match &self.address {
            Address::Socket(name) => Some(name),
            _ => None,
        }
    }

    /// The PCI device, if it is one.
    #[must_use]
    pub fn pci(&self) -> Option<PciAddress> {
        match self.address {
            Address::Pci(address) => Some(address),
            _ => None,
        }
    }

    /// The same port with another choice of rings.
    pub fn with_rings(mut self, rings: RingSel) -> PortName {
        self.rings = rings;
        self
    }
}

impl PortName {
    /// Whether the interface's name ends as one does behind which a ring is chosen.
    fn seems_to_choose_a_ring(&self) -> bool {
        match (&self.address, self.scheme.syntax) {
            (Address::Interface(name), Syntax::Interface { dashes }) => {
                dashes.end(name, None) < name.len()
            }
            _ => false,
        }
    }
}

impl PartialEq for PortName {
    fn eq(&self, other: &PortName) -> bool {
        let fields = |n: &PortName| (n.scheme.prefix, n.rings, n.mem_id, n.flags, n.conf);
        fields(self) == fields(other) && self.address == other.address && self.netns == other.netns
    }
}

impl Eq for PortName {}

impl fmt::Display for PortName {
    /// The canonical spelling, which the parser takes back to the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.scheme.prefix;
        match &self.address {
            Address::SwitchPort { switch, port } => write!(f, "{switch}:{port}")?,
            Address::Interface(name) => write!(f, "{prefix}:{name}")?,
            Address::Pci(address) => write!(f, "{prefix}:{address}")?,
            Address::Nothing => write!(f, "{prefix}:")?,
            // Everything behind the colon is the path, so nothing may follow it.
            Address::File(path) => return write!(f, "{prefix}:{}", path.display()),
            Address::Socket(name) => return write!(f, "{prefix}:{name}"),
        }
        match self.rings {
            RingSel::All | RingSel::Nic if self.seems_to_choose_a_ring() => f.write_str("*")?,
            RingSel::All | RingSel::Nic => {}
            RingSel::Host => f.write_str("^")?,
            RingSel::One(ring) => write!(f, "-{ring}")?,
            RingSel::HostOne(ring) => write!(f, "^{ring}")?,
        }
        if !self.flags.is_empty() {
            f.write_str("/")?;
            for (letter, flag) in FLAG_LETTERS {
                if self.flags.contains(flag) {
                    write!(f, "{}", char::from(letter))?;
                }
            }
        }
        if let Some(id) = self.mem_id {
            write!(f, "@{id}")?;
        }
        self.conf.fmt(f)?;
        match &self.netns {
            Some(netns) => write!(f, "@netns:{netns}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Conf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = [
            ("rings", self.tx_rings.map(u32::from), self.rx_rings.map(u32::from)),
            ("slots", self.tx_slots, self.rx_slots),
            ("host-rings", self.host_tx_rings.map(u32::from), self.host_rx_rings.map(u32::from)),
        ];
        let mut lead = "@conf:";
        for (key, tx, rx) in pairs {
            let (host, noun) = match key.strip_prefix("host-") {
                Some(noun) => ("host-", noun),
                None => ("", key),
            };
            if let (Some(both), true) = (tx, tx == rx) {
                write!(f, "{lead}{key}={both}")?;
                lead = ",";
                continue;
            }
            for (side, value) in [("tx", tx), ("rx", rx)] {
                if let Some(value) = value {
                    write!(f, "{lead}{host}{side}-{noun}={value}")?;
                    lead = ",";
                }
            }
        }
        if let Some(mib) = self.mem_mib {
            write!(f, "{lead}mem-mib={mib}")?;
            lead = ",";
        }
        if let Some((word, _)) = XdpMode::ALL.iter().find(|(_, mode)| Some(*mode) == self.xdp_mode)
        {
            write!(f, "{lead}mode={word}")?;
            lead = ",";
        }
        if let Some(us) = self.busy_poll_us {
            write!(f, "{lead}busy-poll-us={us}")?;
            lead = ",";
        }
        if let Some((word, _)) = NicDriver::ALL.iter().find(|(_, it)| Some(*it) == self.driver) {
            write!(f, "{lead}driver={word}")?;
            lead = ",";
        }
        if self.force {
            write!(f, "{lead}force=yes")?;
            lead = ",";
        }
        match self.vnet_hdr_len {
            Some(len) => write!(f, "{lead}vnet-hdr={len}"),
            None => Ok(()),
        }
    }
}
