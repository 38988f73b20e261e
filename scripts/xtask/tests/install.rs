//! `make install` and the Debian package: what they bring works, and nothing of it stays behind.
//!
//! The package is made of the tools as the tests were built (debug, then stripped), because an
//! optimised build would take longer than all of its test.

#![forbid(unsafe_code)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Root, installed, skip, text, tools};
use xtask::TOOLS;
use xtask::deb::PACKAGE;

const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn make_uninstall_takes_away_what_make_install_brought() {
    const NAME: &str = "make_uninstall_takes_away_what_make_install_brought";
    if !installed("make") {
        return skip(NAME, "make is not installed");
    }
    tools();
    let stage = tempfile::tempdir().expect("a directory");
    let make = |goal: &str| {
        let mut make = Command::new("make");
        make.args(["--silent", goal, "PREFIX=/opt/vale", &format!("PROFILE={PROFILE}")])
            .arg(format!("DESTDIR={}", stage.path().display()))
            .env("CARGO", env!("CARGO"))
            .env_remove("MAKEFLAGS")
            .current_dir(support::repository());
        text("make", make.output());
    };
    make("install");
    let prefix = stage.path().join("opt/vale");
    for tool in TOOLS {
        let version = text(tool, Command::new(prefix.join("bin").join(tool)).arg("-V").output());
        assert!(version.starts_with(tool), "{version}");
        for file in [
            format!("share/man/man8/{tool}.8"),
            format!("share/bash-completion/completions/{tool}"),
            format!("share/zsh/site-functions/_{tool}"),
            format!("share/fish/vendor_completions.d/{tool}.fish"),
        ] {
            assert!(prefix.join(&file).is_file(), "{file} is missing");
        }
    }
    for file in ["share/man/man7/vale.7", "share/man/man8/vale-ctl-fdb-show.8"] {
        assert!(prefix.join(file).is_file(), "{file} is missing");
    }
    for file in [
        "bin/nm-run",
        "share/man/man8/nm-run.8",
        "lib/vale-rs/libnetmap_preload.so",
        "include/net/netmap.h",
        "include/net/netmap_legacy.h",
        "include/net/netmap_user.h",
    ] {
        assert!(prefix.join(file).is_file(), "{file} is missing");
    }
    // It finds what was installed beside it.
    let mut nm_run = Command::new(prefix.join("bin/nm-run"));
    nm_run.args(["sh", "-c", "echo $LD_PRELOAD"]).env_remove("LD_PRELOAD").env_remove("NM_PRELOAD");
    let preloaded = text("nm-run", nm_run.output());
    assert!(
        preloaded.trim_end().ends_with("/opt/vale/lib/vale-rs/libnetmap_preload.so"),
        "{preloaded}"
    );
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "troubleshooting.md"] {
        assert!(prefix.join("share/doc/vale-rs").join(file).is_file(), "{file} is missing");
    }
    let foreign = prefix.join("share/man/man8/somebody-else.8");
    std::fs::write(&foreign, "").expect("written");
    make("uninstall");
    assert_eq!(files_below(stage.path()), [foreign], "uninstall removes ours, and ours alone");
}

/// Removes the package also if the test fails.
struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = Command::new("dpkg").args(["--purge", PACKAGE]).output();
    }
}

#[test]
fn package_pleases_lintian_works_and_goes_without_a_trace() {
    const NAME: &str = "package_pleases_lintian_works_and_goes_without_a_trace";
    for program in ["make", "strip", "dpkg-deb", "dpkg-shlibdeps"] {
        if !installed(program) {
            return skip(NAME, &format!("{program} is not installed"));
        }
    }
    tools();
    let dir = tempfile::tempdir().expect("a directory");
    let package = xtask::deb::build(dir.path(), PROFILE).expect("a package");
    let file = package.to_str().expect("UTF-8");

    if installed("lintian") {
        let mut lintian = Command::new("lintian");
        lintian.args(["--allow-root", "--fail-on", "error,warning", "--info", file]);
        let output = lintian.output().expect("lintian");
        let talk = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !talk.contains("W: "), "{talk}");
    } else {
        skip(NAME, "lintian is not installed; the rest was done");
    }

    if text("id", Command::new("id").arg("-u").output()).trim() != "0" {
        return skip(NAME, "installing it needs root; it was built");
    }
    if Command::new("dpkg").args(["-s", PACKAGE]).output().is_ok_and(|out| out.status.success()) {
        return skip(NAME, "the package is installed here already; it was built");
    }
    let guard = Installed;
    text("dpkg -i", Command::new("dpkg").args(["-i", file]).output());
    let listed = text("dpkg -L", Command::new("dpkg").args(["-L", PACKAGE]).output());
    let ours: Vec<&Path> = listed.lines().map(Path::new).filter(|path| path.is_file()).collect();
    assert!(ours.len() > 40, "{listed}");
    works(&Root::new());
    if !installed("man") {
        skip(NAME, "man is not installed; the rest was done");
    } else if ours.contains(&Path::new("/usr/share/man/man8/nm-pktgen.8.gz")) {
        for page in ["nm-pktgen", "vale-ctl-fdb-show", "vale"] {
            let found = text("man -w", Command::new("man").args(["-w", page]).output());
            assert!(found.contains(page), "{found}");
        }
    } else {
        skip(NAME, "dpkg leaves manual pages out here; the rest was done");
    }
    let ours: Vec<PathBuf> = ours.into_iter().map(Path::to_owned).collect();
    text("dpkg --purge", Command::new("dpkg").args(["--purge", PACKAGE]).output());
    drop(guard);
    let left: Vec<_> = ours.iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(!Path::new("/usr/share/doc").join(PACKAGE).exists());
}

/// The installed tools, two of them through a switch.
fn works(root: &Root) {
    let tool = |name: &str| {
        let mut command = Command::new(Path::new("/usr/bin").join(name));
        command.env("NETMAP_ROOT", root.path()).stdin(Stdio::null());
        command
    };
    for name in TOOLS {
        assert!(text(name, tool(name).arg("--version").output()).starts_with(name));
    }
    text("create", tool("vale-ctl").args(["create", "valeA:r"]).output());
    text("backpressure", tool("vale-ctl").args(["backpressure", "valeA", "on"]).output());
    let receiver = tool("nm-pktgen")
        .args(["-i", "valeA:r", "-f", "rx", "-n", "1000", "-t", "60s", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a receiver");
    text("tx", tool("nm-pktgen").args(["-i", "valeA:t", "-f", "tx", "-n", "1000"]).output());
    let record = text("rx", receiver.wait_with_output());
    assert!(record.contains("\"rx_packets\":1000"), "{record}");
}
