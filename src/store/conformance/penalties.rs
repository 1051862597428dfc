//! Penalties, with the answers spelled out.

use std::sync::LazyLock;

use super::*;
use crate::penalty::Penalty;

/// Two refusals within 10 seconds block for 5 seconds, then 20, then 60; forgotten after 10 minutes.
static PENALTY: LazyLock<Penalty> = LazyLock::new(|| {
    let seconds = Duration::from_secs;
    Penalty::after(2)
        .refusals_within(seconds(10))
        .block(seconds(5))
        .then(seconds(20))
        .then(seconds(60))
        .forget_after(seconds(600))
});

pub(super) async fn all(store: &dyn Store) {
    assert!(store.keeps_penalties());
    for_each_algorithm!(store:
        each_block_is_longer_and_ends_when_it_says
        what_comes_during_a_block_neither_counts_nor_is_charged
        refusals_count_together_within_their_time_only
        blocks_are_forgotten_after_their_time
        a_block_lasts_whatever_quota_the_key_has
        a_pardon_ends_a_block_and_keeps_what_was_used
        a_reset_ends_a_block_as_well
        a_block_ends_with_its_penalty
        a_block_of_one_key_is_of_no_other_key_and_no_other_policy
        a_blocked_charge_refuses_the_request_and_costs_the_others_nothing
        a_quota_that_is_spent_for_longer_than_the_block_says_so
        an_unlimited_quota_only_looks_for_a_block
    );
}

impl Subject<'_> {
    fn penalized(&self, number: u64, algorithm: Algorithm, quota: Quota) -> Charge {
        Charge { has_penalty: true, ..self.one(number, algorithm, quota) }
    }

    /// Counts a refusal. Returns how much longer the key is blocked.
    async fn refuse(&self, charge: Charge) -> Option<Duration> {
        let counted = Correction::new(charge, Change::Penalize(&PENALTY));
        let answer = self.store.correct(&[counted], self.now()).await.unwrap();
        answer.usages[0].blocked_for()
    }

    /// Counts refusals until a block begins.
    async fn block(&self, charge: Charge) -> Duration {
        assert_eq!(self.refuse(charge).await, None);
        self.refuse(charge).await.expect("the second one begins a block")
    }

    async fn blocked_for(&self, charge: Charge) -> Option<Duration> {
        let answer = self.answer(&[Charge { mode: Mode::Peek, ..charge }]).await;
        answer.usages[0].blocked_for()
    }
}

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

async fn each_block_is_longer_and_ends_when_it_says(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.penalized(1, algorithm, Quota::per_second(100));
    for block in [5, 20, 60, 60] {
        assert_eq!(subject.block(charge).await, SECONDS(block));
        assert_eq!(subject.charge_one(charge).await.0, block * SECOND);
        subject.advance(block * SECOND - 1);
        let answer = subject.answer(&[charge]).await;
        let usage = answer.usages[0];
        assert_eq!((usage.wait(), usage.remaining()), (Duration::from_micros(1), 0));
        assert!(usage.reset() >= usage.wait());
        subject.advance(1);
        assert_eq!(subject.charge_one(charge).await.0, 0, "a retry after the wait passes");
    }
}

async fn what_comes_during_a_block_neither_counts_nor_is_charged(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let charge = subject.penalized(1, algorithm, Quota::per_hour(100));
    subject.block(charge).await;
    for second in 0..5 {
        assert_eq!(subject.charge_one(charge).await.0, (5 - second) * SECOND);
        assert_eq!(subject.refuse(charge).await, Some(SECONDS(5 - second)));
        subject.advance(SECOND);
    }
    let dry = Charge { mode: Mode::DryRun, ..charge };
    assert_eq!(subject.charge_one(dry).await.1, 99, "nothing was charged during the block");
    assert_eq!(subject.refuse(charge).await, None, "counting begins anew");
    assert_eq!(subject.refuse(charge).await, Some(SECONDS(20)));
    assert_eq!(subject.charge_one(dry).await.1, 0);
    // What costs nothing is refused as well.
    assert_eq!(subject.charge_one(Charge { cost: 0, ..charge }).await.0, 20 * SECOND);
    subject.advance(20 * SECOND);
    assert_eq!(subject.charge_one(charge).await.1, 98);
}

async fn refusals_count_together_within_their_time_only(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let charge = subject.penalized(1, algorithm, Quota::per_second(100));
    for _ in 0..3 {
        assert_eq!(subject.refuse(charge).await, None);
        subject.advance(10 * SECOND);
    }
    assert_eq!(subject.refuse(charge).await, None);
    subject.advance(10 * SECOND - 1);
    assert_eq!(subject.refuse(charge).await, Some(SECONDS(5)));
}

