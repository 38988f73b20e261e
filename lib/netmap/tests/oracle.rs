//! Frames with offloads, completed by the Linux kernel and by us: the same frames come out, byte for byte.
//!
//! ```text
//!                 write          bridge, in a namespace of its own       read, no offloads
//!  header + frame -----> tap left ----------------------------> tap right --> frames    the kernel's
//!                 ------> offload::complete ----------------------------------> frames  ours
//!                 ------> valeO:x, header of 12 bytes -----> valeO:y, none ---> frames  the switch's
//! ```

mod common;
#[path = "../../offload/tests/packet/mod.rs"]
mod packet;
#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skipping;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use common::rng::Rng;
use common::{read, slots};
use netmap::{Options, Port};
use nix::sched::{CloneFlags, setns};
use offload::Header;
use packet::Packet;
use skipping::skip;

/// A bridge of two taps in a namespace, removed when dropped.
struct Kernel {
    namespace: String,
    to: File,
    from: File,
    number: u32,
}

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_write_ptr_bad!(set_header, libc::TUNSETVNETHDRSZ, libc::c_int);
}

fn run(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output();
    let output = output.map_err(|e| format!("{line}: {e}"))?;
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {}", why.trim())) }
}

/// A tap of that name in the namespace that this thread is in, with headers of 12 bytes and no offloads.
fn tap(name: &str) -> Result<File, String> {
    let text = |e: &dyn std::fmt::Display| format!("tap {name}: {e}");
    let file = File::options().read(true).write(true).open("/dev/net/tun").map_err(|e| text(&e))?;
    // SAFETY: integers, byte arrays and a nullable pointer; all of them may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the descriptor is open, and the request outlives the call.
    unsafe { ioctl::set_iff(file.as_raw_fd(), &raw const request) }.map_err(|e| text(&e))?;
    // SAFETY: the descriptor is open; the argument is an integer.
    unsafe { ioctl::set_offload(file.as_raw_fd(), 0) }.map_err(|e| text(&e))?;
    let header: libc::c_int = 12;
    // SAFETY: the descriptor is open, and `header` outlives the call.
    unsafe { ioctl::set_header(file.as_raw_fd(), &raw const header) }.map_err(|e| text(&e))?;
    Ok(file)
}

impl Kernel {
    /// `Err`: why there is none.
    fn new(role: &str) -> Result<Self, String> {
        if !nix::unistd::Uid::effective().is_root() {
            return Err("network namespaces need root".into());
        }
        if !Path::new("/dev/net/tun").exists() {
            return Err("there is no /dev/net/tun".into());
        }
        let namespace = format!("nmo{role}{}", std::process::id());
        run(&format!("ip netns add {namespace}"))?;
        let of = namespace.clone();
        let made = std::thread::spawn(move || {
            let place = File::open(format!("/run/netns/{of}")).map_err(|e| e.to_string())?;
            setns(place, CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
            // Nothing but what is written here.
            let quiet = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            quiet.and(std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")).ok();
            let taps = (tap("left")?, tap("right")?);
            // What looks into IP on the way is asked for where it is wanted.
            look_into_ip(false).ok();
            Ok(taps)
        });
        let made: Result<(File, File), String> = made.join().expect("the thread ends");
        let (to, from) = made.inspect_err(|_| drop(run(&format!("ip netns del {namespace}"))))?;
        let kernel = Self { namespace, to, from, number: 0 };
        let lines = [
            "link add br0 type bridge mcast_snooping 0",
            "link set left mtu 65521 master br0",
            "link set right mtu 65521 txqueuelen 5000 master br0",
            "link set br0 up",
            "link set left up",
            "link set right up",
        ];
        for line in lines {
            run(&format!("ip -n {} {line}", kernel.namespace))?;
        }
        Ok(kernel)
    }

    /// Has its bridge look into IP packets, as with iptables; false if it cannot.
    fn look_into_ip(&self) -> bool {
        let of = format!("/run/netns/{}", self.namespace);
        let asked = std::thread::spawn(move || {
            setns(File::open(of).expect("it is there"), CloneFlags::CLONE_NEWNET).expect("root");
            look_into_ip(true).is_ok()
        });
        asked.join().expect("the thread ends")
    }

    /// What it makes of a frame. Nothing: it refused or dropped it.
    fn complete(&mut self, header: &Header, frame: &[u8]) -> Vec<Vec<u8>> {
        let packet = behind(header, frame);
        let _ = (&self.to).write(&packet); // refused: as dropped
        // A frame of our own behind it tells where what comes of it ends.
        self.number += 1;
        let end = common::frame(0xff, 7, self.number, 60);
        let sent = (&self.to).write(&behind(&Header::default(), &end)).expect("the tap is up");
        assert_eq!(sent, 72);
        let (mut frames, mut buffer) = (vec![], vec![0; 70_000]);
        loop {
            let n = (&self.from).read(&mut buffer).expect("the tap is up");
            let frame = &buffer[12..n];
            if frame == end {
                return frames;
            }
            frames.push(frame.to_vec());
        }
    }
}

fn look_into_ip(on: bool) -> std::io::Result<()> {
    for what in ["iptables", "ip6tables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{what}");
        std::fs::write(path, if on { "1" } else { "0" })?;
    }
    Ok(())
}

impl Drop for Kernel {
    fn drop(&mut self) {
        drop(run(&format!("ip netns del {}", self.namespace)));
    }
}

fn behind(header: &Header, frame: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 12];
    header.write(&mut packet);
    packet.extend(frame);
    packet
}

