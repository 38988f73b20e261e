//! Flags that were given and that a function has no use for. They are named on stderr, not refused:
//! pkt-gen takes them in silence, and scripts rely on that.

use nm_cli::wait::WaitMode;

use crate::cli::{Cli, Function};
use nm_cli::units::Rate;

/// The long names of such flags.
pub fn flags(cli: &Cli, function: Function) -> Vec<&'static str> {
    let packet = &cli.packet;
    let makes = function.sends() && function != Function::Pong && cli.pcap.pcap_in.is_none();
    let addressed = cli.pcap.link_to_ethernet;
    let percent = matches!(cli.rate, Some(Rate::Percent(_)));
    let bits = matches!(cli.rate, Some(Rate::Bps(_)));
    let checks = [
        (!makes && !packet.size.is_empty(), "--size"),
        (!makes && packet.ipv4, "--ipv4"),
        (!makes && packet.ipv6, "--ipv6"),
        (!makes && packet.src.is_some(), "--src"),
        (!makes && packet.dst.is_some(), "--dst"),
        (!makes && !addressed && packet.src_mac.is_some(), "--src-mac"),
        (!makes && !addressed && packet.dst_mac.is_some(), "--dst-mac"),
        (!makes && packet.random_src, "--random-src"),
        (!makes && packet.random_dst, "--random-dst"),
        (!makes && packet.seed.is_some(), "--seed"),
        (!makes && packet.frags.is_some(), "--frags"),
        (!makes && packet.frag_size.is_some(), "--frag-size"),
        (!function.receives() && cli.wait_mode != WaitMode::Adaptive, "--wait-mode"),
        (cli.framing && !bits, "--framing"),
        (cli.line_rate != Cli::LINE_RATE && !percent, "--line-rate"),
        (
            cli.threads.cpus.is_some()
                && cli.threads.cpu.as_ref().is_some_and(|l| l.as_slice().len() > 1),
            "--cpus",
        ),
    ];
    checks.into_iter().filter(|(idle, _)| *idle).map(|(_, flag)| flag).collect()
}
