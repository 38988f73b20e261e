//! Roots that others may write, or that were never ours: nothing outside of them is touched, nothing is
//! readable that should not be, and what was left behind goes.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{frame, in_own_root, slots};
use netmap::control::{self, Switch, SwitchOptions};
use netmap::{Error, Options, Port};

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

/// A directory outside of the root that must stay as it is: mode 0711, with a file named as a region.
struct Outside(tempfile::TempDir);

impl Outside {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["3", "switch", "port.x", "p0123456789abcde"] {
            fs::write(dir.path().join(name), "precious").unwrap();
        }
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
        Self(dir)
    }

    fn check(&self) {
        assert_eq!(mode(self.0.path()), 0o711);
        for name in ["3", "switch", "port.x", "p0123456789abcde"] {
            assert_eq!(fs::read(self.0.path().join(name)).unwrap(), b"precious", "{name}");
        }
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 4);
    }
}

#[test]
fn link_in_place_of_the_memory_directory_is_refused_by_name() {
    in_own_root("link_in_place_of_the_memory_directory_is_refused_by_name", |root| {
        let outside = Outside::new();
        fs::create_dir(root).unwrap();
        fs::set_permissions(root, PermissionsExt::from_mode(0o2770)).unwrap();
        symlink(outside.0.path(), root.join("mem")).unwrap();
        for name in ["valeA:x", "valeA:x@3"] {
            let e = Port::open(name).unwrap_err().to_string();
            assert!(e.contains("/mem") && e.contains("not a directory; remove it"), "{e}");
        }
        assert!(control::list().is_err());
        assert!(Switch::open("valeA").is_err());
        outside.check();
    });
}

#[test]
fn links_that_come_while_a_port_is_open_are_not_followed() {
    in_own_root("links_that_come_while_a_port_is_open_are_not_followed", |root| {
        let outside = Outside::new();
        let x = Port::open("valeA:x@3").unwrap();
        let y = Port::open_with(&"valeA:y".parse().unwrap(), &slots(64)).unwrap();
        let switch = Switch::open("valeA").unwrap();
        // A peer puts links in place of both directories, and of a region.
        for name in ["mem", "valeA"] {
            fs::rename(root.join(name), root.join(format!("{name}.old"))).unwrap();
            symlink(outside.0.path(), root.join(name)).unwrap();
        }
        let region = root.join("mem.old/3");
        fs::remove_file(&region).unwrap();
        symlink(outside.0.path().join("3"), &region).unwrap();
        let _ = switch.info();
        let _ = switch.set_ageing(None);
        let _ = (control::list(), Switch::open("valeA").map(drop));
        drop((x, y, switch));
        let _ = (Port::open("valeA:x").map(drop), Port::open("valeB:x").map(drop), control::list());
        outside.check();
    });
}

#[test]
fn tree_of_directories_in_place_of_a_switch_is_moved_aside() {
    in_own_root("tree_of_directories_in_place_of_a_switch_is_moved_aside", |root| {
        drop(Port::open("valeA:x").unwrap()); // makes the root
        fs::create_dir(root.join("valeA")).unwrap();
        // Deeper than a path or a stack can be, so it is made level by level.
        let mut deep = netmap::dir::Dir::open(&root.join("valeA"), false).unwrap();
        for _ in 0..5000 {
            deep = deep.make_subdir("d").unwrap();
        }
        drop(Port::open("valeA:x").expect("the name can be used again at once"));
        drop(Port::open("valeA:x").expect("and once more"));
        let aside = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(aside.filter(|n| n.to_string_lossy().starts_with(".aside.")).count(), 1);
    });
}

/// From now on modes stay as files and directories get them when they are made: to change them seems
/// to work and does nothing.
fn no_change_of_modes() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let calls = [libc::SYS_chmod, libc::SYS_fchmod, libc::SYS_fchmodat];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(0), arch);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Every file and directory below `dir` that grants something to others than its owner.
fn open_to_others(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.mode() & 0o077 != 0 {
            found.push(format!("{} {:o}", path.display(), meta.mode()));
        }
        if meta.is_dir() {
            open_to_others(&path, found);
        }
    }
}

