//! Whether a default route of the host goes through an interface: who takes that from the host may cut himself off.
//!
//! ```text
//!   rules ---> tables ---> default routes ---> br0, bond0.7 ...       what a route names
//!                              `--> next hops -----^  |
//!                                             eth0 <--'  <--- carries br0, being its port, or bond0.7, being below
//! ```
//!
//! Invariant: at most so many bytes of each table, and of the interfaces and rules, are read as `Socket::dump` reads, and at
//! most [`TABLES`] tables. The kernel sends default routes before most others of their table. A loop among interfaces is
//! followed once.
//!
//! Follows rtnetlink(7), and the kernel's `fib_rules.h`, `nexthop.h` and `if_link.h` (include/uapi/linux).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::netlink::socket::{
    IFLA_INFO_DATA, IFLA_INFO_KIND, LINK_BYTES, Message, Socket, attribute, attributes_of, half,
    text, value_of, word,
};

/// Most tables that are looked at; a host with that many rules has others to ask.
const TABLES: usize = 1024;
/// The tables of a kernel without rules.
const ALWAYS: [u32; 2] = [libc::RT_TABLE_MAIN as u32, 253];
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// `struct rtmsg` and `struct fib_rule_hdr`.
const ROUTE_BYTES: usize = 12;
/// `struct nhmsg`.
const NEXTHOP_BYTES: usize = 8;
/// `struct rtnexthop`.
const HOP_BYTES: usize = 8;
/// `struct nexthop_grp`.
const MEMBER_BYTES: usize = 8;
const RTM_GETNEXTHOP: u16 = 106;
const RTA_NH_ID: u16 = 30;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
/// A rule's action: look into a table.
const FR_ACT_TO_TBL: u8 = 1;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_L3MDEV: u16 = 19;
const IFLA_VRF_TABLE: u16 = 1;
/// Kinds of interfaces whose `IFLA_LINK` is the other end of a cable, not what they are made on.
const PAIRS: [&[u8]; 3] = [b"veth\0", b"netkit\0", b"vxcan\0"];

/// A default route that goes through an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The interface.
    pub interface: String,
    /// The one that the route names: the same, or one that the first carries, as a bridge its ports, a bond or team its members,
    /// a VLAN the device below.
    pub through: String,
}

impl fmt::Display for DefaultRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, through } = self;
        write!(f, "default route goes through {through}")?;
        if interface != through {
            write!(f, ", which {interface} carries")?;
        }
        Ok(())
    }
}

/// The default route of the calling thread's network namespace that goes through `interface`, if one does.
///
/// # Errors
/// The kernel does not tell.
pub fn default_through(interface: &str) -> Result<Option<DefaultRoute>> {
    let failed = || Error::io("look for the default routes through", interface);
    let links = Links::read().map_err(failed())?;
    let Some(index) = links.named(interface) else { return Ok(None) };
    let named = defaults(&links).map_err(failed())?;
    let through = links.carried_by(index).find(|carried| named.contains(carried));
    Ok(through.map(|through| DefaultRoute {
        interface: interface.to_owned(),
        through: links.0.get(&through).map_or_else(String::new, |link| link.name.clone()),
    }))
}

/// Numbers of the interfaces that default routes name.
fn defaults(links: &Links) -> nix::Result<BTreeSet<i32>> {
    let mut named = BTreeSet::new();
    let mut hops = BTreeSet::new();
    for family in FAMILIES {
        for table in tables(family, links)? {
            let mut body = vec![0; ROUTE_BYTES];
            body[0] = family;
            attribute(&mut body, libc::RTA_TABLE, &table.to_ne_bytes())?;
            let told = Socket::dump(libc::RTM_GETROUTE, &body, |message| {
                if let Some(route) = Route::of(message).filter(|route| {
                    (route.family, route.table) == (family, table) && route.is_default
                }) {
                    named.extend(route.interfaces);
                    hops.extend(route.hop);
                }
            });
            // No such table, or no such family.
            if !matches!(told, Err(Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) {
                told?;
            }
        }
    }
    if !hops.is_empty() {
        // Routes show the interfaces of their next hops' objects, unless `nexthop_compat_mode` is off.
        let mut objects = BTreeMap::new();
        Socket::dump(RTM_GETNEXTHOP, &[0; NEXTHOP_BYTES], |message| {
            objects.extend(Hop::of(message).map(|hop| (hop.id, hop)));
        })?;
        let of = |id: &u32| objects.get(id);
        let members = hops.iter().filter_map(of).flat_map(|hop| &hop.group).filter_map(of);
        named.extend(hops.iter().filter_map(of).chain(members).filter_map(|hop| hop.interface));
    }
    Ok(named)
}

/// The tables in which a rule may find a default route.
fn tables(family: u8, links: &Links) -> nix::Result<BTreeSet<u32>> {
    let mut body = vec![0; ROUTE_BYTES];
    body[0] = family;
    let mut tables = BTreeSet::new();
    let mut any = false;
    let told = Socket::dump(libc::RTM_GETRULE, &body, |message| {
        if message.kind == libc::RTM_NEWRULE && message.body.first() == Some(&family) {
            any = true;
            tables.extend(tables_of_rule(message.body, links));
        }
    });
    if !matches!(told, Err(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) {
        told?;
    }
    if !any {
        tables.extend(ALWAYS);
    }
    Ok(tables.into_iter().take(TABLES).collect())
}

/// What a rule says, whatever packets it is for.
fn tables_of_rule(body: &[u8], links: &Links) -> Vec<u32> {
    if body.get(7) != Some(&FR_ACT_TO_TBL) {
        return Vec::new();
    }
    let mut table = body.get(4).map_or(0, |&byte| u32::from(byte));
    let (mut of_vrfs, mut hides) = (false, false);
    for (kind, value) in attributes_of(body.get(ROUTE_BYTES..).unwrap_or_default()) {
        match kind {
            FRA_TABLE => table = word(value, 0).unwrap_or(table),
            FRA_L3MDEV => of_vrfs = value.first() == Some(&1),
            // Routes of that length and less do not count, default routes among them. All ones: none.
            FRA_SUPPRESS_PREFIXLEN => hides = word(value, 0) != Some(u32::MAX),
            _ => {}
        }
    }
    match (hides, of_vrfs) {
        (true, _) => Vec::new(),
        (false, true) => links.0.values().filter_map(|link| link.vrf_table).collect(),
        (false, false) => vec![table],
    }
}

/// A route, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Route {
    family: u8,
    table: u32,
    /// To everywhere, and not a refusal.
    is_default: bool,
    interfaces: Vec<i32>,
    /// The object that has its next hops.
    hop: Option<u32>,
}

impl Route {
    fn of(message: &Message<'_>) -> Option<Self> {
        let body = message.body;
        if message.kind != libc::RTM_NEWROUTE || body.len() < ROUTE_BYTES {
            return None;
        }
        let is_default = body[1] == 0 && body[7] == libc::RTN_UNICAST;
        let (family, table) = (body[0], body[4].into());
        let mut route = Self { family, table, is_default, ..Self::default() };
        for (kind, value) in attributes_of(&body[ROUTE_BYTES..]) {
            match kind {
                libc::RTA_TABLE => route.table = word(value, 0).unwrap_or(route.table),
                libc::RTA_OIF => route.interfaces.extend(number(value, 0)),
                libc::RTA_MULTIPATH => route.interfaces.extend(hops(value)),
                RTA_NH_ID => route.hop = word(value, 0),
                _ => {}
            }
        }
        Some(route)
    }
}

/// The interfaces of several next hops, each of which has its length in front.
fn hops(mut bytes: &[u8]) -> impl Iterator<Item = i32> {
    std::iter::from_fn(move || {
        let len = usize::from(half(bytes, 0)?);
        let interface = number(bytes.get(..len).filter(|_| len >= HOP_BYTES)?, 4)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(interface)
    })
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    word(bytes, at).map(u32::cast_signed)
}

/// An object of the kernel's that is the next hop of routes, or a group of such.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hop {
    id: u32,
    interface: Option<i32>,
    group: Vec<u32>,
}

