//! Leases: replicas take units of one fixed window in batches, and spend them without the server.
//! `src/store/redis/leases/` is the code.

use stateright::{Model, Property};

use super::{assert_breaks, assert_holds};

const LIMIT: u8 = 3;
const BATCH: u8 = 2;
/// In ticks, like all times here.
const WINDOW: u8 = 2;
const LIFETIME: u8 = 2;
const END: u8 = WINDOW + 1;
const REPLICAS: usize = 2;
/// Of all replicas.
const MAX_ASKS: u8 = 3;
const NEVER_MORE: &str = "no more is spent in a window than its quota";
const NEVER_LESS: &str = "the server counts all that is spent";

/// The protocol, and a rule of it that is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leases {
    Whole,
    /// The lifetime begins when the reply comes.
    LastsFromReply,
    /// A lease may outlast the window in which it was taken.
    OutlastsWindow,
    /// What is given back is not of any window.
    GivesBackToAny,
    /// Who hears nothing of what was given back sends it again.
    GivesBackTwice,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    /// By the server, in the window of now.
    used: u8,
    replicas: [Replica; REPLICAS],
    /// On the way, in any order.
    messages: Vec<Message>,
    /// What was spent in each window.
    spent: [u8; 2],
    asks: u8,
    kills: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    is_down: bool,
    /// Counts the starts: what was sent to an earlier process is not read.
    process: u8,
    has_asked: bool,
    available: u8,
    lease: Lease,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Lease {
    expires_at: u8,
    window: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Ask { replica: usize, process: u8, sent: u8 },
    Batch { replica: usize, process: u8, units: u8, sent: u8, window: u8, reset: u8 },
    GiveBack { units: u8, window: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Tick,
    Ask(usize),
    Deliver(Message),
    Lose(Message),
    Spend(usize),
    /// The units of a lease that is over go back.
    Return(usize),
    Kill(usize),
    Start(usize),
}

impl State {
    fn window(&self) -> u8 {
        self.now / WINDOW
    }

    fn send(&mut self, message: Message) {
        self.messages.push(message);
        self.messages.sort_unstable();
    }
}

impl Leases {
    fn deliver(self, state: &mut State, message: Message) {
        match message {
            Message::Ask { replica, process, sent } => {
                let units = BATCH.min(LIMIT.saturating_sub(state.used));
                state.used += units;
                let (window, reset) = (state.window(), WINDOW - state.now % WINDOW);
                state.send(Message::Batch { replica, process, units, sent, window, reset });
            }
            Message::Batch { replica, process, units, sent, window, reset } => {
                let now = state.now;
                let this = &mut state.replicas[replica];
                if this.is_down || this.process != process {
                    return;
                }
                this.has_asked = false;
                let begins = if self == Self::LastsFromReply { now } else { sent };
                let lasts =
                    if self == Self::OutlastsWindow { LIFETIME } else { LIFETIME.min(reset) };
                this.lease = Lease { expires_at: begins + lasts, window };
                this.available = units;
            }
            Message::GiveBack { units, window } => {
                if window == state.window() || self == Self::GivesBackToAny {
                    state.used = state.used.saturating_sub(units);
                }
            }
        }
    }
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < END {
            actions.push(Action::Tick);
        }
        for (index, replica) in state.replicas.iter().enumerate() {
            if replica.is_down {
                actions.push(Action::Start(index));
                continue;
            }
            let is_over = replica.lease.expires_at <= state.now;
            match replica.available {
                0 if !replica.has_asked && state.asks < MAX_ASKS => {
                    actions.push(Action::Ask(index))
                }
                0 => {}
                _ if is_over => actions.push(Action::Return(index)),
                _ => actions.push(Action::Spend(index)),
            }
            if state.kills == 0 {
                actions.push(Action::Kill(index));
            }
        }
        let mut messages = state.messages.clone();
        messages.dedup();
        actions.extend(messages.iter().copied().map(Action::Deliver));
        actions.extend(messages.into_iter().map(Action::Lose));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Tick => {
                state.now += 1;
                if state.now.is_multiple_of(WINDOW) {
                    state.used = 0;
                }
            }
            Action::Ask(replica) => {
                let this = &mut state.replicas[replica];
                this.has_asked = true;
                let process = this.process;
                state.asks += 1;
                state.send(Message::Ask { replica, process, sent: before.now });
            }
            Action::Deliver(message) | Action::Lose(message) => {
                let index = state.messages.iter().position(|other| *other == message)?;
                state.messages.remove(index);
                if let Action::Deliver(_) = action {
                    self.deliver(&mut state, message);
                } else if let Message::Ask { replica, process, .. }
                | Message::Batch { replica, process, .. } = message
                {
                    // The time-out.
                    let this = &mut state.replicas[replica];
                    this.has_asked &= this.process != process;
                }
            }
            Action::Spend(replica) => {
                state.replicas[replica].available -= 1;
                let window = usize::from(state.window());
                state.spent[window] += 1;
            }
            Action::Return(replica) => {
                let this = &mut state.replicas[replica];
                let (units, window) = (this.available, this.lease.window);
                this.available = 0;
                state.send(Message::GiveBack { units, window });
                if *self == Self::GivesBackTwice {
                    state.send(Message::GiveBack { units, window });
                }
            }
            Action::Kill(replica) => {
                let process = state.replicas[replica].process + 1;
                state.replicas[replica] = Replica { is_down: true, process, ..Replica::default() };
                state.kills += 1;
            }
            Action::Start(replica) => state.replicas[replica].is_down = false,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_MORE, |_, state: &State| {
                state.spent.iter().all(|spent| *spent <= LIMIT)
            }),
            Property::always(NEVER_LESS, |_, state: &State| {
                state.spent[usize::from(state.window())] <= state.used
            }),
            Property::sometimes("the whole quota is spent", |_, state: &State| {
                state.spent[0] == LIMIT
            }),
            Property::sometimes("units that a killed replica had are back", |_, state: &State| {
                state.kills == 1 && state.spent[1] == LIMIT
            }),
        ]
    }
}

#[test]
fn no_more_than_the_quota_is_spent_whatever_is_lost() {
    assert_holds(Leases::Whole);
}

#[test]
fn each_rule_of_the_leases_is_needed() {
    for broken in [Leases::LastsFromReply, Leases::OutlastsWindow] {
        assert_breaks(broken, NEVER_LESS);
    }
    for broken in [Leases::GivesBackToAny, Leases::GivesBackTwice] {
        assert_breaks(broken, NEVER_MORE);
    }
}
