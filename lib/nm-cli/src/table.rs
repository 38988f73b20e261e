//! Text in columns.
//!
//! Invariant: columns are two blanks apart and no line ends in blanks, so that the output can be
//! compared and cut by scripts. In a [`Table`] they are as wide as their widest cell.

use std::fmt;

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// One line of cells in columns of at least these widths, for output that cannot wait for the last row.
pub fn line<S: AsRef<str>>(cells: &[S], columns: &[(usize, Align)]) -> String {
    let pad = |(cell, &(width, align)): (&S, &(usize, Align))| match align {
        Align::Left => format!("{:<width$}", cell.as_ref()),
        Align::Right => format!("{:>width$}", cell.as_ref()),
    };
    let cells: Vec<String> = cells.iter().zip(columns).map(pad).collect();
    cells.join("  ").trim_end().to_owned()
}

/// Rows of cells, the first of them the header.
#[derive(Debug)]
pub struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let header = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        Table { aligns: columns.iter().map(|(_, align)| *align).collect(), rows: vec![header] }
    }

    /// Adds a row; cells left out at its end are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let columns: Vec<(usize, Align)> =
            self.aligns.iter().enumerate().map(|(at, &align)| (width(at), align)).collect();
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row, &columns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_without_blanks() {
        let mut table = Table::new(&[("NAME", Align::Left), ("PPS", Align::Right)]);
        table.row(["valeA:x".to_owned(), "7".to_owned()]);
        table.row(["y".to_owned()]);
        assert_eq!(table.to_string(), "NAME     PPS\nvaleA:x    7\ny\n");
    }

    #[test]
    fn line_has_columns_of_fixed_width() {
        let columns = [(6, Align::Left), (5, Align::Right)];
        assert_eq!(line(&["step", "Mpps"], &columns), "step     Mpps");
        assert_eq!(line(&["CSB", "39.2"], &columns), "CSB      39.2");
        assert_eq!(line(&["CSB", ""], &columns), "CSB");
    }
}
