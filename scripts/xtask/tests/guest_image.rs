//! `scripts/guest-image`: what is asked for wrongly is said, with the exit codes of the tools, and nothing is
//! made. That what it makes boots, and what is in it, is `scripts/nested`'s to show.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output};

fn guest_image(words: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-image");
    Command::new(script).args(words).output().expect("bash")
}

#[test]
fn guest_image_prints_its_help_on_stdout() {
    let output = guest_image(&["--help"]);

    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).expect("text");
    assert!(help.contains("Usage: scripts/guest-image --out FILE"), "{help}");
    assert!(help.lines().all(|line| line.len() <= 110), "{help}");
}

#[test]
fn guest_image_refuses_what_it_does_not_understand() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("guest.cpio");
    let out = out.to_str().expect("text");
    for (words, code, say) in [
        (vec![], 2, "--out FILE is missing"),
        (vec!["--out"], 2, "--out needs a value"),
        (vec!["--out", out, "more"], 2, "unexpected argument 'more'"),
        (
            vec!["--out", out, "--kernel", "mine"],
            2,
            "installed, download, newest or auto, not 'mine'",
        ),
        (vec!["--out", out, "--add", "/no/file"], 1, "/no/file: no such file"),
        (vec!["--out", "/no/guest.cpio"], 1, "there is no directory /no"),
        (vec!["--out", "/tmp", "--tools", "none"], 1, "/tmp is a directory"),
        (vec!["--out", out, "--kernel-out", "/tmp"], 1, "/tmp is a directory"),
    ] {
        let output = guest_image(&words);

        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.starts_with("guest-image: "), "{stderr}");
        assert!(stderr.contains(say), "{words:?}: {stderr}");
        assert!(!Path::new(out).exists(), "{words:?} made an image");
    }
}
