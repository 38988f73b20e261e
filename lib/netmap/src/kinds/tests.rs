//! Tests of the port name grammar: a table of good names with their canonical spelling, a table of
//! bad ones with the place of the error, and the two properties (round trip, no panic).

use proptest::prelude::*;

use super::*;
use crate::name::{
    Address, Conf, Dashes, NameFlags, NicDriver, PciAddress, RingSel, SwitchPort, Syntax, XdpMode,
    parse_switch, valid_name, valid_port,
};

static VALE: Kind = vale::KIND;
static TAP: Kind = tap::KIND;
static KERNEL: Kind = kernel::KIND;
static NULL: Kind = null::KIND;
static XDP: Kind = xdp::KIND;
static E1000: Kind = e1000::KIND;

/// As given, as printed.
const GOOD: &[(&str, &str)] = &[
    ("valeA:x", "valeA:x"),
    ("vale:x", "vale:x"),
    ("vale0:eth0", "vale0:eth0"),
    ("vale_long_name1:port_15_letters", "vale_long_name1:port_15_letters"),
    ("valeA:x*", "valeA:x"),
    ("valeA:x-3", "valeA:x-3"),
    ("valeA:x-4094", "valeA:x-4094"),
    ("valeA:x/x", "valeA:x/x"),
    ("valeA:x-0/Tx", "valeA:x-0/xT"),
    ("valeA:x/R@7", "valeA:x/R@7"),
    ("valeA:x@7/R", "valeA:x/R@7"),
    ("valeA:x/x/R", "valeA:x/xR"),
    ("valeA:x@65535", "valeA:x@65535"),
    ("valeA:x@conf:rings=4", "valeA:x@conf:rings=4"),
    ("valeA:x@conf:slots=256,rings=2", "valeA:x@conf:rings=2,slots=256"),
    ("valeA:x@conf:tx-rings=4,rx-rings=2", "valeA:x@conf:tx-rings=4,rx-rings=2"),
    ("valeA:x@conf:rings=4,rx-rings=2", "valeA:x@conf:tx-rings=4,rx-rings=2"),
    ("valeA:x@conf:tx-slots=64@conf:rx-slots=64", "valeA:x@conf:slots=64"),
    ("valeA:x@conf:vnet-hdr=12,rings=2", "valeA:x@conf:rings=2,vnet-hdr=12"),
    ("valeA:x@conf:vnet-hdr=0", "valeA:x@conf:vnet-hdr=0"),
    ("valeA:x@conf:mem-mib=64,slots=64", "valeA:x@conf:slots=64,mem-mib=64"),
    ("netmap:eth0^@conf:host-rings=2", "netmap:eth0^@conf:host-rings=2"),
    ("netmap:eth0@conf:host-tx-rings=2", "netmap:eth0@conf:host-tx-rings=2"),
    ("valeA:x-1/zr@3@conf:rings=2", "valeA:x-1/zr@3@conf:rings=2"),
    ("eth0", "netmap:eth0"),
    ("eth0^", "netmap:eth0^"),
    ("eth0^2", "netmap:eth0^2"),
    ("enp3s0f0.100", "netmap:enp3s0f0.100"),
    ("netmap:eth0-2/x", "netmap:eth0-2/x"),
    ("xdp:eth0", "xdp:eth0"),
    ("xdp:eth0^", "xdp:eth0^"),
    ("xdp:enp3s0f0.100-2/R", "xdp:enp3s0f0.100-2/R"),
    (
        "xdp:eth0@conf:busy-poll-us=20,mode=generic,rings=2",
        "xdp:eth0@conf:rings=2,mode=generic,busy-poll-us=20",
    ),
    ("e1000:0000:00:03.0", "e1000:0000:00:03.0"),
    ("e1000:00:1f.7-0/x", "e1000:0000:00:1f.7-0/x"),
    ("e1000:10000:FF:03.0", "e1000:10000:ff:03.0"),
    (
        "e1000:0000:00:03.0@conf:force=yes,driver=csb,slots=256",
        "e1000:0000:00:03.0@conf:slots=256,driver=csb,force=yes",
    ),
    ("xdp:br-a1b2c3d4e5f6", "xdp:br-a1b2c3d4e5f6"),
    ("xdp:veth-a-2@netns:b", "xdp:veth-a-2@netns:b"),
    ("xdp:veth-2*", "xdp:veth-2*"),
    ("xdp:veth-a*", "xdp:veth-a"),
    ("xdp:veth-2^", "xdp:veth-2^"),
    ("xdp:veth-2-0/x", "xdp:veth-2-0/x"),
    ("xdp:veth--", "xdp:veth--"),
    ("tap0", "tap:tap0"),
    ("tap", "tap:tap"),
    ("tap:t0", "tap:t0"),
    ("tap:t0-0", "tap:t0-0"),
    ("tap:vm-1-net0/R", "tap:vm-1-net0/R"),
    ("tap-vm1@conf:slots=64", "tap:tap-vm1@conf:slots=64"),
    ("tap:t0@conf:rings=4@netns:c-1.x", "tap:t0@conf:rings=4@netns:c-1.x"),
    ("tap0@netns:blue@conf:slots=64", "tap:tap0@conf:slots=64@netns:blue"),
    ("null", "null:"),
    ("null:", "null:"),
    ("null-1", "null:-1"),
    ("nullius", "netmap:nullius"),
    ("pcap:trace.pcap", "pcap:trace.pcap"),
    ("pcap:/tmp/a b/{x}@1.pcap", "pcap:/tmp/a b/{x}@1.pcap"),
    ("pcap:-", "pcap:-"),
    ("stream:/run/vm1", "stream:/run/vm1"),
    ("stream:vm 1/{x}@1,server", "stream:vm 1/{x}@1,server"),
    ("dgram:/run/vm1,/run/vm2", "dgram:/run/vm1,/run/vm2"),
    ("dgram:vm1,vm2", "dgram:vm1,vm2"),
    ("stream:a,b,client", "stream:a,b,client"),
    ("stream:a,b/c", "stream:a,b/c"),
];

