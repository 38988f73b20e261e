//! The C headers: byte-exact, without a warning in the strictest modes of C and C++, and of use by themselves.

#![forbid(unsafe_code)]

mod common;

use std::process::Command;

use common::{compile, has_cc, here, skip};

#[test]
fn headers_have_netmaps_sizes_offsets_and_numbers() {
    if !has_cc() {
        return skip(
            "headers_have_netmaps_sizes_offsets_and_numbers",
            "there is no C compiler (cc)",
        );
    }
    for standard in ["c99", "c11", "gnu17"] {
        let flag = format!("-std={standard}");
        let program = compile("abi", &format!("abi-{standard}"), &[&flag, "-pedantic"]);
        let out = Command::new(program).output().expect("it runs");
        assert!(out.status.success(), "{standard}: {}", String::from_utf8_lossy(&out.stdout));
    }
}

#[test]
fn headers_are_headers_of_cpp_too() {
    if !Command::new("c++").arg("--version").output().is_ok_and(|out| out.status.success()) {
        return skip("headers_are_headers_of_cpp_too", "there is no C++ compiler (c++)");
    }
    let dir = tempfile::tempdir().expect("a directory");
    for standard in ["c++11", "c++20"] {
        let program = dir.path().join(standard);
        let out = Command::new("c++")
            .args(["-x", "c++", "-pedantic", "-Wall", "-Wextra", "-Werror"])
            .arg(format!("-std={standard}"))
            .arg("-I")
            .arg(here().join("include"))
            .arg(here().join("tests/c/abi.c"))
            .arg("-o")
            .arg(&program)
            .output()
            .expect("c++");
        assert!(out.status.success(), "{standard}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(Command::new(program).status().expect("it runs").success(), "{standard}");
    }
}

#[test]
fn headers_bring_what_programs_take_from_them() {
    if !has_cc() {
        return skip("headers_bring_what_programs_take_from_them", "there is no C compiler (cc)");
    }
    let out = Command::new(compile("names", "names", &["-std=gnu11"])).output().expect("it runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    // Second, microsecond, function, line.
    let said: Vec<_> = said.lines().map(|line| line.split_once("] ").expect(line).1).collect();
    assert_eq!(said[..3], ["lo and 256", "alone", "of 0"], "{said:?}");
    // Twice in a second; and a second may have ended meanwhile.
    assert!((4..=6).contains(&said.len()), "{said:?}");
}
