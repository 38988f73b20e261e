//! The system calls of AF_XDP and of BPF, typed: all of this kind's `unsafe`.
//!
//! Invariant: a structure that the kernel is given has the kernel's layout and is whole, and what it points to
//! outlives the call. Nothing is decided here; error numbers go to those who know what was tried.
//!
//! Follows the kernel's `linux/if_xdp.h`, `linux/bpf.h` and `linux/ethtool.h`.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_long, c_uint, c_void, socklen_t};
use nix::errno::Errno;
use nix::sys::socket::sockopt::SocketError;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt};

use crate::shm::map::Map;

/// A program's result: on to the stack.
pub const XDP_PASS: i32 = 2;
/// Where a program is attached: to the interface's XDP hook.
pub const BPF_XDP: u32 = 37;
/// To what the interface has received, before the stack sees it, and to what the stack sends on it.
pub const BPF_TCX_INGRESS: u32 = 46;
/// See above.
pub const BPF_TCX_EGRESS: u32 = 47;
/// The kernel's own XDP, which works for every interface.
pub const XDP_FLAGS_SKB_MODE: u32 = 2;
/// The driver's XDP.
pub const XDP_FLAGS_DRV_MODE: u32 = 4;
/// A program for the XDP hook.
pub const BPF_PROG_TYPE_XDP: u32 = 6;
/// A program for packets of the stack.
pub const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
/// Most packets that one `send` passes on in copy mode; the kernel's default is 32. Newer than libc.
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;
const SO_PREFER_BUSY_POLL: c_int = 69;
const SO_BUSY_POLL_BUDGET: c_int = 70;
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// What the program calls: the verifier asks for a licence only where GPL helpers are called.
const LICENCE: &std::ffi::CStr = c"MIT";

/// One instruction of a BPF program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Source register, shifted left by 4, and destination register.
    pub registers: u8,
    /// Offset of a load or jump.
    pub offset: i16,
    /// Operand.
    pub operand: i32,
}

/// Calls bpf(2); what it returns that is a descriptor is the caller's to own.
///
/// # Safety
/// `attr` has the layout that the command asks for, and what it points to is valid for the call.
unsafe fn bpf<T>(command: c_long, attr: &T) -> nix::Result<c_int> {
    // SAFETY: the caller's promise; `attr` is whole, and the kernel takes what lies behind it for zeros.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>() as c_long)
    };
    Errno::result(result).map(|result| result as c_int)
}

fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: a system call has just returned this descriptor, which nobody else knows of.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A map from queue numbers below `entries` to AF_XDP sockets.
pub fn socket_map(entries: u32) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    let attr = Attr {
        map_type: BPF_MAP_TYPE_XSKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: entries,
        map_flags: 0,
    };
    // SAFETY: the layout of BPF_MAP_CREATE; it points to nothing.
    unsafe { bpf(BPF_MAP_CREATE, &attr) }.map(owned)
}

/// Enters a socket in such a map.
pub fn enter_socket(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> nix::Result<()> {
    #[repr(C)]
    struct Attr {
        map: u64,
        key: *const u32,
        value: *const c_int,
        flags: u64,
    }
    let value = socket.as_raw_fd();
    let attr = Attr {
        map: map.as_raw_fd() as u64,
        key: &raw const queue,
        value: &raw const value,
        flags: 0,
    };
    // SAFETY: the layout of BPF_MAP_UPDATE_ELEM; key and value have the map's sizes and outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// Loads a program that is to be attached as `attach` says.
pub fn load(program_type: u32, attach: u32, instructions: &[Insn]) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program_type: u32,
        count: u32,
        instructions: *const Insn,
        licence: *const libc::c_char,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach: u32,
    }
    let mut name = [0; 16];
    name[..6].copy_from_slice(b"netmap");
    let attr = Attr {
        program_type,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr(),
        licence: LICENCE.as_ptr(),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach,
    };
    // SAFETY: the layout of BPF_PROG_LOAD; it points to `count` instructions and to a string with its NUL.
    unsafe { bpf(BPF_PROG_LOAD, &attr) }.map(owned)
}

/// Attaches a program to an interface, until the descriptor returned and its copies are closed.
pub fn link(
    program: BorrowedFd<'_>,
    interface: u32,
    attach: u32,
    flags: u32,
) -> nix::Result<OwnedFd> {
    let attr = [program.as_raw_fd().cast_unsigned(), interface, attach, flags];
    // SAFETY: the layout of BPF_LINK_CREATE; it points to nothing.
    unsafe { bpf(BPF_LINK_CREATE, &attr) }.map(owned)
}

/// An AF_XDP socket.
pub fn socket() -> nix::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    Errno::result(fd).map(owned)
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> nix::Result<()> {
    let len = size_of::<T>() as socklen_t;
    let value = std::ptr::from_ref(value).cast::<c_void>();
    // SAFETY: the descriptor is open, and `value` has `len` bytes and outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, len) };
    Errno::result(result).map(drop)
}

fn get<T>(socket: BorrowedFd<'_>, option: c_int, value: &mut T) -> nix::Result<()> {
    let mut len = size_of::<T>() as socklen_t;
    let value = std::ptr::from_mut(value).cast::<c_void>();
    let (fd, len) = (socket.as_raw_fd(), &raw mut len);
    // SAFETY: the descriptor is open, and `value` has `len` bytes that may have any value.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_XDP, option, value, len) };
    Errno::result(result).map(drop)
}

