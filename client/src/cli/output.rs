//! What goes to stdout: tables for people, JSON for programs.

use std::io::{self, Write};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints `document`, or for people what `table` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        document: &T,
        table: impl FnOnce(&T) -> Table,
    ) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut stdout, document)?;
            writeln!(stdout)?;
        } else {
            table(document).write(&mut stdout)?;
        }
        stdout.flush()
    }

    /// Tells people what was done; programs have the document.
    pub(crate) fn note(self, message: &str) {
        if !self.json {
            eprintln!("{}", clean(message));
        }
    }

    /// Tells people more than fits a line.
    pub(crate) fn note_table(self, table: &Table) -> io::Result<()> {
        match self.json {
            true => Ok(()),
            false => table.write(&mut io::stderr().lock()),
        }
    }
}

/// Rows in aligned columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right_aligned: &'static [usize],
}

impl Table {
    /// A table with column titles; columns of numbers are right-aligned.
    pub(crate) fn with_titles(titles: &[&str], right_aligned: &'static [usize]) -> Self {
        let titles = titles.iter().map(|&title| title.to_owned()).collect();
        Self {
            rows: vec![titles],
            right_aligned,
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let cells = cells.into_iter().map(|cell| clean(&cell.into()));
        self.rows.push(cells.collect());
    }

    /// Adds a row of a name and its value.
    pub(crate) fn field(&mut self, name: &str, value: impl Into<String>) {
        self.row([name.to_owned(), value.into()]);
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell: &String| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                line += &match self.right_aligned.contains(&column) {
                    true => format!("{cell:>width$}  "),
                    false => format!("{cell:<width$}  "),
                };
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Text from elsewhere without its control characters, which must not reach the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// `3.00 GiB`; `-` if it is not known.
pub(crate) fn size(bytes: impl Into<Option<u64>>) -> String {
    bytes
        .into()
        .map_or_else(|| "-".to_owned(), |bytes| BinaryBytes(bytes).to_string())
}

/// `1,234,567`.
pub(crate) fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

/// The text, or `-` if there is none.
pub(crate) fn text(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// `23.4 ms`; `-` if it is not known.
pub(crate) fn rtt(milliseconds: impl Into<Option<f64>>) -> String {
    let milliseconds = milliseconds.into();
    milliseconds.map_or_else(|| text(None), |ms| format!("{ms:.1} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_do_not_pass() {
        let mut table = Table::with_titles(&["NAME", "SIZE", "STATUS"], &[1]);
        table.row(["é\u{1b}[2J", "1 B", "active"]);
        table.row(["debian-12", "3.00 GiB", ""]);
        let mut printed = Vec::new();
        table.write(&mut printed).unwrap();
        let expected = "\
NAME           SIZE  STATUS
é\u{fffd}[2J           1 B  active
debian-12  3.00 GiB
";
        assert_eq!(String::from_utf8(printed).unwrap(), expected);
    }
}
