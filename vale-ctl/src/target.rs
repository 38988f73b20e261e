//! Checks by netmap's grammar whether an argument names a switch or a whole port. The definition of the command
//! line ([`crate::cli`]) only splits it, so that it does not depend on the library.

use netmap::name::SwitchPort;
use netmap::name::parse_switch;
use netmap::{NameError, PortName};

use crate::cli::{Cli, Command, Fdb, MirrorTo, Poll, Target};

/// Checks all names that a command line mentions; says what is wrong with the first bad one.
pub fn check(cli: &Cli) -> Result<(), String> {
    // What can be looked at only: monitors are listed under their port's name and an index of their own.
    let looks = matches!(
        cli.command,
        Some(
            Command::List(_)
                | Command::Show(_)
                | Command::Stats(_)
                | Command::Top(_)
                | Command::Watch(_)
        )
    );
    let attaches = matches!(cli.command, Some(Command::Attach(_)));
    named(cli).iter().try_for_each(|target| {
        let checked = match monitored(target) {
            Some(port) if looks => whole(&port),
            Some(port) => whole(&port).and_then(|()| {
                Err(format!(
                    "it is a monitor, which goes with who opened it; name its port, {port}"
                ))
            }),
            None => whole(target),
        };
        let hint = target.port.as_ref().filter(|port| attaches && has_dashes(port));
        let hint = hint.map(|interface| {
            let (switch, port) = (&target.switch, interface.replace('-', "_"));
            format!("an interface with a dash in its name: {switch}:{port} --interface {interface}")
        });
        checked.map_err(|why| match hint {
            None => format!("{target}: {why}"),
            // A name that cannot be read is shown with a mark below it.
            Some(hint) if why.contains('\n') => format!("{target}: {why}\n{hint}"),
            Some(hint) => format!("{target}: {why}; {hint}"),
        })
    })
}

fn named(cli: &Cli) -> Vec<&Target> {
    match &cli.command {
        None => Vec::new(),
        Some(command) => match command {
            Command::List(args) => args.names.iter().collect(),
            Command::Stats(args) => args.names.iter().collect(),
            Command::Top(args) => args.names.iter().collect(),
            Command::Watch(args) => args.names.iter().collect(),
            Command::Fdb(Fdb::Show { names }) => names.iter().collect(),
            Command::Fdb(Fdb::Flush { name, .. })
            | Command::Poll(Poll::Start { name, .. } | Poll::Stop { name, .. }) => vec![name],
            Command::Show(args) => vec![&args.name],
            Command::Create(args) => vec![&args.name],
            Command::Delete(args) => vec![&args.name],
            Command::Attach(args) => vec![&args.name],
            Command::Detach(args) => vec![&args.name],
            Command::Set(args) => vec![&args.switch],
            Command::Mirror(args) => {
                let to = args.to.as_ref().and_then(MirrorTo::port);
                std::iter::once(&args.name).chain(to).collect()
            }
            Command::Ageing(args) => vec![&args.switch],
            Command::Backpressure(args) => vec![&args.switch],
        },
    }
}

/// The port that a monitor is of, if that is one's name: `valeA:x` of `valeA:x#3`.
fn monitored(target: &Target) -> Option<Target> {
    let (port, index) = target.port.as_ref()?.split_once('#')?;
    index.parse::<u8>().ok()?;
    Some(Target { port: Some(port.to_owned()), ..target.clone() })
}

/// Whether a name could be that of an interface, and is none of a port, because of its dashes: `br-lan`, `own-0`.
fn has_dashes(port: &str) -> bool {
    let mut bytes = port.bytes();
    port.contains('-') && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Splits a name and checks it.
pub fn parse(name: &str) -> Result<Target, String> {
    let Ok(target) = name.parse::<Target>();
    whole(&target).map(|()| target)
}

/// Rings, flags and options belong to a handle; a target is a port as a whole.
fn whole(target: &Target) -> Result<(), String> {
    let Some(port) = &target.port else {
        return parse_switch(&target.switch).map(|_| ()).map_err(|why| why.to_string());
    };
    let parsed: PortName = target.to_string().parse().map_err(|why: NameError| why.to_string())?;
    match parsed.switch_port() {
        Some(named) if named.port == port && named.switch == target.switch => Ok(()),
        Some(SwitchPort { switch, port }) => {
            Err(format!("a whole port is meant here: {switch}:{port}"))
        }
        None => Err("not a port of a switch, which is named as in valeA:x".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn names_that_are_no_whole_port_are_refused_in_every_command() {
        for line in [
            "list NAME",
            "stats NAME",
            "top NAME",
            "watch NAME",
            "show NAME",
            "create NAME",
            "delete NAME",
            "attach NAME",
            "detach NAME",
            "fdb show NAME",
            "fdb flush NAME",
            "poll start NAME",
            "poll stop NAME",
            "set NAME persistent on",
            "ageing NAME",
            "backpressure NAME",
        ] {
            let checked = |name: &str| {
                let words = line.split(' ').map(|word| if word == "NAME" { name } else { word });
                check(&Cli::try_parse_from(std::iter::once("vale-ctl").chain(words)).expect(line))
            };
            for bad in ["eth0", "valeA:x-1", "valeA:x/x", "tap:t0", "vale/..:x", "valeA:..", ""] {
                assert!(checked(bad).is_err(), "{line}: {bad} was accepted");
            }
            for good in ["valeA", "valeA:", "valeA:x"] {
                assert_eq!(checked(good), Ok(()), "{line}");
            }
            let looks =
                ["list", "stats", "top", "watch", "show"].contains(&&*line.replace(" NAME", ""));
            assert_eq!(checked("valeA:x#3").is_ok(), looks, "{line}");
            let dashed = checked("valeA:own-0").expect_err(line);
            assert_eq!(dashed.contains("--interface own-0"), line == "attach NAME", "{dashed}");
            for bad in ["valeA:x#", "valeA:x#256", "valeA:#3", "valeA:x#3#4", "valeA#3"] {
                assert!(checked(bad).is_err(), "{line}: {bad} was accepted");
            }
        }
    }
}
