//! Completions as shells run them: each shell reads the file and is asked what may follow.

#![forbid(unsafe_code)]

mod support;

use std::path::Path;

use support::{Root, installed, skip};

/// A directory of completion files, and a root with two switches.
fn scene() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().expect("a directory");
    let files = xtask::completions::write(dir.path()).expect("completions");
    assert_eq!(files.len(), xtask::TOOLS.len() * xtask::completions::SHELLS.len());
    let root = Root::new();
    for name in ["valeA:x", "valeA:long", "valeB"] {
        root.text("vale-ctl", &["create", name]);
    }
    (dir, root)
}

fn sorted<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    words.sort_unstable();
    words
}

/// What bash offers for words as it splits them; `line` is what was typed.
fn bash(dir: &Path, root: &Root, line: &str, words: &[&str]) -> Vec<String> {
    // The function is found as bash finds it: by what `complete` was told.
    let script = r#"
        shift 2; . "$dir/$1.bash"
        COMP_LINE=$line COMP_POINT=${#line} COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        set -- $(complete -p "$1"); while [ "$1" != -F ]; do shift; done
        "$2" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]#[:=]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let script = format!("dir=$1 line=$2\n{script}");
    let dir = dir.to_str().expect("UTF-8");
    let mut args = vec!["--norc", "-c", &script, "bash", dir, line];
    args.extend(words);
    let text = root.text("bash", &args);
    sorted(text.lines().filter(|line| !line.is_empty()))
}

#[test]
fn bash_offers_subcommands_flags_values_and_live_names() {
    if !installed("bash") {
        return skip("bash_offers_subcommands_flags_values_and_live_names", "no bash");
    }
    let (dir, root) = scene();
    for (line, offered) in [
        ("vale-ctl fdb ", &["show", "flush", "help"][..]),
        ("vale-ctl fl", &[]),
        ("vale-ctl fdb sh", &["show"]),
        ("vale-ctl show ", &["valeA", "valeA:long", "valeA:x", "valeB"]),
        ("vale-ctl fdb show valeB", &["valeB"]),
        ("vale-ctl delete --if", &["--if-exists"]),
        ("vale-ctl stats vale", &["valeA", "valeA:long", "valeA:x", "valeB"]),
        ("vale-ctl attach vale", &["valeA", "valeA:long", "valeA:x", "valeB"]),
        ("vale-ctl ageing ", &["valeA", "valeB"]),
        ("nm-pktgen -i ", &["valeA:", "valeA:long", "valeA:x", "valeB:"]),
        ("nm-pktgen -i null: -f t", &["tx", "txseq"]),
        ("nm-pktgen --pcap-s", &["--pcap-speed"]),
        ("nm-bridge -i valeB", &["valeB:"]),
        ("nm-bridge --wait-mode ", &["adaptive", "block", "busy"]),
        (
            "e1000pv-vmm --netdev port",
            &["port=valeA:", "port=valeA:long", "port=valeA:x", "port=valeB:"],
        ),
        ("e1000pv-vmm --stats ", &[]),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let found = bash(dir.path(), &root, line, &words);
        assert_eq!(found, sorted(offered.iter().copied()), "{line:?}");
    }
}

#[test]
fn bash_goes_on_behind_the_colons_at_which_it_splits_words() {
    if !installed("bash") {
        return skip("bash_goes_on_behind_the_colons_at_which_it_splits_words", "no bash");
    }
    let (dir, root) = scene();
    for (line, words, offered) in [
        ("vale-ctl show valeA:", &["vale-ctl", "show", "valeA", ":"][..], &["long", "x"][..]),
        ("vale-ctl show valeA:l", &["vale-ctl", "show", "valeA", ":", "l"], &["long"]),
        // Nothing stands before the colon's part here: another word follows.
        ("vale-ctl ageing valeB: o", &["vale-ctl", "ageing", "valeB", ":", "o"], &[]),
        (
            "vale-ctl backpressure valeB: o",
            &["vale-ctl", "backpressure", "valeB", ":", "o"],
            &["on", "off"],
        ),
        (
            "e1000pv-vmm --netdev port=valeA:l",
            &["e1000pv-vmm", "--netdev", "port", "=", "valeA", ":", "l"],
            &["long"],
        ),
        ("nm-pktgen --port=valeA:l", &["nm-pktgen", "--port", "=", "valeA", ":", "l"], &["long"]),
    ] {
        let found = bash(dir.path(), &root, line, words);
        assert_eq!(found, sorted(offered.iter().copied()), "{line:?}");
    }
}

