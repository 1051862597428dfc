//! How the time of a decision grows with the number of categories, where the request is in the last one, and
//! with the number of policies that apply.

use tower_quota::{
    Category, Clock, Limiter, Matcher, Policy, Quota, key::header, store::MemoryStore,
};

use crate::{
    budget,
    common::{
        API_KEY,
        args::Args,
        keys::Spread,
        room_for,
        stats::{InShort, Quartiles, Table, grouped},
    },
    contender::{self, PATH},
    measure::Plan,
    times,
};

/// Many categories with a path and a policy each.
pub fn categories(args: &Args, keys: usize, plan: Plan, in_short: &mut InShort) {
    let title = "Decision: growth by categories, request's head to verdict (one category = 1)";
    if !args.wants(title) {
        return;
    }
    let table = Table::new(title, &["keys", "one, ns", "10", "200", "1,000"]);
    let quota = budget(true, keys, &[(Spread::Uniform, plan)]).quota();
    let contenders = [1, 10, 200, 1_000]
        .map(|categories| contender::of_requests(of_categories(categories, quota, keys), "last"));
    let measured = times(&contenders, keys, plan, true);
    let [ten, many, most] = [1, 2, 3].map(|at| Quartiles::of_ratios(&measured[at], &measured[0]));
    let one = format!("{:.0}", Quartiles::of(measured[0].iter().copied()));
    table.row(&[&grouped(keys), &one, &ten, &many, &most]);
    in_short.add("1,000 categories, the last one asked", format!("one category: {one} ns"), most);
}

/// A limiter with this many categories; each request is in the last one.
fn of_categories(categories: usize, quota: Quota, keys: usize) -> Limiter {
    let category = |name: String, path: &str| {
        let policy = Policy::token_bucket(name.clone(), quota);
        let policy = policy.key(header(API_KEY.as_str())).or_refuse();
        Category::new(name).on(Matcher::get(path)).policy(policy)
    };
    let others =
        (1..categories).map(|n| category(format!("c{n}"), &format!("/v1/others{n}/{{id}}")));
    let last = category("last".to_owned(), PATH);
    let store = MemoryStore::with_max_keys(room_for(keys));
    let builder = Limiter::builder().clock(Clock::system()).store(store);
    others
        .chain([last])
        .fold(builder, |builder, category| builder.category(category))
        .build()
        .expect("settings that work")
}

/// Several token buckets on one key.
pub fn policies(args: &Args, sizes: &[usize], plan: Plan, in_short: &mut InShort) {
    let title =
        "Decision: growth by policies on one key, request's head to verdict (one policy = 1)";
    if !args.wants(title) {
        return;
    }
    let table = Table::new(title, &["keys", "one, ns", "2", "5", "20"]);
    for &keys in sizes {
        let quota = budget(true, keys, &[(Spread::Uniform, plan)]).quota();
        let contenders = [1, 2, 5, 20].map(|policies| {
            let policy = |n: i32| Policy::token_bucket(format!("p{n}"), quota);
            contender::by_request((0..policies).map(policy).collect(), keys)
        });
        let measured = times(&contenders, keys, plan, true);
        let [two, five, twenty] =
            [1, 2, 3].map(|at| Quartiles::of_ratios(&measured[at], &measured[0]));
        let one = format!("{:.0}", Quartiles::of(measured[0].iter().copied()));
        table.row(&[&grouped(keys), &one, &two, &five, &twenty]);
        let what = format!("policies on one key, {} keys: 5; 20", grouped(keys));
        in_short.add(what, format!("one policy: {one} ns"), format!("{five}; {twenty}"));
    }
}
