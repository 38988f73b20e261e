//! What exactly was wrong: the kinds of fault that the variants of [`Error`](super::Error) carry.
//!
//! Invariant: each displays as the half of a sentence that follows the name of what is concerned, with
//! what to do about it.

use std::path::PathBuf;

use nix::errno::Errno;

/// Why a directory cannot hold switches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootFault {
    /// It is something else, or a link.
    #[error("it is not a directory; remove it or set NETMAP_ROOT")]
    NotADirectory,
    /// The default root is another user's.
    #[error("it belongs to user {owner}; set NETMAP_ROOT to another directory")]
    Foreign {
        /// Whose it is.
        owner: u32,
    },
    /// It is no root yet and may not become one, because it is not empty.
    #[error(
        "it is no root yet and holds other things, {} for one; set NETMAP_ROOT to a directory for \
         switches alone",
        .found.display()
    )]
    NotEmpty {
        /// One of the things in it.
        found: PathBuf,
    },
}

/// A file that processes on a switch share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedFile {
    /// A switch's tables.
    Switch,
    /// A port's rings and what belongs to them.
    Port,
    /// A memory region.
    Region,
}

impl SharedFile {
    fn noun(self) -> &'static str {
        match self {
            Self::Switch => "a switch's file",
            Self::Port => "a port's file",
            Self::Region => "a memory region",
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Self::Switch => "end the programs on the switch and try again",
            Self::Port => "close the port in all programs and open it again",
            Self::Region => "end the programs that use it and remove it",
        }
    }
}

/// What is wrong with a shared file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It was removed, and another one has its name.
    #[error("another file has its name; {}", .0.cure())]
    Replaced(SharedFile),
    /// Something else has its name.
    #[error("it is not {expected}; remove it")]
    Kind {
        /// What should be there, with its article.
        expected: &'static str,
    },
    /// Something else has the name of a socket.
    #[error("it is not a socket; take another path")]
    NoSocket,
    /// It ends too early.
    #[error("it is shorter than {} (truncated?); {}", .0.noun(), .0.cure())]
    Short(SharedFile),
    /// Its first bytes are not those of such a file.
    #[error("it does not begin as {} does; {}", .0.noun(), .0.cure())]
    Magic(SharedFile),
    /// Another release made it.
    #[error("it has layout version {found}, this program knows {known}; {}", .file.cure())]
    Version {
        /// What it is.
        file: SharedFile,
        /// The version in it.
        found: u32,
        /// The version that can be used.
        known: u32,
    },
    /// Its header makes no sense.
    #[error("its header has values out of range; {}", .0.cure())]
    Values(SharedFile),
    /// A port's rings do not lie in its region.
    #[error("the port's rings lie beyond its end; close the port in all programs")]
    Rings,
    /// A port's file is not of the port that has its name.
    #[error("it belongs to another port; close the port in all programs")]
    OtherPort,
}

/// Who or what uses a port or switch in a way that excludes the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InUse {
    /// The caller wants it, or a ring of it, exclusively, or gone, and it is open.
    #[error("it is in use by process {pid}; end that first")]
    Open {
        /// One of those who have it open.
        pid: u32,
    },
    /// Somebody has it open exclusively.
    #[error("it is open exclusively by process {pid}")]
    Exclusively {
        /// Who.
        pid: u32,
    },
    /// A switch that is to be deleted has ports.
    #[error("it has {ports} ports, {first} among them")]
    HasPorts {
        /// How many.
        ports: usize,
        /// The name of one.
        first: String,
    },
    /// Somebody has virtio-net headers of another length on loan.
    #[error(
        "process {pid} has it open and counts on virtio-net headers of {lent} bytes; end that first"
    )]
    Headers {
        /// Who.
        pid: u32,
        /// The length.
        lent: u8,
    },
    /// What is left of an earlier port of the name has not been cleared away yet.
    #[error("what its last users left behind is still being cleared away; try again")]
    ClearingAway,
    /// An interface has one XDP program in each mode.
    #[error(
        "another XDP program is attached to {interface}: end who did that; what a killed program left behind goes by \
         `ip link set dev {interface} {} off`",
        if *native { "xdp" } else { "xdpgeneric" }
    )]
    XdpProgram {
        /// The interface.
        interface: String,
        /// Whether its driver runs it.
        native: bool,
    },
    /// A queue has one socket.
    #[error("queue {queue} has another AF_XDP socket; end who has it")]
    Queue {
        /// Its number.
        queue: u32,
    },
    /// The kernel lets one program have a tap.
    #[error("another program has it open; a tap has one user at a time")]
    Tap,
    /// Host rings of an interface have one user.
    #[error("another program has it open; the host rings of a NIC have one user at a time")]
    HostRings,
    /// A NIC that a program drives has one user.
    #[error(
        "another program has it open; a NIC that is driven from a program has one user at a time"
    )]
    Nic,
    /// The kernel's interface of a NIC is up.
    #[error(
        "its interface {interface} is up: take it down (`ip link set {interface} down`), or say `@conf:force=yes`; its \
         addresses and routes are lost either way"
    )]
    Interface {
        /// The interface.
        interface: String,
    },
    /// A driver has a device that we do not take it from.
    #[error("driver {driver} has it; unbind that first")]
    Driver {
        /// The driver.
        driver: String,
    },
    /// A device that an IOMMU cannot tell from another one.
    #[error(
        "driver {driver} has {device}, which is in the same IOMMU group ({group}), and the kernel gives a group away as a whole; unbind \
         that, too: `echo {device} >/sys/bus/pci/devices/{device}/driver/unbind`"
    )]
    Group {
        /// The group's number.
        group: u32,
        /// The other device.
        device: String,
        /// Who has it.
        driver: String,
    },
    /// Somebody lives on a socket.
    #[error("another program has that socket; end it, or take another path")]
    Socket,
}

