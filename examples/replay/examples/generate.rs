//! Writes an access log, to measure with: `generate common|combined|caddy|nginx-json LINES`.

#[path = "../tests/generate.rs"]
mod generate;

use std::{
    env,
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use generate::{Format, Line, requests};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let format = match arguments.first().map(|format| &**format) {
        Some("common") => Format::Common,
        Some("combined") => Format::Combined,
        Some("caddy") => Format::Caddy,
        Some("nginx-json") => Format::NginxJson,
        _ => {
            eprintln!("write `generate common|combined|caddy|nginx-json LINES`");
            return ExitCode::FAILURE;
        }
    };
    let count = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let mut out = BufWriter::new(io::stdout().lock());
    for sent in requests(format, count, 100, 7) {
        if writeln!(out, "{}", Line(format, &sent)).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
