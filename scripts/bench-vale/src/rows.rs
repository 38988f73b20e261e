//! Where results go: a line a figure on stdout, for people or as JSON.

use std::io::Write;

use anyhow::Result;
use nm_cli::digits::digits;
use nm_cli::machine::Machine;
use nm_cli::report::SCHEMA;
use serde_json::{Value, json};

/// The lines of one case.
#[derive(Debug)]
pub struct Rows {
    json: bool,
    case: String,
}

impl Rows {
    /// Rows of this case.
    pub fn new(json: bool, case: &str) -> Rows {
        Rows { json, case: case.to_owned() }
    }

    /// Writes the machine that it is measured on, for programs.
    pub fn machine(&self, machine: &Machine) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut fields = serde_json::to_value(machine)?;
        fields["type"] = "machine".into();
        fields["schema"] = SCHEMA.into();
        Ok(writeln!(std::io::stdout(), "{fields}")?)
    }

    /// Writes a figure; `what` says of what.
    pub fn add(&self, mut row: Value) -> Result<()> {
        if self.json {
            row["type"] = "row".into();
            row["schema"] = SCHEMA.into();
            row["case"] = json!(self.case);
            return Ok(writeln!(std::io::stdout(), "{row}")?);
        }
        Ok(writeln!(std::io::stdout(), "{}", words(&row))?)
    }
}

fn words(row: &Value) -> String {
    let mut words = vec![row["what"].as_str().unwrap_or_default().to_owned()];
    for (key, value) in row.as_object().into_iter().flatten().filter(|(key, _)| *key != "what") {
        words.push(match value {
            Value::Number(n) if n.is_f64() => {
                format!("{key} {}", digits(n.as_f64().unwrap_or(f64::NAN)))
            }
            Value::String(text) => format!("{key} {text}"),
            value => format!("{key} {value}"),
        });
    }
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_with_what_was_measured() {
        let row = json!({"mpps": 57.532, "what": "64 B", "slots": 1024, "gbps": 0.5});
        assert_eq!(words(&row), "64 B  gbps 0.500  mpps 57.5  slots 1024");
    }
}
