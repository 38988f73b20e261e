//! The identity of the device on the PCI bus (8254x manual, section 4.1 and chapter 5).

/// Intel.
pub const VENDOR_ID: u16 = 0x8086;
/// 82540EM.
pub const DEVICE_ID: u16 = 0x100E;
/// The stepping that drivers of the paravirtual e1000 expect.
pub const REVISION: u8 = 3;
/// Network controller, Ethernet, as class code.
pub const CLASS: u32 = 0x02_0000;
/// Subsystem id of a device that offers a CSB; drivers test this and nothing else.
pub const SUBSYSTEM_PARAVIRT: u16 = 0x1101;
/// Subsystem id of a device that does not: Intel's desktop adapter.
pub const SUBSYSTEM_PLAIN: u16 = 0x001E;
/// BAR0: memory, 32 bits, the registers.
pub const BAR0_BYTES: u32 = 128 * 1024;
/// BAR1: I/O ports, the window with IOADDR and IODATA. (On the chip it is BAR2, with the flash in
/// between; drivers look for the first I/O BAR, whatever its number.)
pub const BAR1_BYTES: u32 = 64;
/// INTA#.
pub const INTERRUPT_PIN: u8 = 1;
