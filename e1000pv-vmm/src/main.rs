//! e1000pv-vmm: the process around [`e1000pv_vmm::run`].

use std::process::ExitCode;

use e1000pv_vmm::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::from_process();
    nm_cli::exit::run("e1000pv-vmm", || e1000pv_vmm::run(&cli))
}