/// What a request asks for that cannot be. Nothing but another request helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The number of rings that a new port is to have.
    #[error("{asked} rings; a port has 1 to {most}")]
    Rings {
        /// What was asked for.
        asked: u16,
        /// The limit.
        most: u16,
    },
    /// The number of slots that a new port's rings are to have.
    #[error("{asked} slots; a ring has {least} to {most}")]
    Slots {
        /// What was asked for.
        asked: u32,
        /// The lower limit.
        least: u32,
        /// The upper limit.
        most: u32,
    },
    /// A number of rings was asked of a kind that has one pair.
    #[error("this kind of port has one ring pair; leave the number of rings out")]
    OneRingPair,
    /// Numbers of rings that make no pairs, or more than the kind has.
    #[error(
        "this kind of port has pairs of rings, 16 at most; ask for as many to send as to receive"
    )]
    RingPairs,
    /// Several queues of an interface that was made with one.
    #[error(
        "it is a tap with one queue; one with several is made with `ip tuntap add ... multi_queue`, or by \
         leaving it to this program"
    )]
    OneQueue,
    /// A ring that the port does not have.
    #[error("there is no ring {asked}: the port has {has}, numbered from 0")]
    NoRing {
        /// The number that was asked for.
        asked: u16,
        /// How many rings there are.
        has: u16,
    },
    /// The port is there, with other sizes.
    #[error("the port is open already and it has {has} {what}, not {asked}; ask for what it has")]
    Shape {
        /// Which of its sizes.
        what: &'static str,
        /// What was asked for.
        asked: u32,
        /// What it is.
        has: u32,
    },
    /// The port is there, in other memory.
    #[error("the port is open already and its memory region is {has}; ask for what it has")]
    Memory {
        /// Name of its region.
        has: String,
    },
    /// The region of a number from outside of the users' range is not there.
    #[error(
        "there is no memory region {id}; a new one gets a number below 32768 (`@N`), those above are \
         given to ports' own"
    )]
    NoMemory {
        /// The number that was asked for.
        id: u16,
    },
    /// The size that a new memory region is to have.
    #[error("{} MiB of memory; a region has at most {} MiB", .asked >> 20, .most >> 20)]
    MemoryTooLarge {
        /// Bytes that were asked for.
        asked: u64,
        /// The limit.
        most: u64,
    },
    /// The memory is there, and is smaller.
    #[error(
        "its memory is there already and has {} MiB, not {}; ask for what it has, or end the programs that use \
         it", .has >> 20, .asked >> 20
    )]
    MemoryTooSmall {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes that it has.
        has: u64,
    },
    /// Memory of a port that is not on a switch was to be shared.
    #[error("the other port's memory cannot be shared: it is not a VALE port's")]
    NotShareable,
    /// Something was asked for that only ports of switches have.
    #[error("it is not a port of a switch; those are named valeSWITCH:PORT")]
    NotOnASwitch,
    /// A length that virtio-net headers do not have.
    #[error("headers of {asked} bytes; virtio-net headers have 0 (none), 10 or 12")]
    VnetHeader {
        /// What was asked for.
        asked: u8,
    },
    /// Something was asked of the end of a pipe that only ports between which packets are forwarded do.
    #[error(
        "it is the end of a pipe; it goes with its users, and what is sent to it comes from the other end"
    )]
    Pipe,
    /// Something was asked of a monitor that only ports do.
    #[error(
        "it names a monitor, which is made for each who opens it and goes with them; name the port that it sees"
    )]
    Monitor,
    /// A zero-copy monitor without a direction.
    #[error(
        "a zero-copy monitor must say what it is to see: `/zt` what is sent, `/zr` what is received, `/ztr`"
    )]
    SeesNothing,
    /// Offsets that cannot be.
    #[error(
        "such offsets cannot be: the first must not be above the largest, the largest and the gap must fit a buffer \
         of {buffer_bytes} bytes and the bits, and an alignment is a power of two"
    )]
    Offsets {
        /// Bytes of a buffer.
        buffer_bytes: u64,
    },
    /// The port has offsets of another number of bits.
    #[error("the port's slots have other offsets already; ask for the same number of bits")]
    OtherOffsets,
    /// A mirror of itself.
    #[error("a port cannot be its own mirror")]
    OwnMirror,
    /// The path of a socket for that of its peer.
    #[error("its own socket cannot be its peer; name the other one's path behind the comma")]
    OwnPeer,
    /// A mirror on another switch.
    #[error("the mirror of a port of {switch} must be a port of {switch}, too")]
    ForeignMirror {
        /// The switch of the port that is to be mirrored.
        switch: String,
    },
    /// A `tap:` name that an interface of another kind has.
    #[error(
        "an interface of this name exists and is not a plain tap (a tun or a NIC); take another name"
    )]
    NotATap,
    /// A queue that an interface does not have.
    #[error(
        "{interface} has no queue {asked}; ask for fewer (`@conf:rings=N`), or give it more: `ethtool -L {interface} \
         combined N`, or `rx N tx N`"
    )]
    NoQueue {
        /// The number that was asked for.
        asked: u32,
        /// The interface.
        interface: String,
    },
    /// More queues than a port has rings.
    #[error(
        "{interface} has {has} queues, and a port {most} ring pairs at most; `ethtool -L {interface} combined {most}`, or \
         take some of them and leave the others to the stack: `@conf:rings={most}`"
    )]
    TooManyQueues {
        /// How many it has.
        has: u32,
        /// The limit.
        most: u16,
        /// The interface.
        interface: String,
    },
    /// Of an interface's queues each is a pair of rings.
    #[error("{tx} TX rings and {rx} RX rings; a queue has one of each, so ask for as many of both")]
    QueuePairs {
        /// What was asked for.
        tx: u16,
        /// The other.
        rx: u16,
    },
    /// Frames that are longer than a buffer.
    #[error(
        "the MTU of {interface} is {mtu}, and a frame has to fit a buffer: {most} at most; `ip link set dev {interface} mtu {most}`"
    )]
    Mtu {
        /// The interface's.
        mtu: u32,
        /// The limit.
        most: u32,
        /// The interface.
        interface: String,
    },
    /// A driver that runs no programs with so large frames.
    #[error(
        "the driver of {interface} runs no XDP program with frames as long as those of its MTU or of its peer's; set a smaller \
         MTU there, or let the kernel run it: `@conf:mode=generic`"
    )]
    MtuOfPeer {
        /// The interface.
        interface: String,
    },
    /// A driver that runs no programs with so few queues.
    #[error(
        "the driver of {interface} runs no XDP program with these numbers of queues; a veth needs as many receive queues as \
         its peer has transmit queues: `ethtool -L {interface} rx N`, or let the kernel run it: `@conf:mode=generic`"
    )]
    QueuesOfPeer {
        /// The interface.
        interface: String,
    },
    /// Host rings of an interface whose packets the kernel's own XDP takes.
    #[error(
        "host rings need a driver that runs XDP programs; with the kernel's own, what is handed to the stack would be \
         taken again. Bridge to a tap instead"
    )]
    HostRingsAndGeneric,
    /// An interface that is to run programs and cannot.
    #[error("its driver runs no XDP programs; leave `mode=native` out, then the kernel does")]
    NoNativeXdp,
    /// An AF_XDP port is to have zero-copy mode, and the driver has none.
    #[error(
        "its driver has no zero-copy mode, or not on this queue; leave `mode=zerocopy` out, then the kernel copies"
    )]
    NoZeroCopy,
    /// A PCI device that is none of those that are driven.
    #[error(
        "it is a PCI device {vendor:04x}:{device:04x}; driven are the 82540EM (8086:100e), 82545EM (8086:100f) and \
         82544GC (8086:100c)"
    )]
    NotAnE1000 {
        /// Its vendor.
        vendor: u16,
        /// What it is.
        device: u16,
    },
    /// A CSB, of a device without.
    #[error(
        "the device offers no CSB (its subsystem id is {subsystem:04x}, not 1101); leave `driver=csb` out, then it combines"
    )]
    NoCsb {
        /// Its subsystem id.
        subsystem: u16,
    },
    /// Standard input as a capture, and it is a terminal.
    #[error("it is standard input here, and that is a terminal, no capture")]
    Terminal,
}