#[test]
fn files_in_a_readable_root_are_private_from_their_first_moment() {
    in_own_root("files_in_a_readable_root_are_private_from_their_first_moment", |root| {
        // As plain mkdir makes it, and with the most generous umask.
        fs::create_dir(root).unwrap();
        fs::set_permissions(root, PermissionsExt::from_mode(0o755)).unwrap();
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        no_change_of_modes();
        let _port = Port::open("valeA:x").unwrap();
        let mut found = Vec::new();
        open_to_others(root, &mut found);
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(mode(root), 0o755);
    });
}

#[test]
fn group_root_gives_its_mode_to_what_is_in_it_whatever_the_umask() {
    in_own_root("group_root_gives_its_mode_to_what_is_in_it_whatever_the_umask", |root| {
        fs::create_dir(root).unwrap();
        fs::set_permissions(root, PermissionsExt::from_mode(0o2770)).unwrap();
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let _port = Port::open("valeA:x@3").unwrap();
        for dir in ["mem", "valeA"] {
            assert_eq!(mode(&root.join(dir)), 0o2770, "{dir}");
        }
        for file in [".lock", "mem/3", "valeA/switch", "valeA/port.x", "valeA/bell.0"] {
            assert_eq!(mode(&root.join(file)), 0o660, "{file}");
        }
    });
}

#[test]
fn looking_creates_nothing() {
    in_own_root("looking_creates_nothing", |root| {
        let look = || {
            assert!(control::list().unwrap().0.is_empty());
            assert!(matches!(Switch::open("valeA"), Err(Error::NotFound { .. })));
            let port = "valeA:x".parse().unwrap();
            assert!(matches!(control::delete_port(&port), Err(Error::NotFound { .. })));
        };
        look();
        assert!(!root.exists());
        // Nor in a directory that is no root.
        fs::create_dir(root).unwrap();
        fs::create_dir(root.join("valeA")).unwrap();
        fs::write(root.join("valeA/notes"), "mine").unwrap();
        look();
        assert!(root.join("valeA/notes").exists() && !root.join("mem").exists());
    });
}

#[test]
fn root_that_is_a_file_or_a_link_to_nowhere_is_named() {
    in_own_root("root_that_is_a_file_or_a_link_to_nowhere_is_named", |root| {
        fs::write(root, "a file").unwrap();
        for e in [Port::open("valeA:x").map(drop), control::list().map(drop)] {
            let e = e.unwrap_err().to_string();
            assert!(e.contains("it is not a directory; remove it or set NETMAP_ROOT"), "{e}");
        }
        fs::remove_file(root).unwrap();
        symlink("nowhere", root).unwrap();
        assert!(Port::open("valeA:x").unwrap_err().to_string().contains("root directory"));
    });
}

#[test]
fn half_made_switches_and_their_memory_go_with_the_next_look() {
    in_own_root("half_made_switches_and_their_memory_go_with_the_next_look", |root| {
        let kept = Port::open_with(&"valeK:x".parse().unwrap(), &slots(64)).unwrap();
        let kept_memory = Switch::open("valeK").unwrap().info().unwrap().ports[0].memory.clone();
        // Died after making the directory; after making the file; of another version.
        fs::create_dir(root.join("valeA")).unwrap();
        fs::create_dir(root.join("valeB")).unwrap();
        fs::write(root.join("valeB/switch"), "").unwrap();
        fs::create_dir(root.join("valeC")).unwrap();
        fs::write(root.join("valeC/switch"), vec![7; 1 << 20]).unwrap();
        fs::write(root.join("valeC/port.x"), "").unwrap();
        let other_version = [b"NMVMEM\0\0", [7; 1 << 20].as_slice()].concat();
        fs::write(root.join("mem/p0123456789abcde"), other_version).unwrap();
        fs::write(root.join("mem/thesis"), "not a region").unwrap();
        assert_eq!(control::list().unwrap().0.len(), 1);
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).unwrap();
            let mut names: Vec<String> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(root), [".lock", "mem", "valeK"]);
        assert_eq!(names(&root.join("mem")), [kept_memory.as_str(), "thesis"]);
        drop(kept);
    });
}

#[test]
fn memory_of_a_replaced_switch_goes_with_it() {
    in_own_root("memory_of_a_replaced_switch_goes_with_it", |root| {
        drop(Port::open("valeK:x").unwrap()); // makes the root
        fs::create_dir(root.join("valeC")).unwrap();
        fs::write(root.join("valeC/switch"), vec![7; 1 << 20]).unwrap();
        fs::write(root.join("mem/p0123456789abcde"), "").unwrap();
        let port = Port::open("valeC:x").unwrap();
        assert_eq!(fs::read_dir(root.join("mem")).unwrap().count(), 1);
        drop(port);
        assert_eq!(fs::read_dir(root.join("mem")).unwrap().count(), 0);
    });
}

