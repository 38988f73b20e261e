//! `set`, `ageing`, `backpressure`: the settings of a switch.
//!
//! Invariant: all arguments are parsed before anything is changed.

use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use netmap::Error;
use netmap::control::{self, Switch, SwitchInfo};
use nm_cli::exit::UsageError;
use serde_json::json;

use crate::cli::{self, Age, OnOff, Set, Target};
use crate::cmd::create::port_name;
use crate::cmd::list;
use crate::json;
use crate::output::{Did, Out};
use crate::select::{self, NotThere};

/// The setting of a port: bytes of its virtio-net header.
const VNET_HDR: &str = "vnet-hdr";

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Ageing(Option<Duration>),
    Backpressure(bool),
    Persistent(bool),
}

/// Runs `set`.
pub fn run(out: &mut Out, args: &Set) -> anyhow::Result<()> {
    if args.switch.port.is_some() {
        return port(out, args);
    }
    let settings = parse(&args.words).map_err(UsageError::new)?;
    if args.change.dry_run {
        select::switch(&args.switch)?;
    } else {
        apply(&args.switch, &settings)?;
    }
    Ok(out.done(&args.switch, Did::Set, args.change.dry_run)?)
}

/// Runs `set` of a port.
fn port(out: &mut Out, args: &Set) -> anyhow::Result<()> {
    let name = port_name(&args.switch)?;
    let mut asked = None;
    for (key, value) in pairs(&args.words).map_err(UsageError::new)? {
        if key != VNET_HDR {
            return whole(&args.switch);
        }
        let header = value.parse().ok().filter(|n| [0, 10, 12].contains(n)).ok_or_else(|| {
            UsageError::new(format!("a virtio-net header has 0, 10 or 12 bytes, not `{value}`"))
        })?;
        asked = Some(header);
    }
    let header = asked.ok_or_else(|| UsageError::new("nothing is to be set"))?;
    select::port(&args.switch)?.ok_or_else(|| NotThere::Missing(args.switch.clone()))?;
    if !args.change.dry_run {
        control::set_vnet_hdr_len(&name, header)
            .with_context(|| format!("setting the headers of {name}"))?;
    }
    Ok(out.done(&args.switch, Did::Set, args.change.dry_run)?)
}

/// Runs `ageing`.
pub fn ageing(out: &mut Out, args: &cli::Ageing) -> anyhow::Result<()> {
    whole(&args.switch)?;
    if let Some(Age(age)) = args.value {
        apply(&args.switch, &[Setting::Ageing(age)])?;
        return Ok(out.done(&args.switch, Did::Set, false)?);
    }
    let info = select::switch(&args.switch)?;
    tell(out, &info, list::ageing(info.ageing))
}

/// Runs `backpressure`.
pub fn backpressure(out: &mut Out, args: &cli::Backpressure) -> anyhow::Result<()> {
    whole(&args.switch)?;
    if let Some(value) = args.value {
        apply(&args.switch, &[Setting::Backpressure(value == OnOff::On)])?;
        return Ok(out.done(&args.switch, Did::Set, false)?);
    }
    let info = select::switch(&args.switch)?;
    tell(out, &info, if info.backpressure { "on" } else { "off" }.to_owned())
}

/// The value that was asked for.
fn tell(out: &mut Out, info: &SwitchInfo, value: String) -> anyhow::Result<()> {
    if out.json {
        let settings = json!({
            "ageing_seconds": info.ageing.map(|age| age.as_secs_f64()),
            "backpressure": info.backpressure,
            "persistent": info.persistent,
        });
        out.object(&json::keyed([(info.name.clone(), settings)]))?;
    } else {
        out.line(value)?;
    }
    Ok(out.flush()?)
}

/// Settings belong to a switch.
fn whole(name: &Target) -> anyhow::Result<()> {
    match &name.port {
        None => Ok(()),
        Some(_) => {
            let why =
                format!("settings but vnet-hdr belong to the switch: {}, not {name}", name.switch);
            Err(UsageError::new(why).into())
        }
    }
}

fn apply(name: &Target, settings: &[Setting]) -> anyhow::Result<()> {
    let switch = match Switch::open(&name.switch) {
        Err(Error::NotFound { .. }) => return Err(NotThere::Missing(name.clone()).into()),
        other => other.with_context(|| format!("opening {name}"))?,
    };
    for setting in settings {
        match *setting {
            Setting::Ageing(age) => switch.set_ageing(age),
            Setting::Backpressure(on) => switch.set_backpressure(on),
            Setting::Persistent(on) => switch.set_persistent(on),
        }
        .with_context(|| format!("setting {setting:?} of {name}"))?;
    }
    Ok(())
}

/// `ageing 300s backpressure=on`: pairs of words, or words with an equals sign.
fn pairs(words: &[String]) -> Result<Vec<(&str, &str)>, String> {
    let mut pairs = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        pairs.push(match word.split_once('=') {
            Some(pair) => pair,
            None => {
                let value = rest.next().ok_or_else(|| format!("`{word}` needs a value"))?;
                (word.as_str(), value.as_str())
            }
        });
    }
    Ok(pairs)
}

/// The settings of a switch.
fn parse(words: &[String]) -> Result<Vec<Setting>, String> {
    let mut settings = Vec::new();
    for (key, value) in pairs(words)? {
        let on = || {
            OnOff::from_str(value, true)
                .map(|value| value == OnOff::On)
                .map_err(|_| format!("{key} is on or off, not `{value}`"))
        };
        settings.push(match key {
            "ageing" => {
                let Age(age) = cli::age(value).map_err(|why| format!("ageing {value}: {why}"))?;
                Setting::Ageing(age)
            }
            "backpressure" => Setting::Backpressure(on()?),
            "persistent" => Setting::Persistent(on()?),
            VNET_HDR => return Err(format!("{key} belongs to a port: name it, as in valeA:x")),
            _ => {
                return Err(format!(
                    "there is no setting `{key}`; there are ageing, backpressure and persistent"
                ));
            }
        });
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Vec<Setting>, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn pairs_and_equals_signs_mean_the_same() {
        let wanted = vec![
            Setting::Ageing(Some(Duration::from_secs(60))),
            Setting::Backpressure(true),
            Setting::Persistent(false),
        ];
        assert_eq!(parsed("ageing 60s backpressure on persistent off"), Ok(wanted.clone()));
        assert_eq!(parsed("ageing=60 backpressure=on persistent=off"), Ok(wanted));
        assert_eq!(parsed("ageing off"), Ok(vec![Setting::Ageing(None)]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, word) in [
            ("ageing", "needs a value"),
            ("backpressure maybe", "maybe"),
            ("colour on", "colour"),
            ("ageing soon", "soon"),
            ("vnet-hdr 12", "belongs to a port"),
        ] {
            let message = parsed(line).expect_err(line);
            assert!(message.contains(word), "{line}: {message}");
        }
    }
}