/// As given, byte of the caret, a part of the message.
const BAD: &[(&str, usize, &str)] = &[
    ("", 0, "empty"),
    ("valeA", 5, "`:` and a port are missing"),
    ("valeA:", 6, "port is missing"),
    ("valeA:x:y", 7, "port name"),
    ("valeA:x.y", 7, "port name"),
    ("valeA:../x", 6, "port is missing"),
    ("vale../A:x", 4, "switch name"),
    ("vale/A:x", 4, "switch name"),
    ("valeA:x y", 7, "port name"),
    ("valeA:\u{e4}", 6, "port is missing"),
    ("valeA:x\u{e4}", 7, "port name"),
    ("vale_long_name12:x", 15, "at most 15"),
    ("valeA:port_16_letters_", 21, "at most 15"),
    ("valeA:x{", 8, "pipe's id is missing"),
    ("valeA:x}", 8, "pipe's id is missing"),
    ("valeA:{1", 6, "port is missing"),
    ("valeA:x{1}2", 9, "no pipes of its own"),
    ("valeA:x{1.2", 9, "port name"),
    ("valeA:x{pipe_16_letters_", 23, "at most 15"),
    ("valeA:x-0{1", 9, "right behind its port"),
    ("netmap:eth0{a", 11, "only ports of switches"),
    ("eth0}a", 4, "only ports of switches"),
    ("valeA:x-", 8, "ring number is missing"),
    ("valeA:x-y", 8, "ring number is missing"),
    ("valeA:x-4095", 8, "between 0 and 4094"),
    ("valeA:x-99999999999999999999", 8, "between 0 and 4094"),
    ("valeA:x-1z", 9, "expected `/`"),
    ("valeA:x*^", 8, "expected `/`"),
    ("valeA:x/", 8, "expected a flag"),
    ("valeA:x/xq", 9, "expected a flag"),
    ("valeA:x/RT", 9, "exclude each other"),
    ("valeA:x/T/R", 10, "exclude each other"),
    ("valeA:x@0", 8, "between 1 and 65535"),
    ("valeA:x@65536", 8, "between 1 and 65535"),
    ("valeA:x@1@2", 10, "given twice"),
    ("valeA:x@", 8, "memory id"),
    ("valeA:x@konf:rings=1", 8, "memory id"),
    ("valeA:x@extmem:file=/tmp/x", 8, "not supported yet"),
    ("valeA:x@share:y", 8, "not supported yet"),
    ("valeA:x@conf", 12, "expected `:`"),
    ("valeA:x@conf:", 13, "expected rings"),
    ("valeA:x@conf:ring=1", 13, "expected rings"),
    ("valeA:x@conf:host-slots=1", 13, "expected rings"),
    ("valeA:x@conf:rings", 18, "expected `=`"),
    ("valeA:x@conf:rings=", 19, "missing"),
    ("valeA:x@conf:rings=0", 19, "between 1"),
    ("valeA:x@conf:rings=2,", 21, "expected rings"),
    ("valeA:x@conf:mem-mib=529", 21, "between 1 and 528"),
    ("valeA:x@conf:vnet-hdr=11", 22, "0, 10 or 12"),
    ("valeA:x@conf:vnet-hdr=256", 22, "between 0 and 255"),
    ("valeA:x@conf:rings=2x", 20, "expected `,`"),
    ("valeA:x@conf:rings=2/x", 20, "expected `,`"),
    ("valeA:x@conf:rings=2@1", 21, "memory id"),
    ("tap:", 4, "interface name is missing"),
    ("tap:.", 4, "no interface"),
    ("tap:..", 4, "no interface"),
    ("tap:a/b", 6, "expected a flag"),
    ("tap:interface_16_let", 19, "at most 15"),
    ("tap:t%d", 5, "interface name"),
    ("tap:t0@netns", 12, "expected `:`"),
    ("tap:t0@netns:", 13, "name of the namespace is missing"),
    ("tap:t0@netns:..", 13, "and no path"),
    ("tap:t0@netns:../b", 13, "and no path"),
    ("tap:t0@netns:a/b", 14, "expected `,`"),
    ("tap:t0@netns:a@netns:b", 15, "given twice"),
    ("valeA:x@netns:a", 8, "only an interface"),
    ("..", 0, "no interface"),
    ("../x", 0, "no interface"),
    ("/x", 0, "interface name is missing"),
    ("pcap:", 5, "file name is missing"),
    ("pcap:a\0b", 6, "NUL"),
    ("xdpx:eth0", 0, "no such kind"),
    ("xdp:", 4, "interface name is missing"),
    ("xdp:-2", 4, "interface name is missing"),
    ("xdp:veth-9999", 9, "between 0 and 4094"),
    ("xdp:interface-16-let-2", 19, "at most 15"),
    ("netmap:veth-a", 12, "ring number is missing"),
    ("xdp:eth0@conf:mode=", 19, "expected a mode"),
    ("xdp:eth0@conf:mode=drv", 19, "expected a mode"),
    ("xdp:eth0@conf:busy-poll-us=0", 27, "between 1"),
    ("valeA:x@conf:mode=native", 13, "only xdp:"),
    ("tap:t0@conf:rings=1,busy-poll-us=9", 20, "only xdp:"),
    ("e1000:", 6, "PCI address"),
    ("e1000:eth0", 7, "PCI address"),
    ("e1000:03.0", 8, "PCI address"),
    ("e1000:0000:00:03", 16, "PCI address"),
    ("e1000:0000:00:20.0", 6, "PCI address"),
    ("e1000:0000:00:03.8", 6, "PCI address"),
    ("e1000:0000:100:03.0", 6, "PCI address"),
    ("e1000:0:0:0:3.0", 12, "PCI address"),
    ("e1000:0000:00:03.0x", 18, "PCI address"),
    ("e1000:0000:00:03.", 6, "PCI address"),
    ("e1000:0000:00:03.0{1", 18, "only ports of switches"),
    ("e1000:0000:00:03.0@conf:driver=fast", 31, "expected a driver"),
    ("e1000:0000:00:03.0@conf:force=no", 30, "expected force=yes"),
    ("tap:t0@conf:driver=csb", 12, "only e1000:"),
    ("e1000:0000:00:03.0@netns:a", 19, "only an interface"),
    ("stream:", 7, "path is missing"),
    ("stream:a\0b", 8, "NUL"),
    ("stream:,server", 7, "path is missing"),
    ("stream:/run/vm1,sever", 16, "`server` or `client`"),
    ("stream:a,client,b", 16, "`server` or `client`"),
    ("dgram:,/run/peer", 6, "path is missing"),
    ("dgram:own,", 10, "behind the comma"),
    ("dgram:", 6, "path is missing"),
    ("foo:bar", 0, "no such kind"),
    (":x", 0, "no such kind"),
    ("null:x", 5, "expected `/`"),
];

