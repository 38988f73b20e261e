//! What the loader says about the machine: PVH's `hvm_start_info` (xen/include/public/arch-x86/hvm).

use core::ffi::CStr;

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist_paddr: u64,
    cmdline_paddr: u64,
    rsdp_paddr: u64,
    // From version 1 on.
    memmap_paddr: u64,
    memmap_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MemmapEntry {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

unsafe extern "C" {
    static boot_info: u32;
}

/// The loader's information.
#[derive(Debug)]
pub struct BootInfo {
    /// Kernel command line; empty if it is not UTF-8.
    pub cmdline: &'static str,
    /// End of the RAM range that holds this image.
    pub ram_end: usize,
}

impl BootInfo {
    /// Reads it. `None` if the loader did not follow PVH, or names no RAM that holds this image.
    pub fn read() -> Option<Self> {
        // SAFETY: boot.s wrote it once, before any Rust ran.
        let at = unsafe { (&raw const boot_info).read_volatile() };
        if at == 0 {
            return None;
        }
        // SAFETY: by PVH, ebx holds the address of a start_info, which nobody writes.
        let info = unsafe { &*(at as usize as *const StartInfo) };
        if info.magic != MAGIC || info.version < 1 {
            return None;
        }
        // SAFETY: by PVH, so many entries are there.
        let map = unsafe {
            core::slice::from_raw_parts(
                info.memmap_paddr as *const MemmapEntry,
                info.memmap_entries as usize,
            )
        };
        let here = Self::read as *const () as u64;
        let ram = map.iter().find(|e| e.kind == RAM && e.addr <= here && here < e.addr + e.size)?;
        let cmdline = match info.cmdline_paddr {
            0 => "",
            // SAFETY: by PVH, a string that ends in a zero byte.
            at => unsafe { CStr::from_ptr(at as *const core::ffi::c_char) }.to_str().unwrap_or(""),
        };
        // Devices live right below 4 GiB, and that is all the page tables cover.
        Some(Self { cmdline, ram_end: (ram.addr + ram.size).min(0xe000_0000) as usize })
    }
}
