//! The PHY's registers that drivers reach through MDIC: an M88E1011 of 1000BASE-T at address 1
//! (8254x manual, section 13.4.7.1 and IEEE 802.3 clause 22).
//!
//! The link partner always offers everything, and follows whatever it finds, so negotiation ends at once with the best that
//! software offers, and a forced speed finds its link.

/// The address of the internal PHY.
pub const ADDRESS: u32 = 1;

/// Control (PCTRL).
pub const PCTRL: u32 = 0;
/// Status (PSTATUS).
pub const PSTATUS: u32 = 1;
/// Identifier, high half.
pub const PHY_ID1: u32 = 2;
/// Identifier, low half, model and revision.
pub const PHY_ID2: u32 = 3;
/// Auto-negotiation advertisement.
pub const ANA: u32 = 4;
/// What the link partner offers.
pub const LPA: u32 = 5;
/// Auto-negotiation expansion.
pub const ANE: u32 = 6;
/// 1000BASE-T control.
pub const GCON: u32 = 9;
/// 1000BASE-T status.
pub const GSTATUS: u32 = 10;
/// Extended status: 1000BASE-T in both duplexes.
pub const EXT_STATUS: u32 = 15;
/// M88: specific control.
pub const M88_PSCON: u32 = 16;
/// M88: specific status.
pub const M88_PSSTAT: u32 = 17;
/// M88: interrupt status.
pub const M88_PINTS: u32 = 19;
/// M88: extended specific control.
pub const M88_EPSCON: u32 = 20;
/// Registers that MDIC can name.
pub const COUNT: usize = 32;

/// PCTRL: reset; clears itself.
pub const PCTRL_RESET: u16 = 1 << 15;
/// PCTRL: loopback.
pub const PCTRL_LOOPBACK: u16 = 1 << 14;
/// PCTRL: low bit of the speed without negotiation; code as in `bits::Speed`.
pub const PCTRL_SPEED_LOW: u16 = 1 << 13;
/// PCTRL: auto-negotiation.
pub const PCTRL_ANEG: u16 = 1 << 12;
/// PCTRL: power down.
pub const PCTRL_POWER_DOWN: u16 = 1 << 11;
/// PCTRL: isolate.
pub const PCTRL_ISOLATE: u16 = 1 << 10;
/// PCTRL: full duplex without negotiation.
pub const PCTRL_FULL_DUPLEX: u16 = 1 << 8;
/// PCTRL: high bit of the speed.
pub const PCTRL_SPEED_HIGH: u16 = 1 << 6;
/// ANA: offers 10 Mb/s half duplex; the next three bits are 10 full, 100 half and 100 full.
pub const ANA_10_HALF: u16 = 1 << 5;
/// GCON: offers 1000 Mb/s half duplex; the next bit is full duplex.
pub const GCON_1000_HALF: u16 = 1 << 8;
/// PCTRL: restart auto-negotiation; clears itself.
pub const PCTRL_RESTART: u16 = 1 << 9;
/// PSTATUS: link up. It latches low until it is read (IEEE 802.3 22.2.4.2).
pub const PSTATUS_LINK: u16 = 1 << 2;
/// PSTATUS: auto-negotiation complete.
pub const PSTATUS_ANEG_DONE: u16 = 1 << 5;
/// M88_PSSTAT: link up, in real time.
pub const M88_PSSTAT_LINK: u16 = 1 << 10;

/// M88_PSSTAT: speed and duplex are those of the link.
pub const M88_PSSTAT_RESOLVED: u16 = 1 << 11;
/// M88_PSSTAT: full duplex. Bits 15:14 are the speed.
pub const M88_PSSTAT_FULL_DUPLEX: u16 = 1 << 13;

/// Values after reset, with a link. 0x0141_0C20 is the identifier of an M88E1011, which drivers
/// look for on an 82540EM.
pub const RESET: [u16; COUNT] = {
    let mut r = [0; COUNT];
    // Auto-negotiation enabled, full duplex, 1000 Mb/s.
    r[PCTRL as usize] = 0x1140;
    // All of 10 and 100 Mb/s, extended status, auto-negotiation able and complete, extended
    // registers, link up.
    r[PSTATUS as usize] = 0x7949 | PSTATUS_ANEG_DONE | PSTATUS_LINK;
    r[PHY_ID1 as usize] = 0x0141;
    r[PHY_ID2 as usize] = 0x0C20;
    r[ANA as usize] = 0x0DE1;
    // The partner offers the same, and acknowledges.
    r[LPA as usize] = 0x4DE1;
    // The partner can negotiate, a page was received.
    r[ANE as usize] = 0x0003;
    r[GCON as usize] = 0x0E00;
    // Both receivers fine, the partner has 1000BASE-T full and half duplex.
    r[GSTATUS as usize] = 0x3C00;
    r[EXT_STATUS as usize] = 0x3000;
    r[M88_PSCON as usize] = 0x0360;
    // 1000 Mb/s, full duplex, resolved, link up.
    r[M88_PSSTAT as usize] = 0xA800 | M88_PSSTAT_LINK;
    r[M88_EPSCON as usize] = 0x0D60;
    r
};

/// The bits of each register that software can change; 0 for read-only registers.
pub const WRITABLE: [u16; COUNT] = {
    let mut w = [0; COUNT];
    w[PCTRL as usize] = !(PCTRL_RESET | PCTRL_RESTART);
    w[ANA as usize] = 0xFFFF;
    w[GCON as usize] = 0xFFFF;
    w[M88_PSCON as usize] = 0xFFFF;
    w[18] = 0xFFFF;
    w[M88_EPSCON as usize] = 0xFFFF;
    // Pages and data of the M88's vendor registers, which drivers set and read back.
    w[29] = 0xFFFF;
    w[30] = 0xFFFF;
    w
};
