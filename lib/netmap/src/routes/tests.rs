use super::*;

fn message(kind: u16, body: &[u8]) -> Message<'_> {
    Message { kind, sequence: 0, body }
}

fn with(mut body: Vec<u8>, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    for (kind, value) in attributes {
        attribute(&mut body, *kind, value).unwrap();
    }
    body
}

fn route(prefix: u8, table: u8, kind: u8) -> Vec<u8> {
    vec![2, prefix, 0, 0, table, 0, 0, kind, 0, 0, 0, 0]
}

fn read(body: &[u8]) -> Option<Route> {
    Route::of(&message(libc::RTM_NEWROUTE, body))
}

#[test]
fn default_routes_are_told_from_others() {
    let oif = (libc::RTA_OIF, &7_u32.to_ne_bytes()[..]);
    let plain = read(&with(route(0, 254, 1), &[oif])).unwrap();
    let wanted = Route { family: 2, table: 254, is_default: true, interfaces: vec![7], hop: None };
    assert_eq!(plain, wanted);
    // Half of all addresses; a refusal; a blackhole.
    for (prefix, kind) in [(1, 1), (0, 7), (0, 6)] {
        assert!(!read(&with(route(prefix, 254, kind), &[oif])).unwrap().is_default);
    }
    let far = (libc::RTA_TABLE, &70000_u32.to_ne_bytes()[..]);
    assert_eq!(read(&with(route(0, 252, 1), &[far])).unwrap().table, 70000);
    let object = (RTA_NH_ID, &9_u32.to_ne_bytes()[..]);
    assert_eq!(read(&with(route(0, 254, 1), &[object])).unwrap().hop, Some(9));
    assert_eq!(read(&route(0, 254, 1)[..11]), None);
    assert_eq!(Route::of(&message(libc::RTM_DELROUTE, &route(0, 254, 1))), None);
}

#[test]
fn each_of_several_next_hops_counts_and_lengths_that_cannot_be_end_them() {
    let hop = |len: u16, interface: i32, rest: &[u8]| {
        [&len.to_ne_bytes()[..], &[0; 2], &interface.to_ne_bytes(), rest].concat()
    };
    let two = [hop(16, 3, &[0; 8]), hop(8, 4, &[])].concat();
    let route = read(&with(route(0, 254, 1), &[(libc::RTA_MULTIPATH, &two)])).unwrap();
    assert_eq!(route.interfaces, [3, 4]);
    for len in [0, 7, 9, u16::MAX] {
        assert_eq!(hops(&hop(len, 3, &[])).count(), 0, "{len}");
    }
}

#[test]
fn objects_of_next_hops_have_an_interface_or_members() {
    let word = |number: u32| number.to_ne_bytes();
    let single = with(vec![0; NEXTHOP_BYTES], &[(NHA_ID, &word(5)), (NHA_OIF, &word(3))]);
    let single = Hop::of(&message(104, &single)).unwrap();
    assert_eq!(single, Hop { id: 5, interface: Some(3), group: vec![] });
    let members = [&word(5)[..], &[0; 4], &word(6), &[0; 4], &[1; 3]].concat();
    let group = with(vec![0; NEXTHOP_BYTES], &[(NHA_ID, &word(9)), (NHA_GROUP, &members)]);
    let group = Hop::of(&message(104, &group)).unwrap();
    assert_eq!(group, Hop { id: 9, interface: None, group: vec![5, 6] });
    assert_eq!(Hop::of(&message(104, &[0; 3])), None);
}

