//! A NIC on a switch: a stack behind a veth, whose other end a bridge takes by `xdp:`.
//!
//! ```text
//!   namespace 0        namespace 1                               namespace 2
//!   stack - v0 ======= v1 = nm-bridge = valeX:nic ... valeX:tap = nm-bridge = t0 - stack
//!   stack - v0 ======= v1 = nm-bridge = v1^ - stack
//! ```

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

#[path = "../../lib/nm-cli/tests/build/mod.rs"]
mod build;
mod iperf3;
#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skip;
mod support;
#[path = "../../lib/netmap/tests/veth/mod.rs"]
mod veth;
use iperf3::Server;
use skip::skip;
use support::{Bridge, nm_bridge, until};
use veth::{Namespace, Pair, ip};

const ADDRESS: [&str; 3] = ["10.78.0.1", "10.78.0.2", "10.78.0.3"];

/// The pair, and a root for the switches of its bridges; none where the machine lacks something.
fn scene(test: &str) -> Option<(Pair, tempfile::TempDir)> {
    for tool in ["ping", "iperf3"] {
        let mut version = Command::new(tool);
        if version.arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            skip(test, &format!("{tool} is not installed"));
            return None;
        }
    }
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    Pair::new(test, 1).map(|pair| (pair, root))
}

fn bridge(root: &Path, ports: &[&str]) -> Bridge {
    let mut command = nm_bridge(ports);
    command.env("NETMAP_ROOT", root);
    Bridge::start(command)
}

fn run(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output();
    let output = output.unwrap_or_else(|why| panic!("{line}: {why}"));
    assert!(output.status.success(), "{line}: {output:?}");
    output
}

fn address(which: usize, device: &str) {
    ip("link set lo up");
    ip(&format!("addr add {}/24 dev {device}", ADDRESS[which]));
    ip(&format!("link set {device} up"));
}

fn await_ping(to: &str) {
    until("the first ping", || {
        let mut ping = Command::new("ping");
        let ping = ping.args(["-c", "1", "-W", "1", to]).output().expect("ping runs");
        ping.status.success().then_some(())
    });
}

/// TCP passes to and fro.
fn tcp(to: &str) {
    for way in [None, Some("-R")] {
        let report = until("the server is free again", || {
            let mut client = Command::new("iperf3");
            client.args(["-J", "-c", to, "-n", "20M"]).args(way);
            let output = client.output().expect("iperf3 runs");
            let report = serde_json::from_slice::<Value>(&output.stdout).expect("JSON");
            let error = report["error"].as_str().unwrap_or_default();
            // The last client's connection may not have ended yet, and the server listens anew for each: what waited at the
            // old listener is reset.
            let early = ["busy", "unable to connect", "control message: Connection reset"];
            (!early.iter().any(|words| error.contains(words))).then_some(report)
        });
        let bytes = report.pointer("/end/sum_received/bytes").and_then(Value::as_f64);
        // The receiver may end before it has counted the last of it.
        assert!(bytes > Some(15e6), "{way:?}: {report}");
    }
}

/// Whether a program is attached to the NIC that the bridge takes.
fn has_program(pair: &Pair) -> bool {
    let shown = pair.within(1, || ip("-d link show v1"));
    String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
}

/// The interfaces of the bridge's namespace.
fn interfaces(pair: &Pair) -> String {
    String::from_utf8(pair.within(1, || ip("-o link show")).stdout).expect("text")
}

#[test]
fn tcp_of_a_local_stack_passes_through_a_nic_and_a_switch_with_nothing_set_by_hand() {
    const TEST: &str =
        "tcp_of_a_local_stack_passes_through_a_nic_and_a_switch_with_nothing_set_by_hand";
    let Some((pair, root)) = scene(TEST) else { return };
    let far = Namespace::new().expect("another namespace");
    let nic = pair.within(1, || bridge(root.path(), &["xdp:v1", "valeX:nic"]));
    assert_eq!(nic.start["zero_copy"], true, "{}", nic.start);
    assert!(has_program(&pair));
    let tap = far.within(|| {
        let tap = bridge(root.path(), &["tap:t0", "valeX:tap"]);
        address(1, "t0");
        tap
    });
    pair.within(0, || {
        address(0, "v0");
        await_ping(ADDRESS[1]);
        run(&format!("ping -q -c 20 -i 0.01 -s 1472 -M do -W 5 {}", ADDRESS[1]));
    });
    let _server = far.within(|| Server::start(Server::command()));
    pair.within(0, || tcp(ADDRESS[1]));
    for bridge in [nic, tap] {
        let (status, end) = bridge.stop();
        assert!(status.success(), "{status}: {end}");
    }
    assert!(!has_program(&pair));
}

