//! How a port ends whose interface, or whose namespace, goes: each sync fails with one clear error, and nothing is left.

use netmap::error::Lack;
use netmap::{Error, Interest, Link, Port, Wait};

use super::{FOR_EVER, frame, new_pair};
use crate::veth::{Namespace, Pair, ip};

/// What a port that waits for packets, and one that sends, say when the interface goes by `how`.
fn told_of_the_end(test: &str, waits: Wait, how: impl Fn(&Pair)) {
    let Some(pair) = new_pair(test, 1) else { return };
    let (mut waiter, mut sender) = (pair.open(0, ""), pair.open(1, ""));
    let is_told = |error: Error| {
        let gone = matches!(error, Error::Unavailable { lack: Lack::InterfaceGone, .. });
        assert!(gone, "{error:?}");
    };
    let (tell, begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let told = tell.clone();
        scope.spawn(move || {
            told.send(()).unwrap();
            loop {
                match waiter.wait(Interest::RX, waits, Some(FOR_EVER)) {
                    Ok(ready) => {
                        assert_eq!(ready, Interest::RX, "it was not told");
                        let n = waiter.rx(0).available();
                        waiter.rx(0).advance(n);
                    }
                    Err(error) => break is_told(error),
                }
            }
            assert_eq!(waiter.link(), Link::Gone);
            drop(waiter);
        });
        scope.spawn(move || {
            let mut sent = 0;
            loop {
                sender.tx(0).push(&frame(60, sent));
                if sent == 1000 {
                    tell.send(()).unwrap();
                }
                sent += 1;
                match sender.wait(Interest::SPACE, Wait::Block, Some(FOR_EVER)) {
                    Ok(_) => {}
                    Err(error) => break is_told(error),
                }
            }
        });
        begun.recv().unwrap();
        begun.recv().unwrap();
        how(&pair);
    });
}

#[test]
fn namespace_that_loses_its_name_ends_the_ports_in_it_and_is_not_kept_alive() {
    const TEST: &str = "namespace_that_loses_its_name_ends_the_ports_in_it_and_is_not_kept_alive";
    let Some(pair) = new_pair(TEST, 1) else { return };
    let name = format!("nmx{}", std::process::id());
    struct Name<'a>(&'a str);
    impl Drop for Name<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("ip").args(["netns", "del", self.0]).output();
        }
    }
    for what in ["xdp:v1", "xdp:v1^", "tap:t1"] {
        // v1 goes there; v0, its other end, tells whether it lives.
        ip(&format!("netns add {name}"));
        let guard = Name(&name);
        pair.within(0, || {
            let there = nix::net::if_::if_nametoindex("v0").is_ok();
            if there {
                ip("link del v0");
            }
            ip("link add v0 type veth peer name v1");
            ip(&format!("link set v1 netns {name}"));
            ip("link set v0 up");
        });
        ip(&format!("-n {name} link set v1 up"));
        ip(&format!("-n {name} tuntap add mode tap name t1"));
        let full = format!("{what}@netns:{name}");
        let mut port = match Port::open(&full) {
            Ok(port) => port,
            Err(why) if what.ends_with('^') => {
                crate::skip::skip(TEST, &why.to_string());
                continue;
            }
            Err(why) => panic!("{full}: {why}"),
        };
        drop(guard);
        let end = std::time::Instant::now() + FOR_EVER;
        while port.link() != Link::Gone {
            assert!(std::time::Instant::now() < end, "{what}: it was not told");
            let _ = port.wait(Interest::RX, Wait::Block, Some(FOR_EVER / 1000));
            let n = port.rx(0).available();
            port.rx(0).advance(n);
        }
        let error = loop {
            match port.rxsync() {
                Err(error) => break error,
                Ok(()) => {
                    let n = port.rx(0).available();
                    port.rx(0).advance(n);
                }
            }
        };
        assert!(matches!(error, Error::Unavailable { .. }), "{what}: {error:?}");
        drop(port);
        while pair.within(0, || nix::net::if_::if_nametoindex("v0").is_ok()) {
            assert!(std::time::Instant::now() < end, "{what}: the namespace lives");
            std::thread::yield_now();
        }
    }
}