#[test]
fn parse_good_name_prints_canonically_and_round_trips() {
    for (given, printed) in GOOD {
        let name = parse(given).unwrap_or_else(|error| panic!("{given}: {error}"));
        assert_eq!(name.to_string(), *printed, "{given}");
        assert_eq!(parse(printed).as_ref(), Ok(&name), "{given}");
        assert_eq!(name.check(), Ok(()), "{given}");
    }
}

#[test]
fn parse_bad_name_points_at_offending_character() {
    for (given, at, why) in BAD {
        let error = parse(given).expect_err(given);
        assert_eq!((error.at, error.name.as_str()), (*at, *given), "{given}: {error}");
        assert!(error.fault.to_string().contains(why), "{given}: {error}");
    }
}

#[test]
fn parse_takes_name_apart() {
    let name = parse("valeA:x-1/xT@3@conf:rings=2,tx-slots=512").unwrap();
    let expected = PortName {
        scheme: &VALE.scheme,
        address: Address::SwitchPort { switch: "valeA".into(), port: "x".into() },
        rings: RingSel::One(1),
        mem_id: Some(3),
        flags: NameFlags::EXCLUSIVE | NameFlags::TX_ONLY,
        conf: Conf { tx_rings: Some(2), rx_rings: Some(2), tx_slots: Some(512), ..Conf::default() },
        netns: None,
    };
    assert_eq!(name, expected);
}

