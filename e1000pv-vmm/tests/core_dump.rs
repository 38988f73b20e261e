//! Guest memory is in no core dump of its monitor, whatever it is made of.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

mod support;
use support::{root, skip, vmm};

/// A size that no other mapping of the process has.
const MEM: &str = "70M";
const MEM_KIB: u64 = 70 << 10;

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The VmFlags of each mapping that is large enough to be the guest's memory, and can be written: not those
/// of a port's buffers.
fn flags_of_large_mappings(smaps: &str) -> Vec<String> {
    let (mut found, mut large, mut written) = (Vec::new(), false, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Size:"), Some(kib)) => large = kib.parse::<u64>().expect("a number") >= MEM_KIB,
            (Some("VmFlags:"), _) if large && written => found.push(line.to_string()),
            (Some(range), Some(access)) if !range.ends_with(':') => {
                written = access.starts_with("rw") && !line.contains("netmap");
            }
            _ => {}
        }
    }
    found
}

#[test]
fn guest_memory_of_every_kind_is_left_out_of_core_dumps() {
    for ram in ["auto", "memfd", "anonymous", "hugetlb"] {
        let root = root();
        let machine = ["--mem", MEM, "--ram", ram, "--netdev", "port=null:", "--guest", "rx"];
        let record = ["--json", "--interval", "1h"];
        let mut command = vmm(root.path(), &[&machine[..], &record].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut running = Running(child.expect("e1000pv-vmm starts"));
        // Its first record comes when its memory is there.
        let mut line = String::new();
        let stdout = running.0.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        if line.is_empty() && ram == "hugetlb" {
            skip("guest_memory_of_every_kind_is_left_out_of_core_dumps", "no huge pages reserved");
            continue;
        }
        assert!(line.contains("\"start\""), "{ram}: {line}");
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", running.0.id()));
        let found = flags_of_large_mappings(&smaps.expect("our child"));
        assert!(!found.is_empty(), "{ram}: where is the guest's memory?");
        for flags in found {
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{ram}: {flags}");
        }
    }
}
