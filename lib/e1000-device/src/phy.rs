//! The PHY behind MDIC: identity, link state, and registers that drivers write and read back (8254x
//! manual, section 13.4.7).
//!
//! Operations end at once. The link that software sees is the cable's (`Phy::plug`) while the PHY
//! has power; the MAC's STATUS.LU follows it.

use e1000pv::bits::Mdic;
use e1000pv::phy::{self, RESET, WRITABLE};

use crate::state::{self, BadState};

/// The PHY of one device.
#[derive(Debug)]
pub struct Phy {
    registers: [u16; phy::COUNT],
    plugged: bool,
    /// The link was lost since PSTATUS was read last, which the next read must tell.
    lost: bool,
}

/// What an MDI operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The new value of MDIC.
    pub mdic: Mdic,
    /// Negotiation began and ended, so the state of the link has to be looked at.
    pub negotiated: bool,
}

impl Default for Phy {
    fn default() -> Self {
        Self { registers: RESET, plugged: true, lost: false }
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
        state::Phy { registers, plugged: self.plugged, lost: self.lost }
    }

    /// As it was at `save`.
    pub fn restore(&mut self, from: &state::Phy) -> Result<(), BadState> {
        let registers = from.registers.as_slice().try_into();
        self.registers = registers.map_err(|_| BadState("the PHY's registers"))?;
        (self.plugged, self.lost) = (from.plugged, from.lost);
        Ok(())
    }

    /// Plugs the cable in or out.
    pub fn plug(&mut self, plugged: bool) {
        self.lost |= !plugged;
        self.plugged = plugged;
    }

    /// Whether there is a link.
    #[must_use]
    pub fn link(&self) -> bool {
        self.plugged && self.registers[phy::PCTRL as usize] & phy::PCTRL_POWER_DOWN == 0
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
                let up = self.link() && !self.lost;
                self.lost = !self.link();
                let absent = phy::PSTATUS_LINK | phy::PSTATUS_ANEG_DONE;
                if up { value } else { value & !absent }
            }
            // The partner's words are there only while it is.
            phy::LPA | phy::GSTATUS if !self.link() => 0,
            phy::M88_PSSTAT if !self.link() => value & !phy::M88_PSSTAT_LINK,
            _ => value,
        }
    }

    /// True: the link may have changed.
    fn write(&mut self, register: u32, value: u16) -> bool {
        let at = register as usize;
        let before = self.link();
        self.registers[at] = self.registers[at] & !WRITABLE[at] | value & WRITABLE[at];
        if register != phy::PCTRL {
            return false;
        }
        if value & phy::PCTRL_RESET != 0 {
            self.reset();
        }
        self.lost |= !self.link();
        before != self.link() || value & (phy::PCTRL_RESTART | phy::PCTRL_RESET) != 0
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
        assert!(!p.link());
        assert!(write(&mut p, phy::PCTRL, phy::PCTRL_RESET));
        assert!(p.link());
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
    fn other_addresses_and_no_operation_fail() {
        let mut p = Phy::default();
        let read = Mdic::command(Mdic::OP_READ, 2, 0);
        let elsewhere = Mdic::from_bits_retain(read.bits() ^ 3 << 21);
        assert!(p.mdi(elsewhere).mdic.contains(Mdic::E | Mdic::R));
        let both = read | Mdic::OP_WRITE;
        assert!(p.mdi(both).mdic.contains(Mdic::E | Mdic::R));
    }
}
