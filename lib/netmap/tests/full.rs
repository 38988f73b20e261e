//! A file system without room: one clear error, never a SIGBUS, and nothing left behind.

mod common;
#[path = "../../nm-cli/tests/skip/mod.rs"]
mod skipping;

use std::process::Command;

use netmap::{Error, Memory, Options, Port};
use skipping::skip;

/// A tmpfs of 2 MiB, unmounted when dropped.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm can be written");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|o| o.status.success());
        mounted.then(|| Self(dir))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn full_file_system_is_an_error_that_says_so() {
    let Some(tiny) = Tiny::mount() else {
        return skip("full_file_system", "mounting a tmpfs needs root");
    };
    // SAFETY: the only test of this program, before it opens anything.
    unsafe { std::env::set_var("NETMAP_ROOT", tiny.0.path()) };
    // A small port fits, one of default size does not.
    let small = Port::open_with(&"valeA:s".parse().unwrap(), &common::slots(64)).unwrap();
    let e = Port::open("valeA:x").unwrap_err();
    assert!(matches!(e, Error::NoSpace { .. }), "{e}");
    assert!(e.to_string().contains("fewer slots"), "{e}");
    // Nor does a larger one in the memory of the small one, and it leaves none of what it tried to take.
    let free = || nix::sys::statvfs::statvfs(tiny.0.path()).expect("mounted").blocks_free();
    let before = free();
    let memory = Memory::Existing(small.layout().unwrap().mem_id);
    let joins = Options { memory, ..common::slots(1024) };
    let e = Port::open_with(&"valeA:x".parse().unwrap(), &joins).unwrap_err();
    assert!(matches!(e, Error::NoSpace { .. }), "{e}");
    assert_eq!(free(), before);
    // The failure took nothing: what fitted before fits again, and the switch works.
    let again = Port::open_with(&"valeA:x".parse().unwrap(), &common::slots(64)).unwrap();
    drop((small, again));
    let left: Vec<_> = std::fs::read_dir(tiny.0.path().join("mem")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // A region that grows beyond the room says the same.
    let options = Options { extra_bufs: 2000, ..common::slots(64) };
    let e = Port::open_with(&"valeA:x".parse().unwrap(), &options).unwrap_err();
    assert!(matches!(e, Error::NoSpace { .. }), "{e}");
    assert!(!tiny.0.path().join("valeA").exists(), "an empty switch stayed");
}