/// What some ports can do and this one cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Feature {
    /// Netmap's monitors.
    #[error("only ports of a switch can be monitored, as in valeA:x/tr")]
    Monitors,
    /// A zero-copy monitor of the end of a pipe.
    #[error(
        "the two ends of a pipe share their buffers, and give none away; see it by copies: /t, /r or /tr"
    )]
    BuffersOfPipes,
    /// Rings towards the host's network stack.
    #[error("this port has no host rings; bridge it to a tap instead")]
    HostRings,
    /// Handles that a descriptor names.
    #[error("handles on this kind of port stay in the process that opened them")]
    Handles,
    /// Memory that another process, or the program by itself, can map.
    #[error("this kind of port keeps its memory to itself; use its rings by the library")]
    Memory,
    /// Data that begin somewhere within their buffers.
    #[error(
        "only ports of a switch and their copy monitors have offsets in slots; the ends of a pipe and zero-copy \
         monitors get their buffers from others; ask for none"
    )]
    Offsets,
    /// Headers in front of frames.
    #[error("only ports of switches and taps have virtio-net headers")]
    VnetHeaders,
    /// Slots that point to the program's own memory.
    #[error("this kind of port sends from its own buffers only; send without indirect slots")]
    Indirect,
    /// Slots that point anywhere, where others could fill them in.
    #[error(
        "slots may point to any memory only on switches that are yours alone; use a root directory of your own \
         with mode 0700, or allow_indirect"
    )]
    IndirectOnSharedRoot,
}