#[test]
fn one_name_joins_a_nic_to_its_host_which_a_killed_bridge_leaves_as_it_was() {
    const TEST: &str = "one_name_joins_a_nic_to_its_host_which_a_killed_bridge_leaves_as_it_was";
    let Some((pair, root)) = scene(TEST) else { return };
    pair.within(0, || address(0, "v0"));
    pair.within(1, || address(2, "v1"));
    let before = interfaces(&pair);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let host = pair.within(1, || bridge(root.path(), &["xdp:v1"]));
        assert!(has_program(&pair) && interfaces(&pair).contains("nmh"));
        pair.within(0, || await_ping(ADDRESS[2]));
        {
            let _server = pair.within(1, || Server::start(Server::command()));
            pair.within(0, || tcp(ADDRESS[2]));
        }
        {
            let _server = pair.within(0, || Server::start(Server::command()));
            pair.within(1, || tcp(ADDRESS[0]));
        }
        if signal == Signal::SIGTERM {
            let (status, end) = host.stop();
            assert!(status.success(), "{status}: {end}");
            for key in ["a_to_b_packets", "b_to_a_packets"] {
                assert!(end[key].as_u64() > Some(1000), "{key}: {end}");
            }
        } else {
            host.signal(signal);
            drop(host);
        }
        until("the kernel clears away", || (!has_program(&pair)).then_some(()));
        until("the kernel clears away", || (interfaces(&pair) == before).then_some(()));
        pair.within(0, || await_ping(ADDRESS[2]));
    }
}

#[test]
fn bridge_says_what_a_nic_lacks() {
    let Some((pair, root)) = scene("bridge_says_what_a_nic_lacks") else { return };
    let complaint = |mut command: Command| {
        let output = pair.within(1, || command.env("NETMAP_ROOT", root.path()).output());
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let of = |ports: &[&str]| complaint(nm_bridge(ports));
    assert!(of(&["xdp:nosuch", "null:"]).contains("no such interface"));
    pair.within(1, || ip("link add br0 type bridge"));
    let said = of(&["xdp:br0"]);
    assert!(said.contains("host rings need a driver"), "{said}");
    // Fewer rights than it needs, by each that it needs.
    if Command::new("setpriv").arg("--version").output().is_err() {
        return skip("bridge_says_what_a_nic_lacks, part of", "setpriv is not installed");
    }
    let without = |capabilities: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", capabilities, "--inh-caps", capabilities]);
        command.args([env!("CARGO_BIN_EXE_nm-bridge"), "xdp:v1", "null:", "--duration", "10s"]);
        command
    };
    // An administrator of the system has the other two as well.
    for capabilities in ["-net_raw", "-net_admin,-sys_admin", "-bpf,-sys_admin"] {
        let said = complaint(without(capabilities));
        assert!(said.contains("setcap cap_net_raw,cap_net_admin,cap_bpf+ep"), "{said}");
    }
    let mut command = Command::new("prlimit");
    let poor = without("-ipc_lock");
    command.arg("--memlock=65536:65536").arg(poor.get_program()).args(poor.get_args());
    let said = complaint(command);
    assert!(said.contains("ulimit -l") && said.contains("MiB"), "{said}");
}