/// Registers memory for a socket's packets: chunks of so many bytes, which begin at multiples of that or, if `anywhere`,
/// where they like. The kernel keeps the pages for itself, whatever becomes of the mapping, and their bytes are for
/// anybody to change.
pub fn register(
    socket: BorrowedFd<'_>,
    memory: &Map,
    chunk: u32,
    anywhere: bool,
) -> nix::Result<()> {
    let memory = libc::xdp_umem_reg {
        addr: memory.base() as u64,
        len: memory.len() as u64,
        chunk_size: chunk,
        headroom: 0,
        flags: if anywhere { libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG } else { 0 },
        tx_metadata_len: 0,
    };
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &memory)
}

/// Makes one of a socket's rings, of so many entries: `option` says which.
pub fn make_ring(socket: BorrowedFd<'_>, option: c_int, entries: u32) -> nix::Result<()> {
    set(socket, libc::SOL_XDP, option, &entries)
}

/// Where things are in the mappings of a socket's rings.
pub fn offsets(socket: BorrowedFd<'_>) -> nix::Result<libc::xdp_mmap_offsets> {
    let none = || libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut found = libc::xdp_mmap_offsets { rx: none(), tx: none(), fr: none(), cr: none() };
    get(socket, libc::XDP_MMAP_OFFSETS, &mut found).map(|()| found)
}

/// Binds a socket to a queue of an interface.
pub fn bind(socket: BorrowedFd<'_>, interface: u32, queue: u32, flags: u16) -> nix::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let len = size_of::<libc::sockaddr_xdp>() as socklen_t;
    let at = (&raw const address).cast::<libc::sockaddr>();
    // SAFETY: the descriptor is open, and `address` is a whole sockaddr_xdp that outlives the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), at, len) };
    Errno::result(result).map(drop)
}

/// Packets that may be under way from a socket: `entries`, all of which one `send` passes on. Best effort: an older
/// kernel, or one that allows a process less, needs more calls.
pub fn widen(socket: BorrowedFd<'_>, entries: u32) {
    /// What a small packet takes in the kernel, twice.
    const EACH: u32 = 4096;
    let bytes = (entries * EACH).cast_signed();
    if set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
        let _ = set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
    }
    let _ = set(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &entries.max(32));
}

/// Lets receiving poll the NIC for so many microseconds, in place of interrupts.
pub fn busy_poll(socket: BorrowedFd<'_>, microseconds: u32) -> nix::Result<()> {
    const BUDGET: c_int = 64;
    let time = c_int::try_from(microseconds).unwrap_or(c_int::MAX);
    let options =
        [(SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, time), (SO_BUSY_POLL_BUDGET, BUDGET)];
    options.iter().try_for_each(|(option, value)| set(socket, libc::SOL_SOCKET, *option, value))
}

/// Has the kernel look at the transmit ring.
pub fn send(socket: BorrowedFd<'_>) -> nix::Result<()> {
    let (none, flags) = (std::ptr::null(), libc::MSG_DONTWAIT);
    // SAFETY: the descriptor is open; no memory is involved.
    let result = unsafe { libc::sendto(socket.as_raw_fd(), none, 0, flags, std::ptr::null(), 0) };
    Errno::result(result).map(drop)
}

/// Has the kernel look at the fill ring, and at the NIC if it is polled.
pub fn receive(socket: BorrowedFd<'_>) -> nix::Result<()> {
    let (none, flags) = (std::ptr::null_mut(), libc::MSG_DONTWAIT);
    let (from, len) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the descriptor is open; no memory is involved.
    let result = unsafe { libc::recvfrom(socket.as_raw_fd(), none, 0, flags, from, len) };
    Errno::result(result).map(drop)
}

/// Whether the interface of a socket has been taken away since it was bound: deleted, or moved to another namespace, be it back by now.
/// Told once.
pub fn has_lost_interface(socket: BorrowedFd<'_>) -> bool {
    getsockopt(&socket, SocketError) == Ok(libc::ENETDOWN)
}

/// What a socket has counted.
pub fn statistics(socket: BorrowedFd<'_>) -> nix::Result<libc::xdp_statistics> {
    let mut found = libc::xdp_statistics {
        rx_dropped: 0,
        rx_invalid_descs: 0,
        tx_invalid_descs: 0,
        rx_ring_full: 0,
        rx_fill_ring_empty_descs: 0,
        tx_ring_empty_descs: 0,
    };
    get(socket, libc::XDP_STATISTICS, &mut found).map(|()| found)
}

/// How many queues an interface has in use: of each kind, those that do both counted for both.
pub fn queues(interface: &str) -> nix::Result<(u32, u32)> {
    /// `struct ethtool_channels`.
    #[repr(C)]
    #[derive(Default)]
    struct Channels {
        command: u32,
        most: [c_uint; 4],
        rx: c_uint,
        tx: c_uint,
        other: c_uint,
        combined: c_uint,
    }
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = nix::sys::socket::socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    // SAFETY: integers, byte arrays and a nullable pointer; all of them may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1; // the last byte stays NUL
    for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: the descriptor is open, `request` is a whole ifreq, and points to a whole ethtool_channels; both
    // outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    Errno::result(result)?;
    Ok((channels.rx + channels.combined, channels.tx + channels.combined))
}
