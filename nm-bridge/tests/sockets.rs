//! Bridges on unix sockets: with stock QEMU, as a hub of netdevs without a guest, and with passt.
//!
//! ```text
//!   nm-pktgen's place: a port of the switch            a plain socket of the test
//!   valeS:x ... valeS:q = nm-bridge = stream:q == QEMU's hub == stream or dgram
//!
//!   namespace c: udhcpc - t0 = nm-bridge = valeP:c ... valeP:p = nm-bridge = stream:p == passt in namespace p
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netmap::control::{self, Switch};
use netmap::{Counters, Interest, Options, Port, Wait};
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

#[path = "../../lib/nm-cli/tests/skip/mod.rs"]
mod skipping;
mod support;
use skipping::skip;
use support::{Bridge, TIMEOUT, nm_bridge, until};

/// A root for switches, and a directory for sockets that anybody may write, as passt wants it.
struct Lab {
    root: TempDir,
    sockets: TempDir,
}

impl Lab {
    fn new() -> Lab {
        let root = tempfile::tempdir_in("/dev/shm").expect("a directory for the root");
        let sockets = tempfile::tempdir().expect("a directory for sockets");
        let mode = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(sockets.path(), mode).expect("it is ours");
        Lab { root, sockets }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }

    fn bridge(&self, socket: &str, port: &str) -> Bridge {
        let mut command = nm_bridge(&[socket, port]);
        command.env("NETMAP_ROOT", self.root.path());
        Bridge::start(command)
    }
}

/// A process that is killed when dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.stdin(Stdio::null()).spawn().expect("it starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let mut version = Command::new(program);
    version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok()
}

/// A QEMU without a guest, whose netdevs are joined by a hub.
fn hub(netdevs: &[String]) -> Running {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "none", "-display", "none", "-nodefaults"]);
    for (i, netdev) in netdevs.iter().enumerate() {
        command.arg("-netdev").arg(netdev);
        command.args(["-netdev", &format!("hubport,id=h{i},hubid=0,netdev=n{i}")]);
    }
    Running::start(&mut command)
}

fn stream_netdev(id: usize, server: bool, path: &Path) -> String {
    let server = if server { "on" } else { "off" };
    format!("stream,id=n{id},server={server},addr.type=unix,addr.path={}", path.display())
}

/// Distinct frames of all lengths that a VALE port takes, the longest among them.
fn frames() -> Vec<Vec<u8>> {
    let lengths = (0..300).map(|n| [60, 14, 1514, 61, 9000, 65550][n % 6]);
    let frame = |(n, length): (usize, usize)| {
        let mut frame: Vec<u8> = (0..length).map(|i| (i * 31 + n) as u8).collect();
        frame[..12].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1]);
        frame
    };
    lengths.enumerate().map(frame).collect()
}

fn read_frame(peer: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).expect("a length");
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).expect("a frame");
    frame
}

fn write_frame(peer: &mut impl Write, frame: &[u8]) {
    let length = u32::try_from(frame.len()).expect("short").to_be_bytes();
    peer.write_all(&[&length, frame].concat()).expect("the hub reads");
}

/// The next frame that arrives at a port.
fn receive(port: &mut Port) -> Vec<u8> {
    let what = port.wait(Interest::RX, Wait::Block, Some(TIMEOUT)).expect("it can wait");
    assert!(!what.is_empty(), "nothing comes");
    let (mut rx, mut frame) = (port.rx(0), Vec::new());
    loop {
        let slot = rx.slot(0);
        let more = slot.more_frag();
        frame.extend(slot.frame().to_vec());
        rx.advance(1);
        if !more {
            return frame;
        }
    }
}

fn send(port: &mut Port, frame: &[u8]) {
    until("room to send", || port.tx(0).push(frame).then_some(()));
    port.txsync().expect("it sends");
}

/// A test that opens ports starts its binary again for itself alone, with a root of its own.
fn in_own_root(test: &str) -> bool {
    if std::env::var_os("NM_SOCKETS_ROOT").is_some() {
        return false;
    }
    let lab = Lab::new();
    let mut again = Command::new(std::env::current_exe().expect("this binary"));
    again.args([test, "--exact", "--nocapture"]);
    again.env("NM_SOCKETS_ROOT", "1").env("NETMAP_ROOT", lab.root.path());
    let status = again.status().expect("it runs");
    assert!(status.success(), "{test}: {status}");
    true
}

/// Every frame through the hub and back, between a port of the switch and `far`.
fn both_ways(
    port: &mut Port,
    mut take: impl FnMut() -> Vec<u8>,
    mut give: impl FnMut(&[u8]),
    longest: usize,
) {
    for frame in frames().iter().filter(|frame| frame.len() <= longest) {
        send(port, frame);
        assert_eq!(take(), *frame, "{} bytes to the hub", frame.len());
        give(frame);
        assert_eq!(receive(port), *frame, "{} bytes from the hub", frame.len());
    }
}