#[test]
fn rules_lead_to_tables_unless_they_hide_default_routes() {
    let links = Links(BTreeMap::from([
        (1, Link::default()),
        (2, Link { vrf_table: Some(10), ..Link::default() }),
    ]));
    let rule = |table: u8, action: u8, attributes: &[(u16, &[u8])]| {
        let head = vec![2, 0, 0, 0, table, 0, 0, action, 0, 0, 0, 0];
        tables_of_rule(&with(head, attributes), &links)
    };
    assert_eq!(rule(254, 1, &[]), [254]);
    assert_eq!(rule(252, 1, &[(FRA_TABLE, &70000_u32.to_ne_bytes())]), [70000]);
    assert_eq!(rule(0, 1, &[(FRA_L3MDEV, &[1])]), [10]);
    // A blackhole; a jump.
    assert!(rule(0, 6, &[]).is_empty() && rule(0, 2, &[]).is_empty());
    // As `wg-quick` has it; and as the kernel says that nothing is hidden.
    assert!(rule(254, 1, &[(FRA_SUPPRESS_PREFIXLEN, &[0; 4])]).is_empty());
    assert_eq!(rule(254, 1, &[(FRA_SUPPRESS_PREFIXLEN, &[0xff; 4])]), [254]);
    assert!(tables_of_rule(&[2; 5], &links).is_empty());
}

#[test]
fn what_an_interface_carries_is_found_up_to_the_top() {
    let mut links = Links::default();
    let mut add = |index: i32, name: &str, kind: &[u8], more: &[(u16, &[u8])]| {
        let mut head = vec![0; LINK_BYTES];
        head[4..8].copy_from_slice(&index.to_ne_bytes());
        let info = with(Vec::new(), &[(IFLA_INFO_KIND, kind)]);
        let all = [(libc::IFLA_IFNAME, name.as_bytes()), (libc::IFLA_LINKINFO, &info)];
        let body = with(head, &[&all[..], more].concat());
        links.hear(&message(libc::RTM_NEWLINK, &body));
    };
    let word = |number: u32| number.to_ne_bytes();
    add(1, "eth0\0", b"\0", &[(libc::IFLA_MASTER, &word(3))]);
    add(2, "eth1\0", b"\0", &[]);
    add(3, "bond0\0", b"bond\0", &[]);
    add(4, "bond0.7\0", b"vlan\0", &[(libc::IFLA_LINK, &word(3)), (libc::IFLA_MASTER, &word(5))]);
    add(5, "br0\0", b"bridge\0", &[]);
    // The other end of a cable is not below; what is below in another namespace has that one's number.
    add(6, "v0\0", b"veth\0", &[(libc::IFLA_LINK, &word(2))]);
    let elsewhere = [(libc::IFLA_LINK, &word(2)[..]), (libc::IFLA_LINK_NETNSID, &word(0)[..])];
    add(7, "mv0\0", b"macvlan\0", &elsewhere);
    // Rings of interfaces end.
    add(8, "x\0", b"\0", &[(libc::IFLA_MASTER, &word(9))]);
    add(9, "y\0", b"\0", &[(libc::IFLA_MASTER, &word(8)), (libc::IFLA_LINK, &word(9))]);
    let carried = |name: &str| {
        let index = links.named(name).unwrap();
        links.carried_by(index).collect::<Vec<_>>()
    };
    assert_eq!(carried("eth0"), [1, 3, 4, 5]);
    assert_eq!(carried("eth1"), [2]);
    assert_eq!(carried("x"), [8, 9]);
    assert_eq!(links.named("none"), None);
}

#[test]
fn words_say_which_interface_the_route_names() {
    let route = |through: &str| DefaultRoute { interface: "eth0".into(), through: through.into() };
    assert_eq!(route("eth0").to_string(), "default route goes through eth0");
    assert_eq!(route("br0").to_string(), "default route goes through br0, which eth0 carries");
}

#[test]
fn tables_of_this_host_can_be_read() {
    assert_eq!(default_through("nm-no-such-if").unwrap(), None);
    let links = Links::read().unwrap();
    assert!(links.named("lo").is_some(), "{links:?}");
    defaults(&links).unwrap();
    assert!(tables(FAMILIES[0], &links).unwrap().contains(&ALWAYS[0]));
}
