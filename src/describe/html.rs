//! Writes a page as HTML that needs no other file.

use std::fmt::{self, Display, Write};

use super::document::{Block, Group, Span, Table};
use crate::page::content_security_policy;

const STYLE: &str = concat!(include_str!("../page/theme.css"), include_str!("page.css"));

/// The `Content-Security-Policy` of [`Description::to_html`](super::Description::to_html)'s page. It
/// allows the page's own style, known by its hash, and nothing else.
pub const CONTENT_SECURITY_POLICY: &str =
    content_security_policy!("style-src 'sha256-5i7/RS/CjdOx8DXZxcV76s8kx/HVw8SoMZMCmOpsbYI='");

pub(super) fn render(title: &str, blocks: &[Block]) -> String {
    Page { title, blocks }.to_string()
}

struct Page<'a> {
    title: &'a str,
    blocks: &'a [Block],
}

impl Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = Text(self.title);
        f.write_str("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n")?;
        f.write_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")?;
        // Without an icon of its own, a browser would ask the server for one.
        f.write_str("<link rel=\"icon\" href=\"data:,\">\n")?;
        writeln!(f, "<title>{title}</title>\n<style>{STYLE}</style>\n<main>\n<h1>{title}</h1>")?;
        self.blocks.iter().try_for_each(|block| writeln!(f, "{block}"))?;
        f.write_str("</main>\n</html>\n")
    }
}

impl Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heading(heading) => write!(f, "<h2>{}</h2>", Text(heading)),
            Self::Text(spans) => write!(f, "<p>{}</p>", Cell(spans)),
            Self::List(items) => {
                f.write_str("<ul>")?;
                items.iter().try_for_each(|item| write!(f, "<li>{}</li>", Cell(item)))?;
                f.write_str("</ul>")
            }
            Self::Table(table) => table.fmt(f),
            // A message may be wider than the page: `tabindex` lets the keyboard scroll it.
            Self::Message(message) => {
                write!(f, "<pre tabindex=\"0\" role=\"region\" aria-label=\"HTTP response\">")?;
                write!(f, "{}</pre>", Text(message))
            }
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<table>\n<caption>{}</caption>\n<thead><tr>", Text(self.caption))?;
        for column in &self.columns {
            write!(f, "<th scope=\"col\">{}</th>", Text(column))?;
        }
        f.write_str("</tr></thead>\n")?;
        self.groups.iter().try_for_each(|group| group.write(f, self.columns.len()))?;
        f.write_str("</table>")
    }
}

impl Group {
    fn write(&self, f: &mut fmt::Formatter<'_>, columns: usize) -> fmt::Result {
        f.write_str("<tbody>")?;
        if let Some(heading) = &self.heading {
            let heading = Cell(heading);
            write!(f, "\n<tr><th scope=\"rowgroup\" colspan=\"{columns}\">{heading}</th></tr>")?;
        }
        for row in &self.rows {
            f.write_str("\n<tr>")?;
            for (index, cell) in row.iter().enumerate() {
                match index {
                    0 => write!(f, "<th scope=\"row\">{}</th>", Cell(cell))?,
                    _ => write!(f, "<td>{}</td>", Cell(cell))?,
                }
            }
            f.write_str("</tr>")?;
        }
        f.write_str("</tbody>\n")
    }
}

struct Cell<'a>(&'a [Span]);

impl Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|span| match span {
            Span::Text(text) => Text(text).fmt(f),
            Span::Strong(text) => write!(f, "<strong>{}</strong>", Text(text)),
            Span::Code(text) => write!(f, "<code>{}</code>", Text(text)),
            Span::Note(text) => write!(f, " <small>{}</small>", Text(text)),
        })
    }
}

/// Escapes text for an element or a quoted attribute.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            character => f.write_char(character),
        })
    }
}
