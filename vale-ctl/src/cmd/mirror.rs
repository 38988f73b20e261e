//! `mirror`: a port that gets copies of another's packets.

use anyhow::Context;
use netmap::control;
use nm_cli::exit::UsageError;
use serde_json::json;

use crate::cli::{Mirror, MirrorTo, Target};
use crate::cmd::create::port_name;
use crate::json;
use crate::output::{Did, Out};
use crate::select::{self, NotThere};

/// Runs the command.
pub fn run(out: &mut Out, args: &Mirror) -> anyhow::Result<()> {
    let Some(to) = &args.to else { return tell(out, &args.name) };
    let of = whole_port(&args.name)?;
    let to = match to {
        MirrorTo::Off => None,
        MirrorTo::Port(to) => Some(whole_port(to)?),
    };
    for name in std::iter::once(&args.name).chain(args.to.as_ref().and_then(MirrorTo::port)) {
        select::port(name)?.ok_or_else(|| NotThere::Missing(name.clone()))?;
    }
    control::set_mirror(&of, to.as_ref())
        .with_context(|| format!("setting the mirror of {}", args.name))?;
    Ok(out.done(&args.name, Did::Set, false)?)
}

/// The present mirror.
fn tell(out: &mut Out, name: &Target) -> anyhow::Result<()> {
    whole_port(name)?;
    let info = select::port(name)?.ok_or_else(|| NotThere::Missing(name.clone()))?;
    if out.json {
        let value = json!({ "mirror": info.mirror });
        out.object(&json::keyed([(name.to_string(), value)]))?;
    } else {
        let mirror = info.mirror.map(|port| format!("{}:{port}", name.switch));
        out.line(mirror.unwrap_or_else(|| "off".to_owned()))?;
    }
    Ok(out.flush()?)
}

fn whole_port(name: &Target) -> anyhow::Result<netmap::PortName> {
    if name.port.is_none() {
        let why = format!("a port has a mirror, a switch has none: name one, as in {name}:x");
        return Err(UsageError::new(why).into());
    }
    port_name(name)
}
