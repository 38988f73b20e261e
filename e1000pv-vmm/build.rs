//! Builds the bench guest, so that the monitor carries it inside: one file to copy, and no version
//! of the image that does not fit.
//!
//! It is a program for another machine, hence a cargo run of its own, with a target directory of its
//! own (this run holds the lock of the common one), always optimised.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    let var = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("..");
    let out = PathBuf::from(var("OUT_DIR"));
    // Not guest-tools as a whole: cargo may be used there, too, and its output would count as a change.
    for part in [
        "driver",
        "workload",
        "kernel/Cargo.toml",
        "kernel/Cargo.lock",
        "kernel/src",
        "kernel/link.ld",
    ] {
        println!("cargo:rerun-if-changed={}", root.join("guest-tools").join(part).display());
    }
    for library in ["e1000pv", "inet-checksum", "nm-stream"] {
        println!("cargo:rerun-if-changed={}", root.join("lib").join(library).display());
    }
    let target = out.join("guest");
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .current_dir(root.join("guest-tools/kernel"))
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(&target);
    // What was set for this run (coverage, sanitizers, clippy as the compiler) is not for the guest.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
    {
        cargo.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|n| n.starts_with("CARGO_PROFILE_") || n == "CARGO_BUILD_TARGET")
        {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "building the guest image failed: {status}");
    fs::copy(target.join("release/guest-kernel"), out.join("guest-kernel"))
        .expect("the image was just built");
}
