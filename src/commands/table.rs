//! Text tables with aligned columns.

use unicode_width::UnicodeWidthStr;

use orch_base::text::printable::one_line;

/// Returns the lines of a table, headings first. Control characters are removed from every cell; the last column is not
/// padded.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| one_line(cell)).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
        cells
            .chain(headings.get(column).map(|heading| heading.width()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width.saturating_sub(cell.width()) + 2));
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".to_owned(), "long one".to_owned(), "x\ny".to_owned()],
            vec!["漢字".to_owned(), "b".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["A", "B", "C"], &rows),
            ["A     B         C", "a     long one  x y", "漢字  b"]
        );
    }
}