/// What `lib/offload` makes of it.
fn ours(header: &Header, frame: &[u8]) -> Vec<Vec<u8>> {
    let Ok(mut segments) = offload::complete(header, frame) else { return vec![] };
    let mut out = vec![0; segments.longest()];
    std::iter::from_fn(|| segments.next_into(&mut out).map(|len| out[..len].to_vec())).collect()
}

/// Two ports of a switch, the first with headers.
struct Vale {
    x: Port,
    y: Port,
}

impl Vale {
    fn new(switch: &str) -> Self {
        let o = |len| Options { vnet_hdr_len: Some(len), ..slots(2048) };
        let open = |port: &str, len| common::open(&format!("{switch}:{port}"), &o(len));
        Self { x: open("x", 12), y: open("y", 0) }
    }

    fn complete(&mut self, header: &Header, frame: &[u8]) -> Vec<Vec<u8>> {
        assert!(self.x.tx(0).push(&behind(header, frame)));
        self.x.txsync().unwrap();
        read(&mut self.y, 0, usize::MAX)
    }
}

/// First difference of two lists of frames, for whoever has to find the cause.
fn difference(a: &[Vec<u8>], b: &[Vec<u8>]) -> String {
    if a.len() != b.len() {
        return format!("{} and {} frames", a.len(), b.len());
    }
    let differs = a.iter().zip(b).position(|(a, b)| a != b).expect("they differ");
    let (a, b) = (&a[differs], &b[differs]);
    let at = a.iter().zip(b).position(|(a, b)| a != b);
    format!(
        "frame {differs}: {} and {} bytes, differ from {at:?}\n{a:02x?}\n{b:02x?}",
        a.len(),
        b.len()
    )
}

fn same(what: &str, a: &[Vec<u8>], b: &[Vec<u8>]) {
    assert!(a == b, "{what}: {}", difference(a, b));
}

/// Kinds of packets: tags, version, options or extension headers, protocol.
fn kinds() -> Vec<Packet> {
    let mut all = vec![];
    let tags: [&[u16]; 4] = [&[], &[0x8100], &[0x88a8, 0x8100], &[0x8100; 7]];
    for tags in tags {
        for (v6, options) in
            [(false, vec![]), (false, vec![1; 40]), (true, vec![]), (true, vec![0, 60])]
        {
            for (tcp, tcp_options) in
                [(true, vec![]), (true, vec![1; 12]), (true, vec![1; 40]), (false, vec![])]
            {
                let (tags, options) = (tags.to_vec(), options.clone());
                all.push(Packet { tags, v6, options, tcp, tcp_options, ..Packet::default() });
            }
        }
    }
    all
}

