//! Aligned columns.
//!
//! In: rows of cells. Out: text, cut to a terminal's width if it has one. Never: a number cut short.

use std::io;

use super::super::output::{folded, width};
use super::super::wants_color;

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Align {
    Left,
    Right,
}

/// How tables are written.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Layout {
    /// Marks heads.
    pub(in crate::cli) bold: bool,
    /// What a line may have at most; what leans left is cut for it.
    pub(in crate::cli) width: Option<usize>,
}

impl Layout {
    /// For who reads stdout, whose lines have no end if all columns are wanted.
    pub(in crate::cli) fn of_stdout(is_wide: bool) -> Self {
        let stdout = io::stdout();
        Self {
            bold: wants_color(&stdout),
            width: width(&stdout).filter(|_| !is_wide),
        }
    }
}

/// Rows below a head, each column as wide as its widest cell.
#[derive(Debug)]
pub(in crate::cli) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    /// Lines below it.
    pub(in crate::cli) notes: Vec<String>,
}

/// Between two columns.
const GAP: usize = 2;
/// No cell is cut shorter.
const SHORTEST: usize = 8;

impl Table {
    pub(in crate::cli) fn new(columns: Vec<(&'static str, Align)>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(in crate::cli) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table's text.
    pub(in crate::cli) fn render(&self, layout: Layout) -> String {
        let head = self.columns.iter().map(|(title, _)| (*title).to_owned());
        let head: Vec<String> = head.collect();
        let widths = self.widths(layout.width);
        let mut text = self.line(&head, &widths);
        if layout.bold {
            text = format!("\x1b[1m{text}\x1b[0m");
        }
        text.push('\n');
        for row in &self.rows {
            text += &self.line(row, &widths);
            text.push('\n');
        }
        for note in &self.notes {
            text += &folded(&format!("  {note}\n"), layout.width);
        }
        text
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).zip(&self.columns);
        let padded = cells.map(|((cell, &width), (_, align))| match align {
            Align::Left => format!("{:<width$}", cut(cell, width)),
            Align::Right => format!("{cell:>width$}"),
        });
        let gap = " ".repeat(GAP);
        padded.collect::<Vec<_>>().join(&gap).trim_end().to_owned()
    }

    /// The widest of those that lean left gives way, a character at a time.
    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let width = |(column, (title, _)): (usize, &(&str, Align))| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let cells = cells.map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(title.chars().count())
        };
        let mut widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        let Some(limit) = limit else {
            return widths;
        };
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > limit {
            let left = widths.iter_mut().zip(&self.columns);
            let left = left.filter(|(_, (_, align))| *align == Align::Left);
            let widest = left.map(|(width, _)| width).max();
            match widest.filter(|width| **width > SHORTEST) {
                Some(widest) => *widest -= 1,
                None => break,
            }
        }
        widths
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept = cell.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Layout = Layout {
        bold: false,
        width: None,
    };

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let columns = [
            ("NAME", Align::Left),
            ("BYTES", Align::Right),
            ("X", Align::Left),
        ];
        let mut table = Table::new(columns.into());
        table.row(vec!["a".into(), "1".into(), "é".into()]);
        table.row(vec!["longer".into(), "123456".into(), String::new()]);
        table.notes.push("a: why".into());
        assert_eq!(
            table.render(PLAIN),
            "NAME     BYTES  X\na            1  é\nlonger  123456\n  a: why\n"
        );
    }

    #[test]
    fn text_gives_way_and_numbers_do_not() {
        let columns = [("NAME", Align::Left), ("BYTES", Align::Right)];
        let mut table = Table::new(columns.into());
        table.row(vec!["a-name-of-twenty-one".into(), "1234567890".into()]);
        let width = Some(24);
        assert_eq!(
            table.render(Layout { width, ..PLAIN }),
            "NAME               BYTES\na-name-of-t…  1234567890\n"
        );
    }
}
