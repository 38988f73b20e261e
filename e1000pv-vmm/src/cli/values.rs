//! The values of options: memory sizes, the serial port's destination, `--netdev` and `--device` in their own
//! syntax and in QEMU's.

use std::path::PathBuf;
use std::str::FromStr;

use nm_cli::mac::Mac;

use super::unsupported;

/// Where the serial port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialTo {
    /// stdin and stdout.
    Stdio,
    /// Nowhere.
    Null,
    /// A file.
    File(PathBuf),
    /// A unix socket.
    Unix {
        /// Where it is.
        path: PathBuf,
        /// Others connect to it, instead of us to theirs.
        server: bool,
        /// The machine begins when somebody has connected.
        wait: bool,
    },
}

/// Bytes of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(pub u64);

/// How many vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpus(pub usize);

/// `--netdev`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Netdev {
    /// Its name for `--device`.
    pub id: Option<String>,
    /// The port.
    pub port: String,
}

/// `--device`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The id of its port.
    pub netdev: Option<String>,
    /// Its address.
    pub mac: Option<Mac>,
    /// `--csb` for this NIC.
    pub csb: Option<bool>,
    /// `--moderation` for this NIC.
    pub moderation: Option<bool>,
    /// Not a NIC but QEMU's exit port or its pvpanic, which are always there.
    pub built_in: bool,
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<MemorySize, String> {
        let text = text.trim();
        let text = text.strip_prefix("size=").unwrap_or(text);
        if text.contains(',') {
            return Err("memory is never added: leave slots= and maxmem= out".to_string());
        }
        let text = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
            Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
            Some(b't' | b'T') => (&text[..text.len() - 1], 40),
            _ => (text, 20),
        };
        let bytes = bytes(digits, 1 << shift)?;
        if !(8 << 20..=1 << 40).contains(&bytes) {
            return Err("a machine has 8M to 1024G of memory".to_string());
        }
        if !bytes.is_multiple_of(2 << 20) {
            return Err("memory comes in multiples of 2M".to_string());
        }
        Ok(MemorySize(bytes))
    }
}

/// A number such as `64`, `1.5` or `1e3`, times `unit`, if that is whole.
fn bytes(number: &str, unit: u64) -> Result<u64, String> {
    let wrong = || "not a size; write it as 64M or 1G".to_string();
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit as f64;
    // Up to 2^53 all whole numbers are exact; no machine has as much.
    if bytes.fract() != 0.0 || bytes > (1u64 << 53) as f64 {
        return Err(if bytes.fract() == 0.0 { "too large".to_string() } else { wrong() });
    }
    Ok(bytes as u64)
}

impl FromStr for Vcpus {
    type Err = String;

    /// A number, or QEMU's words, of which all must say that they are cores of one package.
    fn from_str(text: &str) -> Result<Vcpus, String> {
        let wrong = || "a machine has 1 to 4 vCPUs, which are cores of one socket".to_string();
        let number = |text: &str| match text.parse() {
            Ok(n @ 1..=4) => Ok(n),
            _ => Err(wrong()),
        };
        let (first, rest) = text.split_once(',').unwrap_or((text, ""));
        let vcpus = number(first.strip_prefix("cpus=").unwrap_or(first))?;
        for word in words(rest).iter().filter(|word| !word.is_empty()) {
            match pair(word) {
                ("cores" | "maxcpus", Some(n)) if number(n)? == vcpus => {}
                ("sockets" | "dies" | "threads", Some("1")) => {}
                _ => return Err(wrong()),
            }
        }
        Ok(Vcpus(vcpus))
    }
}

impl FromStr for SerialTo {
    type Err = String;

    fn from_str(text: &str) -> Result<SerialTo, String> {
        match text {
            "stdio" | "mon:stdio" => Ok(SerialTo::Stdio),
            "null" | "none" => Ok(SerialTo::Null),
            "" | "file:" => Err("a file needs a name".to_string()),
            text => match text.split_once(':') {
                Some(("file", name)) => Ok(SerialTo::File(name.into())),
                Some(("unix", rest)) => unix(rest),
                // QEMU's others. As a file, `./NAME` or `file:NAME` can be written.
                Some((
                    "tcp" | "udp" | "telnet" | "websocket" | "pipe" | "chardev" | "mon" | "vc",
                    _,
                )) => Err(NO_OTHERS.to_string()),
                None if ["pty", "vc", "msmouse", "braille"].contains(&text) => {
                    Err(format!("{text}: {NO_OTHERS}"))
                }
                _ => Ok(SerialTo::File(text.into())),
            },
        }
    }
}

/// Where a serial port cannot lead.
const NO_OTHERS: &str = "a serial port leads to stdio, null, file:NAME, or unix:PATH[,server] (which socat takes further)";