impl Feature {
    /// The error number that netmap gives for it.
    pub(super) fn errno(self) -> Errno {
        match self {
            // As of a kernel that was built without monitors.
            Self::Monitors | Self::BuffersOfPipes | Self::Offsets => Errno::EOPNOTSUPP,
            Self::Handles | Self::Memory | Self::Indirect => Errno::EOPNOTSUPP,
            Self::IndirectOnSharedRoot => Errno::EPERM,
            Self::VnetHeaders => Errno::ENXIO,
            Self::HostRings => Errno::EINVAL,
        }
    }
}

/// What there must be before there can be such a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lack {
    /// The kernel's module for taps.
    #[error("there is no /dev/net/tun; load the kernel's tun module: `modprobe tun`")]
    Tun,
    /// The interface, which was there.
    #[error("somebody deleted the interface; open it again to make a new one")]
    Interface,
    /// An interface that is to be there.
    #[error(
        "there is no such interface in its network namespace; `ip link` lists them, `ip -n NAME link` those of NAME"
    )]
    NoInterface,
    /// The same, if what stands behind it was meant as part of its name.
    #[error(
        "there is no interface of that name, of which this would be a queue; one whose own name ends in a dash and a number is \
         written with a star behind it, as in xdp:veth-1*"
    )]
    NoInterfaceOfQueue,
    /// The interface, which was there and cannot be made anew.
    #[error(
        "the interface is gone: deleted, or moved to another network namespace; open it again where it is"
    )]
    InterfaceGone,
    /// A kernel with AF_XDP sockets.
    #[error(
        "the kernel has no AF_XDP (CONFIG_XDP_SOCKETS, CONFIG_BPF_SYSCALL); bridge the NIC to a tap instead"
    )]
    AfXdp,
    /// Programs on what the stack sends and receives.
    #[error("host rings need Linux 6.6 or newer, which has tcx; bridge to a tap instead")]
    Tcx,
    /// A handle behind a descriptor that was passed on.
    #[error("the descriptor is not that of a handle on a port that is there")]
    Handle,
    /// The kernel's module for netmap ports of NICs.
    #[error("netmap: needs the kernel module, which is not supported")]
    Netmap,
    /// A PCI device of that address.
    #[error("there is no such PCI device; `lspci -D` lists them, or `ls /sys/bus/pci/devices`")]
    PciDevice,
    /// Memory that a NIC can be given.
    #[error(
        "it needs {pages} free huge pages of 2 MiB and a place for their files: `echo {pages} \
         >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` (more where several ports are open), `mount -t hugetlbfs none \
         /dev/hugepages`"
    )]
    HugePages {
        /// How many.
        pages: usize,
    },
    /// The kernel's modules for devices behind an IOMMU.
    #[error("it is behind an IOMMU, which takes VFIO: `modprobe vfio-pci`")]
    Vfio,
    /// The one of them for IOMMUs of PCs.
    #[error("it is behind an IOMMU, which takes VFIO's module for it: `modprobe vfio_iommu_type1`")]
    VfioType1,
    /// An IOMMU that keeps devices from forging interrupts.
    #[error(
        "its IOMMU does not check interrupts, so the kernel gives no device away; switch interrupt remapping on in the firmware (in \
         QEMU, `-device intel-iommu,intremap=on`), or, if you trust the device: `echo 1 \
         >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts`"
    )]
    InterruptRemapping,
    /// A device, which was there.
    #[error("the device does not answer any more: it was unplugged, or its memory is switched off")]
    Answer,
    /// A device that the kernel waits for.
    #[error("the kernel wants the device back: it is being unplugged, or taken from vfio-pci")]
    AskedBack,
    /// The network namespace of that name.
    #[error(
        "there is no network namespace of this name in /run/netns; `ip netns add NAME` makes one, `ip netns \
         attach NAME PID` gives a container's a name"
    )]
    Namespace,
}

