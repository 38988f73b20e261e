//! The kernel's calls of VFIO, typed: a device that a program drives behind an IOMMU of type 1.
//!
//! Invariant: a `Space` has one IOMMU group and one stretch of memory, which is all that the group's devices reach. The kernel
//! undoes everything when the descriptors are closed, whoever closes them: the device first, and with it its interrupts and
//! its bus mastering, then what it reached.
//!
//! Follows the kernel's `Documentation/driver-api/vfio.rst` and `include/uapi/linux/vfio.h`.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use vfio_bindings::bindings::vfio as sys;

use super::command::Command;
use super::door::{Line, eventfd};
use super::memory::Memory;
use super::registers::Registers;
use crate::name::PciAddress;
use crate::shm::map::Map;

/// Where the kernel shows it.
const CONTAINER: &str = "/dev/vfio/vfio";
/// Bytes of a page of the IOMMU. All of type 1 have this size, among others.
const PAGE: u64 = 4096;
/// Below this address nothing is shown, so that a device that forgot an address reaches nothing.
const LOWEST: u64 = 1 << 20;
/// Where a kernel that does not tell (before 5.4) takes addresses: below the interrupts of a PC.
const USUAL: Range = Range { first: 0, last: 0xfedf_ffff };

/// Events of a PCI device: its interrupt line, and that the kernel wants it back.
const INTX: u32 = sys::VFIO_PCI_INTX_IRQ_INDEX;
const REQUEST: u32 = sys::VFIO_PCI_REQ_IRQ_INDEX;

/// Addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
}

/// What is known of an IOMMU, with room for what the kernel adds to it.
#[repr(C)]
struct IommuInfo {
    head: sys::vfio_iommu_type1_info,
    more: [u8; 4096 - size_of::<sys::vfio_iommu_type1_info>()],
}

/// A request about one interrupt.
#[repr(C)]
struct IrqSet {
    head: sys::vfio_irq_set,
    eventfd: RawFd,
}

mod ioctl {
    use super::{IommuInfo, IrqSet, sys};

    /// All requests are of this form, whatever they are given.
    const fn request(number: u32) -> nix::libc::Ioctl {
        nix::request_code_none!(sys::VFIO_TYPE, sys::VFIO_BASE + number)
    }

    nix::ioctl_none_bad!(get_api_version, request(0));
    nix::ioctl_write_int_bad!(check_extension, request(1));
    nix::ioctl_write_int_bad!(set_iommu, request(2));
    nix::ioctl_readwrite_bad!(group_get_status, request(3), sys::vfio_group_status);
    nix::ioctl_write_ptr_bad!(group_set_container, request(4), libc::c_int);
    nix::ioctl_write_ptr_bad!(group_get_device_fd, request(6), libc::c_char);
    nix::ioctl_readwrite_bad!(device_get_region_info, request(8), sys::vfio_region_info);
    nix::ioctl_readwrite_bad!(device_get_irq_info, request(9), sys::vfio_irq_info);
    nix::ioctl_write_ptr_bad!(device_set_irqs, request(10), IrqSet);
    nix::ioctl_readwrite_bad!(iommu_get_info, request(12), IommuInfo);
    nix::ioctl_write_ptr_bad!(iommu_map_dma, request(13), sys::vfio_iommu_type1_dma_map);
}

