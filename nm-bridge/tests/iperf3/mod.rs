//! An iperf3 server for tests, killed when dropped.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A server that listens.
pub struct Server(Child);

impl Server {
    /// The command, which may be changed to run elsewhere.
    pub fn command() -> Command {
        let mut command = Command::new("iperf3");
        command.args(["-s", "--forceflush"]);
        command
    }

    /// Runs it until it listens.
    pub fn start(mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("iperf3 runs");
        let stdout = child.stdout.take().expect("piped");
        let server = Server(child);
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("listening")), "iperf3 -s does not listen");
        // It must not be stopped by a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