#[test]
fn dashes_in_the_name_of_a_nic_and_before_its_ring_are_told_apart() {
    for (given, interface, rings) in [
        ("xdp:veth-a", "veth-a", RingSel::All),
        ("xdp:veth-2", "veth", RingSel::One(2)),
        ("xdp:veth-2*", "veth-2", RingSel::All),
        ("xdp:veth-2-0", "veth-2", RingSel::One(0)),
        ("xdp:veth-2^", "veth-2", RingSel::Host),
        ("xdp:veth-a^", "veth-a", RingSel::Host),
    ] {
        let name = parse(given).unwrap();
        assert_eq!((name.interface(), name.rings), (Some(interface), rings), "{given}");
    }
}

#[test]
fn error_display_puts_caret_under_character() {
    let text = parse("valeA:x-y").unwrap_err().to_string();
    assert_eq!(text, "bad port name: a ring number is missing here\n  valeA:x-y\n          ^");
}

#[test]
fn error_display_of_long_or_unprintable_name_stays_short_and_clean() {
    let long = format!("pcap:{}\0{}", "a".repeat(5000), "b".repeat(5000));
    let text = parse(&long).unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(text.len() < 300, "{text}");
    assert_eq!(lines[1].chars().position(|c| c == '\u{fffd}'), lines[2].find('^'));
    assert!(!parse("valeA:x\x1b[31m").unwrap_err().to_string().contains('\x1b'));
}

#[test]
fn check_refuses_fields_that_no_name_could_give() {
    let vale = |switch: &str, port: &str| {
        let address = Address::SwitchPort { switch: switch.into(), port: port.into() };
        PortName::new(&VALE.scheme, address)
    };
    assert_eq!(vale("valeA", "x").check(), Ok(()));
    assert_eq!(vale("valeA", "x").with_rings(RingSel::Nic).check(), Ok(()));
    for (switch, port) in [("../x", "x"), ("valeA", "../x"), ("valeA", "x-1"), ("tap", "x")] {
        assert!(vale(switch, port).check().is_err(), "{switch} {port}");
    }
    let interface = |scheme, name: &str| PortName::new(scheme, Address::Interface(name.into()));
    assert!(interface(&TAP.scheme, "a/b").check().is_err());
    assert!(interface(&KERNEL.scheme, "tap:x").check().is_err());
}

#[test]
fn parse_switch_takes_name_with_and_without_colon() {
    assert_eq!(parse_switch("valeA").as_deref(), Ok("valeA"));
    assert_eq!(parse_switch("vale:").as_deref(), Ok("vale"));
    for (given, at) in [("valeA:x", 6), ("A", 0), ("valeA/", 5), ("vale_long_name12", 15)] {
        assert_eq!(parse_switch(given).unwrap_err().at, at, "{given}");
    }
}

fn plain_name() -> impl Strategy<Value = PortName> {
    let interface =
        |kind: &'static Kind| move |name| PortName::new(&kind.scheme, Address::Interface(name));
    prop_oneof![
        ("vale[0-9A-Za-z_]{0,11}", "[0-9A-Za-z_]{1,15}([{}][0-9A-Za-z_]{1,15})?").prop_map(
            |(switch, port)| { PortName::new(&VALE.scheme, Address::SwitchPort { switch, port }) }
        ),
        "[0-9A-Za-z_][0-9A-Za-z_.-]{0,14}".prop_map(interface(&TAP)),
        "[0-9A-Za-z_][0-9A-Za-z_.]{0,14}".prop_map(interface(&KERNEL)),
        "[0-9A-Za-z_][0-9A-Za-z_.-]{0,14}".prop_map(interface(&XDP)),
        (any::<u32>(), any::<u8>(), 0..32u8, 0..8u8).prop_map(|(domain, bus, device, function)| {
            let address = PciAddress::new(domain, bus, device, function).expect("in range");
            PortName::new(&E1000.scheme, Address::Pci(address))
        }),
        Just(PortName::new(&NULL.scheme, Address::Nothing)),
    ]
}

