//! What a reset of the MAC does (8254x manual, section 14.3): registers as the table says, the
//! address from the EEPROM, no cause, everything masked, no CSB.
//!
//! The data path's part is `DataPath::reset`, under whose lock this runs; PHY and PCI configuration
//! are not the MAC's.

use e1000pv::bits::Rah;
use e1000pv::regs;

use super::{Core, lock};

impl Core {
    pub(super) fn reset(&self) {
        self.irq.reset(|level| self.board.set_intx(level));
        *lock(&self.csb) = None;
        self.registers.reset();
        self.stats.reset();
        let mut eeprom = lock(&self.eeprom);
        eeprom.reset();
        let [a, b, c, d, e, f] = eeprom.mac();
        drop(eeprom);
        self.registers.store(regs::RAL, u32::from_le_bytes([a, b, c, d]));
        self.registers.store(regs::RAH, u32::from_le_bytes([e, f, 0, 0]) | Rah::AV.bits());
        self.follow_link();
    }
}