#[test]
fn damaged_port_is_listed_as_damaged() {
    in_own_root("damaged_port_is_listed_as_damaged", |root| {
        Switch::create("valeA", &SwitchOptions::default()).unwrap();
        let _port = Port::open_with(&"valeA:x".parse().unwrap(), &slots(64)).unwrap();
        let _other = Port::open_with(&"valeA:y".parse().unwrap(), &slots(64)).unwrap();
        fs::File::options()
            .write(true)
            .open(root.join("valeA/port.x"))
            .unwrap()
            .set_len(9)
            .unwrap();
        let info = Switch::open("valeA").unwrap().info().unwrap();
        let damaged = info.ports.iter().map(|p| (p.name.as_str(), p.damaged.is_some()));
        assert_eq!(damaged.collect::<Vec<_>>(), [("x", true), ("y", false)]);
        assert_eq!(info.ports[0].users.len(), 1);
        assert!(info.ports[0].damaged.as_ref().unwrap().contains("port.x"));
    });
}

#[test]
fn processes_that_name_themselves_cannot_write_to_a_terminal() {
    in_own_root("processes_that_name_themselves_cannot_write_to_a_terminal", |_| {
        // The name of a process is that of its first thread; others may set it through /proc.
        fs::write(format!("/proc/self/task/{}/comm", std::process::id()), "a\x1b[2J\nb\u{202e}c")
            .unwrap();
        let _port = Port::open_with(&"valeA:x".parse().unwrap(), &slots(64)).unwrap();
        let info = Switch::open("valeA").unwrap().info().unwrap();
        let command = &info.ports[0].users[0].command;
        assert_eq!(command, "a\\u{1b}[2J\\u{a}b\\u{202e}c");
    });
}

#[test]
fn source_address_of_zeros_is_not_learnt_and_pause_frames_go_no_further() {
    in_own_root("source_address_of_zeros_is_not_learnt_and_pause_frames_go_no_further", |_| {
        let open = |name: &str| Port::open_with(&name.parse().unwrap(), &slots(64)).unwrap();
        let (mut a, mut b, _c) = (open("valeA:a"), open("valeA:b"), open("valeA:c"));
        let mut zeros = frame(2, 1, 0, 60);
        zeros[6..12].fill(0);
        a.tx(0).push(&zeros);
        for last in 0..=0x10 {
            let mut control = frame(2, 1, last.into(), 60);
            control[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, last]);
            a.tx(0).push(&control);
        }
        a.txsync().unwrap();
        let learnt = Switch::open("valeA").unwrap().fdb().unwrap();
        assert_eq!(learnt.iter().map(|e| e.mac).collect::<Vec<_>>(), [common::mac(1)]);
        let seen = common::read(&mut b, 0, 99);
        let last: Vec<u8> = seen.iter().filter(|f| f[0] == 1).map(|f| f[5]).collect();
        assert_eq!(last, [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!((a.counters().tx_drop_pause, a.counters().tx_drops()), (1, 1));
    });
}

#[test]
fn port_in_shared_memory_gives_its_extra_buffers_back_when_its_process_goes() {
    in_own_root(
        "port_in_shared_memory_gives_its_extra_buffers_back_when_its_process_goes",
        |root| {
            let options = Options { extra_bufs: 50, ..slots(64) };
            let open = |name: &str| Port::open_with(&name.parse().unwrap(), &options).unwrap();
            let _keeper = open("valeA:a@3");
            let len = |root: &Path| root.join("mem/3").metadata().unwrap().len();
            drop(open("valeA:b@3"));
            let once = len(root);
            for _ in 0..5 {
                drop(open("valeA:b@3"));
            }
            assert_eq!(len(root), once);
        },
    );
}

#[test]
fn switches_that_are_being_made_are_not_taken_for_half_made_ones() {
    in_own_root("switches_that_are_being_made_are_not_taken_for_half_made_ones", |_| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    control::list().unwrap();
                }
            });
            for _ in 0..300 {
                let port = Port::open_with(&"valeA:x".parse().unwrap(), &slots(64)).unwrap();
                let info = Switch::open("valeA").and_then(|switch| switch.info());
                let ports = info.map(|info| info.ports.len()).map_err(|e| e.to_string());
                if ports != Ok(1) {
                    done.store(true, Ordering::Relaxed); // or the other thread never ends
                }
                assert_eq!(ports, Ok(1), "somebody removed the switch of a living port");
                drop(port);
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn root_on_a_disk_and_roots_of_other_users_are_told() {
    in_own_root("root_on_a_disk_and_roots_of_other_users_are_told", |root| {
        drop(Port::open("valeA:x").unwrap());
        assert_eq!(control::root_notes(), [""; 0], "a tmpfs, and a root that was chosen");
        let beside = root.parent().unwrap();
        for name in ["netmap-1", "netmap-2", "netmap-x"] {
            fs::create_dir(beside.join(name)).unwrap();
        }
        // SAFETY: this process has no other thread that reads the environment.
        unsafe { std::env::set_var("NETMAP_ROOT", beside.join("netmap-1")) };
        let notes = control::root_notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("/netmap-2 ") && !notes[0].contains("netmap-x"), "{notes:?}");
        let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // SAFETY: as above.
        unsafe { std::env::set_var("NETMAP_ROOT", disk.path()) };
        drop(Port::open("valeA:x").expect("a disk is slow, not wrong"));
        let in_memory = nix::sys::statfs::statfs(disk.path()).unwrap().filesystem_type()
            == nix::sys::statfs::TMPFS_MAGIC;
        let notes = control::root_notes();
        assert_eq!(notes.iter().any(|n| n.contains("is not on a tmpfs")), !in_memory, "{notes:?}");
    });
}

