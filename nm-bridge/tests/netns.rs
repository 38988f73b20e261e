//! Real traffic: the network stacks of two namespaces, each behind a tap, joined through VALE by two
//! nm-bridge processes. ping, iperf3 over TCP and iperf3 over UDP must pass.
//!
//! ```text
//!   namespace A                                                    namespace B
//!   stack - t0 = nm-bridge = valeN:a ...... valeN:b = nm-bridge = t0 - stack      vale
//!   stack - t0 = nm-bridge = h0 - br0 (kernel) - h1 = nm-bridge = t0 - stack      kernel_bridge_taps
//!   stack - veth ----------- br0 (kernel) ------------- veth - stack              kernel_bridge_veth
//! ```
//!
//! The kernel's bridge needs a process behind each tap as VALE does, so the like-for-like comparison
//! gives it the same taps and the same pumps; it then crosses four taps where VALE crosses two,
//! because the kernel's bridge can only be reached through interfaces. The veth line is what the
//! kernel does without any process, handing over 64 KiB segments that no tap here ever sees; it is
//! the upper bound, not the same work. The figures are printed as one JSON line and judged by no
//! limit: this test is about traffic that passes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

mod iperf3;
#[path = "../../lib/nm-cli/tests/netns/mod.rs"]
mod namespace;
#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
mod support;
use iperf3::Server;
use namespace::Namespace;
use skipping::skip;
use support::{Bridge, nm_bridge, until};

/// Seconds of each iperf3 run; `NM_NETNS_SECONDS` asks for longer ones when figures are wanted.
const SECONDS: u32 = 1;
/// UDP at a rate that any machine should carry, and the loss that a busy one is allowed.
const UDP_RATE: &str = "50M";
const UDP_LOSS_PERCENT: f64 = 10.0;
const ADDRESS: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// Three namespaces, or why the test cannot run here.
fn namespaces() -> Result<[Namespace; 3], String> {
    for tool in ["ping", "iperf3"] {
        let mut version = Command::new(tool);
        if version.arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Err(format!("{tool} is not installed"));
        }
    }
    Ok([Namespace::new("a")?, Namespace::new("b")?, Namespace::new("h")?])
}

/// Two that are new, and a third for what is between them.
fn fresh() -> [Namespace; 3] {
    namespaces().unwrap_or_else(|why| panic!("{why}"))
}

fn run(namespace: &Namespace, line: &str) -> Output {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    let output = namespace.exec(command.args(words)).output().expect("ip runs");
    assert!(
        output.status.success(),
        "{line}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn iperf3(from: &Namespace, seconds: u32, options: &str) -> Value {
    let line = format!("iperf3 -J -c {} -t {seconds} {options}", ADDRESS[1]);
    let report = serde_json::from_slice::<Value>(&run(from, &line).stdout).expect("JSON");
    report["end"].clone()
}

fn number(of: &Value, path: &str) -> f64 {
    let found = of.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("iperf3 reports no {path}: {of}"))
}

/// Everything that must pass between A and B; the figures on the way.
fn traffic(a: &Namespace, b: &Namespace, seconds: u32) -> Value {
    // The first packets of a new path wait for ARP and for bridge ports to come up.
    until("the first ping", || {
        let mut ping = Command::new("ping");
        let ping = a.exec(ping.args(["-c", "1", "-W", "1", ADDRESS[1]])).output().expect("ip runs");
        ping.status.success().then_some(())
    });
    let ping = run(a, &format!("ping -q -c 50 -i 0.01 -s 1472 -M do -W 5 {}", ADDRESS[1]));
    let ping = String::from_utf8_lossy(&ping.stdout).into_owned();
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    // "rtt min/avg/max/mdev = 0.049/0.068/0.110/0.012 ms"
    let rtt_ms =
        ping.rsplit_once("= ").and_then(|(_, times)| times.split('/').nth(1)?.parse().ok());
    let rtt_ms: f64 = rtt_ms.unwrap_or_else(|| panic!("ping reports no times: {ping}"));

    let _server = Server::start(b.exec(&Server::command()));
    let tcp = iperf3(a, seconds, "");
    let tcp_bps = number(&tcp, "/sum_received/bits_per_second");
    assert!(tcp_bps > 1e6, "TCP passes: {tcp}");
    let reverse = iperf3(a, seconds, "-R");
    let tcp_reverse_bps = number(&reverse, "/sum_received/bits_per_second");
    assert!(tcp_reverse_bps > 1e6, "TCP passes the other way: {reverse}");
    let udp = iperf3(a, seconds, &format!("-u -l 1400 -b {UDP_RATE}"));
    let lost = number(&udp, "/sum/lost_percent");
    assert!(lost <= UDP_LOSS_PERCENT, "UDP passes: {udp}");
    assert!(number(&udp, "/sum/packets") > 100.0, "UDP passes: {udp}");
    let flood = iperf3(a, seconds, "-u -l 1400 -b 0");
    let sent = number(&flood, "/sum/bits_per_second");
    let arrived = sent * (1.0 - number(&flood, "/sum/lost_percent") / 100.0);
    json!({
        "ping_rtt_ns": rtt_ms * 1e6,
        "tcp_bps": tcp_bps,
        "tcp_reverse_bps": tcp_reverse_bps,
        "udp_50m_lost_percent": lost,
        "udp_flood_received_bps": arrived,
    })
}

