//! What `build()` says to write, in the words of a file: [`in_file`].

/// The builder's calls, as problems name them, and what a file says instead.
const PHRASES: [(&str, &str); 41] = [
    ("`.key(ClientIp::new())`", "`keys = [\"ip\"]`"),
    ("`.global()`", "`global = true`"),
    ("`.or_key(…)`", "another key"),
    ("`.or_skip()`", "`without_key = \"skip\"`"),
    ("`.or_refuse()`", "`without_key = \"refuse\"`"),
    ("`.unreadable_as_missing()`", "`unreadable_as_missing`"),
    ("`.plans(…)`", "`plan`"),
    ("`.hold(…)`", "`hold`"),
    ("`.fair_by(…)`", "`fair_by`"),
    ("`.fair_weights(…)`", "`fair_weights`"),
    ("`.unit(\"tokens\")`", "`unit = \"tokens\"`"),
    ("`Policy::token_bucket`", "`algorithm = \"token_bucket\"`"),
    ("`Quota::unlimited()`", "`unlimited`"),
    ("`Quota::per_window(5, Duration::from_secs(600))`", "`5 per 10 minutes`"),
    ("`.on(Matcher::…)`", "`requests = [\"GET /…\"]`"),
    ("`.policy(…)`", "`policies = [\"…\"]`"),
    ("`.exempt(…)` for its matchers", "its requests into `exempt`"),
    ("`.header_policy(…)`", "`header_policy`"),
    ("`.reset(…)`", "`reset`"),
    ("`.partition_key()`", "`partition_key`"),
    ("`.anchor(15)`", "`from 15`"),
    ("`.anchor(Weekday::Sunday)`", "`from Sunday`"),
    ("`.anchor(Anchor::Time { hour: 6, minute: 0 })`", "`from 06:00`"),
    ("`.anchor(Anchor::YearDay { month: 4, day: 1 })`", "`from 04-01`"),
    ("a quota such as `Quota::per_day(…)`", "a length, as in `100 per day`"),
    ("`Policy::fixed_window`", "`algorithm = \"fixed_window\"`"),
    ("`Quota::in_flight(…)`", "a quota such as `4 in flight`"),
    (
        "`Policy::in_flight`, or a quota such as `Quota::per_minute(…)`",
        "`algorithm = \"in_flight\"`, or a quota such as `100 per minute`",
    ),
    ("`.retry_after(…)`", "`retry_after`"),
    ("`.hold(…)`", "`hold`"),
    ("`.dry_run()`", "`dry_run = true`"),
    ("`.lease(…)`", "`lease`"),
    ("`.refusals_within(…)`", "`refusals_within`"),
    ("`.failures_within(…)`", "`failures_within`"),
    ("`.block(…)`", "`blocks`"),
    ("`.penalty(…)`", "`penalty`"),
    ("`.settle(…)`", "`settle`"),
    ("`.settle_at_end()`", "`settle_at_end = true`"),
    ("`.cost(…)`", "`cost`"),
    ("`trust_hops(n)`", "`trust_hops`"),
    ("`trust_proxies([…])`", "`trust_proxies`"),
];

/// The problem, with what to write in a file.
pub(super) fn in_file(problem: &str) -> String {
    let replace = |text: String, (call, in_file): &(&str, &str)| text.replace(call, in_file);
    PHRASES.iter().fold(problem.to_owned(), replace)
}