fn open(path: &str) -> io::Result<File> {
    let flags = libc::O_CLOEXEC;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// The path by which a group is opened.
pub fn group_path(group: u32) -> String {
    format!("/dev/vfio/{group}")
}

/// What groups are put into.
#[derive(Debug)]
pub struct Container(File);

impl Container {
    /// A new one; `None`: the kernel has no VFIO, or another one.
    ///
    /// # Errors
    /// As open(2).
    pub fn open() -> io::Result<Option<Self>> {
        let file = match open(CONTAINER) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        // SAFETY: it takes nothing.
        let version = unsafe { ioctl::get_api_version(file.as_raw_fd()) }?;
        Ok((u32::try_from(version) == Ok(sys::VFIO_API_VERSION)).then_some(Self(file)))
    }

    /// Whether the kernel can translate for it, which takes a module of its own.
    pub fn has_type1(&self) -> bool {
        let kind = sys::VFIO_TYPE1v2_IOMMU as libc::c_int;
        // SAFETY: it takes a number.
        unsafe { ioctl::check_extension(self.0.as_raw_fd(), kind) }.is_ok_and(|has| has > 0)
    }

    /// Puts the group that `group` has opened into it. `None`: some other device of the group is in use.
    ///
    /// # Errors
    /// As ioctl(2); EPERM where devices can forge interrupts.
    pub fn with_group(self, group: File) -> io::Result<Option<Space>> {
        let argsz = size_of::<sys::vfio_group_status>() as u32;
        let mut status = sys::vfio_group_status { argsz, flags: 0 };
        // SAFETY: a structure of the size that it names, which the kernel fills in.
        unsafe { ioctl::group_get_status(group.as_raw_fd(), &raw mut status) }?;
        if status.flags & sys::VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Ok(None);
        }
        let container = self.0.as_raw_fd();
        // SAFETY: a number to be read.
        unsafe { ioctl::group_set_container(group.as_raw_fd(), &raw const container) }?;
        let kind = sys::VFIO_TYPE1v2_IOMMU as libc::c_int;
        // SAFETY: it takes a number.
        unsafe { ioctl::set_iommu(container, kind) }?;
        Ok(Some(Space { group, container: self.0 }))
    }
}

/// Whether nothing answers for a path of the kernel's: no such file, or one whose module is not there.
fn is_absent(error: &io::Error) -> bool {
    let absent = [libc::ENOENT, libc::ENODEV, libc::ENXIO];
    error.raw_os_error().is_some_and(|errno| absent.contains(&errno))
}

/// Opens a group, which has one user.
///
/// # Errors
/// As open(2): EBUSY if it has one.
pub fn open_group(group: u32) -> io::Result<File> {
    open(&group_path(group))
}

/// What the devices of a group reach.
#[derive(Debug)]
pub struct Space {
    // In the order of closing.
    group: File,
    container: File,
}

impl Space {
    /// Shows the devices a mapping, at an address of our choice.
    ///
    /// # Errors
    /// As ioctl(2): ENOMEM if so much may not be locked. No room in what the IOMMU translates.
    pub fn show(&self, map: Map) -> io::Result<Memory> {
        let bytes = map.len() as u64;
        let iova = room(&self.ranges()?, bytes).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let request = sys::vfio_iommu_type1_dma_map {
            argsz: size_of::<sys::vfio_iommu_type1_dma_map>() as u32,
            flags: sys::VFIO_DMA_MAP_FLAG_READ | sys::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: map.base() as u64,
            iova,
            size: bytes,
        };
        // SAFETY: a structure of the size that it names. It makes all of a mapping of ours visible, which is only used as what
        // others may write; the kernel holds on to its pages until the container is closed, mapped or not.
        unsafe { ioctl::iommu_map_dma(self.container.as_raw_fd(), &raw const request) }?;
        Ok(Memory::contiguous(map, iova))
    }

    /// The addresses that can be chosen.
    fn ranges(&self) -> io::Result<Vec<Range>> {
        let argsz = size_of::<IommuInfo>() as u32;
        let head = sys::vfio_iommu_type1_info { argsz, ..Default::default() };
        let mut info = IommuInfo { head, more: [0; _] };
        // SAFETY: so many bytes, all of them plain, which the kernel fills in.
        unsafe { ioctl::iommu_get_info(self.container.as_raw_fd(), &raw mut info) }?;
        let has_more = info.head.flags & sys::VFIO_IOMMU_INFO_CAPS != 0;
        let start = size_of::<sys::vfio_iommu_type1_info>();
        let offset = info.head.cap_offset as usize;
        let ranges = has_more.then(|| ranges(&info.more, start, offset)).flatten();
        Ok(ranges.unwrap_or_else(|| vec![USUAL]))
    }