fn port(name: &str) -> Port {
    let name = name.parse().expect("a name");
    Port::open_with(&name, &Options::default()).expect("it opens")
}

/// Waits until the hub is there: until a frame of `port` comes out of it.
fn hub_is_there(port: &mut Port, far: &UnixStream) {
    far.set_nonblocking(true).expect("a socket");
    until("the first frame through QEMU", || {
        send(port, &frames()[0]);
        let mut byte = [0];
        (&mut &*far).read(&mut byte).is_ok_and(|n| n == 1).then_some(())
    });
    far.set_nonblocking(false).expect("a socket");
    // The rest of that frame, and copies of it that are under way.
    far.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("a socket");
    let mut rest = [0; 63];
    (&mut &*far).read_exact(&mut rest).expect("the first frame");
    while (&mut &*far).read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
    far.set_read_timeout(Some(TIMEOUT)).expect("a socket");
}

/// Whether the test of that name goes on here: there is QEMU, and the process has a root of its own.
fn beside_qemu(test: &str) -> bool {
    if !is_installed("qemu-system-x86_64") {
        skip(test, "qemu-system-x86_64 is not installed");
        return false;
    }
    !in_own_root(test)
}

#[test]
fn frames_pass_a_stream_to_qemu_and_both_come_again() {
    if !beside_qemu("frames_pass_a_stream_to_qemu_and_both_come_again") {
        return;
    }
    let lab = Lab::new();
    let (near, far) = (lab.path("near"), lab.path("far"));
    let listener = UnixListener::bind(&far).expect("a free name");
    let socket = format!("stream:{}", near.display());
    let bridge = || Bridge::start(nm_bridge(&[&socket, "valeS:q"]));
    let mut port = port("valeS:x");

    // We are the server, and QEMU comes twice.
    let ours = bridge();
    for _ in 0..2 {
        let _hub = hub(&[stream_netdev(0, false, &near), stream_netdev(1, false, &far)]);
        let (mut peer, _) = listener.accept().expect("QEMU connects");
        hub_is_there(&mut port, &peer);
        let mut writer = peer.try_clone().expect("a descriptor");
        both_ways(
            &mut port,
            || read_frame(&mut peer),
            |frame| write_frame(&mut writer, frame),
            65550,
        );
    }
    let (status, end) = ours.stop();
    assert!(status.success(), "{status}: {end}");
    assert!(!near.exists(), "the socket goes with its bridge");

    // QEMU is the server, and we come twice.
    let _hub = hub(&[stream_netdev(0, true, &near), stream_netdev(1, false, &far)]);
    let (mut peer, _) = listener.accept().expect("QEMU connects");
    until("QEMU listens", || near.exists().then_some(()));
    for _ in 0..2 {
        let ours = Bridge::start(nm_bridge(&[&format!("{socket},client"), "valeS:q"]));
        hub_is_there(&mut port, &peer);
        let mut writer = peer.try_clone().expect("a descriptor");
        both_ways(
            &mut port,
            || read_frame(&mut peer),
            |frame| write_frame(&mut writer, frame),
            65550,
        );
        drop(ours); // killed
    }
}

#[test]
fn frames_pass_datagrams_to_qemu() {
    if !beside_qemu("frames_pass_datagrams_to_qemu") {
        return;
    }
    let lab = Lab::new();
    let (own, peer) = (lab.path("own"), lab.path("peer"));
    let (end, far) = (lab.path("end"), lab.path("far"));
    let socket = UnixDatagram::bind(&end).expect("a free name");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    let dgram = |id: usize, local: &Path, remote: &Path| {
        let (local, remote) = (local.display(), remote.display());
        format!(
            "dgram,id=n{id},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
        )
    };
    let mut port = port("valeS:x");
    let name = format!("dgram:{},{}", own.display(), peer.display());
    let _ours = Bridge::start(nm_bridge(&[&name, "valeS:q"]));
    // The bridge lives longer than a QEMU, and finds the next.
    for _ in 0..2 {
        let _hub = hub(&[dgram(0, &peer, &own), dgram(1, &far, &end)]);
        let mut buf = vec![0; 1 << 17];
        socket.set_nonblocking(true).expect("a socket");
        until("the first frame through QEMU", || {
            send(&mut port, &frames()[0]);
            socket.recv(&mut buf).ok()
        });
        socket.set_nonblocking(false).expect("a socket");
        let pause = std::time::Duration::from_millis(300);
        socket.set_read_timeout(Some(pause)).expect("a socket");
        while socket.recv(&mut buf).is_ok() {}
        socket.set_read_timeout(Some(TIMEOUT)).expect("a socket");
        let take = || {
            let n = socket.recv(&mut buf).expect("a frame");
            buf[..n].to_vec()
        };
        let give = |frame: &[u8]| {
            socket.send_to(frame, &far).expect("QEMU is there");
        };
        both_ways(&mut port, take, give, 65550);
    }
}