#[test]
fn directory_with_things_of_its_own_is_not_taken_for_a_root() {
    in_own_root("directory_with_things_of_its_own_is_not_taken_for_a_root", |root| {
        fs::create_dir_all(root.join("mem")).unwrap();
        fs::write(root.join("mem/thesis"), "precious").unwrap();
        fs::create_dir_all(root.join("valentine/port.d")).unwrap();
        fs::write(root.join("valentine/switch"), "precious").unwrap();
        fs::write(root.join("valet"), "precious").unwrap();
        fs::create_dir(root.join("valerie")).unwrap();
        assert!(control::list().unwrap().0.is_empty());
        for name in ["valentine:x", "valet:x", "valerie:x", "valeA:x"] {
            let e = Port::open(name).unwrap_err().to_string();
            assert!(e.contains("holds other things") && e.contains("NETMAP_ROOT"), "{e}");
        }
        assert!(Switch::create("valet", &SwitchOptions::default()).is_err());
        for file in ["mem/thesis", "valentine/switch", "valet"] {
            assert_eq!(fs::read(root.join(file)).unwrap(), b"precious", "{file}");
        }
        assert_eq!(fs::read_dir(root).unwrap().count(), 4);
        assert!(root.join("valentine/port.d").is_dir());
    });
}

#[test]
fn nothing_but_files_of_switches_is_deleted_in_a_root() {
    in_own_root("nothing_but_files_of_switches_is_deleted_in_a_root", |root| {
        drop(Port::open("valeA:x").unwrap()); // makes the root
        fs::write(root.join("mem/thesis"), "precious").unwrap();
        fs::write(root.join("valet"), "precious").unwrap();
        fs::create_dir_all(root.join("valerie/bell.d")).unwrap();
        fs::write(root.join("valerie/port.txt.old"), "precious").unwrap();
        control::list().unwrap();
        assert!(root.join("valerie/bell.d").is_dir() && root.join("valet").is_file());
        let aside = |root: &Path| -> Vec<_> {
            let entries = fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
            let mut aside: Vec<_> =
                entries.filter(|p| p.to_string_lossy().contains("/.aside.")).collect();
            aside.sort();
            aside
        };
        drop(Port::open("valet:x").unwrap());
        assert_eq!(fs::read(&aside(root)[0]).unwrap(), b"precious");
        drop(Port::open("valerie:x").unwrap());
        let moved = aside(root).into_iter().find(|p| p.is_dir()).unwrap();
        assert_eq!(fs::read(moved.join("port.txt.old")).unwrap(), b"precious");
        assert!(moved.join("bell.d").is_dir());
        let port = Port::open("valeA:x").unwrap();
        fs::write(root.join("valeA/port.backup.tar"), "precious").unwrap();
        drop(port);
        let found = aside(root).into_iter().any(|p| p.join("port.backup.tar").is_file());
        assert!(found && root.join("mem/thesis").is_file());
    });
}

