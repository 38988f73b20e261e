//! Programs that know nothing of netmap do under the library what they do without it: the same output, the
//! same talk, the same status.

#![forbid(unsafe_code)]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Root, Running, TIMEOUT, shim, skip};

/// Each is run in a directory of its own with a file `text` in it.
const COMMANDS: &[&str] = &[
    "ls -lA --time-style=+ | grep -v total",
    "cat text text | sort | uniq -c | head -n 3",
    "cat < /nonexistent",
    "ls /nonexistent",
    "dd if=text bs=100 count=7 2>/dev/null | wc -c",
    "tail -c 20 text | od -c",
    "cp text copy && mv copy moved && cmp text moved && rm moved && ls",
    "cut -d: -f1 text | tr a-z A-Z | sed -n 2p",
    "seq 1 20000 | sort -rn | tail -1",
    "split -l 10 text part && cat part* | md5sum",
    "tar cf - text | tar tf -",
    "gzip -c text | gunzip -c | cksum",
    "find . -name 'te*' -type f",
    "stat -c %s text",
    "timeout 0.2 sleep 5; echo $?",
    "mkfifo f && (cat f & echo through > f; wait)",
    "bash -c 'exec 3<>text; read -u 3 line; echo $line; exec 3>&-; echo x >&3'",
    "bash -c 'exec 2>&-; echo to 1; echo to 2 >&2; echo $?'",
    "bash -c 'trap \"echo got it\" USR1; kill -USR1 $$; sleep 0; (exit 7); echo $?'",
    "bash -c 'for i in 1 2 3; do (sleep 0.01; echo $i) & done; wait' | sort",
    "bash -c 'coproc cat; echo hi >&${COPROC[1]}; read -u ${COPROC[0]} l; echo $l'",
    "bash -c 'ulimit -n 16; ls text; exec 9<text; cat <&9 | wc -l'",
    "bash -c 'ulimit -n 8; echo few | cat; ls text'",
    "bash -c 'ulimit -v 60000; ls text; ulimit -v 20000; /bin/true; echo $?'",
    "bash -c 'exec 0<&- 1>&- 2>&-; ls; exec 1>made; ls' ; cat made",
    "bash -c 'for i in {1..50}; do /bin/true; done; echo $?'",
    "bash -c 'read -t 0.1 x < <(sleep 2); echo $?'",
    "bash -c 'make -s -j3 -f <(printf \"all: a b c\\n%%:\\n\\techo \\$@ > \\$@\\n\") && cat a b c'",
    "git init -q . && git add text && git status --short",
    "gdb --batch -ex run -ex 'print $_exitcode' --args sh -c 'exit 3' 2>/dev/null | tail -1",
    "strace -f -o /dev/null sh -c 'cat text | wc -l'",
    "fakeroot sh -c 'id -u; chown 7 text; stat -c %u text'",
    "node -e 'require(\"child_process\").exec(\"cat text\", (e, out) => setTimeout(() => console.log(out.length), 20))'",
    "bash -c 'cat <<< here; exec 5>out; echo five >&5; cat out; ls -l /proc/self/fd | wc -l'",
    "env | grep -c '^NETMAP_ROOT'",
    "perl -e 'open F, \"text\" or die; $n++ while <F>; print \"$n\\n\"; exit 3'",
    "perl -e 'pipe R, W; if (fork) { close W; print <R>; wait; print $? >> 8, \"\\n\" } else { close R; print W \"child\\n\"; exit 5 }'",
    "perl -e 'use IO::Select; pipe R, W; $s = IO::Select->new(\\*R); print scalar($s->can_read(0.05)), \"\\n\"; syswrite W, \"x\"; print scalar($s->can_read(1)), \"\\n\"'",
    "perl -e '$SIG{ALRM} = sub { print \"alarm\\n\" }; alarm 1; select undef, undef, undef, 10; print \"$!\\n\"'",
    "python3 -c 'import select,os; r,w=os.pipe(); p=select.epoll(); p.register(r,select.EPOLLIN); print(p.poll(0.05)); os.write(w,b\"x\"); print(len(p.poll(1)))'",
    "python3 -c 'import select,os; r,w=os.pipe(); p=select.poll(); p.register(r); p.register(w); print(sorted(e for _,e in p.poll(100)))'",
    "python3 -c 'import mmap,os; f=os.open(\"text\",os.O_RDWR); m=mmap.mmap(f,0); print(m[:5]); m.close(); os.close(f)'",
    "python3 -c 'import os; os.closerange(3,5000); print(open(\"/dev/null\").fileno())'",
    "python3 -c 'import subprocess; print(subprocess.run([\"cat\",\"text\"],capture_output=True).stdout[:9])'",
    "python3 -c 'import socket,array,os; a,b=socket.socketpair(); f=os.open(\"text\",0); socket.send_fds(a,[b\"x\"],[f]); d=socket.recv_fds(b,9,1); print(os.read(d[1][0],4))'",
    "python3 -c 'import asyncio; print(asyncio.run(asyncio.wait_for(asyncio.sleep(0.01,5),2)))'",
    "python3 -c 'import multiprocessing as m; p=m.Pool(2); print(p.map(abs,[-1,-2,-3]))'",
    "python3 -c 'import fcntl,os; f=os.open(\"text\",0); g=fcntl.fcntl(f,fcntl.F_DUPFD,50); print(g, fcntl.fcntl(g,fcntl.F_GETFL)&3); os.dup2(f,60); print(os.fstat(60).st_size)'",
    "python3 -c 'import fcntl,os; fcntl.ioctl(os.open(\"text\",0),0x6994)'",
    "python3 -c 'import os; os.open(\"/dev/nosuch\",0)' 2>&1 | tail -1",
    "python3 -c 'import signal,os,time; signal.signal(signal.SIGBUS,lambda *a: print(\"bus\")); os.kill(os.getpid(),signal.SIGBUS); time.sleep(0.01)'",
    "{ python3 -c 'import os; os.kill(os.getpid(),7)'; } 2>/dev/null; echo $?",
    "{ sh -c 'kill -SEGV $$'; } 2>/dev/null; echo $?",
];

