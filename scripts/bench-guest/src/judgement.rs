//! Whether what must be reached was reached, printed.

use anyhow::Result;
use serde_json::json;

use crate::output::{Output, Table, rare};
use crate::target::Bound;

/// Prints which targets were met.
pub fn print(out: &Output) -> Result<()> {
    let judged = out.judged.0.borrow();
    if judged.is_empty() {
        return Ok(());
    }
    let columns = [("", -56), ("measured", 9), ("required", 11), ("", -7)];
    let table = Table::new("What must be reached", &columns);
    for (target, figure) in judged.iter() {
        let (sign, bound) = match target.bound {
            Bound::AtLeast(bound) => ("\u{2265}", bound),
            Bound::Below(bound) => ("<", bound),
        };
        let met = target.met(*figure);
        let word = if met { "yes" } else { "NO" };
        table.row(&[target.what.into(), rare(*figure), format!("{sign} {bound}"), word.into()]);
        let fields = json!({"target": target.what, "measured": figure, "required": bound,
            "below": sign == "<", "met": met});
        out.record("target", &fields)?;
    }
    Ok(())
}
