//! `scripts/bench guest curves`: the chart of receive livelock in Linux guests, from what `scripts/nested --curves` and
//! `scripts/livelock --curves` have measured elsewhere.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::chart::{self, Curve, Legend, Words};

/// What to draw.
#[derive(Debug, clap::Args)]
pub struct Curves {
    /// Lines of JSON, each a load
    file: PathBuf,
    /// The chart
    svg: PathBuf,
    /// Curves to draw, as CASE:GUEST=LEGEND, in this order
    #[arg(long = "curve", value_name = "CASE:GUEST=LEGEND", required = true, value_parser = named)]
    curves: Vec<(String, String)>,
    /// The heading
    #[arg(long)]
    title: String,
    /// What was measured, below it
    #[arg(long)]
    subtitle: String,
}

fn named(text: &str) -> Result<(String, String), String> {
    let (name, legend) = text.rsplit_once('=').ok_or("CASE:GUEST=LEGEND")?;
    Ok((name.into(), legend.into()))
}

/// Loads and what was read, of the curve of that name, in thousands a second.
fn points(lines: &[Value], name: &str) -> Result<Vec<(f64, f64)>> {
    let point = |line: &Value| {
        let kilo = |key: &str| line[key].as_f64().map(|rate| rate / 1e3);
        kilo("offered_per_s").zip(kilo("read_per_s")).with_context(|| format!("no load: {line}"))
    };
    let (case, guest) = name.split_once(':').unwrap_or((name, ""));
    let of = |line: &&Value| line["case"] == case && line["guest"] == guest;
    let points = lines.iter().filter(of).map(point).collect::<Result<Vec<_>>>()?;
    ensure!(!points.is_empty(), "no curve {name}");
    Ok(points)
}

/// Draws it.
pub fn run(args: &Curves) -> Result<()> {
    let text = fs::read_to_string(&args.file)
        .with_context(|| format!("reading {}", args.file.display()))?;
    let lines = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()
        .with_context(|| format!("in {}", args.file.display()))?;
    let curve = |(name, legend): &(String, String)| -> Result<Curve> {
        Ok(Curve { name: legend.clone(), points: points(&lines, name)? })
    };
    let drawn = args.curves.iter().map(curve).collect::<Result<Vec<_>>>()?;
    let words = Words {
        title: &args.title,
        subtitle: &args.subtitle,
        x: "thousands offered a second",
        y: "thousands read a second",
        legend: Legend::UpperLeft,
    };
    let svg = chart::curves(&words, &drawn)?;
    fs::write(&args.svg, svg).with_context(|| format!("writing {}", args.svg.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn points_are_those_of_the_curve_in_thousands() {
        let lines = [
            json!({"case": "a", "guest": "x", "offered_per_s": 1000, "read_per_s": 500}),
            json!({"case": "a", "guest": "y", "offered_per_s": 1, "read_per_s": 1}),
            json!({"case": "b", "guest": "x", "offered_per_s": 1, "read_per_s": 1}),
            json!({"case": "a", "guest": "x", "offered_per_s": 2000, "read_per_s": 1500}),
        ];
        assert_eq!(points(&lines, "a:x").unwrap(), [(1.0, 0.5), (2.0, 1.5)]);
        points(&lines, "b:y").expect_err("nowhere");
        points(&[json!({"case": "a", "guest": "x", "offered_per_s": 1})], "a:x")
            .expect_err("nothing read");
    }
}
