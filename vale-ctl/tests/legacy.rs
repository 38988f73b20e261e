//! Upstream's flags do what upstream's program did.

#![forbid(unsafe_code)]

mod common;

use common::{complaint, in_own_root, json, text, vale_ctl};
use netmap::Port;

#[test]
fn no_arguments_and_l_list_everything() {
    in_own_root("no_arguments_and_l_list_everything", || {
        let _port = Port::open("valeA:x").expect("opened");
        let all = text(&["list"]);
        assert!(all.contains("valeA:x"));
        assert_eq!(text(&[]), all);
        assert_eq!(text(&["-l"]), all);
        let one = text(&["-l", "valeA:x"]);
        assert!(one.contains("valeA:x") && !one.contains("1 port"), "{one}");
        assert!(complaint(&["-l", "valeA:y"], 3).contains("valeA:y"));
    });
}

#[test]
fn n_creates_g_shows_r_deletes() {
    in_own_root("n_creates_g_shows_r_deletes", || {
        vale_ctl(&["-n", "valeA:p", "-C", "128,64,2,1"]).assert().success();
        assert!(text(&["-g", "valeA:p"]).contains("tx: 2 x 128 slots\n    rx: 1 x 64 slots"));
        assert_eq!(json(&["-g", "valeA:p"])["valeA:p"]["persistent"], true);
        vale_ctl(&["-r", "valeA:p"]).assert().success();
        assert!(complaint(&["-g", "valeA:p"], 3).contains("valeA:p"));
        assert!(complaint(&["-r", "valeA:p"], 3).contains("valeA:p"));
    });
}

#[test]
fn m_puts_ports_into_one_memory() {
    in_own_root("m_puts_ports_into_one_memory", || {
        for port in ["valeA:p", "valeA:q"] {
            vale_ctl(&["-m", "7", "-n", port]).assert().success();
        }
        let ports = &json(&["show", "valeA"])["valeA"]["ports"];
        assert_eq!(ports["p"]["memory"], ports["q"]["memory"]);
    });
}

#[test]
fn h_with_a_value_attaches_and_alone_helps() {
    in_own_root("h_with_a_value_attaches_and_alone_helps", || {
        let _port = Port::open("valeA:x").expect("opened");
        // Attaching what is open already is refused: proof that attach was meant.
        assert!(complaint(&["-h", "valeA:x"], 1).contains("busy"));
        assert!(complaint(&["-a", "valeA:x"], 1).contains("busy"));
        assert!(text(&["-h"]).contains("Usage: vale-ctl"));
        assert!(complaint(&["-h", "top"], 2).contains("--help"));
    });
}

#[test]
fn stray_words_and_unknown_letters_are_usage_errors() {
    for args in [&["-n", "valeA:x", "stray"][..], &["-n", "valeA:x", "-q"], &["-d"]] {
        complaint(args, 2);
    }
}