fn port_name() -> impl Strategy<Value = PortName> {
    let rings = prop_oneof![
        Just(RingSel::All),
        Just(RingSel::Host),
        (0..4095u16).prop_map(RingSel::One),
        (0..4095u16).prop_map(RingSel::HostOne),
    ];
    let count = || prop::option::of(1..=4095u16);
    let mem = prop::option::of(1..=528u32);
    let conf = (count(), count(), count(), count(), any::<[Option<u32>; 2]>(), mem).prop_map(
        |(tx_rings, rx_rings, host_tx_rings, host_rx_rings, slots, mem_mib)| Conf {
            mem_mib,
            xdp_mode: None,
            busy_poll_us: None,
            driver: None,
            force: false,
            vnet_hdr_len: mem_mib.map(|mib| [0, 10, 12][mib as usize % 3]),
            tx_rings,
            rx_rings,
            host_tx_rings,
            host_rx_rings,
            tx_slots: slots[0].filter(|slots| *slots > 0),
            rx_slots: slots[1].filter(|slots| *slots > 0),
        },
    );
    let flags = any::<u8>().prop_map(|bits| {
        let flags = NameFlags::from_bits_truncate(bits);
        if flags.contains(NameFlags::RX_ONLY) { flags - NameFlags::TX_ONLY } else { flags }
    });
    let mem_id = prop::option::of(1..=u16::MAX);
    let netns = prop::option::of("[0-9A-Za-z_][0-9A-Za-z_.-]{0,20}");
    let mode = prop::option::of(prop_oneof![Just(XdpMode::Native), Just(XdpMode::Generic)]);
    let of_xdp = (mode, prop::option::of(1..=100_000u32));
    let driver = prop::option::of((0..NicDriver::ALL.len()).prop_map(|i| NicDriver::ALL[i].1));
    let of_e1000 = (driver, any::<bool>());
    let all = (plain_name(), rings, mem_id, flags, conf, netns, of_xdp, of_e1000);
    all.prop_map(|(name, rings, mem_id, flags, mut conf, netns, of_xdp, of_e1000)| {
        if name.pci().is_some() {
            (conf.driver, conf.force) = of_e1000;
        }
        if name.scheme.prefix == "xdp" {
            (conf.xdp_mode, conf.busy_poll_us) = of_xdp;
        }
        // Rings of names with dashes cannot be chosen by number.
        let dashes = name.scheme.syntax == Syntax::Interface { dashes: Dashes::InName };
        let rings = match rings {
            RingSel::One(_) if dashes => RingSel::All,
            rings => rings,
        };
        let netns = netns.filter(|_| name.interface().is_some());
        PortName { rings, mem_id, flags, conf, netns, ..name }
    })
}

proptest! {
    #[test]
    fn display_then_parse_gives_same_name(name in port_name()) {
        prop_assert_eq!(parse(&name.to_string()), Ok(name));
    }

    #[test]
    fn parse_anything_never_panics_and_errs_on_a_boundary(text in any::<String>()) {
        if let Err(error) = parse(&text) {
            prop_assert!(text.is_char_boundary(error.at));
            prop_assert!(!error.to_string().is_empty());
        }
        let _ = parse_switch(&text);
    }

    /// Text near the grammar gets deeper into it than random text does.
    #[test]
    fn parse_of_mutated_name_is_canonical_or_refused(
        name in port_name(), at in any::<prop::sample::Index>(), with in "[-*^/@{}:=,.x0-9\u{e4}\0]{0,3}"
    ) {
        let mut text = name.to_string();
        text.insert_str(at.index(text.len() + 1), &with);
        if let Ok(name) = parse(&text) {
            prop_assert_eq!(parse(&name.to_string()), Ok(name.clone()));
            if let Some(SwitchPort { switch, port }) = name.switch_port() {
                prop_assert!(valid_name(switch) && valid_port(port));
                prop_assert!(switch.len() < 16 && !port.is_empty());
            }
        }
    }
}

#[test]
fn dash_belongs_to_the_name_of_a_tap() {
    for (name, tap) in [("tap:tapq9-0", "tapq9-0"), ("tap-vm1", "tap-vm1"), ("tap:-", "-")] {
        let parsed = parse(name).unwrap();
        assert_eq!((parsed.interface(), parsed.rings), (Some(tap), RingSel::All));
    }
    // There is no spelling for a ring of a tap, so nothing may be read as one.
    let one =
        PortName::new(&TAP.scheme, Address::Interface("t0".into())).with_rings(RingSel::One(0));
    assert!(one.check().is_err());
}
