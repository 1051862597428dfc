//! Held requests of one line take turns by tenant: [`Policy::fair_by`], beside a deficit round robin
//! that visits each tenant, and with random hang-ups, costs and weights.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use http::{Request, request::Parts};
use proptest::prelude::*;
use tokio::{
    task::{JoinHandle, LocalSet, spawn_local, yield_now},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_quota::{
    Category, Clock, Decision, Limiter, LimiterBuilder, Matcher, Policy, Quota, Reason,
    key::{self, header},
};

use crate::by_key::decide;

const SECOND: Duration = Duration::from_secs(1);

fn builder() -> LimiterBuilder {
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
    Limiter::builder().clock(Clock::tokio(midnight))
}

/// One a second, none in advance, for all tenants together.
fn line() -> Policy {
    Policy::token_bucket("line", Quota::per_second(1).burst(1))
        .global()
        .hold(100 * SECOND)
        .fair_by(header("x-tenant"))
        .fair_weights([("free", 1), ("pro", 3)], plan)
}

fn plan(request: &Parts) -> Option<&str> {
    request.headers.get("x-plan")?.to_str().ok()
}

/// A tenant may have a plan, as in `a pro`; and none is written `-`.
fn request(tenant: &str) -> Parts {
    let mut request = Request::get("/").header("x-caller", "one");
    let (tenant, plan) = tenant.split_once(' ').unwrap_or((tenant, "free"));
    if tenant != "-" {
        request = request.header("x-tenant", tenant);
    }
    request.header("x-plan", plan).body(()).unwrap().into_parts().0
}

/// Decides in a task of its own. It has begun to wait when this returns.
async fn ask(limiter: &Limiter, tenant: &str) -> JoinHandle<(Decision, Instant)> {
    let deciding = decide(limiter, request(tenant));
    let asked = tokio::spawn(async move { (deciding.await, Instant::now()) });
    yield_now().await;
    asked
}

/// Sends all of these requests at once, and returns those that passed, in order.
async fn passed(limiter: &Limiter, tenants: &[&'static str]) -> Vec<&'static str> {
    let mut asked = Vec::new();
    for tenant in tenants {
        asked.push((*tenant, ask(limiter, tenant).await));
    }
    let mut passed = Vec::new();
    for (tenant, asked) in asked {
        let (decision, at) = asked.await.unwrap();
        if decision.is_allowed() {
            passed.push((at, tenant));
        }
    }
    passed.sort_by_key(|(at, _)| *at);
    passed.into_iter().map(|(_, tenant)| tenant).collect()
}

#[tokio::test(start_paused = true)]
async fn tenants_take_turns_whatever_one_of_them_sends() {
    let limiter = builder().policy(line()).build().unwrap();
    let sent = ["a", "a", "a", "a", "a", "b", "b", "c"];
    let order = ["a", "a", "b", "c", "a", "b", "a", "a"];
    assert_eq!(passed(&limiter, &sent).await, order);
}

/// A held request of a waterfall stands in the line of each quota, and draws on the first with room.
#[tokio::test(start_paused = true)]
async fn tenants_take_turns_for_all_quotas_of_a_waterfall() {
    let spare = |seconds| {
        let quota = Quota::per_window(1, seconds * SECOND).burst(1);
        Policy::token_bucket("spare", quota).global()
    };
    let all = ["a", "a", "a", "a", "a", "a", "b", "b", "c"];
    // Two of `a` pass at once, and the others wait.
    let in_turn = ["a", "a", "a", "b", "c", "a", "b", "a", "a"];
    for (waterfall, seconds, order) in [
        // The second quota has room once, at the beginning.
        (line().or_else(spare(1_000)), [0, 0, 1, 2, 3, 4, 5, 6, 7], in_turn),
        // Two requests pass in each other second.
        (
            line().or_else(spare(2)),
            [0, 0, 1, 2, 2, 3, 4, 4, 5],
            ["a", "a", "a", "b", "c", "a", "a", "b", "a"],
        ),
        (
            Policy::token_bucket("rare", Quota::per_window(1, 1_000 * SECOND).burst(1))
                .global()
                .hold(100 * SECOND)
                .fair_by(header("x-tenant"))
                .or_else(spare(1)),
            [0, 0, 1, 2, 3, 4, 5, 6, 7],
            in_turn,
        ),
    ] {
        let limiter = builder().policy(waterfall).build().unwrap();
        let start = Instant::now();
        let mut asked = Vec::new();
        for tenant in all {
            asked.push((tenant, ask(&limiter, tenant).await));
        }
        let mut passed = Vec::new();
        for (tenant, asked) in asked {
            let (decision, at) = asked.await.unwrap();
            assert!(decision.is_allowed(), "{decision:?}");
            let drawn = decision.outcomes().filter(|outcome| outcome.is_drawn_on()).count();
            assert_eq!(drawn, 1, "{decision:?}");
            passed.push((at.duration_since(start).as_secs(), tenant));
        }
        // Those of one second in any order.
        passed.sort_unstable();
        assert_eq!(passed, seconds.into_iter().zip(order).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_as_many_turns_as_its_plan_says() {
    let limiter = builder().policy(line()).build().unwrap();
    let sent = ["a", "a", "a", "a", "b pro", "b pro", "b pro", "b pro", "b pro"];
    let order = ["a", "a", "b pro", "b pro", "b pro", "a", "b pro", "b pro", "a"];
    assert_eq!(passed(&limiter, &sent).await, order);
}

#[tokio::test(start_paused = true)]
async fn without_tenants_requests_pass_in_order_of_arrival() {
    let fifo = Policy::token_bucket("line", Quota::per_second(1).burst(1)).global();
    let limiter = builder().policy(fifo.hold(100 * SECOND)).build().unwrap();
    let sent = ["a", "a", "a", "b", "a", "c"];
    assert_eq!(passed(&limiter, &sent).await, sent);
}

/// Requests without the header, and checks, are one tenant together: a flood of them delays nobody.
#[tokio::test(start_paused = true)]
async fn requests_without_a_tenant_are_one_tenant() {
    let limiter = builder().policy(line()).build().unwrap();
    let sent = ["-", "-", "-", "-", "a", "b"];
    assert_eq!(passed(&limiter, &sent).await, ["-", "-", "a", "b", "-", "-"]);
    let mut held = vec![ask(&limiter, "-").await];
    let checking = limiter.clone();
    let checked = tokio::spawn(async move { checking.check("line", "").await.unwrap() });
    yield_now().await;
    held.push(ask(&limiter, "a").await);
    assert!(!checked.is_finished());
    for held in held.into_iter().rev() {
        assert!(held.await.unwrap().0.is_allowed());
    }
    assert!(!checked.is_finished(), "it is behind the others");
    assert!(checked.await.unwrap().is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_cannot_be_read_is_not_held() {
    let limiter = builder().policy(line()).build().unwrap();
    let twice = Request::get("/").header("x-tenant", "a").header("x-tenant", "b");
    let twice = twice.body(()).unwrap().into_parts().0;
    assert!(limiter.decide(&twice).await.is_allowed(), "nobody waits for this unit");
    let refused = limiter.decide(&twice).await;
    assert_eq!((refused.reason(), refused.held()), (Some(Reason::QuotaExceeded), Duration::ZERO));
    // It passes before nobody who waits.
    let held = ask(&limiter, "a").await;
    sleep(SECOND / 2).await;
    assert_eq!(limiter.decide(&twice).await.retry_after(), Some(3 * SECOND / 2));
    assert!(held.await.unwrap().0.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_flood_takes_its_share_of_the_places_and_no_more() {
    let limiter = builder().policy(line()).max_held_per_key(10).build().unwrap();
    assert!(limiter.decide(&request("a")).await.is_allowed());
    let mut flood = Vec::new();
    for _ in 0..30 {
        flood.push(ask(&limiter, "a").await);
    }
    let refused =
        |asked: &[JoinHandle<_>]| asked.iter().filter(|asked| asked.is_finished()).count();
    assert_eq!(refused(&flood), 20, "it is alone, and has all places");
    // Two others come, each with as much as its share.
    let mut others = Vec::new();
    for _ in 0..3 {
        others.extend([ask(&limiter, "b").await, ask(&limiter, "c").await]);
    }
    yield_now().await;
    assert_eq!((refused(&flood), refused(&others)), (26, 0), "the flood makes room");
    flood.push(ask(&limiter, "a").await);
    assert!(flood[30].is_finished(), "it has more than its share");
    // A refusal says when a request passes behind all that wait.
    let (decision, _) = flood.pop().unwrap().await.unwrap();
    assert_eq!(decision.retry_after(), Some(11 * SECOND));
    // Each of its oldest requests passes in turn.
    let begin = Instant::now();
    let mut passed = Vec::new();
    for (number, asked) in flood.into_iter().enumerate() {
        let (decision, at) = asked.await.unwrap();
        if decision.is_allowed() {
            passed.push((number, at - begin));
        }
    }
    assert_eq!(passed, [(0, SECOND), (1, 4 * SECOND), (2, 7 * SECOND), (3, 10 * SECOND)]);
    for asked in others {
        assert!(asked.await.unwrap().0.is_allowed());
    }
}

/// All lines have one bound in all, and one tenant's flood leaves room for the lines of others.
#[tokio::test(start_paused = true)]
async fn a_flood_in_one_line_leaves_places_for_other_lines() {
    let limiter = builder().policy(line()).max_held(10).build().unwrap();
    let mut held = 0;
    for _ in 0..30 {
        held += usize::from(!ask(&limiter, "a").await.is_finished());
    }
    assert_eq!(held, 5);
    assert!(!ask(&limiter, "b").await.is_finished());
}

/// A unit in flight comes back at an unknown time. Then the next turn is taken.
#[tokio::test(start_paused = true)]
async fn turns_are_taken_as_units_in_flight_come_back() {
    let policy =
        Policy::in_flight("line", 1).global().hold(100 * SECOND).fair_by(header("x-tenant"));
    let limiter = builder().policy(policy).build().unwrap();
    let passed = Rc::new(RefCell::new(Vec::new()));
    let story = async {
        let mut tasks = Vec::new();
        for tenant in ["a", "a", "a", "b", "c", "b"] {
            let (deciding, passed) = (decide(&limiter, request(tenant)), Rc::clone(&passed));
            tasks.push(spawn_local(async move {
                let decision = deciding.await;
                assert!(decision.is_allowed());
                passed.borrow_mut().push(tenant);
                sleep(SECOND).await;
            }));
            yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
    };
    LocalSet::new().run_until(story).await;
    assert_eq!(passed.take(), ["a", "a", "b", "c", "a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_overtaken_and_can_no_longer_pass_in_time_is_refused() {
    let limiter = builder().policy(line().hold(3 * SECOND)).build().unwrap();
    let sent = ["a", "a", "a", "a", "b", "c"];
    assert_eq!(passed(&limiter, &sent).await, ["a", "a", "b", "c"]);
}

/// Under another key, all tickets stand in the order in which they pass: no two wait for each other.
#[tokio::test(start_paused = true)]
async fn turns_hold_under_all_keys_of_a_request() {
    let of_caller = Policy::token_bucket("caller", Quota::per_second(1).burst(1))
        .key(header("x-caller"))
        .or_refuse()
        .hold(100 * SECOND);
    for policies in [[line(), of_caller.clone()], [of_caller, line()]] {
        let limiter = policies.into_iter().fold(builder(), LimiterBuilder::policy).build().unwrap();
        let sent = ["a", "a", "a", "a", "b", "b", "c"];
        let order = ["a", "a", "b", "c", "a", "b", "a"];
        assert_eq!(passed(&limiter, &sent).await, order);
    }
}

#[test]
fn fair_lines_that_cannot_be_are_errors() {
    let one = || Policy::token_bucket("p", Quota::per_second(1));
    let fair = || one().global().fair_by(header("x-tenant"));
    let category = |policy| Category::new("c").on(Matcher::get("/")).policy(policy);
    let cases = [
        (
            builder().policy(fair()),
            "policy `p`: its tenants take turns where requests are held, and it holds none; add `.hold(…)`, or leave `.fair_by(…)` out",
        ),
        (
            builder().category(category(fair())),
            "policy `p`: its tenants take turns where requests are held, and category `c` holds none; add `.hold(…)`, or leave `.fair_by(…)` out",
        ),
        (
            builder().policy(Policy::token_bucket("q", Quota::per_day(1)).global().or_else(fair())),
            "policy `p`: its tenants take turns where requests are held, and it holds none; add `.hold(…)`, or leave `.fair_by(…)` out",
        ),
        (
            builder().policy(
                Policy::token_bucket("q", Quota::per_day(1))
                    .global()
                    .hold(SECOND)
                    .fair_by(header("x-tenant"))
                    .or_else(fair()),
            ),
            "every request: a request takes turns in one line only, and both policy `q` and policy `p` are fair for it; leave `.fair_by(…)` out of one",
        ),
        (
            builder().category(category(fair().hold(Duration::ZERO)).hold(SECOND)),
            "policy `p`: its tenants take turns where requests are held, and it holds none; write `.hold(…)` with a time, or leave `.fair_by(…)` out",
        ),
        (
            builder().policy(fair().hold(SECOND).dry_run()),
            "policy `p`: a dry run holds no request; leave `.fair_by(…)` out",
        ),
        (
            builder().check_only(fair().hold(SECOND)),
            "policy `p`: checks have no tenant, and only they use it; leave `.fair_by(…)` out",
        ),
        (
            builder().policy(
                one().key(header("x-tenant")).or_refuse().hold(SECOND).fair_by(header("x-tenant")),
            ),
            "policy `p`: its key is the tenant, so each line has only one; leave `.fair_by(…)` out, or count by another key",
        ),
        (
            builder().policy(one().global().hold(SECOND).fair_weights([("pro", 2)], plan)),
            "policy `p`: it has weights, and no tenants; add `.fair_by(…)`, or leave `.fair_weights(…)` out",
        ),
        (
            builder().policy(fair().hold(SECOND).fair_by(key::bearer())),
            "policy `p`: it says `.fair_by(…)` twice, and the first would be lost; write it once",
        ),
        (
            builder()
                .policy(fair().hold(SECOND).fair_weights([("a", 0), ("b", 1_001), ("b", 1)], plan)),
            "policy `p`: plan `a` has the weight 0; write one from 1 to 1000\n\
             policy `p`: plan `b` has the weight 1001; write one from 1 to 1000\n\
             policy `p`: two weights are of the plan `b`; leave one out",
        ),
        (
            builder().policy(fair().hold(SECOND).fair_weights([("", 1); 0], plan)),
            "policy `p`: its table of weights is empty; write one there, or leave `.fair_weights(…)` out",
        ),
        (
            builder().policy(fair().hold(SECOND)).category(category(line()).hold(SECOND)),
            "category `c`: a request takes turns in one line only, and both policy `p` and policy `line` are fair for it; leave `.fair_by(…)` out of one",
        ),
    ];
    for (builder, problem) in cases {
        assert_eq!(builder.build().unwrap_err().to_string(), problem);
    }
    // The category holds.
    assert!(builder().category(category(fair()).hold(SECOND)).build().is_ok());
}

/// One description, one explanation: the tenants are named by their kind of key only.
#[cfg(feature = "describe")]
#[tokio::test(start_paused = true)]
async fn turns_are_described_and_explained() {
    let limiter = builder().policy(line()).build().unwrap();
    let description = limiter.describe();
    let json: serde_json::Value = serde_json::from_str(&description.to_json()).unwrap();
    assert_eq!(
        json["every_request"][0]["fair"],
        serde_json::json!({
            "tenant": "x-tenant",
            "weights": [{ "plan": "free", "weight": 1 }, { "plan": "pro", "weight": 3 }],
        })
    );
    let markdown = description.to_markdown();
    assert!(markdown.contains("waits up to 100 seconds before it refuses, in turns by x-tenant"));
    // Held is what would be held, and where in the line.
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(ask(&limiter, "secret-tenant").await);
    }
    let explained = limiter.explain(&request("other")).await;
    let text = explained.to_string();
    assert!(text.contains("holds a request: up to 100 seconds, in turns by x-tenant\n"), "{text}");
    assert!(text.contains("held for 2 seconds"), "{text}");
    assert!(!text.contains("other"), "{text}");
    drop(held);
}

/// Tenants are kept as fingerprints only.
#[tokio::test(start_paused = true)]
async fn no_tenant_is_kept_in_plain_form() {
    let limiter = builder().policy(line()).build().unwrap();
    for _ in 0..2 {
        ask(&limiter, "secret-tenant").await;
    }
    assert!(!format!("{limiter:?}").contains("secret"));
}

/// A request of the random story.
#[derive(Clone, Debug)]
struct Arrival {
    /// In tenths of a second after the one before.
    later: u64,
    tenant: usize,
    cost: u64,
    /// When its caller hangs up, if it still waits, in tenths of a second; see
    /// [`leaves_after`](Self::leaves_after).
    patience: Option<u64>,
}

const TENANTS: usize = 4;
/// A unit comes back in so many milliseconds.
const UNIT: u64 = 1_000;
const BURST: u64 = 4;

impl Arrival {
    /// When its caller leaves, in milliseconds after it came. No two leave at the same moment, and none
    /// when another request comes or passes: it would be open which is first.
    fn leaves_after(&self, number: usize) -> u64 {
        self.patience.map_or(100_000_000, |patience| 100 * patience + 1 + number as u64)
    }
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let later = prop_oneof![4 => Just(0), 3 => 0..20_u64, 1 => 0..200_u64];
    let patience = prop_oneof![3 => Just(None), 1 => (0..200_u64).prop_map(Some)];
    let cost = prop_oneof![3 => Just(1), 1 => 1..=BURST];
    let arrival = (later, 0..TENANTS, cost, patience)
        .prop_map(|(later, tenant, cost, patience)| Arrival { later, tenant, cost, patience });
    prop::collection::vec(arrival, 1..60)
}

/// Tenants, each with its credit, and its requests with their costs.
type Ring = VecDeque<(usize, u64, VecDeque<(usize, u64)>)>;

/// The request that passes next; its tenant comes first then.
fn next(ring: &mut Ring, weights: &[u32; TENANTS]) -> Option<(usize, u64)> {
    loop {
        let (_, credit, requests) = ring.front()?;
        if *credit >= requests[0].1 {
            return Some(requests[0]);
        }
        ring.rotate_left(1);
        visit(ring, weights);
    }
}

/// Visits the first tenant.
fn visit(ring: &mut Ring, weights: &[u32; TENANTS]) {
    if let Some((tenant, credit, _)) = ring.front_mut() {
        *credit += u64::from(weights[*tenant]);
    }
}

/// The turns visit by visit, and a bucket in hundredths of a unit for each millisecond.
#[derive(Default)]
struct Model {
    now: u64,
    level: u64,
    ring: Ring,
    passed: HashMap<usize, u64>,
}

impl Model {
    /// Lets time pass, and requests pass as soon as there are units for the next one. Which one is next
    /// is settled when it passes: until then, another tenant may come.
    fn advance(&mut self, to: u64, weights: &[u32; TENANTS]) {
        loop {
            let mut visited = self.ring.clone();
            let Some((request, cost)) = next(&mut visited, weights) else {
                self.level = (self.level + to - self.now).min(BURST * UNIT);
                self.now = to;
                return;
            };
            let short = (cost * UNIT).saturating_sub(self.level);
            let wait = short.min(to - self.now);
            (self.now, self.level) = (self.now + wait, (self.level + wait).min(BURST * UNIT));
            if wait < short {
                return;
            }
            self.level -= cost * UNIT;
            self.passed.insert(request, self.now);
            self.ring = visited;
            self.ring[0].1 -= cost;
            self.ring[0].2.pop_front();
            self.remove_if_empty(0, weights);
        }
    }

    fn remove_if_empty(&mut self, at: usize, weights: &[u32; TENANTS]) {
        if self.ring[at].2.is_empty() {
            self.ring.remove(at);
            if at == 0 {
                visit(&mut self.ring, weights);
            }
        }
    }

    fn arrive(&mut self, request: usize, tenant: usize, cost: u64, weights: &[u32; TENANTS]) {
        match self.ring.iter_mut().find(|known| known.0 == tenant) {
            Some(known) => known.2.push_back((request, cost)),
            None => {
                self.ring.push_back((tenant, 0, VecDeque::from([(request, cost)])));
                if self.ring.len() == 1 {
                    visit(&mut self.ring, weights);
                }
            }
        }
    }

    fn hang_up(&mut self, request: usize, weights: &[u32; TENANTS]) {
        let waits = |known: &(usize, u64, VecDeque<(usize, u64)>)| {
            known.2.iter().any(|(other, _)| *other == request)
        };
        if let Some(at) = self.ring.iter().position(waits) {
            self.ring[at].2.retain(|(other, _)| *other != request);
            self.remove_if_empty(at, weights);
        }
    }

    /// When each request passes; `None` if its caller hangs up before.
    fn run(arrivals: &[Arrival], weights: &[u32; TENANTS]) -> Vec<Option<u64>> {
        let mut events = Vec::new();
        let mut at = 0;
        for (request, arrival) in arrivals.iter().enumerate() {
            at += 100 * arrival.later;
            events.push((at, request, true));
            events.extend(
                arrival.patience.map(|_| (at + arrival.leaves_after(request), request, false)),
            );
        }
        events.sort_by_key(|(at, ..)| *at);
        let mut model = Self { level: BURST * UNIT, ..Self::default() };
        for (at, request, arrives) in events {
            model.advance(at, weights);
            let Arrival { tenant, cost, .. } = arrivals[request];
            match arrives {
                true => model.arrive(request, tenant, cost, weights),
                false => model.hang_up(request, weights),
            }
            model.advance(at, weights);
        }
        model.advance(at + 10_000_000, weights);
        (0..arrivals.len()).map(|request| model.passed.get(&request).copied()).collect()
    }
}

/// Sends all arrivals, and returns when each passes.
fn run(arrivals: &[Arrival], weights: &[u32; TENANTS]) -> Vec<Option<u64>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.unwrap(), async {
        let quota = Quota::per_window(1, Duration::from_millis(UNIT)).burst(BURST);
        let names = ["0", "1", "2", "3"];
        let policy = Policy::token_bucket("line", quota)
            .global()
            .hold(10_000 * SECOND)
            .fair_by(header("x-tenant"))
            .fair_weights(names.into_iter().zip(*weights), |request| {
                request.headers.get("x-tenant")?.to_str().ok()
            })
            .cost(|request| request.headers["cost"].to_str().unwrap().parse().unwrap());
        let limiter = builder().policy(policy).build().unwrap();
        let start = Instant::now();
        let passed = Rc::new(RefCell::new(vec![None; arrivals.len()]));
        let (mut tasks, mut at) = (Vec::new(), 0);
        for (number, arrival) in arrivals.iter().enumerate() {
            let Arrival { later, tenant, cost, .. } = arrival;
            at += 100 * later;
            sleep_until(start + Duration::from_millis(at)).await;
            // Those whose turn has come now pass before.
            for _ in 0..200 {
                yield_now().await;
            }
            let request = Request::get("/").header("x-tenant", names[*tenant]);
            let request = request.header("cost", cost.to_string()).body(()).unwrap();
            let deciding = decide(&limiter, request.into_parts().0);
            let patience = arrival.leaves_after(number);
            let passed = Rc::clone(&passed);
            tasks.push(spawn_local(async move {
                if let Ok(decision) = timeout(Duration::from_millis(patience), deciding).await {
                    assert!(decision.is_allowed());
                    passed.borrow_mut()[number] = Some((Instant::now() - start).as_millis() as u64);
                }
            }));
            yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        // Nothing is lost.
        sleep(4 * SECOND).await;
        let left = limiter.check("line", "").cost(BURST).await.unwrap();
        assert!(left.is_allowed() && left.held() == Duration::ZERO);
        passed.take()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_line_passes_as_a_deficit_round_robin_does(
        arrivals in arrivals(),
        weights in prop::array::uniform4(prop_oneof![2 => Just(1), 1 => 1..5_u32]),
    ) {
        prop_assert_eq!(run(&arrivals, &weights), Model::run(&arrivals, &weights));
    }
}
