//! The machine that a figure was measured on, which is recorded beside the figure: a rate means nothing
//! without the processor and the sizes of its caches.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The properties of a machine, and of the software on it, that a measured figure depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Caches of the first CPU, from the nearest: `L2 2 MiB`.
    pub caches: Vec<String>,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of the compiler in PATH, which need not be the one that built the program.
    pub rust: String,
    /// Revision of the working directory; `-dirty` if it differs.
    pub revision: String,
    /// The day, in UTC.
    pub date: String,
    /// Load in the last 1, 5 and 15 minutes.
    pub load: String,
}

impl Machine {
    /// This machine, now. What cannot be determined is `?`.
    #[must_use]
    pub fn here() -> Machine {
        Machine {
            cpu: cpuinfo("model name"),
            cpus: cpus(),
            caches: caches(Path::new("/sys/devices/system/cpu/cpu0/cache")),
            kernel: format!("Linux {}", read(Path::new("/proc/sys/kernel/osrelease"))),
            rust: said_by("rustc", &["--version"]),
            revision: said_by("git", &["describe", "--always", "--dirty", "--exclude=*"]),
            date: said_by("date", &["-u", "+%F"]),
            load: read(Path::new("/proc/loadavg")).split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

impl fmt::Display for Machine {
    /// One line, for the head of a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cpus, kernel, date, load, .. } = self;
        write!(f, "{cpu}, {cpus} CPU(s), {}, {kernel}, {date}, load {load}", self.caches.join(", "))
    }
}

/// CPUs that this process may use.
#[must_use]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A field of the first processor in /proc/cpuinfo.
#[must_use]
pub fn cpuinfo(field: &str) -> String {
    let info = read(Path::new("/proc/cpuinfo"));
    let value = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == field).then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(|| "?".into())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).map_or_else(|_| "?".into(), |text| text.trim().to_owned())
}

fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok().filter(|o| o.status.success());
    output.map_or_else(|| "?".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// Caches as sysfs describes them (Documentation/ABI/testing/sysfs-devices-system-cpu).
fn caches(directory: &Path) -> Vec<String> {
    let indices = (0..).map(|index| directory.join(format!("index{index}")));
    let cache = |of: std::path::PathBuf| {
        let [level, kind, size, cpus] =
            ["level", "type", "size", "shared_cpu_list"].map(|name| read(&of.join(name)));
        let letter = match kind.as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        let shared =
            if cpus.contains(['-', ',']) { format!(" of CPUs {cpus}") } else { String::new() };
        format!("L{level}{letter} {}{shared}", binary(&size))
    };
    indices.take_while(|path| path.exists()).map(cache).collect()
}

/// sysfs's `2048K` as `2 MiB`.
fn binary(size: &str) -> String {
    match size.strip_suffix('K').and_then(|kib| kib.parse::<u64>().ok()) {
        Some(kib) if kib >= 1024 && kib.is_multiple_of(1024) => format!("{} MiB", kib / 1024),
        Some(kib) => format!("{kib} KiB"),
        None => size.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_named_with_size_and_who_shares_them() {
        let dir = std::env::temp_dir().join(format!("nm-cli-caches-{}", std::process::id()));
        let files = [("0", "1", "Data", "48K", "0"), ("1", "2", "Unified", "2048K", "0-1,4")];
        for (index, level, kind, size, cpus) in files {
            let of = dir.join(format!("index{index}"));
            fs::create_dir_all(&of).expect("a directory");
            for (name, text) in
                [("level", level), ("type", kind), ("size", size), ("shared_cpu_list", cpus)]
            {
                fs::write(of.join(name), format!("{text}\n")).expect("a file");
            }
        }
        let found = caches(&dir);
        fs::remove_dir_all(&dir).expect("it was made");
        assert_eq!(found, ["L1d 48 KiB", "L2 2 MiB of CPUs 0-1,4"]);
        assert!(caches(&dir).is_empty(), "sysfs has none in some virtual machines");
    }

    #[test]
    fn line_has_processor_and_kernel() {
        let text = Machine::here().to_string();
        assert!(text.contains("CPU(s)") && text.contains("Linux"), "{text}");
    }
}