/// A network namespace, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Namespace {
        let name = format!("nms{role}{}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Namespace(name);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    fn ip(&self, args: &[&str]) {
        ip(&[&["-n", self.0.as_str()], args].concat());
    }

    fn exec(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]).args(args);
        command
    }

    /// What a thread does in the namespace. A socket that it makes there stays there.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(Path::new("/run/netns").join(&self.0)).expect("it is there");
        let enter = move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("we are root");
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().expect("it ends"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip runs");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn unable_to_pass() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("network namespaces need root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".into());
    }
    for program in ["ip", "passt", "busybox"] {
        if !is_installed(program) {
            return Some(format!("{program} is not installed"));
        }
    }
    let probe = format!("nmsx{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &probe]).output().expect("ip runs");
    drop(Namespace(probe));
    (!made.status.success()).then(|| "no network namespaces can be made here".into())
}

/// What `udhcpc` calls with what it was given.
const DHCP_SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip addr flush dev $interface
ip addr add $ip/$mask dev $interface
ip route add $router dev $interface 2>/dev/null
ip route add default via $router dev $interface
echo \"$ip $router\" > $NM_LEASE
";

#[test]
fn client_behind_the_switch_gets_an_address_and_a_page_by_passt() {
    let test = "client_behind_the_switch_gets_an_address_and_a_page_by_passt";
    if let Some(reason) = unable_to_pass() {
        return skip(test, &reason);
    }
    let lab = Lab::new();
    // passt takes address and route of an interface that is up, and traffic stays in here.
    let host = Namespace::new("p");
    host.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    host.ip(&["addr", "add", "192.0.2.7/24", "dev", "up0"]);
    for interface in ["up0", "up1"] {
        host.ip(&["link", "set", interface, "up"]);
    }
    host.ip(&["route", "add", "default", "via", "192.0.2.1"]);
    // A page of two MiB on that namespace's loopback.
    let page: Vec<u8> =
        (0..2 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let listener = host.inside(|| TcpListener::bind("127.0.0.1:0")).expect("a port is free");
    let http = listener.local_addr().expect("it is bound").port();
    let served = page.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(&served);
        }
    });

    let socket = lab.path("net");
    let path = socket.to_str().expect("a plain path");
    let mut passt =
        host.exec("passt", &["-f", "-q", "-s", path, "-t", "none", "-u", "none", "-m", "1500"]);
    let _passt = Running::start(passt.stdout(Stdio::null()).stderr(Stdio::null()));
    until("passt listens", || UnixStream::connect(&socket).ok());

    let _outer = lab.bridge(&format!("stream:{path},client"), "valeP:p");
    let client = Namespace::new("c");
    let tap = nm_bridge(&["tap:t0", "valeP:c"]);
    let mut inside = client.exec(env!("CARGO_BIN_EXE_nm-bridge"), &[]);
    inside.args(tap.get_args()).env("NETMAP_ROOT", lab.root.path());
    let _inner = Bridge::start(inside);

    let script = lab.path("dhcp");
    std::fs::write(&script, DHCP_SCRIPT).expect("a file");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let lease = lab.path("lease");
    let ask = [
        "udhcpc",
        "-f",
        "-q",
        "-n",
        "-t",
        "20",
        "-T",
        "1",
        "-i",
        "t0",
        "-s",
        script.to_str().expect("plain"),
    ];
    let asked = client.exec("busybox", &ask).env("NM_LEASE", &lease).output().expect("ip runs");
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.status.success(), "udhcpc: {said}");
    let lease = std::fs::read_to_string(&lease).unwrap_or_else(|error| panic!("{error}: {said}"));
    let (address, router) = lease.trim().split_once(' ').expect("an address and a router");
    assert_eq!((address, router), ("192.0.2.7", "192.0.2.1"));

    let mut got = Vec::new();
    let mut fetch = || {
        let address: IpAddr = router.parse().expect("an address");
        let mut connection = TcpStream::connect_timeout(&(address, http).into(), TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.read_to_end(&mut got)
    };
    client.inside(&mut fetch).expect("the page comes");
    assert!(got == page, "{} bytes of {} came, or others", got.len(), page.len());
}

/// What a bridge says at its end of a peer that broke the rules.
#[test]
fn bridge_says_what_came_on_its_socket() {
    let lab = Lab::new();
    let path = lab.path("s");
    let mut command = nm_bridge(&["--json", &format!("stream:{}", path.display()), "valeS:q"]);
    command.env("NETMAP_ROOT", lab.root.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let bridge = command.spawn().expect("nm-bridge starts");
    until("the bridge's socket", || path.exists().then_some(()));
    let mut peer = UnixStream::connect(&path).expect("the bridge listens");
    peer.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    peer.write_all(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).expect("it reads");
    assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0, "cut off");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(bridge.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("our child");
    let output = bridge.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("a frame of 4294967295 bytes was announced: 1"), "{said}");
    assert!(said.contains("longer than 65600: 1"), "{said}");
    assert!(!path.exists());
}

