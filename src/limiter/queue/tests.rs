//! Unit tests of the queue.

use std::sync::Arc;

use super::*;
use crate::{
    limiter::{evaluation::Evaluation, rules::Rule},
    policy::Policy,
    quota::Quota,
    store::Usage,
};

const SECOND: Duration = Duration::from_secs(1);

fn rule() -> Rule {
    Rule::for_test(Policy::token_bucket("p", Quota::per_second(1)).hold(9 * SECOND))
}

/// A request of this cost, which fits in one second.
fn request(rule: &Rule, cost: u64) -> Evaluation {
    let mut request = Evaluation::default();
    request.push(rule, 0, (2, 2), rule.charge.quota, cost);
    request.record.usages[0] = Usage::new(SECOND, 0, SECOND);
    request
}

fn join(queue: &WaitQueue, request: &Evaluation) -> Join {
    queue.join(request.record.outcomes(), None, now())
}

fn now() -> Now {
    Now::new(SECOND, SECOND)
}

fn queue() -> WaitQueue {
    WaitQueue::new(MaxHeld { all: 10, per_caller: 10, per_key: 10 })
}

/// The units ahead of a request with this ticket.
fn ahead(queue: &WaitQueue, request: &mut Evaluation, ticket: Option<u64>) -> u64 {
    queue.set_queued_ahead(request.charges_mut().iter_mut(), ticket, None, now());
    request.charges()[0].ahead
}

#[test]
fn a_request_that_saw_an_old_queue_is_charged_again() {
    let (queue, rule) = (queue(), rule());
    let (first, mut second) = (request(&rule, 3), request(&rule, 1));
    assert_eq!(join(&queue, &first), Join::Queued(0));
    assert_eq!(join(&queue, &second), Join::Outdated, "it did not see the first");
    assert_eq!(ahead(&queue, &mut second, None), 3);
    assert_eq!(join(&queue, &second), Join::Queued(1));

    queue.leave(0, Left::Charged, now());
    assert_eq!(ahead(&queue, &mut second, Some(1)), 0, "the first has left");
    queue.leave(1, Left::Early, now());
    second.charges_mut()[0].ahead = 7;
    assert_eq!(ahead(&queue, &mut second, None), 0, "the queue is empty");
    assert!(queue.waiters.lock().keys.is_empty() && queue.waiters.lock().tickets.is_empty());
    assert!(queue.waiters.lock().callers.is_empty());
}

/// A waker that drops its task at once, so that the ticket leaves the queue.
struct Leaves {
    queue: Arc<WaitQueue>,
    ticket: u64,
}

impl std::task::Wake for Leaves {
    fn wake(self: Arc<Self>) {
        self.queue.leave(self.ticket, Left::Early, now());
    }
}

#[test]
fn a_ticket_may_leave_while_it_is_woken() {
    let (queue, rule) = (Arc::new(queue()), rule());
    let mut second = request(&rule, 1);
    assert_eq!(join(&queue, &request(&rule, 3)), Join::Queued(0));
    assert_eq!(ahead(&queue, &mut second, None), 3);
    assert_eq!(join(&queue, &second), Join::Queued(1));
    let waker = Waker::from(Arc::new(Leaves { queue: Arc::clone(&queue), ticket: 1 }));
    assert_eq!(queue.take_wakeup(1, &waker), Wakeup::No);
    // This wakes the second ticket, which leaves and needs the lock.
    queue.leave(0, Left::Charged, now());
    assert!(queue.waiters.lock().tickets.is_empty());
}
