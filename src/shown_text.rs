//! Texts of settings that pages, logs and metrics show: [`text_problem`], [`is_unfit`].

/// How many characters the name of a policy, a category, a plan or a unit has at most.
pub(crate) const MAX_NAME: usize = 100;

/// What is wrong with a text that pages and logs show.
pub(crate) fn text_problem(name: &str, text: &str, max: usize) -> Option<String> {
    if text.chars().count() > max {
        return Some(format!("{name} has more than {max} characters"));
    }
    text.contains(is_unfit).then(|| format!("{name} has a control character"))
}

/// Whether a character changes more than its own place: it controls a terminal, or the direction or
/// the lines of the text around.
pub(crate) fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}')
}
