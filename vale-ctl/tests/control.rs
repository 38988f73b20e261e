//! `list`, `show`, `create`, `delete`, `set`, `fdb`, `stats` against real ports of this process.

#![forbid(unsafe_code)]

mod common;

use common::{complaint, in_own_root, json, mac, send, text, vale_ctl};
use netmap::Port;

#[test]
fn virtio_net_headers_of_a_port_are_set_and_shown() {
    in_own_root("virtio_net_headers_of_a_port_are_set_and_shown", || {
        vale_ctl(&["create", "valeA:x", "--mem-mib", "16"]).assert().success();
        let port = || json(&["show", "valeA:x"])["valeA:x"].clone();
        assert_eq!(port()["memory_bytes"], 16 << 20);
        assert!(port()["memory_id"].as_u64().unwrap() >= 32768);
        assert!(port()["vnet_hdr_len"].is_null());
        vale_ctl(&["set", "valeA:x", "vnet-hdr=12"]).assert().success();
        assert_eq!(port()["vnet_hdr_len"], 12);
        let list = vale_ctl(&["list", "valeA:x"]).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        assert!(list.contains("vnet-hdr 12"), "{list}");
        assert!(text(&["show", "valeA:x"]).contains("virtio-net header: 12 bytes"));
        vale_ctl(&["set", "valeA:x", "vnet-hdr", "0"]).assert().success();
        assert!(port()["vnet_hdr_len"].is_null());
        for (words, code) in [
            (["set", "valeA:x", "vnet-hdr=11"], 2),
            (["set", "valeA:x", "ageing=1s"], 2),
            (["set", "valeA:y", "vnet-hdr=12"], 3),
        ] {
            vale_ctl(&words).assert().code(code);
        }
        for (words, what) in [
            (&["set", "valeA:x", "vnet-hdr"][..], "`vnet-hdr` needs a value"),
            (&["set", "valeA:x", "vnet-hdr", "12", "ageing", "5s"], "belong to the switch"),
            (&["set", "valeA", "vnet-hdr=12"], "vnet-hdr belongs to a port"),
        ] {
            let said = complaint(words, 2);
            assert!(said.contains(what), "{words:?}: {said}");
        }
        assert!(port()["vnet_hdr_len"].is_null(), "nothing was changed");
    });
}

#[test]
fn interfaces_are_not_joined_to_ends_of_pipes_nor_to_monitors() {
    in_own_root("interfaces_are_not_joined_to_ends_of_pipes_nor_to_monitors", || {
        let _pipe = Port::open("valeA:x{1").expect("opened");
        for words in [&["attach"][..], &["detach"], &["poll", "start"], &["poll", "stop"]] {
            for (name, what) in [
                ("valeA:x{1", "is the end of a pipe"),
                ("valeA:y}2", "is the end of a pipe"),
                ("valeA:x#3", "it is a monitor"),
                ("valeA:x/t", "a whole port is meant here"),
            ] {
                let said = complaint(&[words, &[name]].concat(), 2);
                assert!(said.contains(what), "{words:?} {name}: {said}");
            }
        }
    });
}

#[test]
fn nothing_there_lists_nothing_and_names_are_missing() {
    in_own_root("nothing_there_lists_nothing_and_names_are_missing", || {
        assert_eq!(text(&["list"]), "");
        assert_eq!(json(&["list"]), serde_json::json!({ "schema": 1 }));
        for args in [["list", "valeA"], ["show", "valeA:x"], ["stats", "valeA"]] {
            assert!(complaint(&args, 3).contains("There is no valeA"), "{args:?}");
        }
        assert!(complaint(&["fdb", "show", "valeA:"], 3).contains("There is no valeA"));
        assert!(complaint(&["ageing", "valeA", "60s"], 3).contains("There is no valeA"));
    });
}

