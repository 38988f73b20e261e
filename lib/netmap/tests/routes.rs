//! Default routes as the kernel has them, in a network namespace: which of them go through a NIC that `xdp:` would take.

use std::process::Command;

#[path = "../../nm-cli/tests/netns/mod.rs"]
mod netns;
#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skip;

use netmap::control;
use netns::Namespace;
use skip::skip;

/// A namespace with two cables, `a0` and `b0`, whose other ends are `a1` and `b1`.
fn scene(test: &str, role: &str) -> Option<Namespace> {
    let namespace = match Namespace::new(role) {
        Ok(namespace) => namespace,
        Err(why) => {
            skip(test, &why);
            return None;
        }
    };
    for cable in ["a", "b"] {
        namespace.ip(&format!("link add {cable}0 type veth peer name {cable}1"));
        for end in ["0", "1"] {
            namespace.ip(&format!("link set {cable}{end} up"));
        }
    }
    Some(namespace)
}

/// The interface that the default route through `nic` names.
fn through(namespace: &Namespace, nic: &str) -> Option<String> {
    let name = format!("xdp:{nic}@netns:{}", namespace.0).parse().expect("a name");
    let route = control::takes_default_route(&name).expect("looked");
    route.map(|route| route.through)
}

/// Does it, and whether `ip` could.
fn can(namespace: &Namespace, line: &str) -> bool {
    namespace.try_ip(line).status.success()
}

#[test]
fn default_route_of_any_table_that_a_rule_reaches_counts() {
    const TEST: &str = "default_route_of_any_table_that_a_rule_reaches_counts";
    let Some(ns) = scene(TEST, "tables") else { return };
    for (family, from) in [("-4", "10.7.0.0/16"), ("-6", "fd07::/16")] {
        if !can(&ns, &format!("{family} route add default dev a0 table 70000")) {
            skip(TEST, &format!("family {family}: no such routes here"));
            continue;
        }
        assert_eq!(through(&ns, "a0"), None, "{family}: no rule leads there");
        if !can(&ns, &format!("{family} rule add from {from} lookup 70000")) {
            skip(TEST, &format!("family {family}: no rules here"));
            continue;
        }
        assert_eq!(through(&ns, "a0").as_deref(), Some("a0"), "{family}");
        for other in ["a1", "b0"] {
            assert_eq!(through(&ns, other), None, "{family}");
        }
        ns.ip(&format!("{family} rule del from {from} lookup 70000"));
        ns.ip(&format!("{family} rule add lookup 70000 suppress_prefixlength 0"));
        assert_eq!(through(&ns, "a0"), None, "{family}: the rule hides default routes");
        ns.ip(&format!("{family} rule del lookup 70000"));
        // A table that is not there; another's refusal.
        ns.ip(&format!("{family} rule add lookup 70001"));
        ns.ip(&format!("{family} rule add lookup 70002"));
        ns.ip(&format!("{family} route add unreachable default table 70002"));
        assert_eq!(through(&ns, "a0"), None, "{family}");
    }
}

#[test]
fn default_route_is_found_behind_many_others() {
    const TEST: &str = "default_route_is_found_behind_many_others";
    let Some(ns) = scene(TEST, "many") else { return };
    ns.ip("route add default dev b0 metric 7");
    let routes: String = (0..20_000)
        .map(|n| format!("route add 10.{}.{}.{}/32 dev a0\n", n >> 16, n >> 8 & 255, n & 255))
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), routes).expect("written");
    ns.ip(&format!("-batch {}", file.path().display()));
    assert_eq!(through(&ns, "b0").as_deref(), Some("b0"));
    assert_eq!(through(&ns, "a0"), None);
    ns.ip("route add default dev a0 metric 8");
    assert_eq!(through(&ns, "a0").as_deref(), Some("a0"));
}

#[test]
fn each_next_hop_of_a_default_route_counts() {
    const TEST: &str = "each_next_hop_of_a_default_route_counts";
    let Some(ns) = scene(TEST, "hops") else { return };
    let both = |what: &str| {
        for nic in ["a0", "b0"] {
            assert_eq!(through(&ns, nic).as_deref(), Some(nic), "{what}");
        }
        assert_eq!(through(&ns, "b1"), None, "{what}");
    };
    // Of IPv6 they need gateways.
    for (family, hops) in [
        ("-4", "nexthop dev a0 nexthop dev b0"),
        ("-6", "nexthop via fe80::1 dev a0 nexthop via fe80::2 dev b0"),
    ] {
        if can(&ns, &format!("{family} route add default {hops}")) {
            both(family);
            ns.ip(&format!("{family} route del default"));
            assert_eq!(through(&ns, "b0"), None, "{family}");
        } else {
            skip(TEST, &format!("family {family}: several next hops"));
        }
    }
    if !can(&ns, "nexthop add id 5 dev a0") {
        return skip(TEST, "objects of next hops: the kernel has none");
    }
    ns.ip("nexthop add id 6 dev b0");
    ns.ip("nexthop add id 9 group 5/6");
    for compatible in ["1", "0"] {
        let mut set = Command::new("sh");
        set.args(["-c", &format!("echo {compatible} >/proc/sys/net/ipv4/nexthop_compat_mode")]);
        assert!(ns.exec(&set).status().expect("sh runs").success());
        ns.ip("route add default nhid 9");
        both("a group");
        ns.ip("route replace default nhid 6");
        assert_eq!(through(&ns, "b0").as_deref(), Some("b0"));
        assert_eq!(through(&ns, "a0"), None);
        ns.ip("route del default");
        assert_eq!(through(&ns, "b0"), None);
    }
}

#[test]
fn what_carries_the_interface_of_a_default_route_counts() {
    const TEST: &str = "what_carries_the_interface_of_a_default_route_counts";
    let Some(ns) = scene(TEST, "carry") else { return };
    // Kinds of masters, and what is made on an interface; few kernels have all of them.
    for kind in ["bridge", "bond", "team"] {
        if !can(&ns, &format!("link add m0 type {kind}")) {
            skip(TEST, &format!("the kernel has no {kind}"));
            continue;
        }
        ns.ip("link set a0 down"); // for a bond
        ns.ip("link set a0 master m0");
        for up in ["a0", "m0"] {
            ns.ip(&format!("link set {up} up"));
        }
        assert_eq!(through(&ns, "a0"), None, "{kind}");
        ns.ip("route add default dev m0");
        assert_eq!(through(&ns, "a0").as_deref(), Some("m0"), "{kind}");
        assert_eq!(through(&ns, "b0"), None, "{kind}: it is no member");
        let name = format!("xdp:a0@netns:{}", ns.0).parse().expect("a name");
        let note = control::default_route_note(&name).expect("a warning");
        assert!(note.contains("through m0, which a0 carries"), "{note}");
        ns.ip("link del m0");
        assert_eq!(through(&ns, "a0"), None, "{kind}");
        ns.ip("link set a0 up");
    }
    for kind in ["vlan id 7", "macvlan"] {
        if !can(&ns, &format!("link add link a0 name u0 type {kind}")) {
            skip(TEST, &format!("the kernel has no {kind}"));
            continue;
        }
        ns.ip("link set u0 up");
        ns.ip("route add default dev u0");
        assert_eq!(through(&ns, "a0").as_deref(), Some("u0"), "{kind}");
        ns.ip("link del u0");
    }
    // The far end of a cable carries nothing of the host's.
    ns.ip("route add default dev a0");
    assert_eq!(through(&ns, "a1"), None);
}
