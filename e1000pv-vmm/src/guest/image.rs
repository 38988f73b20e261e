//! The bench guest, as `guest-tools/kernel` builds it, carried in the program: what runs when no
//! `--kernel` is given. A static PVH ELF image, see `docs/design/vmm.md`.

/// The image, made by build.rs.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-kernel"));

/// The embedded ELF image.
pub fn bytes() -> &'static [u8] {
    IMAGE
}
