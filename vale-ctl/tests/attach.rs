//! `attach` and `detach`: with the real bridge and a real tap where the machine has them, and with
//! made-up bridges for what goes wrong.

#![forbid(unsafe_code)]

#[path = "../../lib/nm-cli/tests/build/mod.rs"]
mod build;
mod common;
#[path = "../../lib/nm-cli/tests/netns/mod.rs"]
mod netns;
mod skip {
    pub use crate::common::skip;
}
#[path = "../../lib/netmap/tests/veth/mod.rs"]
mod veth;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{complaint, in_own_root, json, skip, text, vale_ctl};
use netmap::Port;
use veth::Pair;

/// A copy of vale-ctl beside a program of the test's own making called nm-bridge.
struct Beside {
    dir: tempfile::TempDir,
}

impl Beside {
    fn new(script: Option<&str>) -> Beside {
        let dir = tempfile::tempdir().expect("a directory");
        fs::copy(env!("CARGO_BIN_EXE_vale-ctl"), dir.path().join("vale-ctl")).expect("copied");
        if let Some(script) = script {
            let bridge = dir.path().join("nm-bridge");
            fs::write(&bridge, format!("#!/bin/sh\n{script}\n")).expect("written");
            fs::set_permissions(&bridge, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        Beside { dir }
    }

    /// Exit code and stderr of an attach that uses it.
    fn attach(&self, extra: &[&str]) -> (i32, String) {
        let output = Command::new(self.dir.path().join("vale-ctl"))
            .args(["attach", "valeA:tap0"])
            .args(extra)
            .env("PATH", "/nonexistent:/bin:/usr/bin")
            .output()
            .expect("vale-ctl runs");
        (
            output.status.code().expect("a code"),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

/// What bridges leave in the root.
fn left() -> Vec<PathBuf> {
    let Ok(root) = fs::read_dir(netmap::control::root()) else { return Vec::new() };
    let files = root.map(|entry| entry.expect("a file").path());
    files.filter(|file| file.to_string_lossy().contains("nm-bridge")).collect()
}

#[test]
fn attach_reports_what_the_bridge_says() {
    in_own_root("attach_reports_what_the_bridge_says", || {
        let bridge = Beside::new(Some("echo 'nm-bridge: error: no tap today' >&2; exit 1"));
        let (code, said) = bridge.attach(&[]);
        assert_eq!(
            (code, said.as_str()),
            (1, "vale-ctl: error: attaching valeA:tap0: no tap today\n")
        );
        assert!(left().is_empty(), "a failed attach leaves a file");

        let (code, said) = Beside::new(Some("exit 1")).attach(&[]);
        assert!(code == 1 && said.contains("said nothing"), "{said}");
    });
}

#[test]
fn attach_gives_up_on_a_bridge_that_never_comes_and_ends_it() {
    in_own_root("attach_gives_up_on_a_bridge_that_never_comes_and_ends_it", || {
        let bridge = Beside::new(Some("echo $$ > \"$NETMAP_ROOT/pid\"; exec sleep 1000"));
        let (code, said) = bridge.attach(&["--timeout", "1s"]);
        assert!(code == 1 && said.contains("not ready within 1s"), "{said}");
        let pid = fs::read_to_string(netmap::control::root().join("pid")).expect("it ran");
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it still runs");
        assert!(left().is_empty());
    });
}

#[test]
fn attach_without_a_bridge_program_says_what_to_install() {
    in_own_root("attach_without_a_bridge_program_says_what_to_install", || {
        if ["/bin/nm-bridge", "/usr/bin/nm-bridge"].iter().any(|file| Path::new(file).exists()) {
            skip("attach_without_a_bridge_program_says_what_to_install", "nm-bridge is installed");
            return;
        }
        let (code, said) = Beside::new(None).attach(&[]);
        assert!(code == 1 && said.contains("install"), "{said}");
    });
}

#[test]
fn attach_and_detach_refuse_what_is_not_theirs() {
    in_own_root("attach_and_detach_refuse_what_is_not_theirs", || {
        let _port = Port::open("valeA:x").expect("opened");
        let me = std::process::id().to_string();
        assert!(complaint(&["attach", "valeA:x"], 1).contains("busy"));
        assert!(complaint(&["attach", "valeA:x", "--may-exist"], 1).contains(&me));
        let refused = complaint(&["detach", "valeA:x"], 1);
        assert!(
            refused.contains(&me)
                && refused.contains("not by a bridge that `vale-ctl attach` started"),
            "{refused}"
        );
        assert!(complaint(&["detach", "valeA:y"], 3).contains("There is no valeA:y"));
        vale_ctl(&["detach", "valeA:y", "--if-exists"]).assert().success();
        assert!(complaint(&["attach", "valeA"], 2).contains("interface"));
        let long = "valeA:a_name_that_is_too_long";
        assert!(complaint(&["attach", long], 2).contains("at most 15"));
    });
}

/// The real bridge, built as this test was.
fn build_bridge() {
    build::programs(&["nm-bridge"]);
    let bin = Path::new(env!("CARGO_BIN_EXE_vale-ctl")).with_file_name("nm-bridge");
    assert!(bin.is_file(), "{} is missing", bin.display());
}

/// The name of a tap for a test, and the bridge to attach it; none where there can be no tap.
fn tap(test: &str) -> Option<String> {
    let iface = format!("nmvc{}", std::process::id());
    if let Err(why) = Port::open(&format!("tap:{iface}")) {
        skip(test, &format!("no tap can be opened here ({why})"));
        return None;
    }
    build_bridge();
    Some(iface)
}

/// A bridge that a failing test would leave running.
struct Attached<'a>(&'a str);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // Best effort: in the good case it is detached already.
        let _ = vale_ctl(&["detach", self.0, "--if-exists"]).ok();
    }
}

#[test]
fn attached_tap_is_bridged_until_detach() {
    const NAME: &str = "attached_tap_is_bridged_until_detach";
    in_own_root(NAME, || {
        let Some(iface) = tap(NAME) else { return };
        let name = format!("valeA:{iface}");
        let name = name.as_str();
        let _guard = Attached(name);

        let attached = &json(&["attach", name])[name];
        assert_eq!(attached["action"], "attached");
        let pid = attached["pid"].as_u64().expect("a process id");
        let users = &json(&["list", name])[name]["users"];
        assert_eq!(users[0]["pid"], pid);
        assert_eq!(users[0]["command"], "nm-bridge");
        let net = Path::new("/sys/class/net").join(&iface);
        assert!(net.exists(), "the interface is not there");
        assert!(left().is_empty());

        assert!(complaint(&["-h", name], 1).contains("busy"));
        assert_eq!(json(&["attach", name, "--may-exist"])[name]["action"], "unchanged");
        assert_eq!(text(&["detach", name, "--dry-run"]), format!("would detach {name}\n"));

        let command = || {
            let pid = json(&["list", name])[name]["users"][0]["pid"].clone();
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it runs");
            (pid, command.replace('\0', " "))
        };
        vale_ctl(&["-p", name, "-C", "0,0"]).assert().success();
        let (polling, line) = command();
        assert_ne!(polling, pid, "the bridge is a new one");
        assert!(line.ends_with("--busy-poll --cpu 0 "), "{line:?}");

        // What `attach` was asked for stays.
        vale_ctl(&["detach", name]).assert().success();
        vale_ctl(&["attach", name, "--no-offload", "--cpu", "0"]).assert().success();
        vale_ctl(&["poll", "start", name]).assert().success();
        assert!(command().1.ends_with("--busy-poll --no-offload --cpu 0 "), "{}", command().1);
        vale_ctl(&["poll", "stop", name]).assert().success();
        let line = command().1;
        assert!(line.ends_with("--no-offload --cpu 0 ") && !line.contains("busy"), "{line}");

        vale_ctl(&["detach", name]).assert().success();
        assert_eq!(text(&["list"]), "", "the port is left");
        assert!(!net.exists(), "the interface is left");
        assert!(left().is_empty(), "a file is left");
        assert!(complaint(&["-d", name], 3).contains("There is no"));
    });
}

#[test]
fn attach_makes_the_interface_in_a_namespace_under_a_name_of_its_own() {
    const NAME: &str = "attach_makes_the_interface_in_a_namespace_under_a_name_of_its_own";
    in_own_root(NAME, || {
        let blue = match netns::Namespace::new("blue") {
            Ok(blue) => blue,
            Err(why) => return skip(NAME, &why),
        };
        build_bridge();
        let _guard = Attached("valeA:blue");
        let there = || blue.try_ip("link show eth0").status.success();
        let said = complaint(&["attach", "valeA:blue", "--netns", "nm-no-such"], 1);
        assert!(said.contains("no network namespace of this name"), "{said}");
        for bad in ["a/b", "a-very-long-name-of-an-interface", "t%d", "eth0@netns:x"] {
            complaint(&["attach", "valeA:blue", "--interface", bad], 2);
        }
        vale_ctl(&["attach", "valeA:blue", "--netns", &blue.0, "--interface", "eth0"])
            .assert()
            .success();
        assert!(there(), "the interface is not there");
        vale_ctl(&["poll", "start", "valeA:blue"]).assert().success();
        assert!(there(), "the new bridge has another interface");
        vale_ctl(&["detach", "valeA:blue"]).assert().success();
        assert!(!there(), "the interface is left");
    });
}

#[test]
fn attach_to_a_tap_that_is_busy_or_none_fails_each_time() {
    const NAME: &str = "attach_to_a_tap_that_is_busy_or_none_fails_each_time";
    in_own_root(NAME, || {
        let Some(iface) = tap(NAME) else { return };
        let holder = Port::open(&format!("tap:{iface}")).expect("it could be opened before");
        let name = format!("valeA:{iface}");
        // The port of the switch opens, and then the tap does not.
        for _ in 0..20 {
            let said = complaint(&["attach", &name], 1);
            assert!(said.contains(&iface) && said.contains("attaching"), "{said}");
            assert_eq!(text(&["list"]), "", "a port is left");
        }
        drop(holder);
        let said = complaint(&["attach", "valeA:lo"], 1);
        assert!(said.contains("attaching valeA:lo") && said.contains("xdp:lo"), "{said}");
        vale_ctl(&["attach", &name]).assert().success();
        vale_ctl(&["detach", &name]).assert().success();
    });
}

#[test]
fn attach_knows_a_tap_in_a_namespace_whose_sys_is_not_mounted() {
    const NAME: &str = "attach_knows_a_tap_in_a_namespace_whose_sys_is_not_mounted";
    in_own_root(NAME, || {
        let bare = match netns::Namespace::new("bare") {
            Ok(bare) => bare,
            Err(why) => return skip(NAME, &why),
        };
        build_bridge();
        bare.ip("tuntap add mode tap name t7");
        let _guard = Attached("valeA:t7");
        // As under `nsenter --net`: /sys goes on showing the interfaces of the first namespace.
        bare.inside(|| vale_ctl(&["attach", "valeA:t7"]).assert().success());
        let pid = json(&["list", "valeA:t7"])["valeA:t7"]["users"][0]["pid"].clone();
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it runs");
        assert!(line.contains("\0tap:t7\0"), "{line:?}");
        vale_ctl(&["detach", "valeA:t7"]).assert().success();
    });
}

/// Whether the NIC of the pair has an XDP program.
fn has_program(pair: &Pair) -> bool {
    let shown = pair.within(1, || veth::ip("-d link show v1"));
    String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
}

#[test]
fn attached_nic_is_bridged_with_its_host_until_detach() {
    const NAME: &str = "attached_nic_is_bridged_with_its_host_until_detach";
    in_own_root(NAME, || {
        let Some(pair) = Pair::new(NAME, 1) else { return };
        build_bridge();
        let _guard = Attached("valeA:v1");
        let ping = || {
            let mut ping = Command::new("ping");
            ping.args(["-c", "1", "-i", "0.2", "-w", "5", "10.79.0.2"]); // until the first answer
            ping.output().expect("ping runs").status.success()
        };
        pair.within(0, || veth::ip("addr add 10.79.0.1/24 dev v0"));
        pair.within(1, || veth::ip("addr add 10.79.0.2/24 dev v1"));

        // Alone: the switch has it, and the host's stack nothing of it.
        let pid = pair.within(1, || json(&["attach", "valeA:v1"]))["valeA:v1"]["pid"].clone();
        assert!(has_program(&pair));
        assert_eq!(json(&["list", "valeA:v1"])["valeA:v1"]["users"][0]["pid"], pid);
        // Killed, it leaves no program, and can be attached again.
        let pid = nix::unistd::Pid::from_raw(pid.as_i64().expect("a number") as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("the bridge");
        // Its descriptors go one after the other, and those of sockets take a while.
        while has_program(&pair) || text(&["list"]).contains("v1") {
            std::thread::yield_now();
        }

        pair.within(1, || vale_ctl(&["-h", "valeA:v1"]).assert().success());
        let listed = json(&["list", "valeA"]);
        let ports = &listed["valeA"]["ports"];
        assert!(ports.get("v1").is_some() && ports.get("v1_host").is_some(), "{listed}");
        assert!(pair.within(0, ping), "the host does not answer through the switch");
        assert!(complaint(&["attach", "valeA:v1", "--host"], 1).contains("busy"));
        // One of the two bridges killed: the other one ends as well, and the host has its NIC back.
        for port in ["valeA:v1", "valeA:v1_host"] {
            let pid = json(&["list", port])[port]["users"][0]["pid"].clone();
            let pid = nix::unistd::Pid::from_raw(pid.as_i64().expect("a number") as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("the bridge");
            let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while has_program(&pair) || text(&["list"]).contains("v1") {
                assert!(std::time::Instant::now() < end, "{port}, left: {}", text(&["list"]));
                std::thread::yield_now();
            }
            assert!(pair.within(0, ping), "{port}: the host is cut off");
            pair.within(1, || vale_ctl(&["attach", "valeA:v1", "--host"]).assert().success());
        }
        for action in ["start", "stop"] {
            pair.within(1, || vale_ctl(&["poll", action, "valeA:v1"]).assert().success());
            assert!(text(&["list"]).contains("v1_host"), "the host is not attached any more");
        }
        vale_ctl(&["detach", "valeA:v1"]).assert().success();
        assert_eq!(text(&["list"]), "", "a port is left");
        assert!(!has_program(&pair));
        assert!(pair.within(0, ping), "the host does not answer without the switch");
    });
}

#[test]
fn nic_with_dashes_in_its_name_is_attached_alone_and_with_its_host() {
    const NAME: &str = "nic_with_dashes_in_its_name_is_attached_alone_and_with_its_host";
    in_own_root(NAME, || {
        let Some(pair) = Pair::new(NAME, 1) else { return };
        build_bridge();
        let _guard = Attached("valeA:nic");
        pair.within(1, || {
            // The second one is not queue 1 of another.
            for (was, name) in [("v1", "br-lan"), ("br-lan", "br-1")] {
                for words in [format!("set {was} down name {name}"), format!("set {name} up")] {
                    assert!(veth::ip(&format!("link {words}")).status.success(), "{words}");
                }
                for host in [&[][..], &["--host"]] {
                    let words = [&["attach", "valeA:nic", "--interface", name], host].concat();
                    vale_ctl(&words).assert().success();
                    let shown = veth::ip(&format!("-d link show {name}"));
                    assert!(
                        String::from_utf8_lossy(&shown.stdout).contains("prog/xdp"),
                        "{words:?}"
                    );
                    vale_ctl(&["detach", "valeA:nic"]).assert().success();
                }
                let why = complaint(&["attach", &format!("valeA:{name}")], 2);
                let port = name.replace('-', "_");
                assert!(why.contains(&format!("valeA:{port} --interface {name}")), "{why}");
            }
        });
    });
}

#[test]
fn nic_of_the_default_route_is_attached_alone_only_by_force() {
    const NAME: &str = "nic_of_the_default_route_is_attached_alone_only_by_force";
    in_own_root(NAME, || {
        let Some(pair) = Pair::new(NAME, 1) else { return };
        build_bridge();
        let _guard = Attached("valeA:v1");
        let here = |line: &str| pair.within(1, || veth::ip(line));
        let refused = || {
            for line in [
                &["attach", "valeA:v1"][..],
                &["attach", "valeA:nic", "--interface", "v1"],
                &["attach", "valeA:v1", "--dry-run"],
                &["-a", "valeA:v1"],
            ] {
                let said = pair.within(1, || complaint(line, 1));
                let helps = ["default route", "v1", "--host", "--force"];
                assert!(helps.iter().all(|word| said.contains(word)), "{line:?}: {said}");
            }
            assert!(!has_program(&pair) && text(&["list"]).is_empty());
        };
        let passes = |flags: &[&str]| {
            let line = [&["attach", "valeA:v1"], flags].concat();
            pair.within(1, || vale_ctl(&line).assert().success());
            assert!(has_program(&pair));
            // The user has said so once.
            pair.within(1, || vale_ctl(&["poll", "start", "valeA:v1"]).assert().success());
            vale_ctl(&["detach", "valeA:v1"]).assert().success();
        };
        here("addr add 10.79.0.2/24 dev v1");
        here("link add d0 type veth peer name d1");
        here("link set d0 up");
        // Routes that are no default, and a default route through something else.
        here("route add 10.80.0.0/16 via 10.79.0.1");
        here("route add 0.0.0.0/1 via 10.79.0.1");
        here("route add default dev d0");
        passes(&[]);
        // One that is second to another.
        here("route add default via 10.79.0.1 metric 100");
        refused();
        passes(&["--force"]);
        passes(&["--host"]);
        here("route del default via 10.79.0.1 metric 100");
        passes(&[]);

        let ipv6 = |enabled: bool| {
            let file = "/proc/sys/net/ipv6/conf/v1/disable_ipv6";
            pair.within(1, || fs::write(file, if enabled { "0" } else { "1" })).is_ok()
        };
        if !Path::new("/proc/net/if_inet6").exists() || !ipv6(true) {
            return skip(NAME, "the part about IPv6: there is none here");
        }
        here("-6 route add unreachable default metric 5000");
        passes(&[]);
        here("-6 route add default dev v1");
        refused();
        passes(&["--force"]);
        ipv6(false); // and its routes go
        passes(&[]);
    });
}

#[test]
fn nic_of_a_namespace_is_attached_as_one_here() {
    const NAME: &str = "nic_of_a_namespace_is_attached_as_one_here";
    in_own_root(NAME, || {
        let (blue, red) = match (netns::Namespace::new("nblue"), netns::Namespace::new("nred")) {
            (Ok(blue), Ok(red)) => (blue, red),
            (Err(why), _) | (_, Err(why)) => return skip(NAME, &why),
        };
        build_bridge();
        let _guard = Attached("valeA:blue");
        // No interface here has that name, so that only a look over there tells that it is a NIC.
        blue.ip(&format!("link add nmnic0 type veth peer name nmnic0 netns {}", red.0));
        for (namespace, address) in [(&blue, "10.79.0.1/24"), (&red, "10.79.0.2/24")] {
            namespace.ip(&format!("addr add {address} dev nmnic0"));
            namespace.ip("link set nmnic0 up");
        }
        let attach = ["attach", "valeA:blue", "--netns", &blue.0, "--interface", "nmnic0"];
        let ping = || {
            let mut ping = Command::new("ping");
            ping.args(["-c", "1", "-i", "0.2", "-w", "5", "10.79.0.1"]); // until the first answer
            red.exec(&ping).output().expect("ping runs").status.success()
        };
        let has_program = || blue.ip("-d link show nmnic0").contains("prog/xdp");
        blue.ip("route add default via 10.79.0.2");
        assert!(complaint(&attach, 1).contains("default route"));
        blue.ip("route del default");
        vale_ctl(&attach).assert().success();
        assert!(has_program() && !text(&["list"]).contains("blue_host"));
        vale_ctl(&["detach", "valeA:blue"]).assert().success();

        vale_ctl(&[&attach[..], &["--host"]].concat()).assert().success();
        assert!(text(&["list"]).contains("blue_host"), "the host is not attached");
        assert!(ping(), "the namespace does not answer through the switch");
        vale_ctl(&["poll", "start", "valeA:blue"]).assert().success();
        assert!(text(&["list"]).contains("blue_host"), "the host is not attached any more");
        vale_ctl(&["detach", "valeA:blue"]).assert().success();
        assert_eq!(text(&["list"]), "", "a port is left");
        assert!(!has_program() && ping(), "the namespace has not got its NIC back");
    });
}

#[test]
fn default_route_is_looked_for_in_the_namespace_that_the_name_says() {
    const NAME: &str = "default_route_is_looked_for_in_the_namespace_that_the_name_says";
    let blue = match netns::Namespace::new("route") {
        Ok(blue) => blue,
        Err(why) => return skip(NAME, &why),
    };
    let takes = |name: &str| {
        let name = name.replace("BLUE", &format!("@netns:{}", blue.0));
        netmap::control::takes_default_route(&name.parse().expect("a name"))
            .expect("looked")
            .map(|route| route.through)
    };
    blue.ip("link add nmd0 type veth peer name nmd1");
    blue.ip("link set nmd0 up");
    assert_eq!(takes("xdp:nmd0BLUE"), None);
    blue.ip("route add default dev nmd0");
    for name in ["xdp:nmd0BLUE", "xdp:nmd0-0BLUE"] {
        assert_eq!(takes(name).as_deref(), Some("nmd0"), "{name}");
    }
    // There it is another namespace's; host rings and taps take nothing; ports of a switch have no routes.
    for name in
        ["xdp:nmd0", "xdp:nmd0^BLUE", "tap:nmd0BLUE", "netmap:nmd0BLUE", "xdp:loBLUE", "valeA:nmd0"]
    {
        assert_eq!(takes(name), None, "{name}");
    }
    let gone = "xdp:nmd0@netns:nm-no-such".parse().expect("a name");
    netmap::control::takes_default_route(&gone).expect_err("no such namespace");
}

/// Has its own name in `ps`, and nothing to do with any switch.
struct Innocent(std::process::Child);

impl Innocent {
    fn start() -> Innocent {
        Innocent(Command::new("sleep").arg("1000").spawn().expect("sleep starts"))
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_none()
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a hostile peer does: puts another process in the place of a user, in every word that names it.
fn forge(switch: &str, from: u32, to: u32) {
    use std::os::unix::fs::FileExt;
    let path = netmap::control::root().join(switch).join("switch");
    let file = fs::File::options().read(true).write(true).open(path).expect("a peer may");
    let mut bytes = vec![0; file.metadata().expect("a file").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    let mut forged = 0;
    for at in (0..bytes.len() - 3).step_by(4) {
        if bytes[at..at + 4] == from.to_le_bytes() {
            file.write_all_at(&to.to_le_bytes(), at as u64).expect("written");
            forged += 1;
        }
    }
    assert!(forged > 0, "nothing names process {from}");
}

#[test]
fn detach_and_poll_signal_no_process_that_a_peer_names() {
    const NAME: &str = "detach_and_poll_signal_no_process_that_a_peer_names";
    in_own_root(NAME, || {
        let mut innocent = Innocent::start();
        // Without a bridge: refused.
        let _port = Port::open("valeB:x").expect("opened");
        forge("valeB", std::process::id(), innocent.0.id());
        vale_ctl(&["detach", "valeB:x"]).assert().failure();
        vale_ctl(&["poll", "start", "valeB:x"]).assert().failure();
        assert!(innocent.is_alive());
        // With one: it is found all the same.
        let Some(iface) = tap(NAME) else { return };
        let name = format!("valeA:{iface}");
        let _guard = Attached(&name);
        let pid = json(&["attach", &name])[&name]["pid"].as_u64().expect("a number");
        forge("valeA", pid as u32, innocent.0.id());
        vale_ctl(&["detach", &name]).assert().success();
        assert!(innocent.is_alive());
        assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "the bridge still runs");
        assert!(!Path::new("/sys/class/net").join(&iface).exists(), "the tap is left");
    });
}

#[test]
fn detach_ends_no_bridge_that_attach_did_not_start() {
    const NAME: &str = "detach_ends_no_bridge_that_attach_did_not_start";
    in_own_root(NAME, || {
        build_bridge();
        let bin = Path::new(env!("CARGO_BIN_EXE_vale-ctl")).with_file_name("nm-bridge");
        let mut bridge = Command::new(bin)
            .args(["-i", "valeA:x", "-i", "null:", "--json", "--interval", "1h"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("nm-bridge starts");
        let mut line = String::new();
        let stdout = bridge.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("text");
        let mut bridge = Innocent(bridge);
        assert!(complaint(&["detach", "valeA:x"], 1).contains("nm-bridge"));
        assert!(bridge.is_alive());
    });
}

#[test]
fn what_peers_put_in_the_root_neither_stops_nor_misleads_attach() {
    const NAME: &str = "what_peers_put_in_the_root_neither_stops_nor_misleads_attach";
    in_own_root(NAME, || {
        let Some(iface) = tap(NAME) else { return };
        let name = format!("valeA:{iface}");
        let _guard = Attached(&name);
        drop(netmap::Port::open("valeA:first").expect("it makes the root"));
        // Where the log of the bridge once was: a pipe that nobody reads, a link, a huge file.
        let log = netmap::control::root().join(format!("nm-bridge.{name}.log"));
        let target = tempfile::NamedTempFile::new().expect("a file");
        type Trap<'a> = &'a dyn Fn();
        let traps: [Trap<'_>; 3] = [
            &|| nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).expect("made"),
            &|| std::os::unix::fs::symlink(target.path(), &log).expect("made"),
            &|| fs::File::create(&log).and_then(|f| f.set_len(3 << 30)).expect("made"),
        ];
        for trap in traps {
            trap();
            vale_ctl(&["attach", &name]).assert().success();
            vale_ctl(&["detach", &name]).assert().success();
            fs::remove_file(&log).expect("untouched");
        }
        assert_eq!(fs::metadata(target.path()).expect("kept").len(), 0);
    });
}
