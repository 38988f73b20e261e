//! From an ELF image to a machine that is about to execute its first instruction, by the PVH boot ABI
//! (Xen, docs/misc/pvh.pandoc; the same that QEMU's `-kernel` follows for ELF images).

mod cpu;
mod kind;
#[allow(unsafe_code)]
mod pvh;

pub use cpu::{boot_registers, boot_segments};
pub use pvh::{Image, Initrd, load};
