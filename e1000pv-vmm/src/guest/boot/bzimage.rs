//! bzImages: Linux as distributions ship it, packed, with a header that says what it needs (boot.rst, "The Real-Mode
//! Kernel Header").
//!
//! Invariant: the header is read once; what it says is checked before it is used, each field with its own error. It is
//! loaded at the address that it prefers, where it unpacks itself in place: whether it could be moved does not matter.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, bail};
use linux_loader::loader::bootparam::{XLF_KERNEL_64, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

use super::loaded::{Entry, Loaded};
use crate::machine::layout;

/// Where the header is in the file, and in the zero page.
const HEADER_AT: usize = 0x1f1;
/// Its last byte is so far behind the end of what is counted from here.
const COUNTED_FROM: usize = 0x202;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// 2.12: the flags that tell of a 64-bit entry. Linux 3.8 and later.
const VERSION_MIN: u16 = 0x20c;
/// Behind `init_size`, the last field that is used.
const HEADER_MIN_BYTES: usize = 0x264 - HEADER_AT;
/// loadflags: the kernel proper is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
const SECTOR: u64 = 512;
/// Where it is entered in long mode, from where it is loaded on.
const ENTRY_64: u64 = 0x200;

/// A header that is sound.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// As the kernel has it; what is not part of it is zero.
    pub raw: setup_header,
    /// Bytes behind the setup code: the kernel proper.
    kernel_bytes: u64,
}

impl Header {
    /// The header of a file; `None` if it is no bzImage.
    pub fn read(file: &File) -> anyhow::Result<Option<Header>> {
        let mut raw = setup_header::default();
        let size = raw.as_slice().len();
        let mut have = 0;
        while let Ok(n @ 1..) =
            file.read_at(&mut raw.as_mut_slice()[have..], (HEADER_AT + have) as u64)
        {
            have += n;
        }
        if raw.header != MAGIC {
            return Ok(None);
        }
        if have < size {
            bail!("the file is cut off in its header");
        }
        let file_bytes = file.metadata().context("asking for its size")?.len();
        Header::check(raw, file_bytes).map(Some)
    }

    fn check(mut raw: setup_header, file_bytes: u64) -> anyhow::Result<Header> {
        let version = raw.version;
        if version < VERSION_MIN {
            bail!(
                "its boot protocol is {}.{:02}, and 2.12 is needed: Linux 3.8 or newer",
                version >> 8,
                version & 0xff
            );
        }
        if raw.loadflags & LOADED_HIGH == 0 {
            bail!("it is a zImage, which is loaded below 1 MiB; a bzImage is needed");
        }
        if raw.xloadflags & XLF_KERNEL_64 == 0 {
            bail!("it is a 32-bit kernel; 64-bit ones are booted");
        }
        // The byte at 0x201, of a jump over the header, tells where it ends.
        let bytes = COUNTED_FROM + usize::from(raw.jump >> 8) - HEADER_AT;
        if bytes < HEADER_MIN_BYTES {
            bail!(
                "its header is damaged: it has {bytes} bytes, and its version needs {HEADER_MIN_BYTES}"
            );
        }
        if let Some(beyond) = raw.as_mut_slice().get_mut(bytes..) {
            beyond.fill(0);
        }
        let (at, align) = (raw.pref_address, u64::from(raw.kernel_alignment));
        if !align.is_power_of_two() || !at.is_multiple_of(align) {
            bail!("its header is damaged: {at:#x} as preferred address, {align:#x} as alignment");
        }
        if at < layout::KERNEL_MIN {
            bail!("it wants to be loaded at {at:#x}, below {} MiB", layout::KERNEL_MIN >> 20);
        }
        let setup_bytes = match raw.setup_sects {
            0 => 5 * SECTOR, // from before there was that field
            sectors => (u64::from(sectors) + 1) * SECTOR,
        };
        let kernel_bytes = file_bytes.saturating_sub(setup_bytes);
        let wanted = (u64::from(raw.syssize) * 16).max(ENTRY_64 + 1);
        if kernel_bytes < wanted {
            bail!("the file is cut off: it has {file_bytes} bytes of {}", setup_bytes + wanted);
        }
        Ok(Header { raw, kernel_bytes })
    }

    /// Where it is loaded.
    fn start(&self) -> u64 {
        self.raw.pref_address
    }

    /// Up to where it uses memory when it unpacks itself.
    pub fn end(&self) -> u64 {
        self.start().saturating_add(self.kernel_bytes.max(u64::from(self.raw.init_size)))
    }

    /// Loads the kernel. The caller has seen to it that it fits.
    pub fn load(&self, memory: &GuestMemoryMmap, file: &mut File) -> anyhow::Result<Loaded> {
        BzImage::load(memory, Some(GuestAddress(self.start())), file, None)?;
        Ok(Loaded {
            entry: Entry::Linux(self.start() + ENTRY_64),
            end: self.end(),
            disk_end: u64::from(self.raw.initrd_addr_max) + 1,
            command_line: (self.raw.cmdline_size as usize).min(layout::COMMAND_LINE_MAX_BYTES - 1),
        })
    }
}