#[test]
fn what_the_kernel_makes_of_a_frame_we_make_of_it_too() {
    let test = "what_the_kernel_makes_of_a_frame_we_make_of_it_too";
    let mut kernel = match Kernel::new("s") {
        Ok(kernel) => kernel,
        Err(why) => return skip(test, &why),
    };
    let mut vale = Vale::new("valeOs");
    let mut segments = 0;
    let mut check = |header: &Header, frame: &[u8], of: &Packet| {
        let theirs = kernel.complete(header, frame);
        assert!(!theirs.is_empty(), "the kernel drops {header:?} {of:?}");
        same(&format!("the kernel and us, {header:?} {of:?}"), &theirs, &ours(header, frame));
        same(
            &format!("us and the switch, {header:?} {of:?}"),
            &theirs,
            &vale.complete(header, frame),
        );
        segments += theirs.len();
        theirs.len()
    };
    for packet in kinds() {
        // A checksum alone, of odd and even lengths; segments, the last of them short, or one byte.
        for (len, size) in
            [(1usize, 0), (1000, 0), (3001, 1000), (3000, 1000), (9001, 1500), (65_000, 8900)]
        {
            let payload = (0..len).map(|i| (i * 17 + i / 255) as u8).collect();
            let packet = Packet { payload, flags: 0xd9, ..packet.clone() };
            let frames = check(&packet.header(size), &packet.frame(false), &packet);
            assert_eq!(frames, if size == 0 { 1 } else { len.div_ceil(size) });
        }
    }
    let one = Packet::default;
    // Every flag of TCP, in the first, middle and last segment; numbers that wrap.
    for flags in 0..=255u8 {
        let packet = Packet { flags, seq: u32::MAX, id: 0xffff, ..one() };
        let ecn = Header { gso_type: Header::GSO_TCPV4 | Header::ECN, ..packet.header(1100) };
        let header = if flags & 0x80 == 0 { packet.header(1100) } else { ecn };
        check(&header, &packet.frame(false), &packet);
    }
    // Nothing said of the checksum.
    for v6 in [false, true] {
        let packet = Packet { v6, ..one() };
        let mut frame = packet.frame(false);
        frame[packet.field()] ^= 0xff;
        check(&Header { flags: 0, ..packet.header(1100) }, &frame, &packet);
    }
    // The header's length is whatever it is.
    for hdr_len in [0, 14, 54, 66, 1000, 3054] {
        let header = Header { hdr_len, ..one().header(1448) };
        check(&header, &one().frame(false), &one());
    }
    // Checksums that come out as zero: all ones, but in a segment of TCP.
    for tcp in [true, false] {
        for size in [0, 1000] {
            let mut packet = Packet { tcp, ..one() };
            packet.payload[..2].fill(0);
            let first = &packet.segments(if size == 0 { 3000 } else { size })[0];
            let check_of_first = [first[packet.field()], first[packet.field() + 1]];
            packet.payload[..2].copy_from_slice(&check_of_first);
            check(&packet.header(size), &packet.frame(false), &packet);
        }
    }
    // Fragments of UFO.
    for size in [8, 1480, 2000] {
        let packet = Packet::udp();
        let header = Header { gso_type: Header::GSO_UDP, ..packet.header(size) };
        check(&header, &packet.frame(false), &packet);
    }
    println!("{segments} frames are the same");
}

#[test]
fn padding_is_cut_as_by_a_kernel_that_looks_into_ip() {
    let test = "padding_is_cut_as_by_a_kernel_that_looks_into_ip";
    let mut kernel = match Kernel::new("p") {
        Ok(kernel) => kernel,
        Err(why) => return skip(test, &why),
    };
    if !kernel.look_into_ip() {
        return skip(test, "this kernel's bridge cannot look into IP (br_netfilter)");
    }
    for (tcp, v6) in [(true, false), (false, false), (true, true), (false, true)] {
        let packet = Packet { tcp, v6, ..Packet::default() };
        let mut frame = packet.frame(false);
        frame.extend([0xaa; 7]);
        for size in [0, 1000] {
            let header = packet.header(size);
            let theirs = kernel.complete(&header, &frame);
            assert!(!theirs.is_empty(), "{header:?}");
            same("with padding", &theirs, &ours(&header, &frame));
        }
        // Lengths that cannot be.
        for len in [0u16, 5, 65_000] {
            let mut frame = packet.frame(false);
            let at = packet.network() + if v6 { 4 } else { 2 };
            frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
            assert!(ours(&packet.header(1000), &frame).is_empty());
            if v6 && len == 5 {
                continue; // passed on with its checksum
            }
            assert!(kernel.complete(&packet.header(1000), &frame).is_empty(), "{len} {v6}");
        }
    }
}

/// A random packet of some kind with a random header, and damage to some of both.
fn damaged(rng: &mut Rng, kinds: &[Packet]) -> (Header, Vec<u8>) {
    let mut packet = kinds[rng.below(kinds.len() as u64) as usize].clone();
    packet.payload = (0..1 + rng.below(4000)).map(|i| (i * 23) as u8).collect();
    packet.flags = rng.next() as u8;
    let size = if rng.below(4) == 0 { 0 } else { 64 + rng.below(3000) as usize };
    let (mut header, mut frame) = (packet.header(size), packet.frame(false));
    let headers = frame.len() - packet.payload.len();
    for _ in 0..rng.below(4) {
        let odd = [0, 1, 2, 13, 14, 20, 40, 0x7fff, 0xfffe, 0xffff, frame.len() as u16];
        let half = if rng.below(2) == 0 { odd[rng.below(11) as usize] } else { rng.next() as u16 };
        match rng.below(12) {
            0 => header.flags = half as u8,
            1 => {
                let types = [0, 1, 2, 3, 4, 5, 6, 0x81, 0x84, 0x85, 0x80, 0xff];
                header.gso_type = types[rng.below(12) as usize];
            }
            2 => header.hdr_len = half,
            3 => header.gso_size = half,
            4 => header.csum_start = half,
            5 => header.csum_offset = half,
            6 => header.csum_start = header.csum_start.wrapping_add(2),
            7 => frame.truncate(rng.below(frame.len() as u64 + 1) as usize),
            8 => frame.truncate(rng.below(headers as u64 + 4) as usize),
            9 => frame.extend(vec![0x99; rng.below(9) as usize]),
            // Not its addresses, by which the bridge would look.
            _ if frame.len() > 12 => {
                let at = 12 + rng.below(headers.min(frame.len()) as u64 - 12) as usize;
                frame[at] = rng.next() as u8;
            }
            _ => {}
        }
    }
    (header, frame)
}

