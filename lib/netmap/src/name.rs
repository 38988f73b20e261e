//! Port names: netmap's grammar, read once at the door and never guessed at again.
//!
//! ```text
//! name    = kind [rings] { "/" flags | "@" memid } { "@conf:" key "=" number { "," ... } }
//! kind    = "vale" [id] ":" id | "netmap:" ifname | "tap:" tapname | "pcap:" path | "null" [":"]
//!         | "tap..."  (bare, a tap as in pkt-gen) | ifname (bare, as `netmap:ifname`)
//! rings   = "*" | "^" [number] | "-" number
//! flags   = { "x" | "z" | "t" | "r" | "R" | "T" }
//! id      = { "0".."9" | "A".."Z" | "a".."z" | "_" }      ifname = the same and "."
//! tapname = the same as ifname and "-": a tap has one ring pair, so there is none to choose
//! ```
//!
//! Invariant: a [`PortName`] that came out of [`parse`] is safe as a file name. Identifiers hold no
//! separator, an interface name is never `.` or `..`, and lengths keep the kernel's rules (switch
//! below 16 characters, port at most 16 with its colon, interface below 16). A name built by hand
//! is held to the same by [`PortName::check`]. Only `pcap:` names a path, and is meant to.
//!
//! Follows `nmport_parse` of libnetmap and netmap's naming rules in the kernel; what we cannot do
//! (pipes, `@extmem`, ...) is refused at its character instead of being ignored.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bitflags::bitflags;

mod parse;

pub use parse::{parse, parse_switch};

/// Whether a name is an identifier of the grammar, and so safe as a file name.
#[must_use]
pub(crate) fn valid_name(name: &str) -> bool {
    (1..=16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What kind of thing a name means, and which one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// Port of a VALE switch, created when first opened.
    Vale {
        /// The switch with its prefix: `valeA`.
        switch: String,
        /// The port on it: `x`.
        port: String,
    },
    /// A tap interface of the host.
    Tap(String),
    /// A capture file; `-` is standard input or output.
    Pcap(PathBuf),
    /// Counts what it is given and never has anything to give.
    Null,
    /// A NIC through the netmap kernel module.
    Netmap(String),
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
}

/// A port name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortName {
    /// What is named.
    pub kind: PortKind,
    /// Which rings of it.
    pub rings: RingSel,
    /// `@N`: the memory region that the port is to live in.
    pub mem_id: Option<u16>,
    /// `/...`
    pub flags: NameFlags,
    /// `@conf:...`
    pub conf: Conf,
}

/// Why a name was refused, and at which of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    /// The name as it was given.
    pub name: String,
    /// Byte offset of the offending character; the length of the name when something is missing.
    pub at: usize,
    /// What is wrong there, and what would be right.
    pub why: Cow<'static, str>,
}

impl std::error::Error for NameError {}

impl fmt::Display for NameError {
    /// Message, then the name, then a caret below the offending character. A long name is cut to
    /// the part around the caret, and control characters are replaced: it goes to a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BEFORE: usize = 60;
        const AFTER: usize = 20;
        let (before, after) = self.name.split_at_checked(self.at).unwrap_or((&self.name, ""));
        let skipped = before.chars().count().saturating_sub(BEFORE);
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let left: String = before.chars().skip(skipped).map(shown).collect();
        let right: String = after.chars().take(AFTER).map(shown).collect();
        let (cut_left, cut_right) = (
            if skipped > 0 { "..." } else { "" },
            if after.chars().nth(AFTER).is_some() { "..." } else { "" },
        );
        let column = cut_left.len() + left.chars().count();
        write!(f, "bad port name: {}\n  {cut_left}{left}{right}{cut_right}\n", self.why)?;
        write!(f, "  {:column$}^", "")
    }
}

impl PortName {
    /// The plain name of `kind`: all rings, no flags, no options.
    pub fn new(kind: PortKind) -> PortName {
        PortName {
            kind,
            rings: RingSel::All,
            mem_id: None,
            flags: NameFlags::empty(),
            conf: Conf::default(),
        }
    }

    /// The same port with another choice of rings.
    pub fn with_rings(mut self, rings: RingSel) -> PortName {
        self.rings = rings;
        self
    }

    /// Holds a name that was built field by field to the rules of [`parse`]: what does not survive
    /// printing and reading could, for instance, be a switch called `../other`.
    pub fn check(&self) -> Result<(), NameError> {
        if let PortKind::Pcap(_) = self.kind {
            return Ok(()); // A path is not ours to judge, and need not even be UTF-8.
        }
        let text = self.to_string();
        let mut back = parse(&text)?;
        if self.rings == RingSel::Nic && back.rings == RingSel::All {
            back.rings = RingSel::Nic;
        }
        if back == *self {
            return Ok(());
        }
        let why = "these fields do not make a name; it would be read as another one".into();
        Err(NameError { at: text.len(), name: text, why })
    }
}

impl fmt::Display for PortName {
    /// The canonical spelling, which [`parse`] takes back to the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            PortKind::Vale { switch, port } => write!(f, "{switch}:{port}")?,
            PortKind::Tap(name) => write!(f, "tap:{name}")?,
            PortKind::Netmap(name) => write!(f, "netmap:{name}")?,
            PortKind::Null => f.write_str("null:")?,
            // Everything behind `pcap:` is the path, so nothing may follow it.
            PortKind::Pcap(path) => return write!(f, "pcap:{}", path.display()),
        }
        match self.rings {
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
        self.conf.fmt(f)
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
        Ok(())
    }
}

impl FromStr for PortName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<PortName, NameError> {
        parse(name)
    }
}

#[cfg(test)]
mod tests;
