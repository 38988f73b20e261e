//! How large a core's own cache is, as the kernel tells it.

use std::sync::OnceLock;

/// Where the kernel describes the second-level cache of the first CPU
/// (Documentation/ABI/testing/sysfs-devices-system-cpu).
const LEVEL_2: &str = "/sys/devices/system/cpu/cpu0/cache/index2";
/// What is taken for the size where the kernel does not say it (some virtual machines, no sysfs): less than
/// most cores of servers have.
const UNKNOWN: usize = 1 << 20;

/// Bytes of the second-level cache. Asked once a process.
pub fn level_2() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let read = |what: &str| std::fs::read_to_string(format!("{LEVEL_2}/{what}")).ok();
        let level = read("level").filter(|level| level.trim() == "2");
        level.and_then(|_| bytes(&read("size")?)).unwrap_or(UNKNOWN)
    })
}

/// sysfs's `2048K` in bytes.
fn bytes(size: &str) -> Option<usize> {
    let kib: usize = size.trim().strip_suffix('K')?.parse().ok()?;
    kib.checked_mul(1 << 10).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_read_as_the_kernel_writes_it_and_nothing_else() {
        assert_eq!(bytes("2048K\n"), Some(2 << 20));
        for no_size in ["", "K", "2048", "-1K", "0K", "2M", "99999999999999999999K"] {
            assert_eq!(bytes(no_size), None, "{no_size:?}");
        }
        assert!(level_2() > 0);
    }
}
