//! An access log in memory: [`Log`], about 40 bytes a line, and each address, path and header once.
//!
//! `read` reads files line by line; `text` and `json` parse a line, and `time` its times.

mod json;
mod read;
mod text;
mod time;

use std::{borrow::Cow, net::IpAddr};

use ahash::AHashMap;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tower_quota::key::PeerAddr;

pub use self::read::{Broken, MAX_LINE, ReadError, Reader};

type Headers<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// What a line says.
enum Parsed<'a> {
    Request(Request<'a>),
    /// No HTTP request that an application would get: bytes of TLS, or what else a server logs.
    NoRequest,
    /// The reason.
    Broken(&'static str),
}

struct Request<'a> {
    /// When it was logged.
    time: u64,
    took: Option<u64>,
    address: Option<IpAddr>,
    method: Cow<'a, str>,
    target: Cow<'a, str>,
    status: u16,
    headers: Headers<'a>,
}

/// A request of the log. The numbers are places in the lists of a [`Log`].
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// When the request began, in nanoseconds since 1970.
    pub start: u64,
    /// How long it took, in nanoseconds; 0 if the line does not say.
    pub took: u64,
    address: u32,
    target: u32,
    headers: u32,
    pub status: u16,
}

/// The number of a line in a [`Log`], which each request has among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct LineNumber(pub u32);

/// The requests of an access log, in the order in which they began.
#[derive(Debug, Default)]
pub struct Log {
    pub lines: Vec<Line>,
    addresses: Vec<Option<IpAddr>>,
    targets: Vec<(Method, Uri)>,
    headers: Vec<HeaderMap>,
    /// The headers that were kept, by their names in lower case: those that limits read.
    wanted: Vec<String>,
    pub facts: Facts,
}

/// What the report says of a log.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub broken: Broken,
    /// Lines that are no request.
    pub no_requests: u64,
    /// Lines by their format.
    pub text: u64,
    pub json: u64,
    /// Requests that began before one of an earlier line.
    pub out_of_order: u64,
    pub without_address: u64,
    /// Requests of which the log says how long they took.
    pub with_length: u64,
    /// Credentials that Caddy has left out.
    pub redacted: u64,
}

impl Log {
    /// A request as a server gets it, with its [`LineNumber`] and its peer's address.
    pub fn request(&self, number: u32) -> http::Request<String> {
        let line = self.lines[number as usize];
        let (method, uri) = &self.targets[line.target as usize];
        let mut request = http::Request::new(String::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        let headers = &self.headers[line.headers as usize];
        if !headers.is_empty() {
            request.headers_mut().clone_from(headers);
        }
        request.extensions_mut().insert(LineNumber(number));
        if let Some(address) = self.addresses[line.address as usize] {
            request.extensions_mut().insert(PeerAddr((address, 0).into()));
        }
        request
    }

    /// A number for the address and the headers of a line: equal only if both are.
    pub fn sender(&self, number: u32) -> u64 {
        let line = self.lines[number as usize];
        u64::from(line.address) << 32 | u64::from(line.headers)
    }

    /// Whether any request has an address.
    pub fn has_addresses(&self) -> bool {
        self.addresses.iter().any(Option::is_some)
    }

    /// Whether any request has this header. `name` is in lower case.
    pub fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|headers| headers.contains_key(name))
    }

    /// One request for each path that was asked for, without headers.
    pub fn targets(&self) -> impl Iterator<Item = http::request::Parts> + '_ {
        self.targets.iter().map(|(method, uri)| {
            let mut request = http::Request::new(());
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.clone();
            request.into_parts().0
        })
    }

    /// The first and the last start; `None` without requests.
    pub fn span(&self) -> Option<(u64, u64)> {
        Some((self.lines.first()?.start, self.lines.last()?.start))
    }
}

/// Collects the requests of a log.
pub(crate) struct Collector {
    log: Log,
    times: time::Times,
    addresses: AHashMap<Option<IpAddr>, u32>,
    targets: AHashMap<Box<str>, u32>,
    headers: AHashMap<Box<[u8]>, u32>,
    /// To look up a target or headers without an allocation.
    scratch: String,
}