/// What only an administrator may do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Privilege {
    /// Make a tap, or open one of somebody else.
    #[error(
        "needs CAP_NET_ADMIN, or a persistent tap of your own, made once by an administrator: \
         `ip tuntap add mode tap user $USER name {interface} && ip link set {interface} up`"
    )]
    OpenTap {
        /// The interface.
        interface: String,
    },
    /// Be in another network namespace.
    #[error("being in another network namespace needs CAP_SYS_ADMIN here and there")]
    EnterNamespace,
    /// Take a NIC.
    #[error(
        "AF_XDP needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF, not in a user namespace: run it as root, or \
         `setcap cap_net_raw,cap_net_admin,cap_bpf+ep` the program"
    )]
    Xdp,
    /// Drive a NIC.
    #[error(
        "driving a NIC needs physical addresses: run it as root (CAP_SYS_ADMIN, CAP_SYS_RAWIO)"
    )]
    PhysicalAddresses,
    /// Drive a NIC behind an IOMMU.
    #[error(
        "taking a NIC from the kernel needs root; without, an administrator binds it to vfio-pci and gives its group away: \
         `chown $USER /dev/vfio/{group}`"
    )]
    Vfio {
        /// The number of its IOMMU group.
        group: u32,
    },
    /// Keep memory from being swapped.
    #[error(
        "the kernel may not lock {} MiB of memory for it; raise the limit (`ulimit -l`), or give it CAP_IPC_LOCK",
        .bytes.div_ceil(1 << 20)
    )]
    LockMemory {
        /// How much.
        bytes: u64,
    },
    /// Bring an interface up.
    #[error(
        "it is down, and bringing it up needs CAP_NET_ADMIN; let an administrator do `ip link set \
         {interface} up`"
    )]
    BringUp {
        /// The interface.
        interface: String,
    },
}

/// A process that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Its number.
    pub pid: u32,
    /// Its command, if that can be seen.
    pub command: String,
}

/// Who holds a lock, as the kernel tells, and what to do about it.
pub(super) fn held_by(holder: Option<&LockHolder>) -> String {
    match holder {
        Some(LockHolder { pid, command }) => {
            let command = if command.is_empty() { String::new() } else { format!(" ({command})") };
            format!(
                "process {pid}{command}: is it stopped? Continue it (kill -CONT {pid}), or end it"
            )
        }
        None => "a process that cannot be seen from here (in another container, or another \
                 user's): continue or end it where it runs"
            .into(),
    }
}