/// Where the IP packet in a frame ends, if that is before the frame's end.
fn end(frame: &[u8]) -> Option<usize> {
    let half = |at: usize| {
        frame.get(at..at + 2).map(|half| usize::from(u16::from_be_bytes([half[0], half[1]])))
    };
    let mut at = 12;
    while matches!(half(at)?, 0x8100 | 0x88a8) {
        at += 4;
    }
    let end = match half(at)? {
        0x0800 => at + 2 + half(at + 4)?,
        0x86dd => at + 2 + 40 + half(at + 6)?,
        _ => return None,
    };
    (end < frame.len()).then_some(end)
}

#[test]
fn what_both_make_of_a_damaged_frame_is_the_same() {
    let test = "what_both_make_of_a_damaged_frame_is_the_same";
    let mut kernel = match Kernel::new("d") {
        Ok(kernel) => kernel,
        Err(why) => return skip(test, &why),
    };
    let (mut rng, kinds) = (Rng::new(20), kinds());
    let (mut both, mut neither) = (0, 0);
    for number in 0..20_000 {
        let (mut header, mut frame) = damaged(&mut rng, &kinds);
        let result = offload::complete(&header, &frame).map(drop);
        let ours = ours(&header, &frame);
        // What is completed is cut by us, and by a kernel that looks into IP: see above.
        if !header.is_plain()
            && result.is_ok()
            && let Some(end) = end(&frame)
        {
            frame.truncate(end);
            header.hdr_len = header.hdr_len.min(end as u16);
        }
        let theirs = kernel.complete(&header, &frame);
        let of = || format!("number {number}, {header:?} {frame:02x?}");
        match (result, theirs.is_empty()) {
            (Err(_), true) => neither += 1,
            (Ok(()), false) => {
                // Fragments of lengths that no offset can say are the kernel's own.
                if header.gso_type != Header::GSO_UDP || header.gso_size % 8 == 0 {
                    same(&of(), &theirs, &ours);
                    both += 1;
                }
            }
            // It takes a TCP header without options for the frame's, and then finds nothing to split. Behind tags it wants
            // to see two bytes beside the type if nothing is asked for, and takes a type of 0 for none. And no checksum's
            // place is before byte 20, whatever the protocol.
            (Ok(()), true) => {
                let at_tags = behind_tags(&frame)
                    .is_some_and(|rest| rest.len() < 4 || rest.starts_with(&[0, 0]));
                let early = header.needs_checksum() && header.csum_start < 20;
                let known = is_tcp(&header) || at_tags || early;
                assert!(ours.len() == 1 && known, "{}", of());
            }
            // What it passes on wrong, or as if nothing was asked for.
            (Err(fault), false) => {
                use offload::Fault::{
                    ChecksumMissing, ChecksumPlace, Fragment, GsoSize, HeaderLength, Ip, Length,
                    Protocol, Tags, Transport,
                };
                let known = [
                    ChecksumMissing,
                    ChecksumPlace,
                    Fragment,
                    Ip,
                    Length,
                    Protocol,
                    Tags,
                    Transport,
                ];
                // It counts the last two bytes of a header of 12 for the frame's.
                let len = usize::from(header.hdr_len);
                let is_in_header = fault == HeaderLength && len <= frame.len() + 2;
                // And its fragments may be of lengths below the least that an offset can say.
                let is_tiny = fault == GsoSize
                    && header.gso_size < 8
                    && header.gso_type & 0x7f == Header::GSO_UDP;
                assert!(known.contains(&fault) || is_in_header || is_tiny, "{fault}: {}", of());
            }
        }
    }
    println!("{both} passed by both, {neither} by neither");
    assert!(both > 5000 && neither > 5000);
}

/// What is behind the VLAN tags of a frame, from its type on, if it has tags.
fn behind_tags(frame: &[u8]) -> Option<&[u8]> {
    let mut rest = &frame[12..];
    while let [0x81, 0x00, ..] | [0x88, 0xa8, ..] = rest {
        rest = rest.get(4..).unwrap_or(&[]);
    }
    (rest.len() < frame.len() - 12).then_some(rest)
}

fn is_tcp(header: &Header) -> bool {
    matches!(header.gso(), Ok(Some(offload::Gso::Tcp4 | offload::Gso::Tcp6)))
}