async fn blocks_are_forgotten_after_their_time(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.penalized(1, algorithm, Quota::per_second(100));
    subject.block(charge).await;
    subject.advance(605 * SECOND - 1);
    assert_eq!(subject.block(charge).await, SECONDS(20), "it is still remembered");
    subject.advance(620 * SECOND);
    assert_eq!(subject.block(charge).await, SECONDS(5));
}

async fn a_block_lasts_whatever_quota_the_key_has(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.penalized(1, algorithm, Quota::per_hour(10));
    assert_eq!(subject.charge_one(Charge { cost: 4, ..charge }).await.0, 0);
    subject.block(charge).await;
    let larger = Charge { quota: Quota::per_hour(1_000), ..charge };
    for under in [larger, charge, larger] {
        subject.advance(SECOND);
        let usage = subject.answer(&[under]).await.usages[0];
        assert!(usage.blocked_for().is_some());
    }
    subject.advance(2 * SECOND);
    assert_eq!(subject.charge_one(charge).await.1, 5, "no other quota has freed anything");
}

async fn a_pardon_ends_a_block_and_keeps_what_was_used(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let charge = subject.penalized(1, algorithm, Quota::per_hour(10));
    assert_eq!(subject.charge_one(Charge { cost: 4, ..charge }).await.0, 0);
    subject.block(charge).await;
    assert_eq!(subject.correct_one(charge, None, Change::Pardon).await.1, 6);
    assert_eq!(subject.charge_one(charge).await.1, 5);
    assert_eq!(subject.block(charge).await, SECONDS(5), "it is the first block again");
    // Of a key that has none, nothing changes.
    let unknown = subject.penalized(2, algorithm, charge.quota);
    assert_eq!(subject.correct_one(unknown, None, Change::Pardon).await.1, 10);
}

async fn a_reset_ends_a_block_as_well(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.penalized(1, algorithm, Quota::per_hour(10));
    assert_eq!(subject.charge_one(Charge { cost: 4, ..charge }).await.0, 0);
    subject.block(charge).await;
    assert_eq!(subject.correct_one(charge, None, Change::Reset).await.1, 10);
    assert_eq!(subject.charge_one(charge).await.1, 9);
    assert_eq!(subject.block(charge).await, SECONDS(5), "it is the first block again");
}

async fn a_block_ends_with_its_penalty(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.penalized(1, algorithm, Quota::per_hour(10));
    subject.block(charge).await;
    let without = Charge { has_penalty: false, ..charge };
    assert_eq!(subject.charge_one(without).await.1, 9);
    assert_eq!(subject.blocked_for(charge).await, Some(SECONDS(5)));
}

async fn a_block_of_one_key_is_of_no_other_key_and_no_other_policy(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let quota = Quota::per_hour(10);
    let charge = subject.penalized(1, algorithm, quota);
    subject.block(charge).await;
    let other_key = subject.penalized(2, algorithm, quota);
    let other_policy = Charge { policy: charge.policy + 1, ..charge };
    for other in [other_key, other_policy] {
        assert_eq!(subject.charge_one(other).await.1, 9);
    }
    assert_eq!(subject.blocked_for(charge).await, Some(SECONDS(5)));
}

async fn a_blocked_charge_refuses_the_request_and_costs_the_others_nothing(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let quota = Quota::per_hour(10);
    let [blocked, other] = [1, 2].map(|number| subject.penalized(number, algorithm, quota));
    subject.block(blocked).await;
    let answered = subject.charge(&[other, blocked]).await;
    assert_eq!((answered[0].0, answered[0].1, answered[1].0), (0, 10, 5 * SECOND));
    // A dry run refuses no request, and charges nothing that is blocked.
    let answered = subject.charge(&[other, Charge { mode: Mode::DryRun, ..blocked }]).await;
    assert_eq!((answered[0].1, answered[1].0), (9, 5 * SECOND));
    subject.advance(5 * SECOND);
    assert_eq!(subject.charge_one(blocked).await.1, 9);
}