#[test]
fn directory_under_a_name_of_ours_keeps_its_mode() {
    in_own_root("directory_under_a_name_of_ours_keeps_its_mode", |root| {
        fs::create_dir(root).unwrap();
        fs::set_permissions(root, PermissionsExt::from_mode(0o2770)).unwrap();
        drop(Port::open("valeA:x").unwrap()); // makes the root
        // A peer renames a private directory of ours to what the tools would make.
        fs::remove_dir(root.join("mem")).unwrap();
        fs::create_dir(root.join("mem")).unwrap();
        fs::write(root.join("mem/secret"), "x").unwrap();
        fs::set_permissions(root.join("mem"), PermissionsExt::from_mode(0o700)).unwrap();
        let _ = Port::open("valeA:x").map(drop);
        assert_eq!(mode(&root.join("mem")), 0o700);
    });
}

#[test]
fn directories_in_place_of_a_ports_files_hold_up_nobody() {
    in_own_root("directories_in_place_of_a_ports_files_hold_up_nobody", |root| {
        let _kept = Port::open_with(&"valeA:k".parse().unwrap(), &slots(64)).unwrap();
        let port = Port::open_with(&"valeA:x@7".parse().unwrap(), &slots(64)).unwrap();
        for file in ["valeA/bell.1", "valeA/port.x", "mem/7"] {
            fs::remove_file(root.join(file)).unwrap();
            fs::create_dir_all(root.join(file).join("sub")).unwrap();
        }
        fs::create_dir_all(root.join("valeA/port.z/sub")).unwrap();
        drop(port);
        for name in ["valeA:y", "valeA:x", "valeA:z", "valeA:x@7"] {
            let e = Port::open_with(&name.parse().unwrap(), &slots(64)).map(drop);
            assert!(e.is_ok(), "{name}: {e:?}");
        }
        assert_eq!(control::list().unwrap().0.len(), 1);
    });
}

#[test]
fn root_whose_memory_was_removed_is_used_again() {
    in_own_root("root_whose_memory_was_removed_is_used_again", |root| {
        drop(Port::open("valeA:x").unwrap());
        fs::remove_dir_all(root.join("mem")).unwrap();
        drop(Port::open("valeA:x").expect("it is made again"));
        fs::remove_dir_all(root).unwrap();
        drop(Port::open("valeA:x").expect("the root, too"));
    });
}

#[test]
fn memory_goes_with_a_port_whose_switch_was_removed_by_hand() {
    in_own_root("memory_goes_with_a_port_whose_switch_was_removed_by_hand", |root| {
        let port = Port::open_with(&"valeA:x".parse().unwrap(), &slots(64)).unwrap();
        fs::remove_dir_all(root.join("valeA")).unwrap();
        drop(port);
        assert_eq!(fs::read_dir(root.join("mem")).unwrap().count(), 0);
    });
}

#[test]
fn listing_waits_for_a_held_lock_once_and_then_looks_without() {
    in_own_root("listing_waits_for_a_held_lock_once_and_then_looks_without", |root| {
        let open = |name: &str| Port::open_with(&name.parse().unwrap(), &slots(64)).unwrap();
        let _ports = (open("valeA:x"), open("valeB:x"), open("valeC:x"));
        let lock = fs::File::open(root.join(".lock")).unwrap();
        let _held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let (switches, errors) = control::list().unwrap();
        assert_eq!(switches.len(), 3, "what can be seen is shown");
        assert!(matches!(errors[..], [Error::Locked { .. }]), "{errors:?}");
    });
}

#[test]
fn ring_cell_beyond_the_region_is_an_error_for_who_opens() {
    in_own_root("ring_cell_beyond_the_region_is_an_error_for_who_opens", |root| {
        use std::os::unix::fs::FileExt;
        let open = |name: &str| Port::open_with(&name.parse().unwrap(), &slots(64));
        let _ports = (open("valeA:x@1").unwrap(), open("valeA:w@1").unwrap());
        let file = fs::File::options().write(true).open(root.join("valeA/port.x")).unwrap();
        for offset in (72..200).step_by(4) {
            file.write_all_at(&u32::MAX.to_le_bytes(), offset).unwrap();
        }
        assert!(open("valeA:x@1").is_err());
    });
}
