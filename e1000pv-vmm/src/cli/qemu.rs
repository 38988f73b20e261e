//! Rewrites QEMU's command-line syntax to ours: single dashes, other names, and options that ask for what is
//! the case anyway.

use std::ffi::OsString;

/// QEMU's options that are ours: the name there, and here.
const SAME: [(&str, &str); 10] = [
    ("-netdev", "--netdev"),
    ("-device", "--device"),
    ("-kernel", "--kernel"),
    ("-initrd", "--initrd"),
    ("-append", "--cmdline"),
    ("-m", "--mem"),
    ("-smp", "--vcpus"),
    ("-name", "--name"),
    ("-serial", "--serial"),
    ("-accel", "--accel"),
];
/// QEMU's options that ask for what is the case anyway.
const IGNORED: [&str; 4] = ["-nographic", "-nodefaults", "-no-reboot", "-enable-kvm"];
/// The same, with a value.
const IGNORED_WITH_VALUE: [&str; 6] = ["-display", "-monitor", "-vga", "-cpu", "-machine", "-M"];

/// Options of one letter without a value, which may stand together behind one dash, and the one that
/// takes the rest of its word.
const LETTERS: [char; 3] = ['v', 'q', 'N'];
const LETTER_WITH_VALUE: char = 'T';

/// Whether a word after a single dash does not consist of our short options. It is then an option of QEMU that
/// has no meaning here, or a typing error: `-hda` must not be taken for `-h`.
fn is_long(word: &str) -> bool {
    let Some(name) = word.strip_prefix('-').filter(|name| name.len() > 1) else { return false };
    let typed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.starts_with('-')
        && name.split('=').next().is_some_and(|name| name.chars().all(typed))
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !name.trim_start_matches(LETTERS).starts_with(LETTER_WITH_VALUE)
        && !name.trim_start_matches(LETTERS).is_empty()
}

/// Rewrites QEMU's spelling to ours, up to `--`. Everything else stays as it is, but that a long
/// option may have one dash, so that one which is unknown is refused by its name.
pub fn argv(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut out = Vec::new();
    let mut args = args.into_iter();
    out.extend(args.next());
    while let Some(arg) = args.next() {
        let word = arg.to_str().unwrap_or("");
        if word == "--" {
            out.push(arg);
            out.extend(args);
            return out;
        } else if let Some((_, ours)) = SAME.iter().find(|(theirs, _)| *theirs == word) {
            out.push(OsString::from(ours));
            out.extend(args.next());
        } else if IGNORED_WITH_VALUE.contains(&word) {
            args.next();
        } else if !IGNORED.contains(&word) {
            out.push(if is_long(word) { format!("-{word}").into() } else { arg });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, MemorySize, split};
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_args(split(line))
    }

    #[test]
    fn argv_leaves_ours_and_what_follows_two_dashes_alone() {
        let same = split("vmm -v -T 1s --guest tx -- -netdev");
        assert_eq!(argv(same.clone()), same);
    }

    #[test]
    fn unknown_words_are_refused_by_their_names() {
        for word in ["-hda", "-vga2", "-Vx", "-qemu"] {
            let error = parse(&format!("vmm {word} disk")).expect_err(word);
            assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{word}");
            assert!(error.to_string().contains(word), "{error}");
        }
        for (line, verbose) in [("vmm -vvT5ms", 2), ("vmm -qNv -T=1s", 1), ("vmm -guest rx", 0)] {
            assert_eq!(parse(line).expect(line).verbose, verbose, "{line}");
        }
    }

    #[test]
    fn processors_are_counted_and_their_topology_is_cores() {
        for (value, vcpus) in
            [("2", 2), ("cpus=4", 4), ("3,sockets=1,cores=3,threads=1", 3), ("2,maxcpus=2", 2)]
        {
            assert_eq!(parse(&format!("vmm -smp {value}")).expect(value).vcpus.0, vcpus);
        }
        for value in
            ["0", "5", "two", "2,sockets=2", "2,threads=2", "2,maxcpus=4", "cores=2", "2,cpus=3"]
        {
            let error = parse(&format!("vmm -smp {value}")).expect_err(value).to_string();
            assert!(error.contains("1 to 4 vCPUs"), "{value}: {error}");
        }
    }

    #[test]
    fn repeated_options_are_as_in_qemu() {
        let line = "vmm -m 64 -m 128 -kernel a -kernel b -append x -append y -name n -name m -nographic \
                    -nographic -netdev port=valeA:x -netdev port=valeA:y --json --json -v -vv";
        let cli = parse(line).expect("the last one counts");
        assert_eq!(cli.mem, Some(MemorySize(128 << 20)));
        assert_eq!(cli.kernel.expect("a kernel").to_str(), Some("b"));
        assert_eq!((cli.cmdline.as_deref(), cli.name.as_deref()), (Some("y"), Some("m")));
        assert_eq!((cli.netdev.len(), cli.verbose), (2, 3), "these add up");
    }
}