impl Hop {
    fn of(message: &Message<'_>) -> Option<Self> {
        let mut hop = Self::default();
        for (kind, value) in attributes_of(message.body.get(NEXTHOP_BYTES..)?) {
            match kind {
                NHA_ID => hop.id = word(value, 0)?,
                NHA_OIF => hop.interface = number(value, 0),
                NHA_GROUP => {
                    let members = value.chunks_exact(MEMBER_BYTES);
                    hop.group = members.filter_map(|member| word(member, 0)).collect();
                }
                _ => {}
            }
        }
        Some(hop)
    }
}

/// An interface, and what it carries or is carried by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Link {
    name: String,
    /// The bridge, bond, team or VRF that it is part of.
    master: Option<i32>,
    /// What it is made on, in this namespace.
    below: Option<i32>,
    /// The table of a VRF.
    vrf_table: Option<u32>,
}

/// The namespace's interfaces by their numbers.
#[derive(Debug, Default)]
struct Links(BTreeMap<i32, Link>);

impl Links {
    fn read() -> nix::Result<Self> {
        let mut links = Self::default();
        Socket::dump(libc::RTM_GETLINK, &[0; LINK_BYTES], |message| links.hear(message))?;
        Ok(links)
    }

    fn hear(&mut self, message: &Message<'_>) {
        let (libc::RTM_NEWLINK, Some(index)) = (message.kind, message.index()) else { return };
        let mut link = Link::default();
        let (mut is_pair, mut is_elsewhere) = (false, false);
        for (kind, value) in message.attributes() {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MASTER => link.master = number(value, 0),
                libc::IFLA_LINK => link.below = number(value, 0),
                libc::IFLA_LINK_NETNSID => is_elsewhere = true,
                libc::IFLA_LINKINFO => {
                    let kind = value_of(value, IFLA_INFO_KIND).unwrap_or_default();
                    is_pair = PAIRS.contains(&kind);
                    if kind == b"vrf\0" {
                        let data = value_of(value, IFLA_INFO_DATA).unwrap_or_default();
                        let table = value_of(data, IFLA_VRF_TABLE);
                        link.vrf_table = table.and_then(|table| word(table, 0));
                    }
                }
                _ => {}
            }
        }
        link.below = link.below.filter(|_| !is_pair && !is_elsewhere);
        self.0.insert(index, link);
    }

    fn named(&self, name: &str) -> Option<i32> {
        self.0.iter().find(|(_, link)| link.name == name).map(|(&index, _)| index)
    }

    /// The interface itself, and those whose packets go through it, nearest first.
    fn carried_by(&self, index: i32) -> impl Iterator<Item = i32> {
        let (mut seen, mut next) = (BTreeSet::from([index]), VecDeque::from([index]));
        std::iter::from_fn(move || {
            let index = next.pop_front()?;
            let master = self.0.get(&index).and_then(|link| link.master);
            let above = self.0.iter().filter(|(_, link)| link.below == Some(index));
            for carried in master.into_iter().chain(above.map(|(&above, _)| above)) {
                if seen.insert(carried) {
                    next.push_back(carried);
                }
            }
            Some(index)
        })
    }
}

#[cfg(test)]
mod tests;
