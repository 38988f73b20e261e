//! Reading a port name: one cursor over the text, one function per production of the grammar in
//! [the parent module](super), every refusal at the byte where it is noticed.
//!
//! Invariant: never panics and never allocates more than the name's own length and a message.

use super::NameFault::{
    Contradiction, Missing, NumberMissing, OutOfRange, Pipe, TooLong, Unexpected, UnknownKind,
};
use super::{
    Address, Behind, Dashes, FLAG_LETTERS, NAME_MOST, NameError, NameFault, NameFlags, NicDriver,
    PciAddress, PipeEnd, PipeName, PortName, RingSel, Scheme, Syntax, XdpMode,
};

/// Ring numbers lie in `[0, NETMAP_RING_MASK)`.
const RING_LIMIT: u32 = 0x0fff;
/// Most MiB of a memory region, whose offsets must fit netmap's legacy API.
const MEM_MIB_MOST: u32 = 528;
/// Most characters of a network namespace's name, which is that of a file.
const NETNS_MOST: usize = 255;
/// Longest busy polling: a tenth of a second.
const BUSY_POLL_US_MOST: u32 = 100_000;
/// Characters that end an interface name because they mean something after it.
const AFTER_NAME: &[u8] = b"*^-/@{}";

/// Reads a port name of one of the kinds named in `schemes`: the first that fits is meant. Never
/// panics, whatever it is given.
pub fn parse_with(
    name: &str,
    schemes: impl Iterator<Item = &'static Scheme> + Clone,
) -> Result<PortName, NameError> {
    let mut cursor = Cursor { name, at: 0 };
    let (scheme, address) = cursor.address(schemes)?;
    let mut port = PortName::new(scheme, address);
    if port.path().is_some() || port.socket().is_some() {
        return Ok(port);
    }
    port.rings = cursor.rings()?;
    cursor.rest(&mut port)?;
    Ok(port)
}

/// Reads the name of a switch as control commands take it: `valeA`, or `valeA:`.
///
/// # Errors
/// It is none; says at which of its characters.
pub fn parse_switch(name: &str) -> Result<String, NameError> {
    let mut cursor = Cursor { name, at: 0 };
    let switch = cursor.switch()?;
    if cursor.eat(b':') && cursor.peek().is_some() {
        return cursor
            .fail(Unexpected("this names a port; a switch is written `valeA` or `valeA:`"));
    }
    match cursor.peek() {
        None => Ok(switch),
        Some(_) => cursor.fail(Unexpected("not allowed in a switch name (0-9, A-Z, a-z, _)")),
    }
}