#[test]
fn interface_deleted_under_traffic_is_told() {
    told_of_the_end("interface_deleted_under_traffic_is_told", Wait::Block, |pair| {
        pair.within(0, || ip("link del v0"));
    });
}

#[test]
fn host_rings_end_with_the_interface() {
    let Some(pair) = new_pair("host_rings_end_with_the_interface", 1) else { return };
    let delete = |_: &str| drop(ip("link del v0"));
    let move_it = |place: &str| drop(ip(&format!("link set v0 netns {place}")));
    let ways: [&dyn Fn(&str); 2] = [&move_it, &delete];
    for how in ways {
        if pair.within(0, || nix::net::if_::if_nametoindex("v0").is_err()) {
            let place = pair.place(0);
            pair.within(1, || ip(&format!("link set v0 netns {place}")));
            pair.within(0, || ip("link set v0 up"));
        }
        let mut host = match pair.within(0, || Port::open("xdp:v0^")) {
            Ok(host) => host,
            Err(why) => {
                return crate::skip::skip("host_rings_end_with_the_interface", &why.to_string());
            }
        };
        let place = pair.place(1);
        pair.within(0, || how(&place));
        let error = loop {
            match host.wait(Interest::RX, Wait::Block, Some(FOR_EVER)) {
                Ok(ready) => {
                    assert_eq!(ready, Interest::RX, "it was not told");
                    let n = host.rx(0).available();
                    host.rx(0).advance(n);
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Unavailable { lack: Lack::InterfaceGone, .. }), "{error:?}");
        assert!(host.txsync().is_err() && host.link() == Link::Gone);
        drop(host);
        // Another test that is starting a program has the tap open for a moment.
        let end = std::time::Instant::now() + FOR_EVER;
        let links = || pair.within(0, || ip("-br link")).stdout;
        while String::from_utf8_lossy(&links()).contains("nmh") {
            assert!(std::time::Instant::now() < end, "a tap is left");
            std::thread::yield_now();
        }
    }
}

#[test]
fn interface_moved_under_traffic_is_told() {
    told_of_the_end("interface_moved_under_traffic_is_told", Wait::Busy, |pair| {
        let place = pair.place(1);
        pair.within(0, || ip(&format!("link set v0 netns {place}")));
        pair.within(1, || ip("link del v1"));
    });
}

#[test]
fn interface_that_was_elsewhere_for_a_moment_is_told() {
    let test = "interface_that_was_elsewhere_for_a_moment_is_told";
    let Some(pair) = new_pair(test, 1) else { return };
    let (mut port, elsewhere) = (pair.open(0, ""), Namespace::new().unwrap());
    let here = pair.place(0);
    let number = || pair.within(0, || ip("-o link show v0").stdout);
    let before = number();
    // All that is told of it is there at once: that it went, and that one of that number came.
    pair.within(0, || ip(&format!("link set v0 netns {}", elsewhere.place())));
    elsewhere.within(|| ip(&format!("link set v0 netns {here}")));
    pair.within(0, || ip("link set v0 up"));
    assert_eq!(number().split(|&b| b == b':').next(), before.split(|&b| b == b':').next());
    match port.wait(Interest::RX, Wait::Block, Some(FOR_EVER)) {
        Err(Error::Unavailable { lack: Lack::InterfaceGone, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(port.link(), Link::Gone);
}

#[test]
fn namespace_of_the_peer_deleted_is_told() {
    let Some(pair) = new_pair("namespace_of_the_peer_deleted_is_told", 1) else { return };
    let mut port = pair.open(0, "");
    drop(pair);
    match port.wait(Interest::RX, Wait::Block, Some(FOR_EVER)) {
        Err(Error::Unavailable { lack: Lack::InterfaceGone, .. }) => {}
        other => panic!("{other:?}"),
    }
}
