//! Plans made of command lines: what fits together, what is refused, and with which exit code.

use clap::Parser;

use super::*;

fn plan(words: &str) -> anyhow::Result<Plan> {
    let words = ["nm-pktgen", "-i", "valeA:x"].into_iter().chain(words.split_whitespace());
    Plan::new(Cli::try_parse_from(words)?)
}

#[test]
fn defaults_are_those_of_pkt_gen() {
    let tx = plan("-f tx").expect("valid");
    assert_eq!(
        (tx.burst, tx.recipe.sizes, tx.count, tx.wait_link),
        (512, Sizes::Fixed(60), None, Duration::ZERO)
    );
    assert_eq!(plan("").expect("valid").function, Function::Rx);
    assert_eq!(plan("ping").expect("valid").burst, 1);
    assert_eq!(plan("tx -6").expect("valid").recipe.sizes, Sizes::Fixed(80));
    assert_eq!(plan("tx -l 1514 -l 60").expect("valid").recipe.sizes, Sizes::Range(60, 1514));
}

#[test]
fn threads_get_rings_and_cpus() {
    let plan = plan("tx -p 3 -a 1 -c 3").expect("valid");
    let names: Vec<String> = plan.ports.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["valeA:x-0", "valeA:x-1", "valeA:x-2"]);
    assert_eq!((plan.options.tx_rings, plan.options.rx_rings), (Some(3), Some(3)));
    assert_eq!(plan.cpus, Some(vec![1, 2, 0]));
}

#[test]
fn rates_become_units_per_second() {
    assert_eq!(plan("tx -R 0").expect("valid").rate, None);
    let rate = |words: &str| plan(words).expect("valid").rate.expect("has one");
    assert_eq!(rate("tx -R 1M"), Target { per_second: 1e6, unit: Unit::Packets });
    assert_eq!(rate("tx -R 1Gbps").unit, Unit::Bits { overhead: 0 });
    assert_eq!(rate("tx -R 1Gbps -B").unit, Unit::Bits { overhead: 24 });
    assert_eq!(rate("tx -R 50%"), Target { per_second: 5e9, unit: Unit::Bits { overhead: 24 } });
}

#[test]
fn nonsense_combinations_are_usage_errors() {
    for words in [
        "rx --pcap-in f",
        "tx --pcap-out f",
        "tx --latency-out f",
        "tx -W",
        "rx -R 1M",
        "pong -R 1M",
        "tx -P - --pcap-loop 2",
        "tx -P /dev/stdin --pcap-loop 0",
        "tx --link-to-ethernet",
        "rx --link-to-ethernet",
        "tx -P f -p 2",
        "tx -P f -I",
        "tx -I -l 60-90",
        "txseq -I",
        "txseq -r",
        "txseq -l 42",
        "ping -6 -l 60",
        "tx -l 10",
        "tx -l 65536",
        "tx -F 63",
        "tx -4 -s fd00::1",
        "tx -s fd00::1 -d 10.0.0.1",
        "tx -b 0",
        "tx -p 2 -C 512,512,1,1",
        "tx -l imix -l 60",
        "tx -l 9000 -M 14",
    ] {
        let error = plan(words).err().unwrap_or_else(|| panic!("{words:?} was accepted"));
        assert!(error.downcast_ref::<UsageError>().is_some(), "{words:?}: {error}");
    }
}

#[test]
fn own_mac_is_local_unicast_and_stable() {
    let name = |text: &str| text.parse::<PortName>().expect("valid");
    let mac = own_mac(&name("valeA:x"));
    assert_eq!(mac.0[0], 2);
    assert_eq!(mac, own_mac(&name("valeA:x-1")));
    assert_ne!(mac, own_mac(&name("valeA:y")));
}