async fn a_quota_that_is_spent_for_longer_than_the_block_says_so(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let charge = subject.penalized(1, algorithm, Quota::per_minute(2));
    assert_eq!(subject.charge_one(Charge { cost: 2, ..charge }).await.0, 0);
    let quota_wait = subject.charge_one(charge).await.0;
    assert_eq!(subject.block(charge).await, SECONDS(5));
    let usage = subject.answer(&[charge]).await.usages[0];
    assert_eq!(usage.blocked_for(), Some(SECONDS(5)));
    let (wait, _, reset) = snapshot(&usage);
    assert!(quota_wait > 5 * SECOND);
    assert_eq!((wait, reset), (quota_wait, quota_wait));
    subject.advance(wait - 1);
    assert_eq!(subject.peek(charge).await.0, 1);
    subject.advance(1);
    assert_eq!(subject.charge_one(charge).await.0, 0);
}

async fn an_unlimited_quota_only_looks_for_a_block(subject: &Subject<'_>, algorithm: Algorithm) {
    let limited = subject.penalized(1, algorithm, Quota::per_hour(5));
    let other = subject.one(2, algorithm, Quota::per_hour(5));
    let unlimited = Charge { cost: 3, quota: Quota::unlimited(), ..limited };
    let modes = [Mode::Enforced, Mode::DryRun, Mode::Peek];
    let passes = async |left: u64| {
        for mode in modes {
            let answer = subject.answer(&[Charge { mode, ..unlimited }]).await;
            assert_eq!(answer.usages[0], Usage::unknown(), "{mode:?}");
        }
        let both = subject.answer(&[unlimited, other]).await.usages;
        assert_eq!((both[0], both[1].remaining()), (Usage::unknown(), left));
        let preview = subject.store.preview(&[unlimited, other], subject.now()).await.unwrap();
        assert_eq!(preview.usages[0], Usage::unknown());
    };
    // A key that is not known, one that has used something, and one that has used all.
    passes(4).await;
    assert_eq!(subject.charge_one(Charge { cost: 3, ..limited }).await.1, 2);
    passes(3).await;
    // It stays so under several quotas, of which the unlimited one is none.
    for units in 6..12 {
        let others = Charge { quota: Quota::per_minute(units), ..limited };
        assert_eq!(subject.charge_one(Charge { cost: 0, ..others }).await.0, 0);
        assert_eq!(subject.answer(&[unlimited]).await.usages[0], Usage::unknown());
    }
    // Nothing was charged that could be corrected.
    for change in [Change::GiveBack(2), Change::Take(9)] {
        let corrected = subject.store.correct(&[Correction::new(unlimited, change)], subject.now());
        assert_eq!(corrected.await.unwrap().usages[0], Usage::unknown());
    }
    assert_eq!(subject.charge_one(Charge { cost: 2, ..limited }).await.0, 0);
    passes(2).await;

    // Failures count under it, also those of a new key.
    let new = subject.penalized(3, algorithm, limited.quota);
    for limited in [limited, new] {
        let unlimited = Charge { quota: Quota::unlimited(), ..limited };
        let refusal = async |charge| {
            for mode in [Mode::Enforced, Mode::Peek] {
                let usage = subject.answer(&[Charge { mode, ..charge }]).await.usages[0];
                assert_eq!(usage.blocked_for(), Some(SECONDS(5)), "{charge:?}");
                let preview = subject.store.preview(&[charge], subject.now()).await.unwrap();
                assert_eq!(preview.usages[0].blocked_for(), Some(SECONDS(5)));
            }
        };
        assert_eq!(subject.refuse(unlimited).await, None);
        assert_eq!(subject.refuse(unlimited).await, Some(SECONDS(5)));
        refusal(unlimited).await;
        refusal(limited).await;
        refusal(Charge { cost: 0, ..unlimited }).await;
        // The whole request is refused, and costs nothing.
        let left = subject.peek(other).await.1;
        let both = subject.answer(&[other, unlimited]).await.usages;
        assert!(both[0].fits() && both[1].blocked_for().is_some());
        let dry = Charge { mode: Mode::DryRun, ..unlimited };
        assert_eq!(subject.peek(other).await.1, left);
        assert!(subject.answer(&[dry, other]).await.usages[0].blocked_for().is_some());
        assert_eq!(subject.peek(other).await.1, left - 1);
        // Without the penalty, the block has ended; and it is lifted under this quota as well.
        let plain = Charge { has_penalty: false, ..unlimited };
        assert_eq!(subject.answer(&[plain]).await.usages[0], Usage::unknown());
        subject.correct(&[Correction::new(unlimited, Change::Pardon)]).await;
        assert_eq!(subject.answer(&[unlimited]).await.usages[0], Usage::unknown());
    }
    assert_eq!(subject.peek(limited).await.1, 0, "what was used stays used");
    assert_eq!(subject.peek(new).await.1, 5);
}