/// `PATH[,server[=on]][,wait=off]`, or `nowait`, as QEMU had it.
fn unix(text: &str) -> Result<SerialTo, String> {
    let words = words(text);
    let (path, rest) = words.split_first().expect("words are one at least");
    if path.is_empty() {
        return Err("a socket needs a path".to_string());
    }
    let (mut server, mut wait) = (false, true);
    for word in rest.iter().filter(|word| !word.is_empty()) {
        match pair(word) {
            ("server", None) => server = true,
            ("server", Some(value)) => server = on_off(value)?,
            ("nowait", None) => wait = false,
            ("wait", None) => wait = true,
            ("wait", Some(value)) => wait = on_off(value)?,
            (key, _) => {
                return Err(format!("{key:?} is not understood; write server and wait=off"));
            }
        }
    }
    Ok(SerialTo::Unix { path: path.into(), server, wait: server && wait })
}

/// The words of `a,b=c`. Two commas are one that belongs to a word, as QEMU has it: ports' names have commas, and paths may.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.next_if_eq(&',').is_none() => words.push(String::new()),
            c => words.last_mut().expect("there is one from the beginning").push(c),
        }
    }
    words
}

/// Key and value, or a word alone.
fn pair(word: &str) -> (&str, Option<&str>) {
    word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)))
}

impl FromStr for Netdev {
    type Err = String;

