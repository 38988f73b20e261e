//! `docs/benchmarks.md`: its tables are what the benches wrote, and nothing that somebody typed.

#![forbid(unsafe_code)]

mod support;

use std::fs;

use support::{repository, skip};
use xtask::benchmarks::{recorded, render, runs};

const VALE: &str = r#"{"type":"machine","schema":1,"cpu":"A CPU","cpus":2,"caches":["L1d 48 KiB","L2 2 MiB"],"kernel":"Linux 6.1","rust":"rustc 1.91.0","revision":"abc","date":"2026-01-02","load":"0 0 0"}
{"type":"row","schema":1,"case":"small","what":"64 B, 1024 slots","mpps":57.51,"gbps":27.6,"reference_mpps":73.14,"ratio":0.786}
{"type":"row","schema":1,"case":"large","what":"1514 B, 256 slots","mpps":3.6,"gbps":44.1,"reference_mpps":4.2,"ratio":0.9}
{"type":"row","schema":1,"case":"peers","what":"beside DPDK's memif","skipped":"it is not installed"}"#;

const GUEST: &str = r#"{"type":"row","schema":1,"case":"ladder","topology":"pair","backend":"vale","size_bytes":60,"ring":4096,"step":"plain","rx_pps":30100.0,"factor_to_plain":1.0,"kicks_per_packet":0.00003,"noisy":false}
{"type":"row","schema":1,"case":"ladder","topology":"pair","backend":"vale","size_bytes":60,"ring":4096,"step":"csb","rx_pps":4550000.0,"factor_to_plain":151.2,"kicks_per_packet":null,"noisy":true}
{"type":"row","schema":1,"case":"ladder","topology":"null","backend":"vale","size_bytes":60,"ring":4096,"step":"plain","rx_pps":29600.0,"factor_to_plain":1.0,"kicks_per_packet":0.0,"noisy":false}
{"type":"target","schema":1,"target":"a dip","measured":0.152,"required":0.1,"below":true,"met":false}"#;

const HOST: &str = r#"{"path":"vale","round":0,"figures":{"tcp_bps":1.0}}
{"type":"row","schema":1,"case":"host","what":"vale","tcp_gbps":9.31,"tcp_of_veth":0.5,"udp_mpps":0.61,"udp_of_veth":0.45,"udp_of_bridge":1.1,"ping_p50_us":51.2}
{"type":"row","schema":1,"case":"host","what":"veth","tcp_gbps":18.6,"tcp_of_veth":1.0,"udp_mpps":1.35,"udp_of_veth":1.0,"udp_of_bridge":2.4,"ping_p50_us":12.0}"#;

const LIVELOCK: &str = r#"{"type":"row","schema":1,"case":"nice","guest":"alone","capacity_per_s":1801,"load_ratio":0.1,"offered_per_s":180,"taken_per_s":167,"read_per_s":180,"interrupts_per_s":160,"vcpu_ratio":0.527}
{"type":"row","schema":1,"case":"nice","guest":"auto","capacity_per_s":1801,"load_ratio":4.0,"offered_per_s":7204,"taken_per_s":4875,"read_per_s":4852,"interrupts_per_s":37,"vcpu_ratio":0.624}"#;

fn made(page: &str) -> anyhow::Result<String> {
    render(page, |run| {
        Ok(match run {
            "vale" => Some(VALE.to_owned()),
            "guest" => Some(GUEST.to_owned()),
            "host" => Some(HOST.to_owned()),
            "livelock" => Some(LIVELOCK.to_owned()),
            _ => None,
        })
    })
}

#[test]
fn tables_are_made_of_the_run_and_the_rest_stays() {
    let page = "# A\n<!-- bench vale small large -->\nold\n<!-- end -->\n\n<!-- bench vale peers -->\n\
                <!-- end -->\nB\n<!-- bench other x -->\nkept\n<!-- end -->\n";
    let expected = "# A\n<!-- bench vale small large -->\n```\n\
                    \x20                  Mpps  Gbit/s  reference Mpps  ratio\n\
                    64 B, 1024 slots   57.5    27.6            73.1  0.786\n\
                    1514 B, 256 slots  3.60    44.1            4.20  0.900\n\
                    ```\n<!-- end -->\n\n<!-- bench vale peers -->\n```\n\
                    beside DPDK's memif: it is not installed\n\
                    ```\n<!-- end -->\nB\n<!-- bench other x -->\nkept\n<!-- end -->\n";
    let once = made(page).expect("a page");
    assert_eq!(once, expected);
    assert_eq!(made(&once).expect("a page"), expected, "a second time changes nothing");
    assert_eq!(runs(page).into_iter().collect::<Vec<_>>(), ["other", "vale"]);
}