struct Seen {
    out: String,
    err: String,
    code: Option<i32>,
}

fn run(root: &Root, line: &str, preload: bool) -> Seen {
    let dir = tempfile::tempdir_in(root.dir()).expect("a directory");
    let text: String = (0..500).map(|n| format!("line{}:{}\n", n % 17, n * n)).collect();
    std::fs::write(dir.path().join("text"), text).expect("written");
    let mut shell = root.plain("bash");
    shell.args(["-c", line]).current_dir(dir.path()).stdin(Stdio::null());
    shell.env("LC_ALL", "C").env("PYTHONHASHSEED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    if preload {
        shell.env("LD_PRELOAD", shim());
    }
    let out = Running::start(&mut shell).end();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Seen { out: text(&out.stdout), err: text(&out.stderr), code: out.status.code() }
}

#[test]
fn ordinary_programs_do_the_same_under_the_library() {
    let root = Root::new();
    let mut wrong = Vec::new();
    for line in COMMANDS {
        let program = line.trim_start_matches("{ ").split(' ').next().expect("a word");
        let found =
            root.plain("sh").args(["-c", &format!("command -v {program}")]).output().expect("sh");
        if !found.status.success() {
            skip(
                "ordinary_programs_do_the_same_under_the_library",
                &format!("{program} is not installed"),
            );
            continue;
        }
        let (without, with) = (run(&root, line, false), run(&root, line, true));
        if (&without.out, &without.err, without.code) != (&with.out, &with.err, with.code) {
            wrong.push(format!(
                "{line}\n  without: {:?} {:?} {:?}\n  with:    {:?} {:?} {:?}",
                without.code, without.out, without.err, with.code, with.out, with.err
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // They made nothing in the root.
    assert_eq!(std::fs::read_dir(root.path()).expect("a directory").count(), 0);
}

#[test]
fn what_a_program_left_running_ends_with_it() {
    let root = Root::new();
    let mut shell = root.plain("sh");
    shell.args(["-c", "sleep 1000 & echo $!; exit 3"]);
    let out = Running::start(&mut shell).end(); // and does not wait for the other one
    assert_eq!(out.status.code(), Some(3));
    let left = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    let state = || std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
    let end = Instant::now() + TIMEOUT;
    while !state().is_empty() && !state().contains(") Z ") {
        assert!(Instant::now() < end, "{}", state());
        std::thread::sleep(Duration::from_millis(2)); // it is no child of ours to wait for
    }
}
