//! What limits would have done to real traffic, before they do it:
//!
//! ```sh
//! cargo run --release -p replay -- limits.toml access.log
//! zcat -f access.log* | cargo run --release -p replay -- limits.toml - --html out.html
//! ```
//!
//! The log may be in the common or the combined format (Apache, nginx), or JSON (Caddy, or nginx with
//! `escape=json`). `--help` has the rest.

use std::{
    fs::{self, File},
    io::{self, BufReader, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use replay::{
    Settings, Step,
    log::{Log, Reader},
    run,
    subject::StandIns,
    subjects,
};

/// Replays an access log through a file of limits, and reports whom they would have refused.
///
/// The requests go through the limiter itself, in the order and at the times of the log. Functions of your
/// program that the file names have stand-ins, and the answer says what a log cannot show. Clients are as in
/// the log: whoever would have been refused does not come back later, nor stay away.
///
/// The memory is about 100 bytes a line, and each address, path and key once.
#[derive(Parser)]
#[command(name = "replay", version = None)]
struct Arguments {
    /// The limits, in TOML
    limits: PathBuf,
    /// The access logs, from one server; `-` is the standard input, as in `zcat access.log.gz | replay limits.toml -`
    #[arg(required = true)]
    logs: Vec<PathBuf>,
    /// Other limits, to compare with
    #[arg(long, value_name = "LIMITS")]
    beside: Option<PathBuf>,
    /// Writes the answer as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Also writes the answer as a page with a chart
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Suggests the smallest quota that refuses at most so many keys; several numbers with commas between
    #[arg(long, value_name = "KEYS", default_value = "0,1,10", value_delimiter = ',')]
    loudest: Vec<usize>,
    /// Suggests no quotas
    #[arg(long, conflicts_with = "loudest")]
    no_suggestions: bool,
    /// The application itself has written the log. Otherwise the proxy in front of it has, and is one of the
    /// file's `trust_hops`
    #[arg(long)]
    own_log: bool,
    /// Shows keys in full. Otherwise only addresses are, and the ends of other keys: the answer may go to
    /// people who do not read the log
    #[arg(long)]
    show_keys: bool,
    /// The header that a key of your program is read from; may be repeated
    #[arg(long, value_name = "NAME=HEADER")]
    key: Vec<String>,
    /// The statuses with which a request costs 1 under a `settle` of your program, and otherwise 0; may be
    /// repeated
    #[arg(long, value_name = "NAME=STATUS,STATUS")]
    settle: Vec<String>,
}

fn main() -> ExitCode {
    match answer(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(arguments: Arguments) -> Result<(), String> {
    let mut loudest = arguments.loudest;
    if arguments.no_suggestions {
        loudest.clear();
    }
    loudest.sort_unstable();
    loudest.dedup();
    let settings = Settings {
        limits: [Some(arguments.limits), arguments.beside].into_iter().flatten().collect(),
        stand_ins: stand_ins(&arguments.key, &arguments.settle)?,
        own_log: arguments.own_log,
        shows_keys: arguments.show_keys,
        loudest,
    };
    let subjects = subjects(&settings)?;
    let headers = subjects.iter().flat_map(|subject| subject.headers()).collect::<Vec<_>>();
    let log = read(&arguments.logs, &headers)?;
    let files = arguments.logs.iter().map(|file| file.display().to_string()).collect();
    let bar = bar(0);
    let report = run(&settings, subjects, files, log, |step| match step {
        Step::Replay { file, requests } => {
            bar.set_message(file);
            bar.set_position(0);
            bar.set_length(requests);
        }
        Step::Sent(requests) => bar.inc(requests),
        Step::Suggest { policy } => bar.set_message(format!("a quota for `{policy}`")),
    })?;
    bar.finish_and_clear();
    if let Some(file) = arguments.html {
        let written = fs::write(&file, report.to_html());
        written.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let text = if arguments.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        json + "\n"
    } else {
        report.to_string()
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // As into `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| error.to_string()),
    }
}

fn stand_ins(keys: &[String], settles: &[String]) -> Result<StandIns, String> {
    let mut stand_ins = StandIns::default();
    for key in keys {
        let (name, header) = key
            .rsplit_once('=')
            .ok_or_else(|| format!("--key {key}: write it like `--key tenant=x-tenant`"))?;
        if header.parse::<http::HeaderName>().is_err() {
            return Err(format!("--key {key}: `{header}` is no header; write one like `x-tenant`"));
        }
        stand_ins.keys.insert(name.to_owned(), header.to_owned());
    }
    for settle in settles {
        let statuses = settle.rsplit_once('=').and_then(|(name, statuses)| {
            let statuses: Option<Vec<u16>> =
                statuses.split(',').map(|status| status.trim().parse().ok()).collect();
            Some((name, statuses?))
        });
        let (name, statuses) = statuses.ok_or_else(|| {
            format!("--settle {settle}: write it like `--settle \"failed log-ins=401,403\"`")
        })?;
        stand_ins.settles.insert(name.to_owned(), statuses);
    }
    Ok(stand_ins)
}

fn read(logs: &[PathBuf], headers: &[String]) -> Result<Log, String> {
    const BUFFER: usize = 1 << 18;
    let bytes = logs.iter().filter_map(|log| fs::metadata(log).ok()).map(|file| file.len()).sum();
    let bar = bar(bytes);
    bar.set_message("reading");
    let mut reader = Reader::new(headers);
    for log in logs {
        let name = log.display();
        let read = if log.as_os_str() == "-" {
            reader.read(BufReader::with_capacity(BUFFER, io::stdin()), |read| bar.inc(read))
        } else {
            let file = File::open(log).map_err(|error| format!("{name}: {error}"))?;
            reader.read(BufReader::with_capacity(BUFFER, file), |read| bar.inc(read))
        };
        read.map_err(|error| format!("{name}: {error}"))?;
    }
    bar.finish_and_clear();
    Ok(reader.finish())
}

/// A progress bar on a terminal, and none elsewhere.
fn bar(length: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} % {msg} {elapsed}");
    bar.set_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
