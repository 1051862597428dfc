//! What to write instead of a word that is not known: [`instead`], [`nearest`].

/// How many characters a word has at most that is compared with others.
const MAX_LENGTH: usize = 100;

/// ``write `quota` `` if a known word is similar, or else all of them; `None` if there are none.
pub(super) fn instead<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<_> = known.into_iter().collect();
    if let Some(nearest) = nearest(word, known.iter().copied()) {
        return Some(format!("write `{nearest}`"));
    }
    let all: Vec<_> = known.iter().map(|word| format!("`{word}`")).collect();
    match &*all {
        [] => None,
        [only] => Some(format!("write {only}")),
        all => Some(format!("write one of {}", all.join(", "))),
    }
}

/// The known word that is most similar, if it is no further than one slip in three letters.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let most = length.div_ceil(3);
    // To compare words takes the product of their lengths.
    let known = known
        .into_iter()
        .filter(|other| length <= MAX_LENGTH && other.chars().count().abs_diff(length) <= most);
    let distances = known.map(|other| (strsim::damerau_levenshtein(word, other), other));
    let near = distances.filter(|(distance, _)| *distance <= most);
    near.min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_similar_word_or_else_all() {
        let known = ["quota", "quota_by", "plans"];
        assert_eq!(instead("qouta", known).unwrap(), "write `quota`");
        assert_eq!(instead("plan", known).unwrap(), "write `plans`");
        assert_eq!(instead("window", known).unwrap(), "write one of `quota`, `quota_by`, `plans`");
        assert_eq!(instead("window", ["quota"]).unwrap(), "write `quota`");
        assert_eq!(instead("window", []), None);
    }
}