impl Collector {
    /// Keeps the headers with these names, which are in lower case.
    pub(crate) fn new(wanted: &[String]) -> Self {
        let log = Log { wanted: wanted.to_vec(), ..Log::default() };
        let (times, scratch) = (time::Times::default(), String::new());
        let (addresses, targets, headers) = Default::default();
        Self { log, times, addresses, targets, headers, scratch }
    }

    pub(crate) fn add(&mut self, number: u64, line: &str) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let parsed = if line.starts_with('{') {
            self.log.facts.json += 1;
            let wanted = &self.log.wanted;
            json::parse(line, &mut self.times, &|name| wanted.iter().any(|one| one == name))
        } else {
            self.log.facts.text += 1;
            text::parse(line, &mut self.times)
        };
        match parsed {
            Parsed::Request(request) => self.add_request(request),
            Parsed::NoRequest => self.log.facts.no_requests += 1,
            Parsed::Broken(reason) => self.broken(number, reason),
        }
    }

    pub(crate) fn broken(&mut self, number: u64, reason: &'static str) {
        self.log.facts.broken.add(number, reason);
    }

    fn add_request(&mut self, request: Request<'_>) {
        let Some(target) = self.target(&request.method, &request.target) else {
            // Servers answer it themselves.
            self.log.facts.no_requests += 1;
            return;
        };
        let headers = self.headers(request.headers);
        let log = &mut self.log;
        let address = *self.addresses.entry(request.address).or_insert_with(|| {
            log.addresses.push(request.address);
            index(log.addresses.len())
        });
        let took = request.took.unwrap_or(0);
        let start = request.time.saturating_sub(took);
        let facts = &mut log.facts;
        facts.with_length += u64::from(request.took.is_some());
        facts.without_address += u64::from(request.address.is_none());
        facts.out_of_order += u64::from(log.lines.last().is_some_and(|last| start < last.start));
        log.lines.push(Line { start, took, address, target, headers, status: request.status });
    }

    /// `None` if it is no method or no target of HTTP.
    fn target(&mut self, method: &str, target: &str) -> Option<u32> {
        self.scratch.clear();
        self.scratch.extend([method, " ", target]);
        if let Some(known) = self.targets.get(&*self.scratch) {
            return Some(*known);
        }
        let parsed = (method.parse().ok()?, target.parse().ok()?);
        self.log.targets.push(parsed);
        let number = index(self.log.targets.len());
        self.targets.insert(self.scratch.as_str().into(), number);
        Some(number)
    }

    fn headers(&mut self, mut headers: Headers<'_>) -> u32 {
        let before = headers.len();
        headers.retain(|(name, value)| {
            value != json::REDACTED && self.log.wanted.iter().any(|wanted| wanted == name)
        });
        if headers.len() < before {
            self.log.facts.redacted += 1;
        }
        self.scratch.clear();
        for (name, value) in &headers {
            self.scratch.extend([name, ":", value, "\n"]);
        }
        if let Some(known) = self.headers.get(self.scratch.as_bytes()) {
            return *known;
        }
        // A value that no header can have did not reach the application.
        let map = headers.iter().filter_map(|(name, value)| {
            let name: HeaderName = name.parse().ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        });
        let mut all = HeaderMap::new();
        map.for_each(|(name, value)| {
            all.append(name, value);
        });
        self.log.headers.push(all);
        let number = index(self.log.headers.len());
        self.headers.insert(self.scratch.as_bytes().into(), number);
        number
    }

    /// The log, sorted: a server writes a line when the request has ended, and other requests may have
    /// begun meanwhile.
    pub(crate) fn finish(mut self) -> Log {
        self.log.lines.sort_by_key(|line| line.start);
        self.log.lines.shrink_to_fit();
        self.log
    }
}

/// The number of what was added last, to a list of this length.
fn index(length: usize) -> u32 {
    u32::try_from(length - 1).expect("a log of four billion lines is larger than the memory")
}
