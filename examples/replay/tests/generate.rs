//! Access logs of an imaginary API, the same for the same seed: for the tests, and for measurements
//! (`cargo run --release -p replay --example generate -- caddy 1000000 > access.log`).

use std::{fmt, net::IpAddr};

/// 2025-10-10 12:00:00 UTC, in milliseconds.
const NOON: u64 = 1_760_097_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Without how long requests took.
    Common,
    /// nginx's `main` with `$request_time` at its end.
    Combined,
    /// Caddy's JSON.
    Caddy,
    /// An nginx `log_format` with `escape=json`.
    NginxJson,
}

/// A request, and how it was answered. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub start: u64,
    pub took: u64,
    pub client: IpAddr,
    pub key: Option<String>,
    pub method: &'static str,
    pub target: String,
    pub status: u16,
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Small numbers come much more often than large ones.
    fn uneven(&mut self, end: u64) -> u64 {
        let part = self.below(1 << 20) as f64 / f64::from(1 << 20);
        ((end as f64).powf(part) - 1.0) as u64
    }
}

/// So many requests, in the order in which they ended, about `a_second` of them in a second. Requests begin at
/// even milliseconds and end at odd ones, so that none begins when another ends.
pub fn requests(format: Format, count: usize, a_second: u64, seed: u64) -> Vec<Sent> {
    let mut random = Random(seed);
    let (mut now, mut sent) = (NOON + 2_000, Vec::with_capacity(count));
    while sent.len() < count {
        // Some minutes are busy.
        let is_busy = (now / 60_000).is_multiple_of(7);
        let pace = if is_busy { a_second * 3 } else { a_second };
        now += random.below(2_000 / pace.max(1) + 1);
        let client = random.uneven(2_000);
        let client = match client % 10 {
            9 => IpAddr::from([0x2001, 0xdb8, 0, client as u16, 0, 0, 0, random.below(3) as u16]),
            _ => IpAddr::from([198, 51, (client >> 8) as u8, client as u8]),
        };
        let key = (random.below(10) > 0).then(|| format!("sk_live_{:016x}", random.uneven(300)));
        let (method, target, status) = match random.below(20) {
            0 => ("POST", "/v1/sign-in".to_owned(), if random.below(3) == 0 { 401 } else { 200 }),
            1 => ("POST", "/v1/exports".to_owned(), 202),
            2 => ("GET", "/health".to_owned(), 200),
            3..6 => ("POST", format!("/v1/orders?note=a%20%22b%22&n={}", random.below(100)), 201),
            _ => ("GET", format!("/v1/orders/{}", random.uneven(10_000)), 200),
        };
        let took = if target == "/v1/exports" {
            301 + 2 * random.below(2_000)
        } else {
            1 + 2 * random.below(60)
        };
        let (start, took) = match format {
            // The times of these have no fraction, and are when the request has ended.
            Format::Common => (now / 1_000 * 1_000, 0),
            Format::Combined => ((now / 1_000 * 1_000).saturating_sub(took + 1) / 2 * 2, 0),
            Format::Caddy | Format::NginxJson => (now / 2 * 2, took),
        };
        let took = match format {
            Format::Combined => now / 1_000 * 1_000 - start,
            _ => took,
        };
        let key = key.filter(|_| matches!(format, Format::Caddy | Format::NginxJson));
        sent.push(Sent { start, took, client, key, method, target, status });
    }
    sent.sort_by_key(|sent| sent.start + sent.took);
    sent
}

/// The line of a request.
pub struct Line<'a>(pub Format, pub &'a Sent);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(format, sent) = self;
        let Sent { start, took, client, key, method, target, status } = sent;
        let end = start + took;
        let key = key.as_deref().unwrap_or_default();
        match format {
            Format::Common => {
                write!(f, "{client} - - [{}] \"{method} {target} HTTP/1.1\" {status} 512", clf(end))
            }
            Format::Combined => write!(
                f,
                "{client} - - [{}] \"{method} {target} HTTP/1.1\" {status} 512 \"https://example.com/\\x22\" \
                 \"Mozilla/5.0 (X11; Linux x86_64)\" \"-\" {}.{:03}",
                clf(end),
                took / 1_000,
                took % 1_000
            ),
            Format::Caddy => {
                let key = match key {
                    "" => String::new(),
                    key => format!(",\"X-Api-Key\":[\"{key}\"]"),
                };
                write!(
                    f,
                    "{{\"level\":\"info\",\"ts\":{}.{:03},\"logger\":\"http.log.access.log0\",\"msg\":\"handled request\",\
                     \"request\":{{\"remote_ip\":\"{client}\",\"remote_port\":\"41342\",\"client_ip\":\"{client}\",\
                     \"proto\":\"HTTP/2.0\",\"method\":\"{method}\",\"host\":\"api.example.com\",\"uri\":\"{target}\",\
                     \"headers\":{{\"User-Agent\":[\"curl/8.5.0\"],\"Accept\":[\"*/*\"],\"Accept-Encoding\":[\"gzip, br\"],\
                     \"Authorization\":[\"REDACTED\"]{key}}},\
                     \"tls\":{{\"resumed\":false,\"version\":772,\"cipher_suite\":4865,\"proto\":\"h2\",\"server_name\":\"api.example.com\"}}}},\
                     \"bytes_read\":0,\"user_id\":\"\",\"duration\":{}.{:03},\"size\":512,\"status\":{status},\
                     \"resp_headers\":{{\"Server\":[\"Caddy\"],\"Content-Type\":[\"application/json\"]}}}}",
                    end / 1_000,
                    end % 1_000,
                    took / 1_000,
                    took % 1_000
                )
            }
            Format::NginxJson => write!(
                f,
                "{{\"msec\":\"{}.{:03}\",\"remote_addr\":\"{client}\",\"request\":\"{method} {target} HTTP/1.1\",\
                 \"status\":\"{status}\",\"request_time\":\"{}.{:03}\",\"http_x_api_key\":\"{key}\"}}",
                end / 1_000,
                end % 1_000,
                took / 1_000,
                took % 1_000
            ),
        }
    }
}

/// As `$time_local`; all of a log is in one month.
fn clf(millis: u64) -> String {
    let seconds = millis / 1_000 + 7_200;
    let (day, rest) = ((seconds - NOON / 1_000 / 86_400 * 86_400) / 86_400 + 10, seconds % 86_400);
    let (hours, minutes) = (rest / 3_600, rest / 60 % 60);
    format!("{day:02}/Oct/2025:{hours:02}:{minutes:02}:{:02} +0200", rest % 60)
}
