//! From the command line to two open ports.
//!
//! Invariant: buffers are swapped only if both ports really lie in one region, whatever was planned;
//! the plan merely arranges for that by making the second port in the first one's memory.

use anyhow::Context;
use netmap::name::{PortKind, PortName, RingSel};
use netmap::{Direction, Memory, Options, Port};
use nm_cli::exit::UsageError;

use crate::cli::{Cli, Operands};

/// The two names and how they are to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// First port.
    pub a: PortName,
    /// Second port; the same as the first for a loopback.
    pub b: PortName,
    /// One port, back to itself.
    pub loopback: bool,
    /// Whether the second port is to be made in the memory of the first.
    pub share: bool,
}

/// Two open ports.
#[derive(Debug)]
pub struct Pair {
    /// First port.
    pub a: Port,
    /// Second port.
    pub b: Port,
    /// Swap buffers instead of copying.
    pub zero_copy: bool,
}

impl Plan {
    /// Reads the names. With one name (or the same twice) the port is joined to its own host rings,
    /// unless it is looped back.
    pub fn new(cli: &Cli, operands: &Operands) -> anyhow::Result<Plan> {
        let parse =
            |text: &str| text.parse::<PortName>().map_err(|e| UsageError::new(e.to_string()));
        let mut a = parse(&operands.a)?;
        let b = parse(operands.b.as_ref().unwrap_or(&operands.a))?;
        if !cli.loopback && a == b {
            a = host_side(&b)?;
        }
        // Only ports of a switch live in memory that can be shared, unless it was chosen by @ID.
        let free =
            |name: &PortName| matches!(name.kind, PortKind::Vale { .. }) && name.mem_id.is_none();
        let share = !cli.copy && !cli.loopback && free(&a) && free(&b);
        Ok(Plan { a, b, loopback: cli.loopback, share })
    }

    /// Opens both ports.
    pub fn open(&self, cli: &Cli) -> anyhow::Result<Pair> {
        let open = |name: &PortName, options: Options| {
            Port::open_with(name, &options).with_context(|| format!("opening port {name}"))
        };
        let only = |direction| Options { direction, ..Options::default() };
        let (a, b) = if self.loopback {
            // Two handles of one port: each side of `forward` borrows its own.
            (open(&self.a, only(Direction::RxOnly))?, open(&self.b, only(Direction::TxOnly))?)
        } else {
            let a = open(&self.a, Options::default())?;
            let shared = Options { memory: Memory::With(a.memory()), ..Options::default() };
            let b = match self.share.then(|| Port::open_with(&self.b, &shared)) {
                Some(Ok(b)) => b,
                // A port that is there already keeps its memory; any other reason shows again.
                _ => open(&self.b, Options::default())?,
            };
            (a, b)
        };
        let zero_copy = !cli.copy && a.same_memory(&b);
        Ok(Pair { a, b, zero_copy })
    }

    /// Whether a NIC is involved, whose link may need time to come up.
    pub fn has_nic(&self) -> bool {
        [&self.a, &self.b].iter().any(|name| matches!(name.kind, PortKind::Netmap(_)))
    }
}

fn host_side(name: &PortName) -> Result<PortName, UsageError> {
    if !matches!(name.kind, PortKind::Netmap(_)) {
        return Err(UsageError::new(format!(
            "{name} has no host rings to be joined to; name a second port, or use --loopback"
        )));
    }
    if name.rings != RingSel::All {
        return Err(UsageError::new(format!(
            "{name} names rings already; give the port alone, or both sides"
        )));
    }
    Ok(name.clone().with_rings(RingSel::Host))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn plan(line: &str) -> anyhow::Result<Plan> {
        let cli = Cli::try_parse_from(line.split_whitespace())?;
        Plan::new(&cli, &cli.operands()?)
    }

    #[test]
    fn one_nic_is_joined_to_its_host_rings() {
        for line in ["br eth0", "br eth0 eth0", "br -i netmap:eth0"] {
            let plan = plan(line).unwrap();
            assert_eq!(plan.a.to_string(), "netmap:eth0^", "{line}");
            assert_eq!(plan.b.to_string(), "netmap:eth0", "{line}");
            assert!(plan.has_nic());
        }
    }

    #[test]
    fn ports_without_host_rings_alone_are_a_usage_error() {
        for line in ["br valeA:x", "br tap:t0", "br eth0^", "br valeA:x valeA:x", "br valeA:"] {
            let error = plan(line).expect_err(line);
            assert!(error.downcast_ref::<UsageError>().is_some(), "{line}: {error}");
        }
    }

    #[test]
    fn memory_is_shared_unless_chosen_or_refused() {
        for (line, share) in [
            ("br valeA:x valeB:y", true),
            ("br -c valeA:x valeB:y", false),
            ("br tap:t0 valeB:y", false),
            ("br valeA:x@3 valeB:y", false),
            ("br valeA:x valeB:y@3", false),
            ("br -L valeA:x", false),
        ] {
            assert_eq!(plan(line).unwrap().share, share, "{line}");
        }
    }
}
