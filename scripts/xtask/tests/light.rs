//! Whoever makes pages does not compile the tools: neither the library nor KVM is among the
//! dependencies.

#![forbid(unsafe_code)]

use std::process::Command;

#[test]
fn xtask_depends_on_neither_the_library_nor_the_tools() {
    let out = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "-p", "xtask"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let tree = String::from_utf8(out.stdout).expect("UTF-8");
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains(&"clap") && crates.contains(&"nm-cli"), "{tree}");
    for heavy in ["netmap", "nm-pktgen", "nm-bridge", "vale-ctl", "e1000pv-vmm", "e1000pv"] {
        assert!(!crates.contains(&heavy), "xtask compiles {heavy}:\n{tree}");
    }
    assert!(!crates.iter().any(|name| name.contains("kvm")), "{tree}");
}
