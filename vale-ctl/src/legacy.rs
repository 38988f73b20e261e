//! Upstream's one-letter flags, translated into today's commands.
//!
//! Invariant: a command line that upstream's `vale-ctl` accepts is taken with upstream's meaning
//! (getopt with `g:d:a:h:n:r:l:p:P:C:m:v`; of several actions the last wins; `-h IF` attaches with
//! the host stack; no arguments at all list everything), and every other command line is left to
//! `cli`. Two additions: `-l` may stand without a name, and the long flags `--json`, `--verbose` may
//! stand among the letters. Document followed: netmap's vale-ctl(4).

use std::time::Duration;

use nm_cli::ring_config::{RingConfig, RingConfigError};

use crate::cli::{
    Attach, BridgeOptions, Change, Cli, Command, Create, Delete, Detach, List, Poll, Show, Target,
};
use crate::target;

/// Letters that take a value.
const WITH_VALUE: &str = "gdahnrlpPCm";

/// How long attach and detach wait. Upstream has no flag for it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The values of the flags.
#[derive(Default)]
struct Flags<'a> {
    action: Option<(char, Option<&'a str>)>,
    config: Option<&'a str>,
    mem_id: Option<&'a str>,
    verbose: bool,
    json: bool,
}

/// `None` if this is not a command line in upstream's style; an error is a usage error.
pub fn parse(args: &[String]) -> Option<Result<Cli, String>> {
    if !is_legacy(args) {
        return None;
    }
    Some(flags(args).and_then(|flags| command(&flags)))
}

/// The first argument that is no long flag decides: a letter of upstream's, and for `-h`, only with
/// a value (without one it is today's help).
fn is_legacy(args: &[String]) -> bool {
    let mut rest = args.iter().skip_while(|arg| matches!(arg.as_str(), "--json" | "--verbose"));
    let Some(first) = rest.next() else {
        return false;
    };
    let mut letters = first.chars();
    if letters.next() != Some('-') {
        return false;
    }
    match (letters.next(), letters.next()) {
        (Some('h'), None) => rest.next().is_some_and(|value| !value.starts_with("--")),
        // `-v list` is today's; `-v -l valeA`, `-vl valeA` are upstream's.
        (Some('v'), None) => rest.next().is_some_and(|next| is_legacy(std::slice::from_ref(next))),
        (Some('v'), Some(_)) => true,
        (Some(letter), _) => WITH_VALUE.contains(letter),
        (None, _) => false,
    }
}

/// Parses like getopt: letters may be combined, and a value may follow its letter directly.
fn flags(args: &[String]) -> Result<Flags<'_>, String> {
    let mut found = Flags::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--json" => found.json = true,
            "--verbose" => found.verbose = true,
            long if long.starts_with("--") => {
                return Err(format!("{long} does not go with upstream's flags: name a command"));
            }
            word if !word.starts_with('-') || word == "-" => {
                return Err(format!("`{word}` is left over after upstream's flags"));
            }
            _ => {}
        }
        if arg.starts_with("--") {
            continue;
        }
        for (at, letter) in arg.char_indices().skip(1) {
            if letter == 'v' {
                found.verbose = true;
                continue;
            }
            if !WITH_VALUE.contains(letter) {
                return Err(format!("there is no flag -{letter}; see --help"));
            }
            let glued = &arg[at + letter.len_utf8()..];
            let value = match glued {
                "" if letter == 'l' => {
                    // Optional: what begins with a dash is the next flag.
                    rest.clone().next().filter(|next| !next.starts_with('-')).inspect(|_| {
                        rest.next();
                    })
                }
                "" => Some(rest.next().ok_or_else(|| format!("-{letter} needs a value"))?),
                _ => None,
            };
            let value = value.map(String::as_str).or(Some(glued).filter(|glued| !glued.is_empty()));
            match letter {
                'C' => found.config = value,
                'm' => found.mem_id = value,
                _ => found.action = Some((letter, value)),
            }
            break;
        }
    }
    Ok(found)
}

fn command(flags: &Flags<'_>) -> Result<Cli, String> {
    let (letter, value) = flags.action.unwrap_or(('l', None));
    let name = || -> Result<Target, String> {
        let text = value.unwrap_or_default();
        let hint = if letter == 'h' { "\n(-h attaches; for help say --help)" } else { "" };
        target::parse(text).map_err(|why| format!("-{letter} {text}: {why}{hint}"))
    };
    let change = Change::default();
    let attach = |host| -> Result<Command, String> {
        Ok(Command::Attach(Attach {
            name: name()?,
            host,
            force: false,
            may_exist: false,
            netns: None,
            interface: None,
            bridge: BridgeOptions::default(),
            timeout: TIMEOUT,
            change: Change::default(),
        }))
    };
    let command = match letter {
        'g' => Command::Show(Show { name: name()? }),
        'a' => attach(false)?,
        'h' => attach(true)?,
        'd' => {
            Command::Detach(Detach { name: name()?, if_exists: false, timeout: TIMEOUT, change })
        }
        'n' => Command::Create(Create {
            name: name()?,
            may_exist: false,
            ring_config: flags.config.map(ring_config).transpose()?,
            mem_id: mem_id(flags.mem_id)?,
            mem_mib: None,
            change,
        }),
        'r' => Command::Delete(Delete { name: name()?, if_exists: false, change }),
        'p' => Command::Poll(Poll::Start {
            name: name()?,
            cpu: flags.config.map(polling_cpu).transpose()?,
            timeout: TIMEOUT,
        }),
        'P' => Command::Poll(Poll::Stop { name: name()?, timeout: TIMEOUT }),
        _ => {
            let names = value.map(|_| name()).transpose()?;
            Command::List(List { names: names.into_iter().collect() })
        }
    };
    Ok(Cli { json: flags.json, verbose: flags.verbose, command: Some(command) })
}