#[test]
fn open_ports_are_listed_with_their_users_and_vanish() {
    in_own_root("open_ports_are_listed_with_their_users_and_vanish", || {
        let x = Port::open("valeA:x").expect("opened");
        let y = Port::open("valeA:y").expect("opened");
        let all = text(&[]);
        for name in ["valeA ", "valeA:x", "valeA:y", "2 ports", &std::process::id().to_string()] {
            assert!(all.contains(name), "{name} is not in\n{all}");
        }
        let value = json(&["list", "valeA:y"]);
        assert_eq!(value["valeA:y"]["users"][0]["pid"], std::process::id());
        assert!(value.get("valeA").is_none(), "only the port was asked for");
        let value = json(&["list"]);
        assert_eq!(value["valeA"]["ports"].as_object().expect("ports").len(), 2);
        assert_eq!(value["valeA"]["ageing_seconds"], 300.0);

        drop(y);
        assert_eq!(json(&["list"])["valeA"]["ports"].as_object().expect("ports").len(), 1);
        drop(x);
        assert_eq!(text(&["list"]), "");
    });
}

#[test]
fn pipes_are_listed_behind_their_port_and_shown() {
    in_own_root("pipes_are_listed_behind_their_port_and_shown", || {
        let _x = Port::open("valeA:x").expect("opened");
        let _y = Port::open("valeA:y").expect("opened");
        let mut pipe = Port::open("valeA:x}b").expect("opened");
        let _other = Port::open("valeA:x{a").expect("opened");
        send(&mut pipe, mac(2), mac(1));
        let all = text(&["list"]);
        let names: Vec<&str> =
            all.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        let ends = ["valeA:x{a", "valeA:x}a", "valeA:x{b", "valeA:x}b"];
        assert_eq!(names[..2], ["valeA", "valeA:x"]);
        assert_eq!(names[2..6], ends);
        assert_eq!(names[6..], ["valeA:y"]);
        assert!(all.contains("2 ports, 2 pipes"), "{all}");
        let value = json(&["show", "valeA:x{b"]);
        let end = &value["valeA:x{b"];
        assert_eq!((&end["pipe_of"], &end["rings"]["rx0"]["used"]), (&"x".into(), &1.into()));
        assert_eq!(end["counters"]["rx_packets"], 1);
        assert!(text(&["show", "valeA:x}b"]).contains("pipe of: valeA:x"));
        assert!(text(&["top", "-n", "1", "valeA:x}b"]).contains("valeA:x}b"));
        assert!(complaint(&["create", "valeA:y{1"], 1).contains("end of a pipe"));
        assert!(complaint(&["delete", "valeA:x{b"], 1).contains("end of a pipe"));
        assert!(complaint(&["mirror", "valeA:x{b", "valeA:y"], 1).contains("end of a pipe"));
    });
}

#[test]
fn mirror_gets_what_a_port_sends_and_receives_until_it_is_off() {
    in_own_root("mirror_gets_what_a_port_sends_and_receives_until_it_is_off", || {
        let mut ports = ["valeA:x", "valeA:y", "valeA:m"].map(|n| Port::open(n).expect("opened"));
        let got = |port: &mut Port| {
            port.rxsync().expect("synced");
            let n = port.rx(0).available();
            port.rx(0).advance(n);
            n
        };
        // Both stations make themselves known.
        for (i, port) in [(1, 0), (2, 1)] {
            send(&mut ports[port], [0xff; 6], mac(i));
        }
        assert_eq!(ports.each_mut().map(got), [1, 1, 2]);
        assert_eq!(text(&["mirror", "valeA:x"]), "off\n");
        vale_ctl(&["mirror", "valeA:x", "valeA:m"]).assert().success();
        assert_eq!(text(&["mirror", "valeA:x"]), "valeA:m\n");
        assert!(text(&["show", "valeA:x"]).contains("mirror: valeA:m"));
        assert_eq!(json(&["mirror", "valeA:x"])["valeA:x"]["mirror"], "m");
        assert_eq!(json(&["list"])["valeA"]["ports"]["x"]["mirror"], "m");
        send(&mut ports[0], mac(2), mac(1));
        send(&mut ports[1], mac(1), mac(2));
        assert_eq!(ports.each_mut().map(got), [1, 1, 2]);
        vale_ctl(&["mirror", "valeA:x", "off"]).assert().success();
        send(&mut ports[0], mac(2), mac(1));
        assert_eq!(ports.each_mut().map(got), [0, 1, 0]);

        for (args, code, why) in [
            (["mirror", "valeA:x", "valeA:x"], 1, "cannot be its own mirror"),
            (["mirror", "valeA:x", "valeB:m"], 3, "There is no valeB:m"),
            (["mirror", "valeA:x", "valeA:z"], 3, "There is no valeA:z"),
            (["mirror", "valeA", "valeA:m"], 2, "a port has a mirror"),
        ] {
            assert!(complaint(&args, code).contains(why), "{args:?}");
        }
        // It ends with its port.
        vale_ctl(&["mirror", "valeA:x", "valeA:m"]).assert().success();
        let [x, y, m] = ports;
        drop(m);
        assert_eq!(text(&["mirror", "valeA:x"]), "off\n");
        drop((x, y));
    });
}

