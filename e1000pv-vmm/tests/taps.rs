//! Interfaces of the host as the network of a guest: the cable of one on a tap, set down and up, and deleted while the machine
//! runs; a NIC that the host is reached by.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

#[path = "../../lib/nm-cli/tests/netns/mod.rs"]
mod netns;
mod support;
use support::{root, skip, vmm};

#[test]
fn guest_loses_its_link_with_the_interface_and_its_monitor_says_so() {
    const NAME: &str = "guest_loses_its_link_with_the_interface_and_its_monitor_says_so";
    let ns = match netns::Namespace::new("vmt") {
        Ok(ns) => ns,
        Err(why) => return skip(NAME, &why),
    };
    let root = root();
    let port = format!("port=tap:t0@netns:{}", ns.0);
    let work = "tx dst=ff:ff:ff:ff:ff:ff rate=1000 duration=8s";
    let args = ["--accel", "thread", "--netdev", &port, "--guest", work, "--timeout", "30s"];
    let mut command = vmm(root.path(), &args);
    let mut machine = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    let mut lines = BufReader::new(machine.stderr.take().expect("piped")).lines();
    let mut wait_for = |words: &str| {
        let found = lines.by_ref().map_while(Result::ok).any(|line| line.contains(words));
        assert!(found, "it never said {words:?}");
    };
    while !ns.try_ip("link show t0 up").stdout.windows(2).any(|at| at == b"t0") {
        std::thread::yield_now();
        assert!(machine.try_wait().expect("our child").is_none(), "it has ended");
    }
    for (change, words) in [
        ("link set t0 down", "the link is down"),
        ("link set t0 up", "the link is up"),
        ("link del t0", "the interface was deleted"),
    ] {
        ns.ip(change);
        wait_for(words);
    }
    let status = machine.wait().expect("our child");
    assert!(status.success(), "{status}");
}

#[test]
fn nic_of_the_default_route_is_given_to_a_guest_with_one_line_of_warning() {
    const NAME: &str = "nic_of_the_default_route_is_given_to_a_guest_with_one_line_of_warning";
    let ns = match netns::Namespace::new("vmx") {
        Ok(ns) => ns,
        Err(why) => return skip(NAME, &why),
    };
    ns.ip("link add v0 type veth peer name v1");
    for end in ["v0", "v1"] {
        ns.ip(&format!("link set {end} up"));
    }
    let root = root();
    let port = format!("port=xdp:v1@netns:{}", ns.0);
    let warnings = |flags: &[&str]| {
        let work = "tx dst=ff:ff:ff:ff:ff:ff count=10";
        let args = ["--accel", "thread", "--netdev", &port, "--guest", work, "--timeout", "30s"];
        let output = vmm(root.path(), &[&args, flags].concat()).output().expect("it runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success(), "{said}");
        let warns = |line: &&str| line.contains("warning: the default route goes through v1;");
        said.lines().filter(warns).count()
    };
    assert_eq!(warnings(&[]), 0);
    ns.ip("route add default dev v1");
    assert_eq!(warnings(&[]), 1);
    assert_eq!(warnings(&["--quiet"]), 0);
}
