//! The PHY behind MDIC: identity, link state, and registers that drivers write and read back (8254x
//! manual, section 13.4.7).
//!
//! Operations end at once. The link that software sees is the cable's (`Phy::plug`) while the PHY
//! has power, at the best speed that software offers, or at the one that it forces; the MAC's STATUS follows it. In
//! loopback the PHY is its own partner.

use e1000pv::bits::{Mdic, Speed};
use e1000pv::phy::{self, RESET, WRITABLE};

use crate::state::{self, BadState};

/// The PHY of one device.
#[derive(Debug)]
pub struct Phy {
    registers: [u16; phy::COUNT],
    plugged: bool,
    /// The operator has taken the link down, whatever is plugged in.
    held_down: bool,
    /// The link was lost since PSTATUS was read last, which the next read must tell.
    lost: bool,
}

/// What an MDI operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The new value of MDIC.
    pub mdic: Mdic,
    /// Negotiation began and ended, or there is another link, so its state and loopback have to be looked at.
    pub negotiated: bool,
}

/// A link that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its speed.
    pub speed: Speed,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// What software may offer, the best first: register, bit, and what it means.
const OFFERS: [(u32, u16, Link); 6] = [
    (phy::GCON, phy::GCON_1000_HALF << 1, Link { speed: Speed::Mb1000, full_duplex: true }),
    (phy::GCON, phy::GCON_1000_HALF, Link { speed: Speed::Mb1000, full_duplex: false }),
    (phy::ANA, phy::ANA_10_HALF << 3, Link { speed: Speed::Mb100, full_duplex: true }),
    (phy::ANA, phy::ANA_10_HALF << 2, Link { speed: Speed::Mb100, full_duplex: false }),
    (phy::ANA, phy::ANA_10_HALF << 1, Link { speed: Speed::Mb10, full_duplex: true }),
    (phy::ANA, phy::ANA_10_HALF, Link { speed: Speed::Mb10, full_duplex: false }),
];

impl Default for Phy {
    fn default() -> Self {
        Self { registers: RESET, plugged: true, held_down: false, lost: false }
    }
}

impl Phy {
    /// Registers as after power-on; the cable stays.
    pub fn reset(&mut self) {
        self.registers = RESET;
    }

    /// Registers and link.
    pub fn save(&self) -> state::Phy {
        let registers = self.registers.to_vec();
        let Self { plugged, held_down, lost, .. } = *self;
        state::Phy { registers, plugged, held_down, lost }
    }

    /// As it was at `save`.
    pub fn restore(&mut self, from: &state::Phy) -> Result<(), BadState> {
        let registers = from.registers.as_slice().try_into();
        self.registers = registers.map_err(|_| BadState("the PHY's registers"))?;
        (self.plugged, self.held_down, self.lost) = (from.plugged, from.held_down, from.lost);
        Ok(())
    }

    /// Plugs the cable in or out.
    pub fn plug(&mut self, plugged: bool) {
        self.lost |= !plugged;
        self.plugged = plugged;
    }

    /// The operator takes the link down, or lets it up.
    pub fn hold_down(&mut self, down: bool) {
        self.lost |= down;
        self.held_down = down;
    }

    fn control(&self, bit: u16) -> bool {
        self.registers[phy::PCTRL as usize] & bit != 0
    }

    /// Whether what is sent comes back here.
    #[must_use]
    pub fn loops_back(&self) -> bool {
        self.control(phy::PCTRL_LOOPBACK)
    }

