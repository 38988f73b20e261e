//! The stream of packets that a sending thread makes: a template and what changes from one packet to
//! the next. No allocation after it was built.
//!
//! Ranges are walked as in pkt-gen: source port, source address, destination port, destination
//! address, the first fastest. MAC ranges and sizes go on with every packet.

use std::net::IpAddr;

use nm_cli::addr::AddrRange;
use nm_cli::mac::MacRange;
use nm_cli::units::Sizes;
use nm_stream::Mark;

use super::ip::Family;
use super::range::{Cursor, Step};
use super::rng::Rng;
use super::template::{End, Template};

/// Order of sizes in simple IMIX (7:4:1), spread out; indices into [`Sizes::IMIX`].
const IMIX_ORDER: [u8; 12] = [0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 1, 0];

/// What a stream of packets looks like.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Bytes of virtio-net header in front.
    pub vnet: usize,
    /// Frame sizes.
    pub sizes: Sizes,
    /// Source addresses.
    pub src: AddrRange,
    /// Destination addresses.
    pub dst: AddrRange,
    /// Random source instead.
    pub random_src: bool,
    /// Random destination instead.
    pub random_dst: bool,
    /// Source MAC addresses.
    pub src_mac: MacRange,
    /// Destination MAC addresses.
    pub dst_mac: MacRange,
    /// Seed of all that is random.
    pub seed: u64,
}

impl Recipe {
    /// True if all packets are the same.
    pub fn constant(&self) -> bool {
        matches!(self.sizes, Sizes::Fixed(_))
            && self.src.single()
            && self.dst.single()
            && !self.random_src
            && !self.random_dst
            && self.src_mac.count() == 1
            && self.dst_mac.count() == 1
    }
}

/// Makes packets.
#[derive(Clone, Debug)]
pub struct Source {
    recipe: Recipe,
    template: Template,
    constant: bool,
    src: Cursor,
    dst: Cursor,
    rng: Rng,
    /// Number of the next packet.
    index: u64,
    len: usize,
}

impl Source {
    /// The stream of one thread. Threads differ in what is random.
    pub fn new(recipe: &Recipe, thread: u64) -> Source {
        let (low, high) = recipe.sizes.bounds().into_inner();
        let mut template = Template::new(recipe.family, recipe.vnet, high);
        let (src, dst) = (Cursor::new(recipe.src), Cursor::new(recipe.dst));
        for (end, cursor, mac) in
            [(End::Src, &src, recipe.src_mac), (End::Dst, &dst, recipe.dst_mac)]
        {
            template.set_address(end, cursor.address);
            template.set_port(end, cursor.port);
            template.set_mac(end, mac.first);
        }
        template.set_len(low);
        Source {
            constant: recipe.constant(),
            recipe: recipe.clone(),
            template,
            src,
            dst,
            rng: Rng::new(recipe.seed, thread),
            index: 0,
            len: low,
        }
    }

    /// True if all packets are the same (as long as nobody sets a mark).
    pub fn constant(&self) -> bool {
        self.constant
    }

    /// The packet as it is now, at its greatest length, virtio-net header included.
    pub fn bytes(&self) -> &[u8] {
        self.template.bytes()
    }

    /// Bytes of it that are the virtio-net header.
    pub fn vnet(&self) -> usize {
        self.recipe.vnet
    }

    /// The part that changes from packet to packet.
    pub fn head(&self) -> &[u8] {
        self.template.head()
    }

    /// Sets the mark of the current packet.
    pub fn set_mark(&mut self, mark: Mark) {
        self.template.set_mark(mark.encode());
    }

    /// Makes the next packet; returns its length, virtio-net header included.
    #[inline]
    pub fn next(&mut self) -> usize {
        if !self.constant {
            self.vary();
        }
        self.len + self.recipe.vnet
    }

    fn vary(&mut self) {
        let index = self.index;
        self.index += 1;
        self.vary_size(index);
        for (end, range) in [(End::Src, self.recipe.src_mac), (End::Dst, self.recipe.dst_mac)] {
            if range.count() > 1 {
                self.template.set_mac(end, range.nth(index));
            }
        }
        // The first packet has the first addresses of the ranges; random ones are drawn for it too.
        let carry = if self.recipe.random_src {
            self.randomize(End::Src);
            true
        } else if index > 0 {
            self.step(End::Src)
        } else {
            false
        };
        if self.recipe.random_dst {
            self.randomize(End::Dst);
        } else if carry && index > 0 {
            self.step(End::Dst);
        }
    }