#[test]
fn nic_of_the_default_route_is_taken_with_one_line_of_warning() {
    const TEST: &str = "nic_of_the_default_route_is_taken_with_one_line_of_warning";
    let Some((pair, root)) = scene(TEST) else { return };
    build::programs(&["nm-pktgen"]);
    let bin = Path::new(env!("CARGO_BIN_EXE_nm-bridge")).parent().expect("a directory");
    let said = |line: &str| {
        let mut words = line.split_whitespace();
        let mut command = Command::new(bin.join(words.next().expect("a program")));
        command.args(words).env("NETMAP_ROOT", root.path());
        let output = pair.within(1, || command.output()).expect("it runs");
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let taken = [
        "nm-bridge xdp:v1 null: --duration 10ms",
        "nm-bridge -i valeX:nic -i xdp:v1 --duration 10ms",
        "nm-bridge -L xdp:v1 --duration 10ms",
        "nm-pktgen -i xdp:v1 -f rx --duration 10ms",
        "nm-pktgen -i xdp:v1 -f pong --duration 10ms",
    ];
    for line in taken {
        assert!(!said(line).contains("default route"), "{line}");
    }
    pair.within(1, || {
        address(1, "v1");
        ip("route add default via 10.78.0.1");
    });
    for line in taken {
        let heard = said(line);
        let warnings: Vec<_> = heard.lines().filter(|line| line.contains("warning")).collect();
        assert_eq!(warnings.len(), 1, "{line}: {heard}");
        assert!(warnings[0].contains("default route goes through v1"), "{line}: {heard}");
        assert!(!said(&format!("{line} -q")).contains("default route"), "{line}");
    }
    // The host keeps it, or nothing is taken from it.
    for line in [
        "nm-bridge xdp:v1 --duration 10ms",
        "nm-bridge xdp:v1^ xdp:v1 --duration 10ms",
        "nm-bridge xdp:v1^ null: --duration 10ms",
        "nm-pktgen -i xdp:v1 -f tx -n 1",
    ] {
        assert!(!said(line).contains("default route"), "{line}");
    }
}

/// Sends datagrams on v0 until there is no way any more.
fn flood(pair: &Pair) -> std::thread::JoinHandle<()> {
    let socket = pair.within(0, || std::net::UdpSocket::bind("0.0.0.0:0").expect("bound"));
    let begin = std::time::Instant::now();
    // Refused for a moment while the link is down.
    std::thread::spawn(move || {
        while begin.elapsed() < support::TIMEOUT && socket.send_to(&[1; 100], "10.78.0.2:9").is_ok()
        {
        }
    })
}

#[test]
fn nic_goes_down_and_up_and_away_under_traffic_and_the_bridge_says_so() {
    const TEST: &str = "nic_goes_down_and_up_and_away_under_traffic_and_the_bridge_says_so";
    let Some((pair, root)) = scene(TEST) else { return };
    pair.within(0, || {
        address(0, "v0");
        ip(&format!("neigh add {} lladdr 02:00:00:00:00:02 dev v0", ADDRESS[1]));
    });
    let mut command = nm_bridge(&["xdp:v1", "valeX:nic"]);
    command.env("NETMAP_ROOT", root.path()).stderr(Stdio::piped());
    let mut bridge = pair.within(1, || Bridge::start(command));
    let mut said = BufReader::new(bridge.stderr().expect("piped")).lines().map_while(Result::ok);
    let mut hear = |words: &str| {
        assert!(said.any(|line| line.contains(words)), "the bridge does not say: {words}");
    };
    let flood = flood(&pair);
    let mut seen = 0;
    let mut passes = |bridge: &mut Bridge| {
        let before = seen;
        until("packets pass", || {
            bridge.signal(Signal::SIGUSR1);
            seen = bridge.record()["a_to_b_packets"].as_u64().expect("a number");
            (seen > before + 100).then_some(())
        });
    };
    passes(&mut bridge);
    for _ in 0..2 {
        pair.within(1, || ip("link set v1 down"));
        hear("the link is down");
        pair.within(1, || ip("link set v1 up"));
        hear("the link is up");
        passes(&mut bridge);
    }
    pair.within(1, || ip("link del v1"));
    hear("the interface is gone");
    let (status, end) = bridge.wait();
    assert_eq!(status.code(), Some(1), "{end}");
    assert!(end["a_to_b_packets"].as_u64() > Some(300), "{end}");
    flood.join().expect("no panic");
}
