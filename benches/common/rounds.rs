//! Paired rounds: noise hits all subjects of a round alike.

/// What `measure(round, subject)` says of each subject in each of `rounds`, in which they take
/// turns: each round begins with another subject. One more round comes first, to warm up.
pub fn paired(
    rounds: usize,
    subjects: usize,
    mut measure: impl FnMut(usize, usize) -> f64,
) -> Vec<Vec<f64>> {
    let mut measured = vec![Vec::with_capacity(rounds); subjects];
    for round in 0..=rounds {
        for turn in 0..subjects {
            let subject = (round + turn) % subjects;
            let value = measure(round, subject);
            if round > 0 {
                measured[subject].push(value);
            }
        }
    }
    measured
}