    fn vary_size(&mut self, index: u64) {
        let len = match self.recipe.sizes {
            Sizes::Fixed(_) => return,
            Sizes::Range(low, high) => low + self.rng.below((high - low + 1) as u64) as usize,
            Sizes::Imix => Sizes::IMIX[usize::from(IMIX_ORDER[(index % 12) as usize])].0,
        };
        self.len = len;
        self.template.set_len(len);
    }

    /// Goes one step in a range; true if it wrapped.
    fn step(&mut self, end: End) -> bool {
        let cursor = if end == End::Src { &mut self.src } else { &mut self.dst };
        let (before, step) = (cursor.port, cursor.step());
        if cursor.port != before {
            self.template.set_port(end, cursor.port);
        }
        if step != Step::Port {
            self.template.set_address(end, cursor.address);
        }
        step == Step::Wrapped
    }

    fn randomize(&mut self, end: End) {
        let (bits, more) = (self.rng.next(), self.rng.next());
        let address = match self.recipe.family {
            Family::V4 => IpAddr::from(((bits >> 32) as u32).to_be_bytes()),
            Family::V6 => IpAddr::from((u128::from(bits) << 64 | u128::from(more)).to_be_bytes()),
        };
        self.template.set_address(end, address);
        self.template.set_port(end, (bits ^ more) as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::template::tests::assert_valid;

    fn recipe() -> Recipe {
        Recipe {
            family: Family::V4,
            vnet: 0,
            sizes: Sizes::Fixed(60),
            src: "10.0.0.1:1".parse().expect("valid"),
            dst: "10.1.0.1:1".parse().expect("valid"),
            random_src: false,
            random_dst: false,
            src_mac: "02:00:00:00:00:01".parse().expect("valid"),
            dst_mac: "02:00:00:00:00:02".parse().expect("valid"),
            seed: 1,
        }
    }

    fn frames(recipe: &Recipe, n: usize) -> Vec<Vec<u8>> {
        let mut source = Source::new(recipe, 0);
        (0..n)
            .map(|_| {
                let len = source.next();
                source.bytes()[..len].to_vec()
            })
            .collect()
    }

    #[test]
    fn constant_recipe_repeats_one_valid_packet() {
        let made = frames(&recipe(), 3);
        assert!(recipe().constant());
        assert_valid(&made[0]);
        assert_eq!(made[0], made[2]);
    }

    #[test]
    fn ranges_are_walked_source_first() {
        let recipe = Recipe {
            src: "10.0.0.1:1-10.0.0.2:2".parse().expect("valid"),
            dst: "10.1.0.1:7-10.1.0.1:8".parse().expect("valid"),
            src_mac: "02:00:00:00:00:00-02:00:00:00:00:02".parse().expect("valid"),
            ..recipe()
        };
        let made = frames(&recipe, 9);
        made.iter().for_each(|frame| assert_valid(frame));
        let seen: Vec<(u8, u8, u8, u8)> =
            made.iter().map(|f| (f[29], f[35], f[37], f[11])).collect();
        let expected = [
            (1, 1, 7, 0),
            (1, 2, 7, 1),
            (2, 1, 7, 2),
            (2, 2, 7, 0), // then the destination port goes on
            (1, 1, 8, 1),
            (1, 2, 8, 2),
            (2, 1, 8, 0),
            (2, 2, 8, 1),
            (1, 1, 7, 2),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn random_packets_are_valid_and_reproducible() {
        let recipe = Recipe {
            random_src: true,
            random_dst: true,
            sizes: Sizes::Range(60, 1514),
            ..recipe()
        };
        let made = frames(&recipe, 500);
        made.iter().for_each(|frame| assert_valid(frame));
        assert_eq!(made, frames(&recipe, 500));
        assert_ne!(made, frames(&Recipe { seed: 2, ..recipe.clone() }, 500));
        let distinct: std::collections::HashSet<&[u8]> = made.iter().map(|f| &f[26..38]).collect();
        assert_eq!(distinct.len(), 500);
    }

    #[test]
    fn imix_has_its_proportions() {
        let recipe = Recipe { sizes: Sizes::Imix, ..recipe() };
        let made = frames(&recipe, 12);
        made.iter().for_each(|frame| assert_valid(frame));
        for (size, n) in Sizes::IMIX {
            assert_eq!(made.iter().filter(|frame| frame.len() == size).count(), n);
        }
    }
}
