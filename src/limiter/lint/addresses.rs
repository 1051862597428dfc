//! Client addresses that are read in two ways: [`find_that_differ`].

use http::{Request, request::Parts};

use super::{Lint, LintKind};
use crate::{
    key::{AddressWalk, KeyExtractor},
    limiter::rules::RuleSet,
    matcher::{Kind, Matcher},
};

/// A setting by which addresses are read.
struct Reader {
    culprit: String,
    walk: AddressWalk,
}

/// Finds policies and matchers that trust other proxies, or read another header, than the first of them that
/// reads an address. One of the two takes a proxy's address for the client's, or believes what callers write.
pub(super) fn find_that_differ(rules: &RuleSet, lints: &mut Vec<Lint>) {
    let no_request = Request::new(()).into_parts().0;
    let mut readers = Vec::new();
    for rule in rules.policies() {
        let culprit = format!("policy `{}`", rule.policy.name());
        for extractor in &rule.policy.settings.keys.extractors {
            add_extractor(&culprit, &**extractor, &no_request, &mut readers);
        }
    }
    let exempt = rules.exempt.iter().map(|matcher| ("exemption".to_owned(), matcher));
    let of_categories = rules.categories.iter().flat_map(|category| {
        let culprit = format!("category `{}`", category.name);
        category.matchers.iter().map(move |matcher| (culprit.clone(), matcher))
    });
    for (culprit, matcher) in exempt.chain(of_categories) {
        add_matcher(&culprit, matcher, &no_request, &mut readers);
    }
    let Some((first, others)) = readers.split_first() else { return };
    for other in others.iter().filter(|other| !other.walk.reads_like(&first.walk)) {
        let problem = format!(
            "it reads the client's address in another way than {}: it trusts other proxies, or reads \
             another header; write the same `ClientIp` for both, or `.trust_hops(0)` for the peer itself",
            first.culprit
        );
        lints.push(Lint::new(LintKind::AddressesDiffer, &*other.culprit, problem));
    }
}

fn add_extractor(
    culprit: &str,
    extractor: &dyn KeyExtractor,
    request: &Parts,
    readers: &mut Vec<Reader>,
) {
    let walk = extractor.address_walk(request).filter(|walk| !walk.is_of_peer());
    let reader = |walk| Reader { culprit: culprit.to_owned(), walk };
    readers.extend(walk.map(reader));
}

fn add_matcher(culprit: &str, matcher: &Matcher, request: &Parts, readers: &mut Vec<Reader>) {
    match &matcher.kind {
        Kind::ClientIp { client_ip, .. } => add_extractor(culprit, client_ip, request, readers),
        Kind::Key { extractor, .. } => add_extractor(culprit, &**extractor, request, readers),
        Kind::All(parts) | Kind::Any(parts) => {
            parts.iter().for_each(|part| add_matcher(culprit, part, request, readers));
        }
        Kind::Not(part) => add_matcher(culprit, part, request, readers),
        Kind::Route { .. } | Kind::Closure(_) => {}
    }
}