fn address(namespace: &Namespace, which: usize, device: &str) {
    namespace.ip(&format!("addr add {}/24 dev {device}", ADDRESS[which]));
    namespace.ip(&format!("link set {device} up"));
}

/// A bridge that runs inside a namespace. The root directory is shared: a VALE switch knows no
/// network namespaces.
fn bridge_in(namespace: &Namespace, root: &Path, ports: [&str; 2]) -> Bridge {
    let mut command = namespace.exec(&nm_bridge(&ports));
    command.env("NETMAP_ROOT", root);
    Bridge::start(command)
}

fn over_vale(root: &Path, seconds: u32) -> Value {
    let [a, b, _] = fresh();
    let left = bridge_in(&a, root, ["tap:t0", "valeN:a"]);
    let right = bridge_in(&b, root, ["valeN:b", "tap:t0"]);
    address(&a, 0, "t0");
    address(&b, 1, "t0");
    let figures = traffic(&a, &b, seconds);
    for bridge in [left, right] {
        let (status, end) = bridge.stop();
        assert!(status.success(), "{status}: {end}");
        for key in ["a_to_b_packets", "b_to_a_packets"] {
            assert!(end[key].as_u64() > Some(1000), "{key}: {end}");
        }
    }
    figures
}

fn kernel_bridge(host: &Namespace, ports: [&str; 2]) {
    host.ip("link add br0 type bridge");
    host.ip("link set br0 up");
    for port in ports {
        host.ip(&format!("link set {port} master br0 up"));
    }
}

fn over_kernel_bridge_with_taps(root: &Path, seconds: u32) -> Value {
    let [a, b, host] = fresh();
    // A tap stays with the process that opened it wherever its interface is moved to.
    let _left = bridge_in(&a, root, ["tap:t0", "tap:h0"]);
    let _right = bridge_in(&b, root, ["tap:h1", "tap:t0"]);
    a.ip(&format!("link set h0 netns {}", host.0));
    b.ip(&format!("link set h1 netns {}", host.0));
    kernel_bridge(&host, ["h0", "h1"]);
    address(&a, 0, "t0");
    address(&b, 1, "t0");
    traffic(&a, &b, seconds)
}

fn over_kernel_bridge_with_veth(seconds: u32) -> Value {
    let [a, b, host] = fresh();
    for (namespace, outer) in [(&a, "h0"), (&b, "h1")] {
        host.ip(&format!("link add {outer} type veth peer name t0 netns {}", namespace.0));
    }
    kernel_bridge(&host, ["h0", "h1"]);
    address(&a, 0, "t0");
    address(&b, 1, "t0");
    traffic(&a, &b, seconds)
}

#[test]
fn ping_tcp_and_udp_pass_between_namespaces() {
    if let Err(reason) = namespaces() {
        return skip("ping_tcp_and_udp_pass_between_namespaces", &reason);
    }
    let asked = std::env::var("NM_NETNS_SECONDS").ok();
    let seconds = asked.map_or(SECONDS, |text| text.parse().expect("NM_NETNS_SECONDS is a number"));
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
    let figures = json!({
        "type": "netns",
        "schema": 1,
        "seconds": seconds,
        "vale": over_vale(root.path(), seconds),
        "kernel_bridge_taps": over_kernel_bridge_with_taps(root.path(), seconds),
        "kernel_bridge_veth": over_kernel_bridge_with_veth(seconds),
    });
    // Straight to the stream: the harness would swallow what a passing test prints.
    writeln!(std::io::stdout(), "\n{figures}").expect("stdout");
}