/// Nobody sees the counters of a bridge in the background, so those of the switch's port tell what was lost behind it.
#[test]
fn what_is_lost_behind_a_port_is_counted_at_the_port_in_both_directions() {
    if in_own_root("what_is_lost_behind_a_port_is_counted_at_the_port_in_both_directions") {
        return;
    }
    let lab = Lab::new();
    let path = lab.path("s");
    let name = format!("stream:{},server", path.display());
    let bridge = Bridge::start(nm_bridge(&["valeF:q", &name]));
    let mut sender = port("valeF:x");
    let lost = |what: &str, fits: fn(&Counters) -> bool| {
        until(what, || {
            let info = Switch::open("valeF").expect("it is there").info().expect("it is whole");
            let q = info.ports.iter().find(|port| port.name == "q").expect("the bridge's");
            fits(&q.counters).then_some(q.counters)
        })
    };
    // Nobody is there.
    for _ in 0..3 {
        send(&mut sender, &[0xff; 60]);
    }
    let counted = lost("the packets for nobody", |q| q.far_drop_down == 3);
    assert_eq!((counted.rx_packets, counted.rx_drops(), counted.tx_drops()), (3, 0, 0));
    // Somebody sends what is no frame.
    let mut peer = UnixStream::connect(&path).expect("the bridge listens");
    write_frame(&mut peer, &[0; 5]);
    let counted = lost("what came and was no frame", |q| q.far_drop_rx == 1);
    assert_eq!(counted.far_drops(), 3);
    // What is lost in the last moment counts as well, and nothing twice.
    drop(peer);
    let (status, end) = bridge.stop();
    assert!(status.success() && end["a_to_b_drops"] == 3 && end["b_to_a_drops"] == 1, "{end}");
    assert_eq!(end["a_to_b_drop_reasons"], serde_json::json!({ "tx_drop_down": 3 }));
}

#[test]
fn what_is_lost_just_before_the_end_is_counted_at_the_port_that_stays() {
    if in_own_root("what_is_lost_just_before_the_end_is_counted_at_the_port_that_stays") {
        return;
    }
    let lab = Lab::new();
    let name = format!("stream:{},server", lab.path("s").display());
    control::create_port(&"valeF:q".parse().unwrap(), &Options::default()).expect("a port");
    let counted = || {
        let info = Switch::open("valeF").expect("it is there").info().expect("it is whole");
        info.ports.iter().find(|port| port.name == "q").expect("it stays").counters
    };
    let mut sender = port("valeF:x");
    // It is told to end in all phases of its reports to the switch.
    for round in 1..=3 {
        let bridge = Bridge::start(nm_bridge(&["valeF:q", &name]));
        for _ in 0..3 {
            send(&mut sender, &[0xff; 60]);
        }
        let (status, end) = bridge.stop();
        assert!(status.success(), "{end}");
        let lost = end["a_to_b_drops"].as_u64().expect("a number");
        assert_eq!(lost, 3, "{end}");
        assert_eq!(counted().far_drop_down, 3 * round);
    }
}

#[test]
fn server_without_a_free_descriptor_waits_for_one_and_does_not_spin() {
    const NAME: &str = "server_without_a_free_descriptor_waits_for_one_and_does_not_spin";
    if !is_installed("prlimit") {
        return skip(NAME, "prlimit is not installed");
    }
    let lab = Lab::new();
    let path = lab.path("s");
    let name = format!("stream:{},server", path.display());
    let bridge = Bridge::start(nm_bridge(&[&name, "null:", "--count", "1"]));
    let pid = bridge.pid();
    let is_open = |fd: &u32| Path::new(&format!("/proc/{pid}/fd/{fd}")).exists();
    let free = (0..).find(|fd| !is_open(fd)).expect("few are open");
    let limit = |files: u32| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &pid.to_string(), &format!("--nofile={files}:1024")]);
        assert!(prlimit.status().expect("it runs").success());
    };
    limit(free);
    let mut client = UnixStream::connect(&path).expect("it waits in the backlog");
    write_frame(&mut client, &[0xff; 60]);
    // Nothing can be waited for when nothing is to happen.
    let before = bridge.cpu_ticks();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let spent = bridge.cpu_ticks() - before;
    assert!(spent < 30, "{spent} ticks of 10 ms");
    limit(1024);
    let (status, end) = bridge.wait();
    assert!(status.success() && end["a_to_b_packets"] == 1, "{status}: {end}");
}
