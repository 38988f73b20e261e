//! The README's commands, run as they stand there.
//!
//! A comment in front of each block says what it is: `test: run`, `test: output` (what a program
//! printed), or `test: elsewhere:` and where it is tried. In a block to run, a line behind `$` or, for
//! root, `#` is a command, which must succeed; one that ends with `&` runs until its chapter ends. The
//! other lines are output. A chapter has a root directory of its own.

#![forbid(unsafe_code)]

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Root, installed, skip};

const NAME: &str = "the_commands_of_the_readme_run_as_written";

/// A line of a block to run.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    root: bool,
    background: bool,
    command: String,
}

/// A block, by its mark and its text.
fn blocks(chapter: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut mark = None;
    let mut lines = chapter.lines();
    while let Some(line) = lines.next() {
        if let Some(comment) = line.strip_prefix("<!-- test: ") {
            mark = Some(comment.trim_end_matches("-->").trim().to_owned());
        } else if line.starts_with("```") {
            let mark = mark.take().unwrap_or_else(|| panic!("no mark in front of a block"));
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((mark, text.join("\n")));
        } else {
            mark = None;
        }
    }
    blocks
}

/// The commands of a block; what is continued is one.
fn commands(block: &str) -> Vec<Line> {
    let joined = block.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in joined.lines() {
        let (root, rest) = match (line.strip_prefix("$ "), line.strip_prefix("# ")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => continue,
        };
        let command = rest.split("  # ").next().unwrap_or(rest).split(" # ").next().unwrap_or(rest);
        let command = command.trim();
        let background = command.ends_with('&');
        found.push(Line {
            root,
            background,
            command: command.trim_end_matches('&').trim().to_owned(),
        });
    }
    found
}

/// What a line lacks here.
fn lacks(line: &Line) -> Option<&'static str> {
    if line.command.contains("| jq") && !installed("jq") {
        return Some("jq is not installed");
    }
    if line.command.contains("vmlinu") {
        return Some("there is no Linux kernel to boot");
    }
    if line.root {
        let id = Command::new("id").arg("-u").output().expect("id");
        if id.stdout != b"0\n" || !Path::new("/dev/net/tun").exists() {
            return Some("it needs root and /dev/net/tun");
        }
        // Not among the interfaces of whoever runs the test.
        let unshare = Command::new("unshare").args(["--net", "true"]).output();
        if !unshare.is_ok_and(|output| output.status.success()) {
            return Some("it needs a network namespace");
        }
    }
    None
}

/// Processes of a chapter, which end with it.
struct Jobs(Vec<Child>);

impl Drop for Jobs {
    fn drop(&mut self) {
        for job in &mut self.0 {
            // The whole group: a shell and what it started.
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", job.id())]).output();
            let _ = job.wait();
        }
    }
}

fn shell(root: &Root, line: &Line) -> Command {
    let mut shell = if line.root {
        let mut unshare = root.command("unshare");
        unshare.args(["--net", "bash"]);
        unshare
    } else {
        root.command("bash")
    };
    shell.args(["-o", "pipefail", "-c", &line.command]).process_group(0);
    shell
}

/// Waits for what a job in the background makes: its ports.
fn await_ports(root: &Root, line: &Line, job: &mut Child, errors: &Path) {
    let end = Instant::now() + Duration::from_secs(60);
    let words = line.command.split([' ', '=', ',']);
    for port in words.filter(|word| word.starts_with("vale") && word.contains(':')) {
        loop {
            let list = root.command("vale-ctl").args(["list", port]).output().expect("vale-ctl");
            if list.status.success() {
                break;
            }
            if let Some(status) = job.try_wait().expect("a job") {
                let said = std::fs::read_to_string(errors).expect("text");
                panic!("{} ended, {port} was not seen: {status}\n{said}", line.command);
            }
            assert!(Instant::now() < end, "{port} did not appear: {}", line.command);
            std::thread::sleep(Duration::from_millis(20)); // a look costs a process
        }
    }
}

fn run(root: &Root, line: &Line, jobs: &mut Jobs) {
    if let Some(why) = lacks(line) {
        return skip(NAME, &format!("{}: {why}", line.command));
    }
    if line.background {
        // Not in the root, which is made by the first of them: a directory with other things in it becomes none.
        let errors = tempfile::NamedTempFile::new().expect("a file");
        let stderr = errors.reopen().expect("the file");
        let mut job = shell(root, line).stdout(Stdio::null()).stderr(stderr).spawn().expect("bash");
        await_ports(root, line, &mut job, errors.path());
        jobs.0.push(job);
        return;
    }
    let (out, err) = (root.path().join("out"), root.path().join("err"));
    let file = |path| std::fs::File::create(path).expect("a file");
    let child = shell(root, line).stdout(file(&out)).stderr(file(&err)).spawn().expect("bash");
    let mut foreground = Jobs(vec![child]);
    let end = Instant::now() + Duration::from_secs(180);
    let status = loop {
        if let Some(status) = foreground.0[0].try_wait().expect("a child") {
            break status;
        }
        assert!(Instant::now() < end, "this does not end: {}", line.command);
        std::thread::sleep(Duration::from_millis(20));
    };
    let errors = std::fs::read_to_string(&err).expect("text");
    assert!(status.success(), "{}: {status}\n{errors}", line.command);
}

#[test]
fn the_commands_of_the_readme_run_as_written() {
    let readme = std::fs::read_to_string(support::repository().join("README.md")).expect("README");
    let mut run_lines = 0;
    for chapter in readme.split("\n## ") {
        let root = Root::new();
        let mut jobs = Jobs(Vec::new());
        for (mark, text) in blocks(chapter) {
            if mark == "output" || mark.starts_with("elsewhere: ") {
                continue;
            }
            assert_eq!(mark, "run", "an unknown mark");
            for line in commands(&text) {
                run(&root, &line, &mut jobs);
                run_lines += 1;
            }
        }
    }
    assert!(run_lines > 20, "only {run_lines} lines were found");
}

#[test]
fn lines_of_blocks_are_told_apart() {
    let block = "$ a -i valeA:r &   # text\n# b \\\n    --c\nOUTPUT  $ no";
    let line = |root, background, command: &str| Line { root, background, command: command.into() };
    assert_eq!(
        commands(block),
        [line(false, true, "a -i valeA:r"), line(true, false, "b      --c")]
    );
}
