//! Outputs that fail, in every combination, tried on a tool: a full disk, nothing open, a reader that
//! left. Included by the tests of each tool.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// What an output may be.
const OUTPUTS: [&str; 4] = ["null", "full", "closed", "left"];

/// Runs `program` with `words` for every pair of outputs. `code` is the exit status where all is well:
/// talk that is lost does not change it, and a result that is lost makes it 1, or the reader's wish.
pub fn never_abort(program: &str, root: &Path, words: &[&str], code: i32) {
    for stdout in OUTPUTS {
        for stderr in OUTPUTS {
            let ended = run(program, root, words, stdout, stderr);
            let expected: &[i32] = match stdout {
                "full" => &[code, 1],
                "left" => &[code, 0],
                _ => &[code],
            };
            assert!(
                ended.code().is_some_and(|code| expected.contains(&code)),
                "{program} {words:?}, stdout {stdout}, stderr {stderr}: {ended}, not {expected:?}"
            );
        }
    }
}

fn run(program: &str, root: &Path, words: &[&str], stdout: &str, stderr: &str) -> ExitStatus {
    let to = |fd: i32, output: &str| match output {
        "null" => format!("{fd}>/dev/null"),
        "full" => format!("{fd}>/dev/full"),
        "closed" => format!("{fd}>&-"),
        _ => String::new(), // as it is: a pipe
    };
    let script = format!("exec \"$@\" {} {}", to(1, stdout), to(2, stderr));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    Command::new("sh")
        .args(["-c", &script, "sh", program])
        .args(words)
        .env("NETMAP_ROOT", root)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().expect("the same pipe"))
        .stderr(writer)
        .status()
        .expect("sh")
}