    /// The link, if there is one.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        if self.control(phy::PCTRL_POWER_DOWN)
            || !(self.plugged && !self.held_down || self.loops_back())
        {
            return None;
        }
        if self.control(phy::PCTRL_ANEG) {
            let offered = |(register, bit, _): &&(u32, u16, Link)| {
                self.registers[*register as usize] & bit != 0
            };
            return OFFERS.iter().find(offered).map(|(.., link)| *link);
        }
        let high = u32::from(self.control(phy::PCTRL_SPEED_HIGH));
        let low = u32::from(self.control(phy::PCTRL_SPEED_LOW));
        let full_duplex = self.control(phy::PCTRL_FULL_DUPLEX);
        Some(Link { speed: Speed::from_bits(high << 1 | low), full_duplex })
    }

    /// MDIC is written.
    pub fn mdi(&mut self, command: Mdic) -> Outcome {
        let done = command.difference(Mdic::E) | Mdic::R;
        let failed = Outcome { mdic: done | Mdic::E, negotiated: false };
        if command.phy() != phy::ADDRESS {
            return failed;
        }
        let register = command.register();
        match (command.contains(Mdic::OP_READ), command.contains(Mdic::OP_WRITE)) {
            (true, false) => {
                let data = Mdic::from_bits_retain(u32::from(self.read(register)));
                let low = Mdic::from_bits_retain(0xFFFF);
                Outcome { mdic: done.difference(low) | data, negotiated: false }
            }
            (false, true) => {
                Outcome { mdic: done, negotiated: self.write(register, command.data()) }
            }
            _ => failed,
        }
    }

    fn read(&mut self, register: u32) -> u16 {
        let value = self.registers[register as usize];
        match register {
            phy::PSTATUS => {
                let up = self.link().is_some() && !self.lost;
                self.lost = self.link().is_none();
                let negotiated = up && self.control(phy::PCTRL_ANEG);
                let absent = if up { 0 } else { phy::PSTATUS_LINK };
                let absent = absent | if negotiated { 0 } else { phy::PSTATUS_ANEG_DONE };
                value & !absent
            }
            // The partner's words are there only while it is, and if there were words.
            phy::LPA | phy::GSTATUS if self.link().is_none() || !self.control(phy::PCTRL_ANEG) => 0,
            phy::M88_PSSTAT => self.link().map_or(0, |Link { speed, full_duplex }| {
                let duplex = if full_duplex { phy::M88_PSSTAT_FULL_DUPLEX } else { 0 };
                (speed as u16) << 14 | duplex | phy::M88_PSSTAT_RESOLVED | phy::M88_PSSTAT_LINK
            }),
            _ => value,
        }
    }

    /// True: the link may have changed.
    fn write(&mut self, register: u32, value: u16) -> bool {
        let at = register as usize;
        let before = (self.link(), self.loops_back());
        self.registers[at] = self.registers[at] & !WRITABLE[at] | value & WRITABLE[at];
        if register != phy::PCTRL {
            return false;
        }
        if value == phy::PCTRL_RESET {
            self.reset();
        } else if value & phy::PCTRL_RESET != 0 {
            // As the M88 does: what is written beside the reset takes effect by it, and the other registers stay;
            // drivers force a speed so.
            let cleared = phy::PCTRL_LOOPBACK | phy::PCTRL_POWER_DOWN | phy::PCTRL_ISOLATE;
            self.registers[at] &= !cleared;
        }
        let after = (self.link(), self.loops_back());
        self.lost |= after.0.is_none() || before.0 != after.0;
        before != after || value & (phy::PCTRL_RESTART | phy::PCTRL_RESET) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(p: &mut Phy, register: u32) -> u16 {
        let outcome = p.mdi(Mdic::command(Mdic::OP_READ, register, 0xFFFF));
        assert!(outcome.mdic.contains(Mdic::R) && !outcome.mdic.contains(Mdic::E));
        outcome.mdic.data()
    }

    fn write(p: &mut Phy, register: u32, value: u16) -> bool {
        p.mdi(Mdic::command(Mdic::OP_WRITE, register, value)).negotiated
    }

    #[test]
    fn identity_is_the_one_that_drivers_of_this_chip_look_for() {
        let mut p = Phy::default();
        let id =
            u32::from(read(&mut p, phy::PHY_ID1)) << 16 | u32::from(read(&mut p, phy::PHY_ID2));
        assert_eq!(id & 0xFFFF_FFF0, 0x0141_0C20);
        write(&mut p, phy::PHY_ID1, 0);
        assert_eq!(read(&mut p, phy::PHY_ID1), 0x0141, "read-only");
    }

    #[test]
    fn lost_link_is_told_once_even_if_it_came_back() {
        let mut p = Phy::default();
        assert_ne!(read(&mut p, phy::PSTATUS) & phy::PSTATUS_LINK, 0);
        p.plug(false);
        p.plug(true);
        assert_eq!(read(&mut p, phy::PSTATUS) & phy::PSTATUS_LINK, 0);
        assert_ne!(read(&mut p, phy::PSTATUS) & phy::PSTATUS_LINK, 0);
        assert_ne!(read(&mut p, phy::M88_PSSTAT) & phy::M88_PSSTAT_LINK, 0);
    }

    #[test]
    fn unplugged_there_is_no_link_and_no_partner() {
        let mut p = Phy::default();
        p.plug(false);
        for _ in 0..2 {
            assert_eq!(read(&mut p, phy::PSTATUS) & phy::PSTATUS_LINK, 0);
        }
        assert_eq!(read(&mut p, phy::LPA), 0);
        assert_eq!(read(&mut p, phy::M88_PSSTAT) & phy::M88_PSSTAT_LINK, 0);
    }

    #[test]
    fn power_down_takes_the_link_and_reset_brings_it_back() {
        let mut p = Phy::default();
        assert!(write(&mut p, phy::PCTRL, 0x1140 | phy::PCTRL_POWER_DOWN));
        assert!(p.link().is_none());
        assert!(write(&mut p, phy::PCTRL, phy::PCTRL_RESET));
        assert!(p.link().is_some());
        assert_eq!(read(&mut p, phy::PCTRL), RESET[phy::PCTRL as usize], "reset clears itself");
    }

    #[test]
    fn restart_of_negotiation_ends_at_once() {
        let mut p = Phy::default();
        assert!(write(&mut p, phy::PCTRL, 0x1140 | phy::PCTRL_RESTART));
        assert_eq!(read(&mut p, phy::PCTRL), 0x1140);
        assert_ne!(read(&mut p, phy::PSTATUS) & phy::PSTATUS_ANEG_DONE, 0);
    }

    #[test]
    fn forced_speeds_are_told_and_what_is_written_beside_a_reset_stays() {
        for (control, speed, full_duplex) in [
            (0x0000, Speed::Mb10, false),
            (0x0100, Speed::Mb10, true),
            (0x2000, Speed::Mb100, false),
            (0x2100, Speed::Mb100, true),
            (0x0140, Speed::Mb1000, true),
        ] {
            let mut p = Phy::default();
            write(&mut p, phy::M88_PSCON, 0x0808);
            for reset in [0, phy::PCTRL_RESET] {
                let beside = phy::PCTRL_LOOPBACK | phy::PCTRL_POWER_DOWN;
                write(&mut p, phy::PCTRL, control | reset | if reset == 0 { 0 } else { beside });
                assert_eq!(p.link(), Some(Link { speed, full_duplex }));
                assert_eq!(read(&mut p, phy::PCTRL), control);
                let status = read(&mut p, phy::M88_PSSTAT);
                assert_eq!(status >> 14, speed as u16);
                assert_eq!(status & phy::M88_PSSTAT_FULL_DUPLEX != 0, full_duplex);
                read(&mut p, phy::PSTATUS);
                let status = read(&mut p, phy::PSTATUS);
                assert_eq!(status & phy::PSTATUS_ANEG_DONE, 0, "nothing was negotiated");
                assert_ne!(status & phy::PSTATUS_LINK, 0);
                assert_eq!((read(&mut p, phy::LPA), read(&mut p, phy::M88_PSCON)), (0, 0x0808));
            }
        }
    }

    #[test]
    fn negotiation_ends_with_the_best_that_is_offered() {
        let mut p = Phy::default();
        let speed = |p: &Phy| p.link().map(|link| (link.speed, link.full_duplex));
        assert_eq!(speed(&p), Some((Speed::Mb1000, true)));
        write(&mut p, phy::GCON, 0);
        assert_eq!(speed(&p), Some((Speed::Mb100, true)));
        for (offer, is) in [(0x81, (Speed::Mb100, false)), (0x61, (Speed::Mb10, true))] {
            write(&mut p, phy::ANA, offer);
            assert!(write(&mut p, phy::PCTRL, 0x1140 | phy::PCTRL_RESTART));
            assert_eq!(speed(&p), Some(is));
        }
        write(&mut p, phy::ANA, 1);
        assert_eq!(speed(&p), None, "nothing in common");
    }

    #[test]
    fn link_is_up_if_the_cable_is_plugged_in_and_the_operator_lets_it() {
        let mut p = Phy::default();
        for (plugged, down) in [(true, true), (false, true), (false, false), (true, false)] {
            p.plug(plugged);
            p.hold_down(down);
            assert_eq!(p.link().is_some(), plugged && !down);
        }
        assert_eq!(read(&mut p, phy::PSTATUS) & phy::PSTATUS_LINK, 0, "it was lost meanwhile");
    }

    #[test]
    fn loopback_has_a_link_without_a_cable() {
        let mut p = Phy::default();
        p.plug(false);
        assert!(write(&mut p, phy::PCTRL, 0x4140));
        assert!(p.loops_back() && p.link().is_some());
        assert!(write(&mut p, phy::PCTRL, 0x1140));
        assert!(!p.loops_back() && p.link().is_none());
    }

    #[test]
    fn other_addresses_and_no_operation_fail() {
        let mut p = Phy::default();
        let read = Mdic::command(Mdic::OP_READ, 2, 0);
        let elsewhere = Mdic::from_bits_retain(read.bits() ^ 3 << 21);
        assert!(p.mdi(elsewhere).mdic.contains(Mdic::E | Mdic::R));
        let both = read | Mdic::OP_WRITE;
        assert!(p.mdi(both).mdic.contains(Mdic::E | Mdic::R));
    }
}