#[test]
fn the_machine_is_told_with_its_caches() {
    let page = made("<!-- bench vale machine -->\n<!-- end -->").expect("a page");
    for line in ["processor  A CPU, 2 CPU(s)\n", "caches     L1d 48 KiB, L2 2 MiB\n"] {
        assert!(page.contains(line), "{page}");
    }
}

#[test]
fn rows_with_other_conditions_are_tables_of_their_own() {
    let page = made("<!-- bench guest ladder -->\n<!-- end -->").expect("a page");
    let expected = "guest to guest, over vale, 60 B without CRC, 4096 descriptors\n\
                    step           Mpps  factor  kicks/p  noisy\n\
                    plain e1000  0.0301    1.00   3.0e-5\n\
                    CSB            4.55     151        -  noisy\n\
                    \n\
                    guest to null:, over vale, 60 B without CRC, 4096 descriptors\n\
                    step           Mpps  factor  kicks/p\n\
                    plain e1000  0.0296    1.00        0\n";
    assert!(page.contains(expected), "{page}");
    let page = made("<!-- bench guest target -->\n<!-- end -->").expect("a page");
    let expected = "must be reached  measured  required  below  met\n\
                    a dip               0.152     0.100  below   NO\n";
    assert!(page.contains(expected), "{page}");
}

#[test]
fn paths_between_namespaces_are_a_table() {
    let page = made("<!-- bench host host -->\n<!-- end -->").expect("a page");
    let expected = "      TCP Gbit/s  of veth  UDP 64 B Mpps  of veth  of bridge  ping p50 us\n\
                    vale        9.31    0.500          0.610    0.450       1.10         51.2\n\
                    veth        18.6     1.00           1.35     1.00       2.40         12.0\n";
    assert!(page.contains(expected), "{page}");
}

#[test]
fn curves_of_a_reader_are_a_table_for_each_capacity() {
    let page = made("<!-- bench livelock nice -->\n<!-- end -->").expect("a page");
    let expected = "capacity 1801 a second\n\
                    guest   load  offered/s  taken/s  read/s  irqs/s  vCPU %\n\
                    alone  0.100        180      167     180     160    52.7\n\
                    auto    4.00       7204     4875    4852      37    62.4\n";
    assert!(page.contains(expected), "{page}");
}

#[test]
fn what_cannot_be_made_is_an_error() {
    let why = made("<!-- bench vale small -->\n").expect_err("a table without an end");
    assert!(why.to_string().contains("bench vale small"), "{why}");
    let page = "<!-- bench vale small -->\n<!-- end -->";
    let why = render(page, |_| Ok(Some("{".into()))).expect_err("half an object");
    assert!(why.to_string().contains("vale.jsonl"), "{why}");
    let page = made("<!-- bench vale small rtt -->\n<!-- end -->").expect("a page");
    assert!(page.contains("0.786\n\nrtt: not part of this run\n```"), "{page}");
}

#[test]
fn the_page_is_what_the_recorded_runs_say() {
    const NAME: &str = "the_page_is_what_the_recorded_runs_say";
    let repository = repository();
    let page = fs::read_to_string(repository.join("docs/benchmarks.md")).expect("the page");
    let anew = render(&page, |run| recorded(&repository, run)).expect("a page");
    assert_eq!(anew, page, "run `cargo run -p xtask -- benchmarks`");
    let runs = runs(&page);
    assert_eq!(
        runs.iter().copied().collect::<Vec<_>>(),
        ["guest", "host", "livelock", "vale", "xdp"]
    );
    for run in runs {
        if recorded(&repository, run).expect("a file").is_none() {
            skip(NAME, &format!("docs/benchmarks/{run}.jsonl is not there: its tables are older"));
        }
    }
}
