//! The matchers in the order in which requests are compared with them: [`OrderedMatchers`].

use super::subject::{Example, route_of};
use crate::{
    limiter::{categories::CategoryRules, rules::RuleSet},
    matcher::Matcher,
    path::{PatternIndex, SentPath},
};

/// All matchers by method and path: first the exemptions, and then those of the categories. Others,
/// such as closures, are left out: it is not known what they match.
pub(super) struct OrderedMatchers<'r> {
    all: Vec<OrderedMatcher<'r>>,
    /// Which of them a path may match; `None` if there are few.
    index: Option<PatternIndex>,
}

pub(super) struct OrderedMatcher<'r> {
    pub(super) matcher: &'r Matcher,
    /// `None` for an exemption.
    pub(super) category: Option<&'r CategoryRules>,
    /// How many matchers come before those of its category.
    pub(super) earlier: usize,
}

impl<'r> OrderedMatchers<'r> {
    pub(super) fn new(rules: &'r RuleSet) -> Self {
        let mut all = Vec::new();
        let mut add = |category, matchers: &'r [Matcher]| {
            let earlier = all.len();
            let known = matchers.iter().filter(|matcher| route_of(matcher).is_some());
            all.extend(known.map(|matcher| OrderedMatcher { matcher, category, earlier }));
        };
        add(None, &rules.exempt);
        rules.categories.iter().for_each(|category| add(Some(category), &category.matchers));
        let index = PatternIndex::new(all.iter().map(|ordered| ordered.matcher.parsed()));
        Self { all, index }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &OrderedMatcher<'r>> {
        self.all.iter()
    }

    pub(super) fn get(&self, number: usize) -> Option<&OrderedMatcher<'r>> {
        self.all.get(number)
    }

    /// The number of the first matcher that matches the request.
    pub(super) fn first(&self, example: &Example) -> Option<usize> {
        let path = example.path();
        let matches = |number: &usize| {
            self.all.get(*number).is_some_and(|ordered| ordered.matches(example, &path))
        };
        match &self.index {
            None => (0..self.all.len()).find(matches),
            // In ascending order.
            Some(index) => {
                index.find(&path).into_iter().map(|number| number as usize).find(matches)
            }
        }
    }
}

impl OrderedMatcher<'_> {
    fn matches(&self, example: &Example, path: &SentPath<'_>) -> bool {
        match self.category {
            None => example.is_exempt(self.matcher, path),
            Some(_) => example.matches(self.matcher, path),
        }
    }

    /// What it belongs to, as messages name it.
    pub(super) fn owner(&self) -> String {
        match self.category {
            None => "an exemption".to_owned(),
            Some(category) => format!("category `{}`", category.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::{prelude::*, sample::subsequence};

    use super::*;
    use crate::{Category, Limiter, LimiterBuilder, Policy, Quota, path::Pattern};

    /// From narrow to wide: no path matches all of those of a later line, nor of another one on its line.
    const PATHS: [&[&str]; 4] = [
        &["/a", "/%61/2", "/a/1", "/a/b", "/b/1", "/b/b", "/c/1", "/c/2"],
        &["/a/", "/a{x}", "/a/{x}", "/b/{x}", "/c/b{x}", "/{x}/1", "/{x}/b"],
        &["/{x}", "/{x}/{y}", "/a/{*rest}"],
        &["/{*rest}"],
    ];

    const METHODS: [Option<Method>; 5] =
        [Some(Method::GET), Some(Method::POST), Some(Method::PUT), Some(Method::DELETE), None];

    /// More matchers than an index needs, the narrow ones first: so each of them has requests of its own.
    fn matchers() -> impl Strategy<Value = Vec<Matcher>> {
        let paths = PATHS.iter().enumerate();
        let paths = paths.flat_map(|(width, paths)| paths.iter().map(move |path| (width, *path)));
        let all = paths.flat_map(|(width, path)| METHODS.map(|method| (width, path, method)));
        subsequence(all.collect::<Vec<_>>(), 7..20).prop_shuffle().prop_map(|mut all| {
            all.sort_by_key(|(width, _, method)| (*width, method.is_none()));
            let matcher = |(_, path, method)| match method {
                None => Matcher::path(path),
                Some(method) => Matcher::methods([method], path),
            };
            all.into_iter().map(matcher).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// With the index, the first matcher is the same as without.
        #[test]
        fn the_index_changes_no_first_matcher(
            matchers in matchers(),
            exempt in 0_usize..4,
            of_each_category in 1_usize..4,
        ) {
            let (exempt, others) = matchers.split_at(exempt);
            let builder = exempt.iter().cloned().fold(Limiter::builder(), LimiterBuilder::exempt);
            let category = |builder: LimiterBuilder, (number, matchers): (usize, &[Matcher])| {
                let category = Category::new(number.to_string());
                let policy = Policy::token_bucket(number.to_string(), Quota::per_day(1)).global();
                builder.category(matchers.iter().cloned().fold(category, Category::on).policy(policy))
            };
            let categories = others.chunks(of_each_category).enumerate();
            let limiter = categories.fold(builder, category).build().unwrap();
            let rules = limiter.core.rules();
            let subject = super::super::Subject::new(&rules, &[]);
            prop_assert!(subject.matchers.index.is_some());
            let mut naive = OrderedMatchers::new(&rules);
            naive.index = None;
            for path in PATHS.concat() {
                let pattern = Pattern::parse(path).unwrap();
                for example in subject.examples(None, &pattern).unwrap() {
                    let first = subject.matchers.first(&example);
                    prop_assert_eq!(first, naive.first(&example), "{}", example.text());
                }
            }
        }
    }
}