    fn from_str(text: &str) -> Result<Netdev, String> {
        let (mut id, mut port, mut tap) = (None, None, false);
        for (i, word) in words(text).iter().enumerate() {
            match pair(word) {
                ("netmap" | "vale", None) if i == 0 => {}
                ("tap", None) if i == 0 => tap = true,
                (name, _) if i == 0 && name.contains(':') => port = Some(word.clone()),
                ("id", Some(name)) if !name.is_empty() => id = Some(name.to_string()),
                ("port" | "ifname", Some(name)) if !name.is_empty() => {
                    port = Some(name.to_string());
                }
                ("script" | "downscript", Some("no")) if tap => {}
                (key @ ("script" | "downscript"), _) if tap => {
                    return Err(format!(
                        "{key}: no script is run: set the interface up yourself, and write {key}=no"
                    ));
                }
                (kind, None) if i == 0 && unsupported::network(kind).is_some() => {
                    let why = unsupported::network(kind).unwrap_or_default();
                    return Err(format!("{kind}: {why}; write port=valeA:x[,id=NAME]"));
                }
                (key, _) => {
                    let twice = match port {
                        Some(_) => "; a comma that belongs to the port's name is written twice",
                        None => "",
                    };
                    return Err(format!(
                        "{key:?} is not understood; write port=valeA:x[,id=NAME]{twice}"
                    ));
                }
            }
        }
        match port {
            Some(port) if tap => Ok(Netdev { id, port: format!("tap:{port}") }),
            Some(port) => Ok(Netdev { id, port }),
            None if tap => Err("which one? Write tap,ifname=NAME or port=tap:NAME".to_string()),
            None => Err("which port? Write port=valeA:x".to_string()),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        let mut device = Device::default();
        for (i, word) in words(text).iter().enumerate() {
            match pair(word) {
                ("e1000" | "e1000-82540em" | "e1000-paravirt" | "e1000pv", None) if i == 0 => {}
                ("isa-debug-exit", None) if i == 0 => {
                    device.built_in = true;
                    return isa_debug_exit(text).map(|()| device);
                }
                ("pvpanic", None) if i == 0 => {
                    device.built_in = true;
                    return pvpanic(text).map(|()| device);
                }
                ("mac", Some(mac)) => {
                    let mac: Mac = mac.parse().map_err(|e| format!("{e}"))?;
                    if mac.is_multicast() || mac == Mac::default() {
                        return Err(format!("{mac} is not the address of one station"));
                    }
                    device.mac = Some(mac);
                }
                ("netdev", Some(id)) if !id.is_empty() => device.netdev = Some(id.to_string()),
                ("csb" | "paravirt", Some(value)) => device.csb = Some(on_off(value)?),
                ("moderation" | "mitigation", Some(value)) => {
                    device.moderation = Some(on_off(value)?);
                }
                ("id" | "bus" | "addr", Some(_)) => {} // QEMU's, of no consequence here
                (other, None) if i == 0 => {
                    let why = unsupported::device(other)
                        .unwrap_or("the devices here are e1000 NICs, isa-debug-exit and pvpanic");
                    return Err(format!("{other}: {why}"));
                }
                (key, _) => {
                    return Err(format!(
                        "{key:?} is not understood; write mac=02:00:00:00:00:01[,netdev=ID]"
                    ));
                }
            }
        }
        Ok(device)
    }
}

/// The exit port can only be at its usual address, where guests expect it.
fn isa_debug_exit(text: &str) -> Result<(), String> {
    for word in words(text).iter().skip(1) {
        match pair(word) {
            ("iobase", Some("0xf4" | "0xF4" | "244")) | ("iosize" | "id", Some(_)) => {}
            _ => return Err("the exit port of this machine is 0xf4".to_string()),
        }
    }
    Ok(())
}

/// The same of the port at which a guest tells of its panic.
fn pvpanic(text: &str) -> Result<(), String> {
    for word in words(text).iter().skip(1) {
        match pair(word) {
            ("ioport", Some("0x505" | "1285")) | ("id" | "events", Some(_)) => {}
            _ => return Err("the panic port of this machine is 0x505".to_string()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netdev_forms() {
        let port = |text: &str| text.parse::<Netdev>().map(|netdev| netdev.port);
        assert_eq!(port("port=valeA:x"), Ok("valeA:x".into()));
        assert_eq!(port("valeA:x"), Ok("valeA:x".into()));
        assert_eq!(port("null:"), Ok("null:".into()));
        assert_eq!(port("tap,id=n,ifname=t0,script=no,downscript=no"), Ok("tap:t0".into()));
        for text in ["", "netmap", "port=", "user,id=n", "port=a:b,speed=1", "port=a:b,id="] {
            assert!(port(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn names_of_ports_have_their_commas_and_paths_too() {
        for (text, name, id) in [
            (
                "port=valeA:x@conf:slots=512,,vnet-hdr=12,id=n",
                "valeA:x@conf:slots=512,vnet-hdr=12",
                true,
            ),
            ("valeA:x@conf:slots=512,,mem-mib=64", "valeA:x@conf:slots=512,mem-mib=64", false),
            ("valeA:x@conf:slots=512,id=n", "valeA:x@conf:slots=512", true),
            ("netmap,id=n,ifname=stream:/run/s,,client", "stream:/run/s,client", true),
            ("pcap:a,,,,b", "pcap:a,,b", false),
            ("port=null:,,", "null:,", false),
        ] {
            let netdev: Netdev = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!((netdev.port.as_str(), netdev.id.is_some()), (name, id), "{text}");
        }
        let why = "port=valeA:x@conf:slots=512,vnet-hdr=12".parse::<Netdev>().unwrap_err();
        assert!(why.contains("is written twice"), "{why}");
        let unix = SerialTo::Unix { path: "/run/a,b".into(), server: true, wait: true };
        assert_eq!("unix:/run/a,,b,server".parse(), Ok(unix));
    }

    #[test]
    fn serial_forms() {
        let unix = |server, wait| SerialTo::Unix { path: "/run/s".into(), server, wait };
        for (text, to) in [
            ("mon:stdio", SerialTo::Stdio),
            ("none", SerialTo::Null),
            ("file:a:b", SerialTo::File("a:b".into())),
            ("log", SerialTo::File("log".into())),
            ("./pty", SerialTo::File("./pty".into())),
            ("unix:/run/s", unix(false, false)),
            ("unix:/run/s,server", unix(true, true)),
            ("unix:/run/s,server=on,wait=off", unix(true, false)),
            ("unix:/run/s,server,nowait", unix(true, false)),
        ] {
            assert_eq!(text.parse(), Ok(to), "{text}");
        }
        for text in [
            "",
            "file:",
            "unix:",
            "unix:,server",
            "unix:/run/s,telnet",
            "pty",
            "tcp::1",
            "chardev:c",
        ] {
            assert!(text.parse::<SerialTo>().is_err(), "{text}");
        }
    }

    #[test]
    fn device_forms() {
        let device: Device = "e1000,netdev=n,mac=52:54:00:12:34:56,mitigation=off".parse().unwrap();
        assert_eq!(device.moderation, Some(false));
        assert_eq!(device.netdev.as_deref(), Some("n"));
        assert!("isa-debug-exit,iobase=0xf4,iosize=0x04".parse::<Device>().unwrap().built_in);
        for text in [
            "virtio-net,netdev=n",
            "mac=",
            "mac=ff:ff:ff:ff:ff:ff",
            "mac=01:00:5e:00:00:01",
            "mac=00:00:00:00:00:00",
            "csb=maybe",
            "isa-debug-exit,iobase=0x501",
        ] {
            assert!(text.parse::<Device>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn memory_is_in_mebibytes_as_everywhere() {
        for (text, bytes) in [
            ("64", 64 << 20),
            ("64M", 64 << 20),
            ("1G", 1 << 30),
            ("64MiB", 64 << 20),
            ("1.5G", 3 << 29),
            ("1e2", 100 << 20),
            ("6G", 6 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(MemorySize(bytes)), "{text}");
        }
        for text in [
            "",
            "M",
            "0",
            "7M",
            "65M",
            "1025G",
            "2T",
            "-1",
            "1.3G",
            "99999999999G",
            "64k",
            "inf",
            "nan",
            "1e",
            "e2",
        ] {
            assert!(text.parse::<MemorySize>().is_err(), "{text:?} was accepted");
        }
    }
}
