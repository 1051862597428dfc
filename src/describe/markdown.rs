//! Writes a page as CommonMark, with GitHub's tables.

use super::document::{Block, Group, Span};

pub(super) fn render(title: &str, blocks: &[Block]) -> String {
    let mut page = format!("# {}\n", escaped(title));
    for block in blocks {
        page.push('\n');
        match block {
            Block::Heading(heading) => page.push_str(&format!("## {heading}\n")),
            Block::Text(spans) => page.push_str(&format!("{}\n", line(spans))),
            Block::List(items) => {
                page.extend(items.iter().map(|item| format!("- {}\n", line(item))));
            }
            Block::Table { columns, groups, .. } => push_table(&mut page, columns, groups),
            Block::Message(message) => {
                let fence = fence(message, 3);
                page.push_str(&format!("{fence}http\n{message}\n{fence}\n"));
            }
        }
    }
    page
}

fn push_table(page: &mut String, columns: &[String], groups: &[Group]) {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    // Escaped text has no bars. In code, only a table needs them escaped.
    let cell = |spans: &Vec<Span>| line(spans).replace('|', r"\|");
    page.push_str(&row(columns.iter().map(|column| escaped(column)).collect()));
    page.push_str(&row(vec!["---".to_owned(); columns.len()]));
    for group in groups {
        if let Some(heading) = &group.heading {
            let mut cells = vec![cell(heading)];
            cells.resize(columns.len(), String::new());
            page.push_str(&row(cells));
        }
        page.extend(group.rows.iter().map(|cells| row(cells.iter().map(cell).collect())));
    }
}

fn line(spans: &[Span]) -> String {
    let written = spans.iter().map(|span| match span {
        Span::Text(text) => escaped(text),
        Span::Strong(text) => format!("**{}**", escaped(text)),
        Span::Code(text) => {
            let (fence, text) = (fence(text, 1), one_line(text));
            // A space separates the text's own backticks from the fence.
            let pad = if text.contains('`') { " " } else { "" };
            format!("{fence}{pad}{text}{pad}{fence}")
        }
        Span::Note(text) => format!(" _({})_", escaped(text)),
    });
    written.collect()
}

/// Escapes text for a line of Markdown.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in one_line(text).chars() {
        match character {
            '|' => escaped.push_str("&#124;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '&' | '~' | '#' => {
                escaped.extend(['\\', character]);
            }
            character => escaped.push(character),
        }
    }
    escaped
}

fn one_line(text: &str) -> String {
    text.replace(|character: char| character.is_control(), " ")
}

/// A fence of more backticks than the text has in a row.
fn fence(text: &str, at_least: usize) -> String {
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(at_least.max(longest + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_meaning_to_markdown() {
        let page = render("a\n# <b> _c_ [d](e) `f` | g & \\", &[]);
        assert_eq!(page, "# a \\# \\<b\\> \\_c\\_ \\[d\\](e) \\`f\\` &#124; g \\& \\\\\n");
    }

    #[test]
    fn code_may_hold_backticks_and_bars() {
        let code = |text: &str| line(&[Span::Code(text.to_owned())]);
        assert_eq!(code("/a|b"), "`/a|b`");
        assert_eq!(code("/a`b``"), "``` /a`b`` ```");
        let message = Block::Message("```\n<script>".to_owned());
        assert_eq!(render("t", &[message]), "# t\n\n````http\n```\n<script>\n````\n");
    }
}