#[test]
fn bash_offers_the_machines_that_run() {
    const NAME: &str = "bash_offers_the_machines_that_run";
    if !installed("bash") {
        return skip(NAME, "no bash");
    }
    let (dir, root) = scene();
    let mut machine = root
        .command("e1000pv-vmm")
        .args(["--accel", "thread", "--name", "lab", "--netdev", "port=valeA:vm", "--guest", "rx"])
        .args(["--json", "-T", "1h"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a machine");
    // Its first line comes when it runs.
    let mut first = String::new();
    let stdout = machine.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut first).expect("a line");
    let words = ["e1000pv-vmm", "--stats", ""];
    let found = bash(dir.path(), &root, "e1000pv-vmm --stats ", &words);
    machine.kill().expect("killed");
    machine.wait().expect("ended");
    assert!(first.contains("start"), "{first}");
    assert_eq!(found, ["lab"]);
    assert_eq!(bash(dir.path(), &root, "e1000pv-vmm --stats ", &words), [""; 0], "it is dead");
}

#[test]
fn fish_offers_subcommands_and_live_names() {
    if !installed("fish") {
        return skip("fish_offers_subcommands_and_live_names", "fish is not installed");
    }
    let (dir, root) = scene();
    for (line, offered) in [
        ("vale-ctl fdb ", &["show", "flush", "help"][..]),
        ("vale-ctl show valeA:", &["valeA:long", "valeA:x"]),
        ("nm-pktgen -i valeB", &["valeB:"]),
        ("nm-bridge --wait-mode b", &["busy", "block"]),
        ("e1000pv-vmm --netdev port=valeA:", &["port=valeA:", "port=valeA:long", "port=valeA:x"]),
    ] {
        let script = format!(
            "source {}/{}.fish; complete -C '{line}'",
            dir.path().display(),
            line.split(' ').next().expect("a tool")
        );
        let text = root
            .command("fish")
            .args(["--no-config", "-c", &script])
            .env("HOME", dir.path())
            .output();
        let text = support::text("fish", text);
        let words = text.lines().filter_map(|line| line.split('\t').next());
        assert_eq!(sorted(words), sorted(offered.iter().copied()), "{line:?}");
    }
}

#[test]
fn zsh_completes_at_its_prompt() {
    const NAME: &str = "zsh_completes_at_its_prompt";
    if !installed("zsh") {
        return skip(NAME, "zsh is not installed");
    }
    let (dir, root) = scene();
    // A zsh in a terminal of its own, whose answers are waited for.
    let script = r#"
        zmodload zsh/zpty || exit 77
        zpty z zsh -f -i
        zpty -w z "PS1=; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; echo rea''dy"
        zpty -r z out '*ready*' || exit 1
        zpty -w -n z $'vale-ctl fdb \t'
        zpty -r z out '*show*Show*flush*Forget*' || exit 1
        zpty -w -n z $'\x15vale-ctl show valeA:l\t'
        zpty -r z out '*valeA:long*' || exit 1
        zpty -w -n z $'\x15nm-pktgen -i valeB\t'
        zpty -r z out '*valeB:*' || exit 1
        zpty -d z"#;
    let output = root
        .command("timeout")
        .args(["60", "zsh", "-f", "-c", script, "zsh", dir.path().to_str().expect("UTF-8")])
        .output()
        .expect("zsh");
    if output.status.code() == Some(77) {
        return skip(NAME, "zsh lacks its module zpty");
    }
    assert!(output.status.success(), "{output:?}");
}