    /// A device of the group.
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn device(&self, address: PciAddress) -> io::Result<Device> {
        let name = CString::new(address.to_string())?;
        // SAFETY: a string, which is read to its end.
        let fd = unsafe { ioctl::group_get_device_fd(self.group.as_raw_fd(), name.as_ptr()) }?;
        // SAFETY: a new descriptor, which is nobody else's.
        Ok(Device(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }
}

/// The ranges among what the kernel adds to its answer: a chain of entries whose offsets count from the answer's start, which is
/// `start` bytes before `more`. `None`: none of them is about ranges.
fn ranges(more: &[u8], start: usize, mut offset: usize) -> Option<Vec<Range>> {
    let word = |at: usize, bytes: usize| -> Option<u64> {
        let at = at.checked_sub(start)?;
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(more.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(word))
    };
    // Each entry has at least its header, so there are no more than this.
    let header = size_of::<sys::vfio_info_cap_header>();
    for _ in 0..more.len() / header {
        let (id, next) = (word(offset, 2)?, word(offset + 4, 4)?);
        if id == u64::from(sys::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
            let count = word(offset + header, 4)? as usize;
            let first = offset + size_of::<sys::vfio_iommu_type1_info_cap_iova_range>();
            let range = |i: usize| {
                let at = first + i * size_of::<sys::vfio_iova_range>();
                Some(Range { first: word(at, 8)?, last: word(at + 8, 8)? })
            };
            return (0..count.min(more.len())).map(range).collect();
        }
        offset = next as usize;
        if offset == 0 {
            return None;
        }
    }
    None
}

/// The lowest place for so many bytes.
fn room(ranges: &[Range], bytes: u64) -> Option<u64> {
    let fits = |range: &Range| {
        let first = range.first.max(LOWEST).checked_next_multiple_of(PAGE)?;
        (range.last.checked_sub(first)? >= bytes - 1).then_some(first)
    };
    ranges.iter().filter_map(fits).min()
}

/// A device.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Where a region is in the descriptor, and its bytes.
    fn region(&self, index: u32, flags: u32) -> io::Result<(u64, u64)> {
        let argsz = size_of::<sys::vfio_region_info>() as u32;
        let mut info = sys::vfio_region_info { argsz, index, ..Default::default() };
        // SAFETY: a structure of the size that it names, which the kernel fills in.
        unsafe { ioctl::device_get_region_info(self.0.as_raw_fd(), &raw mut info) }?;
        if info.flags & flags != flags {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok((info.offset, info.size))
    }

    /// Its COMMAND.
    ///
    /// # Errors
    /// As ioctl(2) and dup(2).
    pub fn command(&self) -> io::Result<Command> {
        let flags = sys::VFIO_REGION_INFO_FLAG_READ | sys::VFIO_REGION_INFO_FLAG_WRITE;
        let (offset, _) = self.region(sys::VFIO_PCI_CONFIG_REGION_INDEX, flags)?;
        Ok(Command::new(self.0.try_clone()?, offset))
    }

    /// Its registers.
    ///
    /// # Errors
    /// As ioctl(2) and mmap(2); they cannot be mapped.
    pub fn registers(&self) -> io::Result<Registers> {
        let flags = sys::VFIO_REGION_INFO_FLAG_MMAP;
        let (offset, bytes) = self.region(sys::VFIO_PCI_BAR0_REGION_INDEX, flags)?;
        Registers::map(&self.0, offset, bytes)
    }

    /// Its interrupt line, masked; `None`: it has none that can be had.
    ///
    /// # Errors
    /// As ioctl(2) and eventfd(2).
    pub fn line(&self) -> io::Result<Option<Line>> {
        let wanted = sys::VFIO_IRQ_INFO_EVENTFD | sys::VFIO_IRQ_INFO_AUTOMASKED;
        if !self.has_event(INTX, wanted)? {
            return Ok(None);
        }
        let line = Line::new()?;
        match self.set_event(INTX, sys::VFIO_IRQ_SET_ACTION_TRIGGER, Some(&line.events)) {
            Ok(()) => {}
            // A line without PCI 2.3's mask that other devices are at as well.
            Err(Errno::EBUSY) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        self.set_event(INTX, sys::VFIO_IRQ_SET_ACTION_MASK, None)?;
        self.set_event(INTX, sys::VFIO_IRQ_SET_ACTION_UNMASK, Some(&line.unmask))?;
        Ok(Some(line))
    }

    /// What becomes readable when the kernel wants the device back and waits for it: it is to be unplugged, or vfio-pci to be
    /// taken off it. `None`: this kernel does not tell (before 4.0).
    ///
    /// # Errors
    /// As ioctl(2) and eventfd(2).
    pub fn request(&self) -> io::Result<Option<EventFd>> {
        if !self.has_event(REQUEST, sys::VFIO_IRQ_INFO_EVENTFD)? {
            return Ok(None);
        }
        let request = eventfd()?;
        self.set_event(REQUEST, sys::VFIO_IRQ_SET_ACTION_TRIGGER, Some(&request))?;
        Ok(Some(request))
    }

    /// Whether it has an event of that number with all of these properties.
    fn has_event(&self, index: u32, wanted: u32) -> io::Result<bool> {
        let argsz = size_of::<sys::vfio_irq_info>() as u32;
        let mut info = sys::vfio_irq_info { argsz, index, ..Default::default() };
        // SAFETY: a structure of the size that it names, which the kernel fills in.
        match unsafe { ioctl::device_get_irq_info(self.0.as_raw_fd(), &raw mut info) } {
            Ok(_) => Ok(info.count > 0 && info.flags & wanted == wanted),
            // No event of that number.
            Err(Errno::EINVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Does something to an event, now or whenever an eventfd tells.
    fn set_event(&self, index: u32, action: u32, eventfd: Option<&EventFd>) -> nix::Result<()> {
        let data = match eventfd {
            Some(_) => sys::VFIO_IRQ_SET_DATA_EVENTFD,
            None => sys::VFIO_IRQ_SET_DATA_NONE,
        };
        let head = sys::vfio_irq_set {
            argsz: size_of::<IrqSet>() as u32,
            flags: data | action,
            index,
            start: 0,
            count: 1,
            data: sys::__IncompleteArrayField::new(),
        };
        let eventfd = eventfd.map_or(-1, |fd| fd.as_fd().as_raw_fd());
        let request = IrqSet { head, eventfd };
        // SAFETY: a structure of the size that it names, a descriptor of ours in it. The kernel keeps what that
        // descriptor means, not its number.
        unsafe { ioctl::device_set_irqs(self.0.as_raw_fd(), &raw const request) }.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's answer behind its first structure: entries at these offsets of all of it.
    fn answer(entries: &[(usize, u16, usize, &[u8])]) -> Vec<u8> {
        let mut answer = vec![0; 512];
        for &(at, id, next, body) in entries {
            answer[at..at + 2].copy_from_slice(&id.to_le_bytes());
            answer[at + 4..at + 8].copy_from_slice(&(next as u32).to_le_bytes());
            answer[at + 8..at + 8 + body.len()].copy_from_slice(body);
        }
        answer.split_off(24)
    }

    fn body(count: u64, words: &[u64]) -> Vec<u8> {
        let words = [&[count], words].concat();
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    const PC: [u64; 4] = [0, 0xfedf_ffff, 0xfef0_0000, 0x7f_ffff_ffff];

    #[test]
    fn ranges_are_found_in_the_chain() {
        let pc = [Range { first: 0, last: PC[1] }, Range { first: PC[2], last: PC[3] }];
        let body = body(2, &PC);
        assert_eq!(ranges(&answer(&[(24, 1, 0, &body)]), 24, 24), Some(pc.to_vec()));
        let others = [(24, 2, 100, &[9; 40][..]), (100, 3, 200, &[]), (200, 1, 24, &body)];
        assert_eq!(ranges(&answer(&others), 24, 24), Some(pc.to_vec()));
    }

    #[test]
    fn answer_that_makes_no_sense_has_no_ranges() {
        assert_eq!(ranges(&answer(&[(24, 2, 0, &[])]), 24, 24), None, "there is none");
        assert_eq!(ranges(&answer(&[(24, 2, 24, &[])]), 24, 24), None, "a circle");
        for offset in [0, 8, 23, 505, 512, usize::MAX] {
            assert_eq!(ranges(&answer(&[]), 24, offset), None, "{offset}");
        }
        let many = body(u64::from(u32::MAX), &PC);
        assert_eq!(ranges(&answer(&[(24, 1, 0, &many)]), 24, 24), None, "more than there is");
    }

    #[test]
    fn memory_gets_the_lowest_place_with_room() {
        let pc = [Range { first: PC[2], last: PC[3] }, Range { first: 0, last: PC[1] }];
        assert_eq!(room(&pc, 4 << 20), Some(LOWEST));
        assert_eq!(room(&pc, PC[1]), Some(PC[2]), "it does not fit below the hole");
        let small = [Range { first: LOWEST + 1, last: LOWEST + 3 * PAGE - 1 }];
        assert_eq!(room(&small, 2 * PAGE), Some(LOWEST + PAGE));
        assert_eq!(room(&small, 2 * PAGE + 1), None);
        assert_eq!(room(&[Range { first: u64::MAX - 5, last: u64::MAX }], PAGE), None);
        assert_eq!(room(&[], PAGE), None);
    }
}
