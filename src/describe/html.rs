//! Writes a page as HTML that needs no other file.

use super::document::{Block, Group, Span};
use crate::page::content_security_policy;

const STYLE: &str = concat!(include_str!("../page/theme.css"), include_str!("page.css"));

/// The `Content-Security-Policy` of [`Description::to_html`](super::Description::to_html)'s page. It
/// allows the page's own style, known by its hash, and nothing else.
pub const CONTENT_SECURITY_POLICY: &str =
    content_security_policy!("style-src 'sha256-5i7/RS/CjdOx8DXZxcV76s8kx/HVw8SoMZMCmOpsbYI='");

pub(super) fn render(title: &str, blocks: &[Block]) -> String {
    let title = escaped(title);
    let blocks: String = blocks.iter().map(|block| format!("{}\n", element(block))).collect();
    // Without an icon of its own, a browser would ask the server for one.
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{STYLE}</style>
<main>
<h1>{title}</h1>
{blocks}</main>
</html>
"#
    )
}

fn element(block: &Block) -> String {
    match block {
        Block::Heading(heading) => format!("<h2>{}</h2>", escaped(heading)),
        Block::Text(spans) => format!("<p>{}</p>", line(spans)),
        Block::List(items) => {
            let items: String =
                items.iter().map(|item| format!("<li>{}</li>", line(item))).collect();
            format!("<ul>{items}</ul>")
        }
        Block::Table { caption, columns, groups } => table(caption, columns, groups),
        // A message may be wider than the page: `tabindex` lets the keyboard scroll it.
        Block::Message(message) => format!(
            r#"<pre tabindex="0" role="region" aria-label="HTTP response">{}</pre>"#,
            escaped(message)
        ),
    }
}

fn table(caption: &str, columns: &[String], groups: &[Group]) -> String {
    let caption = escaped(caption);
    let head = |column: &String| format!(r#"<th scope="col">{}</th>"#, escaped(column));
    let head: String = columns.iter().map(head).collect();
    let bodies: String = groups.iter().map(|group| table_body(group, columns.len())).collect();
    format!(
        "<table>\n<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n{bodies}</table>"
    )
}

fn table_body(group: &Group, columns: usize) -> String {
    let heading = group.heading.iter().map(|heading| {
        let heading = line(heading);
        format!("\n<tr><th scope=\"rowgroup\" colspan=\"{columns}\">{heading}</th></tr>")
    });
    let rows = group.rows.iter().map(|cells| {
        let cells = cells.iter().enumerate().map(|(index, cell)| match index {
            0 => format!(r#"<th scope="row">{}</th>"#, line(cell)),
            _ => format!("<td>{}</td>", line(cell)),
        });
        format!("\n<tr>{}</tr>", cells.collect::<String>())
    });
    format!("<tbody>{}</tbody>\n", heading.chain(rows).collect::<String>())
}

fn line(spans: &[Span]) -> String {
    let written = spans.iter().map(|span| match span {
        Span::Text(text) => escaped(text),
        Span::Strong(text) => format!("<strong>{}</strong>", escaped(text)),
        Span::Code(text) => format!("<code>{}</code>", escaped(text)),
        Span::Note(text) => format!(" <small>{}</small>", escaped(text)),
    });
    written.collect()
}

/// Escapes text for an element or a quoted attribute.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}