/// Reading position. Only steps over ASCII, so `at` is always a character boundary.
struct Cursor<'a> {
    name: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest_of_name(&self) -> &'a str {
        &self.name[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.name.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.rest_of_name().starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let from = self.at;
        while self.peek().is_some_and(&keep) {
            self.at += 1;
        }
        &self.name[from..self.at]
    }

    fn fail<T>(&self, fault: NameFault) -> Result<T, NameError> {
        self.fail_at(self.at, fault)
    }

    fn fail_at<T>(&self, at: usize, fault: NameFault) -> Result<T, NameError> {
        Err(NameError { name: self.name.to_owned(), at, fault })
    }

    fn address(
        &mut self,
        schemes: impl Iterator<Item = &'static Scheme> + Clone,
    ) -> Result<(&'static Scheme, Address), NameError> {
        if self.name.is_empty() {
            return self.fail(Missing("it is empty; try valeA:x, tap:t0, pcap:FILE or null:"));
        }
        for scheme in schemes.clone() {
            if scheme.syntax == Syntax::SwitchPort {
                if self.name.starts_with(scheme.prefix) {
                    let switch = self.switch()?;
                    return Ok((scheme, self.switch_port(switch)?));
                }
            } else if self.eat_word(&format!("{}:", scheme.prefix)) {
                return Ok((scheme, self.behind_colon(scheme.syntax)?));
            }
        }
        let prefix = self.name.split([':', '@', '/']).next().unwrap_or_default();
        if self.name.as_bytes().get(prefix.len()) == Some(&b':') {
            let known: Vec<String> = schemes
                .map(|s| match s.syntax {
                    Syntax::SwitchPort => format!("{}X:", s.prefix),
                    _ => format!("{}:", s.prefix),
                })
                .collect();
            return self.fail(UnknownKind { known: known.join(", ") });
        }
        for scheme in schemes {
            let dashes = scheme.syntax == Syntax::Interface { dashes: Dashes::InName };
            let end = self.name.find(|c: char| {
                !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || (dashes && c == '-'))
            });
            if !(scheme.is_bare)(&self.name[..end.unwrap_or(self.name.len())]) {
                continue;
            }
            return match scheme.syntax {
                Syntax::Interface { dashes } => {
                    Ok((scheme, Address::Interface(self.interface(dashes)?)))
                }
                _ => {
                    self.eat_word(scheme.prefix);
                    self.after_name("not allowed in an interface name (0-9, A-Z, a-z, _, .)")?;
                    Ok((scheme, Address::Nothing))
                }
            };
        }
        self.fail(Missing("a kind of port is missing, as in tap:t0"))
    }

    fn behind_colon(&mut self, syntax: Syntax) -> Result<Address, NameError> {
        Ok(match syntax {
            Syntax::File => Address::File(
                self.path("a file name is missing behind the colon (`-` is stdin or stdout)")?
                    .into(),
            ),
            Syntax::Socket { behind } => Address::Socket(self.socket(behind)?.into()),
            Syntax::Interface { dashes } => Address::Interface(self.interface(dashes)?),
            Syntax::Pci => Address::Pci(self.pci()?),
            Syntax::Nothing | Syntax::SwitchPort => Address::Nothing,
        })
    }

    fn path(&mut self, missing: &'static str) -> Result<&'a str, NameError> {
        let path = self.rest_of_name();
        if path.is_empty() {
            return self.fail(Missing(missing));
        }
        if let Some(nul) = path.find('\0') {
            return self.fail_at(self.at + nul, Unexpected("a file name cannot hold a NUL"));
        }
        Ok(path)
    }

    /// A path, and what a kind of socket takes behind a comma.
    fn socket(&mut self, behind: Behind) -> Result<&'a str, NameError> {
        const MISSING: &str = "a socket's path is missing behind the colon";
        let name = self.path(MISSING)?;
        if name.starts_with(',') {
            return self.fail(Missing(MISSING));
        }
        if name.ends_with(',') {
            return self.fail_at(
                self.name.len(),
                Missing("something is missing behind the comma: a stream's side, or a peer's path"),
            );
        }
        if let (Behind::Side, Some((path, word))) = (behind, name.rsplit_once(','))
            && !matches!(word, "server" | "client")
            && !word.contains('/')
        {
            let at = self.name.len() - name.len() + path.len() + 1;
            return self.fail_at(
                at,
                Unexpected(
                    "behind the comma stands `server` or `client`; a path that has a comma itself takes one of them behind it",
                ),
            );
        }
        Ok(name)
    }

    fn switch(&mut self) -> Result<String, NameError> {
        if !self.name.starts_with("vale") {
            return self.fail(Unexpected("the name of a switch begins with `vale`"));
        }
        let switch = self.take_while(is_id);
        if switch.len() > NAME_MOST {
            return self.fail_at(NAME_MOST, TooLong("a switch name"));
        }
        Ok(switch.to_owned())
    }

    fn switch_port(&mut self, switch: String) -> Result<Address, NameError> {
        if !self.eat(b':') {
            return match self.peek() {
                None => {
                    self.fail(Missing("`:` and a port are missing after the switch, as in valeA:x"))
                }
                Some(_) => self.fail(Unexpected(
                    "not allowed in a switch name (0-9, A-Z, a-z, _ and then `:`)",
                )),
            };
        }
        let from = self.at;
        let port = self.take_while(is_id);
        if port.is_empty() {
            return self.fail(Missing("the port is missing after `:`, as in valeA:x"));
        }
        if port.len() > NAME_MOST {
            return self.fail_at(from + NAME_MOST, TooLong("a port name"));
        }
        let port = self.pipe(port)?;
        self.after_name("not allowed in a port name (0-9, A-Z, a-z, _)")?;
        Ok(Address::SwitchPort { switch, port })
    }

    /// The port itself, or the end of a pipe of it that is named here.
    fn pipe(&mut self, base: &str) -> Result<String, NameError> {
        let Some(end) = self.peek().and_then(PipeEnd::of_mark) else { return Ok(base.to_owned()) };
        self.at += 1;
        let from = self.at;
        let id = self.take_while(is_id);
        if id.is_empty() {
            return self.fail(Missing("the pipe's id is missing, as in valeA:x{1"));
        }
        if id.len() > NAME_MOST {
            return self.fail_at(from + NAME_MOST, TooLong("a pipe's id"));
        }
        if self.peek().and_then(PipeEnd::of_mark).is_some() {
            return self.fail(Unexpected("a pipe has no pipes of its own"));
        }
        Ok(PipeName { base, end, id }.to_string())
    }

    fn interface(&mut self, dashes: Dashes) -> Result<String, NameError> {
        let from = self.at;
        let text = self.take_while(|byte| is_id(byte) || matches!(byte, b'.' | b'-'));
        self.at = from + dashes.end(text, self.peek());
        let name = &self.name[from..self.at];
        if name.len() > NAME_MOST {
            return self.fail_at(from + NAME_MOST, TooLong("an interface name"));
        }
        self.after_name(
            "not allowed in an interface name (0-9, A-Z, a-z, _, ., -); another one: `ip link property add dev NAME altname OTHER`",
        )?;
        match name {
            "" => self.fail(Missing("the interface name is missing")),
            "." | ".." => self.fail_at(from, Unexpected("no interface can have this name")),
            name => Ok(name.to_owned()),
        }
    }

    /// `[domain:]bus:device.function`, in hexadecimal.
    fn pci(&mut self) -> Result<PciAddress, NameError> {
        const EXPECTED: NameFault = Missing("expected a PCI address, as in 0000:00:03.0");
        let from = self.at;
        let mut words = [""; 3];
        let mut count = 0;
        loop {
            let at = self.at;
            let word = self.take_while(|byte| byte.is_ascii_hexdigit());
            if word.is_empty() {
                return self.fail(EXPECTED);
            }
            if count == words.len() {
                return self.fail_at(at, EXPECTED);
            }
            words[count] = word;
            count += 1;
            if !self.eat(b':') {
                break;
            }
        }
        if count < 2 || !self.eat(b'.') {
            return self.fail(EXPECTED);
        }
        let function = self.take_while(|byte| byte.is_ascii_hexdigit());
        let [domain, bus, device] = match count {
            2 => ["0", words[0], words[1]],
            _ => words,
        };
        let byte = |word| u8::from_str_radix(word, 16).ok();
        let address = || {
            let domain = u32::from_str_radix(domain, 16).ok()?;
            PciAddress::new(domain, byte(bus)?, byte(device)?, byte(function)?)
        };
        let Some(address) = address() else { return self.fail_at(from, EXPECTED) };
        self.after_name("not allowed in a PCI address, as in 0000:00:03.0")?;
        Ok(address)
    }

    /// What follows a name must be able to follow one.
    fn after_name(&self, why: &'static str) -> Result<(), NameError> {
        match self.peek() {
            Some(b'{' | b'}') => self.fail(Pipe),
            Some(byte) if !AFTER_NAME.contains(&byte) => self.fail(Unexpected(why)),
            _ => Ok(()),
        }
    }

    fn rings(&mut self) -> Result<RingSel, NameError> {
        if self.eat(b'*') {
            return Ok(RingSel::All);
        }
        if self.eat(b'-') {
            return Ok(RingSel::One(self.ring()?));
        }
        if self.eat(b'^') {
            return Ok(match self.peek() {
                Some(b'0'..=b'9') => RingSel::HostOne(self.ring()?),
                _ => RingSel::Host,
            });
        }
        Ok(RingSel::All)
    }

    fn ring(&mut self) -> Result<u16, NameError> {
        let ring = self.number("a ring number", 0, RING_LIMIT - 1)?;
        Ok(u16::try_from(ring).expect("below RING_LIMIT, which fits 12 bits"))
    }

    /// A decimal number of `[low, high]`. An error about its value points at its first digit.
    fn number(&mut self, what: &'static str, low: u32, high: u32) -> Result<u32, NameError> {
        let from = self.at;
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if digits.is_empty() {
            return self.fail(NumberMissing(what));
        }
        match digits.parse::<u32>() {
            Ok(value) if (low..=high).contains(&value) => Ok(value),
            _ => self.fail_at(from, OutOfRange { what, low, high }),
        }
    }

    /// Flags, memory id and options, up to the end. libnetmap takes the id on either side of the
    /// flags, and so do we; printing settles on `/flags@id`.
    fn rest(&mut self, port: &mut PortName) -> Result<(), NameError> {
        let mut options = false;
        while self.peek().is_some() {
            if !options && self.eat(b'/') {
                self.flags(&mut port.flags)?;
            } else if self.eat(b'@') {
                if self.peek().is_some_and(|byte| byte.is_ascii_digit()) && !options {
                    let from = self.at;
                    let id = self.number("a memory id", 1, u16::MAX.into())?;
                    if port.mem_id.is_some() {
                        return self.fail_at(from, Contradiction("the memory id is given twice"));
                    }
                    port.mem_id = u16::try_from(id).ok();
                } else {
                    self.option(port)?;
                    options = true;
                }
            } else {
                return match self.peek() {
                    Some(b'{' | b'}') => self.fail(Unexpected(
                        "a pipe is named right behind its port, as in valeA:x{1-0",
                    )),
                    _ if options => {
                        self.fail(Unexpected("expected `,` and another key, `@` or the end"))
                    }
                    _ => {
                        self.fail(Unexpected("expected `/` and flags, `@` and options, or the end"))
                    }
                };
            }
        }
        Ok(())
    }

    fn flags(&mut self, flags: &mut NameFlags) -> Result<(), NameError> {
        const EXPECTED: &str = "expected a flag: x exclusive, z zero-copy monitor, t and r monitor \
                                of tx and rx, R and T rx or tx rings only";
        let from = self.at;
        while let Some(byte) = self.peek().filter(|byte| !matches!(byte, b'/' | b'@')) {
            let Some((_, flag)) = FLAG_LETTERS.iter().find(|(letter, _)| *letter == byte) else {
                return self.fail(Unexpected(EXPECTED));
            };
            *flags |= *flag;
            if flags.contains(NameFlags::RX_ONLY | NameFlags::TX_ONLY) {
                return self.fail(Contradiction(
                    "R and T exclude each other; with neither, both are bound",
                ));
            }
            self.at += 1;
        }
        if self.at == from { self.fail(Unexpected(EXPECTED)) } else { Ok(()) }
    }

    fn option(&mut self, port: &mut PortName) -> Result<(), NameError> {
        let from = self.at;
        let key = self.take_while(|byte| byte.is_ascii_alphabetic());
        match key {
            "conf" => {}
            "netns" => return self.netns(from, port),
            "share" => return self.fail_at(from, NameFault::Option("share")),
            "extmem" => return self.fail_at(from, NameFault::Option("extmem")),
            "offset" => return self.fail_at(from, NameFault::Option("offset")),
            _ => {
                return self.fail_at(
                    from,
                    Unexpected("expected a memory id (a number), `conf:` or `netns:`"),
                );
            }
        }
        if !self.eat(b':') {
            return self.fail(Missing("expected `:` and keys, as in @conf:rings=2,slots=512"));
        }
        loop {
            self.conf_key(port)?;
            if !self.eat(b',') {
                return Ok(());
            }
        }
    }

    /// The network namespace that an interface is in.
    fn netns(&mut self, from: usize, port: &mut PortName) -> Result<(), NameError> {
        if port.interface().is_none() {
            return self.fail_at(from, Unexpected("only an interface is in a network namespace"));
        }
        if port.netns.is_some() {
            return self.fail_at(from, Contradiction("the network namespace is given twice"));
        }
        if !self.eat(b':') {
            return self.fail(Missing("expected `:` and the namespace's name, as in @netns:blue"));
        }
        let start = self.at;
        let name = self.take_while(|byte| is_id(byte) || byte == b'.' || byte == b'-');
        if name.len() > NETNS_MOST {
            return self.fail_at(start + NETNS_MOST, TooLong("the name of a namespace"));
        }
        if name.is_empty() {
            return self.fail_at(start, Missing("the name of the namespace is missing"));
        }
        if [".", ".."].contains(&name) {
            let why = "expected the name of a namespace, as `ip netns list` has it, and no path";
            return self.fail_at(start, Unexpected(why));
        }
        port.netns = Some(name.to_owned());
        Ok(())
    }

    fn equals(&mut self) -> Result<(), NameError> {
        if self.eat(b'=') {
            return Ok(());
        }
        self.fail(Missing("expected `=` and a number after the key"))
    }

    /// What only a NIC behind AF_XDP can be asked for.
    fn xdp_key(&mut self, key: &str, from: usize, port: &mut PortName) -> Result<(), NameError> {
        if port.scheme.prefix != "xdp" {
            return self.fail_at(from, Unexpected("only xdp: ports have modes and busy polling"));
        }
        self.equals()?;
        if key == "busy-poll-us" {
            let most = BUSY_POLL_US_MOST;
            port.conf.busy_poll_us = Some(self.number("a number of microseconds", 1, most)?);
            return Ok(());
        }
        let at = self.at;
        let word = self.take_while(|byte| byte.is_ascii_alphabetic());
        let Some((_, mode)) = XdpMode::ALL.iter().find(|(spelling, _)| *spelling == word) else {
            return self.fail_at(at, Unexpected("expected a mode: zerocopy, native or generic"));
        };
        port.conf.xdp_mode = Some(*mode);
        Ok(())
    }

    /// What only an e1000 that is driven by us can be asked for.
    fn nic_key(&mut self, key: &str, from: usize, port: &mut PortName) -> Result<(), NameError> {
        if port.pci().is_none() {
            return self
                .fail_at(from, Unexpected("only e1000: ports have drivers, and can be forced"));
        }
        self.equals()?;
        let at = self.at;
        let word = self.take_while(|byte| byte.is_ascii_alphabetic());
        if key == "force" {
            if word != "yes" {
                return self.fail_at(at, Unexpected("expected force=yes"));
            }
            port.conf.force = true;
            return Ok(());
        }
        let Some((_, driver)) = NicDriver::ALL.iter().find(|(spelling, _)| *spelling == word)
        else {
            return self.fail_at(at, Unexpected("expected a driver: auto, plain, combine or csb"));
        };
        port.conf.driver = Some(*driver);
        Ok(())
    }

    fn conf_key(&mut self, port: &mut PortName) -> Result<(), NameError> {
        let from = self.at;
        let key = self.take_while(|byte| byte.is_ascii_alphabetic() || byte == b'-');
        if matches!(key, "mode" | "busy-poll-us") {
            return self.xdp_key(key, from, port);
        }
        if matches!(key, "driver" | "force") {
            return self.nic_key(key, from, port);
        }
        let conf = &mut port.conf;
        if key == "mem-mib" {
            self.equals()?;
            conf.mem_mib = Some(self.number("a number of MiB", 1, MEM_MIB_MOST)?);
            return Ok(());
        }
        if key == "vnet-hdr" {
            self.equals()?;
            let from = self.at;
            let len = self.number("a header's length", 0, u8::MAX.into())? as u8;
            if ![0, 10, 12].contains(&len) {
                return self.fail_at(from, Unexpected("expected 0, 10 or 12 bytes"));
            }
            conf.vnet_hdr_len = Some(len);
            return Ok(());
        }
        let (host, noun) = match key.strip_prefix("host-") {
            Some(noun) => (true, noun),
            None => (false, key),
        };
        let (tx, rx, noun) = match noun.split_once('-') {
            Some(("tx", noun)) => (true, false, noun),
            Some(("rx", noun)) => (false, true, noun),
            _ => (true, true, noun),
        };
        if noun != "rings" && (noun != "slots" || host) {
            let expected = "expected rings, slots, tx- or rx- of them, host-rings, host-tx-, host-rx-, \
                            mem-mib, vnet-hdr, of an xdp: port mode or busy-poll-us, of an e1000: port driver or \
                            force";
            return self.fail_at(from, Unexpected(expected));
        }
        self.equals()?;
        if noun == "slots" {
            let slots = Some(self.number("a number of slots", 1, u32::MAX)?);
            conf.tx_slots = if tx { slots } else { conf.tx_slots };
            conf.rx_slots = if rx { slots } else { conf.rx_slots };
            return Ok(());
        }
        let rings = u16::try_from(self.number("a number of rings", 1, RING_LIMIT)?).ok();
        let (for_tx, for_rx) = match host {
            true => (&mut conf.host_tx_rings, &mut conf.host_rx_rings),
            false => (&mut conf.tx_rings, &mut conf.rx_rings),
        };
        *for_tx = if tx { rings } else { *for_tx };
        *for_rx = if rx { rings } else { *for_rx };
        Ok(())
    }
}

/// `nm_is_id_char` of the kernel.
fn is_id(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