#[test]
fn port_that_holds_senders_up_is_named() {
    in_own_root("port_that_holds_senders_up_is_named", || {
        let mut sender = Port::open("valeA:t").expect("opened");
        let _receiver = Port::open("valeA:r").expect("opened");
        vale_ctl(&["backpressure", "valeA", "on"]).assert().success();
        assert!(!text(&["list"]).contains("full"));
        // More than the ring holds; what the receiver does not take stays with the sender.
        for _ in 0..1100 {
            if sender.tx(0).space() > 0 {
                send(&mut sender, [0xff; 6], mac(1));
            }
        }
        assert!(text(&["list"]).contains("full, so senders wait for it"));
        assert!(text(&["show", "valeA:r"]).contains("receiving: full, so senders wait for it"));
        assert!(!text(&["show", "valeA:t"]).contains("receiving:"));
        let output = vale_ctl(&["top", "-n", "1", "--interval", "1ms"]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "valeA:r is full, so senders wait for it\n");
        vale_ctl(&["backpressure", "valeA", "off"]).assert().success();
        assert!(text(&["list", "valeA:r"]).contains("full, so packets to it are dropped"));
    });
}

#[test]
fn counters_that_a_peer_scribbled_over_are_shown_without_a_panic() {
    in_own_root("counters_that_a_peer_scribbled_over_are_shown_without_a_panic", || {
        use std::os::unix::fs::FileExt;
        let _ports = ["valeA:x", "valeA:y"].map(|name| Port::open(name).expect("opened"));
        let files = ["x", "y"].map(|port| {
            let path = netmap::control::root().join(format!("valeA/port.{port}"));
            std::fs::File::options().read(true).write(true).open(path).expect("a peer may")
        });
        // Behind the header, which would be refused: state and counters of the rings.
        let scribble = |byte: u8| {
            for file in &files {
                let len = file.metadata().expect("a file").len();
                file.write_all_at(&vec![byte; len as usize - 4096], 4096).expect("written");
            }
        };
        let mut top = std::process::Command::new(env!("CARGO_BIN_EXE_vale-ctl"))
            .args(["top", "--json", "--interval", "20ms", "-n", "10"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("runs");
        for byte in [0xff, 0x01, 0xfe, 0x80].into_iter().cycle() {
            scribble(byte);
            for args in [&["stats", "--rings"][..], &["show", "valeA"], &["list"]] {
                let status = vale_ctl(args).output().expect("runs").status;
                assert!(status.success(), "{args:?}: {status}");
            }
            if let Some(status) = top.try_wait().expect("our child") {
                assert!(status.success(), "top: {status}");
                break;
            }
        }
    });
}

#[test]
fn persistent_port_lives_without_users() {
    in_own_root("persistent_port_lives_without_users", || {
        vale_ctl(&["create", "valeA:p", "-C", "256,512,2"]).assert().success();
        let port = &json(&["show", "valeA:p"])["valeA:p"];
        assert_eq!(port["persistent"], true);
        assert_eq!(port["users"], serde_json::json!([]));
        assert_eq!((&port["tx_slots"], &port["rx_slots"]), (&256.into(), &512.into()));
        assert_eq!((&port["tx_rings"], &port["rx_rings"]), (&2.into(), &2.into()));
        assert_eq!(port["rings"].as_object().expect("rings").len(), 4);

        assert!(complaint(&["create", "valeA:p"], 1).contains("exists"));
        assert_eq!(json(&["create", "valeA:p", "--may-exist"])["valeA:p"]["action"], "unchanged");

        let user = Port::open("valeA:p").expect("opened");
        assert!(complaint(&["delete", "valeA:p"], 1).contains("busy"));
        assert!(complaint(&["delete", "valeA:p", "--dry-run"], 1).contains("busy"));
        drop(user);
        assert_eq!(text(&["delete", "valeA:p", "--dry-run"]), "would delete valeA:p\n");
        vale_ctl(&["delete", "valeA:p"]).assert().success();
        assert!(complaint(&["delete", "valeA:p"], 3).contains("There is no"));
        vale_ctl(&["delete", "valeA:p", "--if-exists"]).assert().success();
        assert_eq!(text(&["list"]), "");
    });
}

#[test]
fn dry_run_changes_nothing() {
    in_own_root("dry_run_changes_nothing", || {
        assert_eq!(text(&["create", "valeA:p", "--dry-run"]), "would create valeA:p\n");
        assert_eq!(text(&["create", "valeB", "--dry-run"]), "would create valeB\n");
        assert_eq!(text(&["attach", "valeA:tap0", "--dry-run"]), "would attach valeA:tap0\n");
        assert_eq!(text(&["list"]), "");
        vale_ctl(&["create", "valeA:p"]).assert().success();
        vale_ctl(&["set", "valeA", "ageing", "1s", "--dry-run"]).assert().success();
        assert_eq!(text(&["ageing", "valeA"]), "300s\n");
    });
}

#[test]
fn persistent_switch_lives_without_ports() {
    in_own_root("persistent_switch_lives_without_ports", || {
        vale_ctl(&["create", "valeB"]).assert().success();
        assert_eq!(json(&["list"])["valeB"]["persistent"], true);
        assert!(complaint(&["create", "valeB", "-C", "64"], 2).contains("belong to a port"));
        let port = Port::open("valeB:x").expect("opened");
        assert!(complaint(&["delete", "valeB"], 1).contains("busy"));
        drop(port);
        assert_eq!(json(&["list"])["valeB"]["ports"], serde_json::json!({}));
        vale_ctl(&["delete", "valeB"]).assert().success();
        assert!(complaint(&["list", "valeB"], 3).contains("valeB"));
    });
}

#[test]
fn settings_are_set_and_shown() {
    in_own_root("settings_are_set_and_shown", || {
        let _port = Port::open("valeA:x").expect("opened");
        vale_ctl(&["set", "valeA:", "ageing", "60s", "backpressure=on", "persistent", "on"])
            .assert()
            .success();
        let switch = &json(&["show", "valeA"])["valeA"];
        assert_eq!(switch["ageing_seconds"], 60.0);
        assert_eq!((&switch["backpressure"], &switch["persistent"]), (&true.into(), &true.into()));
        assert_eq!(text(&["ageing", "valeA"]), "60s\n");
        assert_eq!(text(&["backpressure", "valeA"]), "on\n");

        vale_ctl(&["ageing", "valeA", "off"]).assert().success();
        vale_ctl(&["backpressure", "valeA", "off"]).assert().success();
        let switch = &json(&["list", "valeA"])["valeA"];
        assert!(switch["ageing_seconds"].is_null());
        assert_eq!(switch["backpressure"], false);

        assert!(complaint(&["set", "valeA", "colour", "blue"], 2).contains("colour"));
        assert!(complaint(&["set", "valeA:x", "ageing", "off"], 2).contains("valeA, not valeA:x"));
        assert!(complaint(&["ageing", "valeA", "soon"], 2).contains("soon"));
    });
}

#[test]
fn learnt_addresses_are_shown_and_flushed() {
    in_own_root("learnt_addresses_are_shown_and_flushed", || {
        let mut x = Port::open("valeA:x").expect("opened");
        let mut y = Port::open("valeA:y").expect("opened");
        send(&mut x, mac(99), mac(1));
        send(&mut x, mac(99), mac(2));
        send(&mut y, mac(99), mac(3));

        let shown = &json(&["fdb", "show", "valeA"])["valeA"];
        assert_eq!(shown["02:00:00:00:00:01"]["port"], "x");
        assert_eq!(shown["02:00:00:00:00:03"]["port"], "y");
        assert_eq!(shown.as_object().expect("addresses").len(), 3);
        let behind_y = &json(&["fdb", "show", "valeA:y"])["valeA"];
        assert_eq!(behind_y.as_object().expect("addresses").len(), 1);
        let table = text(&["fdb", "show"]);
        assert!(table.lines().any(|l| l.starts_with("02:00:00:00:00:02  valeA:x")), "{table}");

        let flush = |args: &[&str]| json(args)[args[2]]["flushed"].clone();
        assert_eq!(flush(&["fdb", "flush", "valeA", "--dry-run"]), 3);
        assert_eq!(flush(&["fdb", "flush", "valeA", "--mac", "02:00:00:00:00:01"]), 1);
        assert_eq!(flush(&["fdb", "flush", "valeA:y"]), 1);
        assert_eq!(flush(&["fdb", "flush", "valeA"]), 1);
        assert_eq!(json(&["fdb", "show", "valeA"])["valeA"], serde_json::json!({}));
        assert!(complaint(&["fdb", "flush", "valeB"], 3).contains("valeB"));
    });
}

#[test]
fn counters_are_those_of_the_traffic() {
    in_own_root("counters_are_those_of_the_traffic", || {
        let mut x = Port::open("valeA:x").expect("opened");
        let _y = Port::open("valeA:y").expect("opened");
        for _ in 0..5 {
            send(&mut x, mac(99), mac(1));
        }
        let value = &json(&["stats", "valeA:", "--rings"])["valeA"];
        let x = &value["ports"]["x"];
        assert_eq!(
            (&x["counters"]["tx_packets"], &x["counters"]["tx_bytes"]),
            (&5.into(), &300.into())
        );
        assert_eq!(x["counters"]["flooded"], 5);
        assert_eq!(x["rings"]["tx0"]["counters"]["tx_packets"], 5);
        assert_eq!(value["ports"]["y"]["counters"]["rx_packets"], 5);
        assert_eq!(value["ports"]["y"]["rings"]["rx0"]["used"], 5);
        assert_eq!(value["counters"]["tx_packets"], 5);

        let lines = text(&["stats", "valeA:y"]);
        assert!(lines.starts_with("valeA:y:\n    tx_packets: 0\n"), "{lines}");
        assert!(lines.contains("    rx_packets: 5\n"), "{lines}");
        let shown = text(&["show", "valeA:y"]);
        assert!(shown.contains("rx0: 5 slots in use"), "{shown}");
    });
}

#[test]
fn names_that_cannot_be_are_usage_errors() {
    for args in [["list", "eth0"], ["create", "eth0"], ["create", "valeA:a/b"]] {
        let said = complaint(&args, 2);
        assert!(said.contains(args[1]), "{args:?}: {said}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    in_own_root("a_reader_that_leaves_is_no_error", || {
        let _port = Port::open("valeA:x").expect("opened");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_vale-ctl"))
            .arg("stats")
            .stdout(writer)
            .status()
            .expect("vale-ctl runs");
        assert!(status.success(), "{status}");
    });
}
