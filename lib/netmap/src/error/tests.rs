//! Each variant has the error number that netmap gives, and a text that says what to do.

use super::*;
use crate::name::{NameError, NameFault};

/// Names each variant, so that a new one is missed here by the compiler and then in the table below.
fn variant(error: &Error) -> &'static str {
    match error {
        Error::Name(_) => "Name",
        Error::Capture(_) => "Capture",
        Error::Io { .. } => "Io",
        Error::Root { .. } => "Root",
        Error::Denied { .. } => "Denied",
        Error::Damaged { .. } => "Damaged",
        Error::NoSpace { .. } => "NoSpace",
        Error::FileSystem { .. } => "FileSystem",
        Error::Locked { .. } => "Locked",
        Error::Busy { .. } => "Busy",
        Error::Exists { .. } => "Exists",
        Error::NotFound { .. } => "NotFound",
        Error::Unavailable { .. } => "Unavailable",
        Error::NotPermitted { .. } => "NotPermitted",
        Error::Limit { .. } => "Limit",
        Error::MemoryFull { .. } => "MemoryFull",
        Error::Unsupported { .. } => "Unsupported",
        Error::Invalid { .. } => "Invalid",
    }
}

const VARIANTS: usize = 18;

fn io(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

fn name(fault: NameFault) -> Error {
    Error::Name(NameError { name: "valeA:x".into(), at: 5, fault })
}

fn failed(source: io::Error) -> Error {
    Error::Io { what: "open", path: "/f".into(), source }
}

fn root(fault: RootFault) -> Error {
    Error::Root { path: "/r".into(), fault }
}

fn damaged(damage: Damage) -> Error {
    Error::Damaged { path: "/f".into(), damage }
}

fn busy(by: InUse) -> Error {
    Error::Busy { name: "valeA:x".into(), by }
}

fn invalid(fault: Invalid) -> Error {
    Error::invalid("valeA:x", fault)
}

fn unsupported(feature: Feature) -> Error {
    Error::unsupported("null:", feature)
}

fn unavailable(lack: Lack) -> Error {
    Error::Unavailable { name: "tap:t0".into(), lack }
}

fn not_permitted(privilege: Privilege) -> Error {
    Error::NotPermitted { name: "tap:t0".into(), privilege }
}

fn capture(error: nm_capture::Error) -> Error {
    Error::Capture(error)
}

fn table() -> Vec<(Error, Errno, &'static str)> {
    use Errno::*;
    use SharedFile::{Port, Region, Switch};
    let interface = || "t0".to_owned();
    let holder = |command: &str| Some(LockHolder { pid: 7, command: command.into() });
    let locked = |holder| Error::Locked { path: "/l".into(), seconds: 10, holder };
    let path = || PathBuf::from("/f");
    vec![
        (name(NameFault::Missing("the port is missing")), EINVAL, "bad port name"),
        (name(NameFault::NumberMissing("a ring number")), EINVAL, "a ring number is missing here"),
        (name(NameFault::Unexpected("not allowed")), EINVAL, "not allowed"),
        (name(NameFault::TooLong("a port name")), EINVAL, "at most 15 characters"),
        (
            name(NameFault::OutOfRange { what: "a memory id", low: 1, high: 9 }),
            EINVAL,
            "a memory id must be between 1 and 9",
        ),
        (name(NameFault::Contradiction("given twice")), EINVAL, "given twice"),
        (name(NameFault::UnknownKind { known: "tap:".into() }), EINVAL, "known are tap:"),
        (name(NameFault::NotAName), EINVAL, "do not make a name"),
        (name(NameFault::Pipe), EOPNOTSUPP, "only ports of switches"),
        (name(NameFault::Option("extmem")), EOPNOTSUPP, "`extmem` is not supported yet"),
        (
            capture(nm_capture::Error::Io { what: "open", path: path(), source: io(ENOENT) }),
            ENOENT,
            "Cannot open /f",
        ),
        (capture(nm_capture::Error::Stalled { path: path(), bytes: 9 }), EIO, "9 bytes are lost"),
        (
            capture(nm_capture::Error::Damaged {
                path: path(),
                packing: None,
                damage: nm_capture::Damage::Empty,
            }),
            EIO,
            "/f is not usable: it is empty",
        ),
        (
            capture(nm_capture::Error::LinkType { path: path(), link: nm_capture::LinkType(113) }),
            EOPNOTSUPP,
            "not Ethernet",
        ),
        (failed(io(ENOENT)), ENOENT, "Cannot open /f"),
        (failed(io(EACCES)), EACCES, "Cannot open /f"),
        (failed(io(EPERM)), EPERM, "Cannot open /f"),
        (failed(io(EMFILE)), EMFILE, "Cannot open /f"),
        (failed(io(ENOSPC)), ENOMEM, "Cannot open /f"),
        (failed(io(EDQUOT)), ENOMEM, "Cannot open /f"),
        (failed(io::ErrorKind::NotFound.into()), ENOENT, "Cannot open /f"),
        (failed(io::ErrorKind::UnexpectedEof.into()), EIO, "Cannot open /f"),
        (root(RootFault::NotADirectory), ENOTDIR, "set NETMAP_ROOT"),
        (root(RootFault::Foreign { owner: 9 }), EACCES, "belongs to user 9; set NETMAP_ROOT"),
        (root(RootFault::NotEmpty { found: "a".into() }), ENOTEMPTY, "a for one; set NETMAP_ROOT"),
        (Error::Denied { switches: 1, root: "/r".into() }, EACCES, "look at 1 switch in /r"),
        (damaged(Damage::NoSocket), EIO, "take another path"),
        (damaged(Damage::Kind { expected: "a directory" }), EIO, "it is not a directory; remove"),
        (damaged(Damage::Short(Switch)), EIO, "shorter than a switch's file (truncated?); end the"),
        (damaged(Damage::Magic(Port)), EIO, "does not begin as a port's file does; close the"),
        (
            damaged(Damage::Version { file: Region, found: 1, known: 2 }),
            EINVAL,
            "layout version 1, this program knows 2; end the programs",
        ),
        (damaged(Damage::Values(Region)), EIO, "out of range; end the programs"),
        (damaged(Damage::Replaced(Region)), EIO, "another file has its name; end the programs"),
        (damaged(Damage::Rings), EIO, "close the port"),
        (damaged(Damage::OtherPort), EIO, "close the port"),
        (
            Error::NoSpace { path: path(), bytes: 5, source: io(ENOSPC) },
            ENOMEM,
            "No room for 5 bytes in /f: free memory",
        ),
        (
            Error::FileSystem { path: path(), lacks: "fallocate", source: io(ENOSYS) },
            EOPNOTSUPP,
            "has no fallocate, which switches need: set NETMAP_ROOT",
        ),
        (locked(holder("vi")), EBUSY, "process 7 (vi): is it stopped? Continue it (kill -CONT 7)"),
        (locked(holder("")), EBUSY, "process 7: is it stopped?"),
        (locked(None), EBUSY, "cannot be seen from here"),
        (busy(InUse::Open { pid: 7 }), EBUSY, "in use by process 7; end that first"),
        (busy(InUse::Exclusively { pid: 7 }), EBUSY, "open exclusively by process 7"),
        (
            busy(InUse::HasPorts { ports: 2, first: "x".into() }),
            EBUSY,
            "it has 2 ports, x among them",
        ),
        (
            busy(InUse::Headers { pid: 7, lent: 12 }),
            EBUSY,
            "process 7 has it open and counts on virtio-net headers of 12 bytes",
        ),
        (busy(InUse::ClearingAway), EBUSY, "try again"),
        (busy(InUse::Tap), EBUSY, "a tap has one user at a time"),
        (busy(InUse::HostRings), EBUSY, "host rings of a NIC have one user at a time"),
        (Error::Exists { name: "valeA".into() }, EEXIST, "valeA exists already"),
        (Error::NotFound { name: "switch valeA".into() }, ENXIO, "There is no switch valeA"),
        (unavailable(Lack::Tun), ENXIO, "modprobe tun"),
        (unavailable(Lack::Interface), ENXIO, "open it again"),
        (unavailable(Lack::Handle), ENXIO, "not that of a handle"),
        (unavailable(Lack::Netmap), ENXIO, "the kernel module"),
        (unavailable(Lack::NoInterface), ENXIO, "`ip link` lists them"),
        (unavailable(Lack::NoInterfaceOfQueue), ENXIO, "with a star behind it"),
        (unavailable(Lack::InterfaceGone), ENXIO, "open it again where it is"),
        (unavailable(Lack::AfXdp), ENXIO, "bridge the NIC to a tap"),
        (unavailable(Lack::Tcx), ENXIO, "Linux 6.6"),
        (
            busy(InUse::XdpProgram { interface: interface(), native: true }),
            EBUSY,
            "ip link set dev t0 xdp off",
        ),
        (
            busy(InUse::XdpProgram { interface: interface(), native: false }),
            EBUSY,
            "ip link set dev t0 xdpgeneric off",
        ),
        (busy(InUse::Queue { queue: 3 }), EBUSY, "queue 3 has another"),
        (not_permitted(Privilege::Xdp), EPERM, "setcap cap_net_raw"),
        (not_permitted(Privilege::LockMemory { bytes: 3 << 20 }), EPERM, "lock 3 MiB"),
        (
            invalid(Invalid::NoQueue { asked: 3, interface: interface() }),
            EINVAL,
            "ethtool -L t0 combined N",
        ),
        (
            invalid(Invalid::TooManyQueues { has: 32, most: 16, interface: interface() }),
            EINVAL,
            "@conf:rings=16",
        ),
        (
            invalid(Invalid::Mtu { mtu: 9000, most: 2094, interface: interface() }),
            EINVAL,
            "ip link set dev t0 mtu 2094",
        ),
        (invalid(Invalid::MtuOfPeer { interface: interface() }), EINVAL, "mode=generic"),
        (invalid(Invalid::QueuesOfPeer { interface: interface() }), EINVAL, "ethtool -L t0 rx N"),
        (invalid(Invalid::QueuePairs { tx: 1, rx: 2 }), EINVAL, "as many of both"),
        (invalid(Invalid::HostRingsAndGeneric), EINVAL, "to a tap instead"),
        (invalid(Invalid::NoNativeXdp), EINVAL, "leave `mode=native` out"),
        (invalid(Invalid::NoZeroCopy), EINVAL, "leave `mode=zerocopy` out"),
        (unavailable(Lack::Namespace), ENXIO, "`ip netns add NAME` makes one"),
        (not_permitted(Privilege::EnterNamespace), EPERM, "CAP_SYS_ADMIN"),
        (
            not_permitted(Privilege::OpenTap { interface: interface() }),
            EPERM,
            "`ip tuntap add mode tap user $USER name t0 && ip link set t0 up`",
        ),
        (
            not_permitted(Privilege::BringUp { interface: interface() }),
            EPERM,
            "`ip link set t0 up`",
        ),
        (
            Error::Limit { name: "valeA".into(), what: "it is full", limit: 254 },
            ENOMEM,
            "it is full (the limit is 254)",
        ),
        (
            Error::MemoryFull { path: path(), buffers: 15870 },
            ENOMEM,
            "/f is full: that memory region was made for 15870 buffers. A larger one is made with",
        ),
        (unsupported(Feature::Monitors), EOPNOTSUPP, "only ports of a switch"),
        (unsupported(Feature::Handles), EOPNOTSUPP, "stay in the process"),
        (unsupported(Feature::Memory), EOPNOTSUPP, "keeps its memory to itself"),
        (unsupported(Feature::BuffersOfPipes), EOPNOTSUPP, "see it by copies"),
        (unsupported(Feature::Offsets), EOPNOTSUPP, "ask for none"),
        (unsupported(Feature::VnetHeaders), ENXIO, "only ports of switches"),
        (unsupported(Feature::Indirect), EOPNOTSUPP, "send without indirect slots"),
        (unsupported(Feature::IndirectOnSharedRoot), EPERM, "with mode 0700, or allow_indirect"),
        (unsupported(Feature::HostRings), EINVAL, "bridge it to a tap"),
        (invalid(Invalid::Rings { asked: 0, most: 16 }), EINVAL, "0 rings; a port has 1 to 16"),
        (
            invalid(Invalid::Slots { asked: 9, least: 64, most: 4096 }),
            EINVAL,
            "9 slots; a ring has 64 to 4096",
        ),
        (invalid(Invalid::OneRingPair), EINVAL, "leave the number of rings out"),
        (invalid(Invalid::RingPairs), EINVAL, "as many to send as to receive"),
        (invalid(Invalid::OneQueue), EINVAL, "a tap with one queue"),
        (invalid(Invalid::NoRing { asked: 4, has: 4 }), EINVAL, "no ring 4: the port has 4, numb"),
        (
            invalid(Invalid::Shape { what: "tx slots", asked: 64, has: 128 }),
            EINVAL,
            "it has 128 tx slots, not 64; ask for what it has",
        ),
        (invalid(Invalid::Memory { has: "3".into() }), EINVAL, "region is 3; ask for what it has"),
        (invalid(Invalid::NoMemory { id: 9 }), EINVAL, "no memory region 9; a new one gets a num"),
        (
            invalid(Invalid::MemoryTooLarge { asked: 1 << 30, most: 528 << 20 }),
            EINVAL,
            "1024 MiB of memory; a region has at most 528 MiB",
        ),
        (
            invalid(Invalid::MemoryTooSmall { asked: 64 << 20, has: 32 << 20 }),
            EINVAL,
            "has 32 MiB, not 64; ask for what it has",
        ),
        (invalid(Invalid::NotShareable), EINVAL, "not a VALE port's"),
        (invalid(Invalid::NotOnASwitch), EINVAL, "valeSWITCH:PORT"),
        (invalid(Invalid::VnetHeader { asked: 11 }), EINVAL, "headers of 11 bytes"),
        (invalid(Invalid::Offsets { buffer_bytes: 9 }), EINVAL, "a buffer of 9 bytes"),
        (invalid(Invalid::OtherOffsets), EINVAL, "the same number of bits"),
        (invalid(Invalid::OwnMirror), EINVAL, "its own mirror"),
        (invalid(Invalid::OwnPeer), EINVAL, "the other one's path"),
        (invalid(Invalid::Monitor), EINVAL, "name the port that it sees"),
        (invalid(Invalid::SeesNothing), EINVAL, "what it is to see"),
        (
            invalid(Invalid::ForeignMirror { switch: "valeA".into() }),
            EINVAL,
            "must be a port of valeA, too",
        ),
        (invalid(Invalid::NotATap), EINVAL, "take another name"),
        (invalid(Invalid::Terminal), EINVAL, "is a terminal"),
        (busy(InUse::Nic), EBUSY, "one user at a time"),
        (busy(InUse::Interface { interface: interface() }), EBUSY, "`ip link set t0 down`"),
        (busy(InUse::Driver { driver: "vfio-pci".into() }), EBUSY, "vfio-pci has it; unbind"),
        (
            busy(InUse::Group { group: 5, device: "0000:00:03.1".into(), driver: "e1000e".into() }),
            EBUSY,
            "e1000e has 0000:00:03.1, which is in the same IOMMU group (5)",
        ),
        (
            invalid(Invalid::NotAnE1000 { vendor: 0x8086, device: 0x10d3 }),
            EINVAL,
            "8086:10d3; driven are the 82540EM",
        ),
        (invalid(Invalid::NoCsb { subsystem: 0x1e }), EINVAL, "id is 001e, not 1101"),
        (unavailable(Lack::PciDevice), ENXIO, "`lspci -D` lists them"),
        (unavailable(Lack::HugePages { pages: 3 }), ENXIO, "`echo 3 >/sys/kernel/mm/huge"),
        (unavailable(Lack::Vfio), ENXIO, "`modprobe vfio-pci`"),
        (unavailable(Lack::VfioType1), ENXIO, "`modprobe vfio_iommu_type1`"),
        (unavailable(Lack::InterruptRemapping), ENXIO, "allow_unsafe_interrupts`"),
        (unavailable(Lack::Answer), ENXIO, "does not answer any more"),
        (unavailable(Lack::AskedBack), ENXIO, "wants the device back"),
        (not_permitted(Privilege::PhysicalAddresses), EPERM, "run it as root"),
        (not_permitted(Privilege::Vfio { group: 7 }), EPERM, "`chown $USER /dev/vfio/7`"),
    ]
}

#[test]
fn every_variant_has_the_error_number_of_netmap_and_says_what_to_do() {
    let table = table();
    for (error, errno, text) in &table {
        assert_eq!(error.errno(), *errno, "{error}");
        assert!(error.to_string().contains(text), "{error}, {text}");
    }
    let mut seen: Vec<_> = table.iter().map(|(error, ..)| variant(error)).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), VARIANTS, "{seen:?}");
}