fn mem_id(text: Option<&str>) -> Result<Option<u16>, String> {
    let parse =
        |text: &str| text.parse().map_err(|_| format!("-m {text}: not a memory id (0-65535)"));
    text.map(parse).transpose()
}

fn ring_config(text: &str) -> Result<RingConfig, String> {
    text.parse().map_err(|error: RingConfigError| error.to_string())
}

/// `-C x,y,z` of `-p`: x is 0 (all rings on CPU y) or 1 (z CPUs from y on, one a ring). A bridge is
/// one thread, so z must be 1 here.
fn polling_cpu(text: &str) -> Result<usize, String> {
    let wrong = || format!("-C {text}: polling wants 0,CPU or 1,CPU,1; a bridge uses one CPU");
    let numbers: Vec<usize> =
        text.split(',').map(|n| n.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    match numbers[..] {
        [0, cpu] | [0, cpu, _] | [1, cpu, 1] => Ok(cpu),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Result<Cli, String>> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&args)
    }

    fn accepted(line: &str) -> Command {
        let cli = parsed(line).expect("upstream's style").expect("valid");
        cli.command.expect("a command")
    }

    #[test]
    fn h_with_a_value_attaches_with_the_host() {
        for line in ["-h valeA:tap0", "-hvaleA:tap0"] {
            let Command::Attach(attach) = accepted(line) else { panic!("{line}: not attach") };
            assert_eq!((attach.name.to_string().as_str(), attach.host), ("valeA:tap0", true));
        }
    }

    #[test]
    fn h_alone_help_and_subcommands_are_left_to_clap() {
        for line in
            ["-h", "--help", "list -h", "top -n 3", "-v list", "-h --json", "", "--json", "-V"]
        {
            assert!(parsed(line).is_none(), "{line}");
        }
    }

    #[test]
    fn the_last_action_wins() {
        let Command::Delete(delete) = accepted("-a valeA:x -n valeA:y -r valeA:z") else {
            panic!("not delete")
        };
        assert_eq!(delete.name.to_string(), "valeA:z");
    }

    #[test]
    fn n_takes_config_and_memory_wherever_they_stand() {
        for line in ["-C 512,256,2 -m 7 -n valeA:x", "-n valeA:x -m7 -C512,256,2"] {
            let Command::Create(create) = accepted(line) else { panic!("{line}: not create") };
            assert_eq!(create.mem_id, Some(7));
            let config = create.ring_config.expect("config");
            assert_eq!((config.tx_slots, config.rx_slots), (Some(512), Some(256)));
            assert_eq!((config.tx_rings, config.rx_rings), (Some(2), Some(2)));
        }
    }

    #[test]
    fn l_takes_a_name_or_none() {
        for (line, names) in
            [("-l", 0), ("-l valeA:x", 1), ("-v -l", 0), ("-l -v", 0), ("-vl valeA", 1)]
        {
            let Command::List(list) = accepted(line) else { panic!("{line}: not list") };
            assert_eq!(list.names.len(), names, "{line}");
        }
    }

    #[test]
    fn polling_config_names_a_cpu() {
        for line in ["-p valeA:x -C 0,3", "-p valeA:x -C 1,3,1"] {
            let Command::Poll(Poll::Start { cpu, .. }) = accepted(line) else { panic!("{line}") };
            assert_eq!(cpu, Some(3), "{line}");
        }
        for line in ["-p valeA:x -C 1,2", "-p valeA:x -C 1,2,2", "-p valeA:x -C all"] {
            assert!(parsed(line).expect("upstream's").is_err(), "{line}");
        }
    }

    #[test]
    fn nonsense_is_a_usage_error_that_names_it() {
        for (line, word) in [
            ("-n", "-n"),
            ("-n eth0", "eth0"),
            ("-n valeA:x stray", "stray"),
            ("-n valeA:x -m many", "many"),
            ("-n valeA:x -q", "-q"),
            ("-h top", "--help"),
        ] {
            let message = parsed(line).expect("upstream's").expect_err(line);
            assert!(message.contains(word), "{line}: {message}");
        }
    }
}
