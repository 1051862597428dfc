//! Units in flight over several replicas: each states what it holds, again and again, so that the server
//! forgets what a killed one held, and learns again what it has lost itself. The model has one replica
//! to which all can happen, and a rival that is always in step with the server.
//! `src/store/redis/in_flight/` is the code.

use stateright::{Model, Property};

use super::{assert_breaks, assert_holds};

const LIMIT: u8 = 1;
/// In ticks: how long the server counts what the replica has said.
const LIFETIME: u8 = 2;
const END: u8 = 3;
/// How often the replica says something.
const MAX_WORDS: u8 = 4;
const NEVER_MORE: &str = "no more is in flight than the limit, unless the replica was silent";
const COMES_BACK: &str = "units of a killed replica come back within the lifetime";
const NEVER_LESS: &str = "after its last statement, the server counts all that the replica holds";
const EXACT: &str =
    "a statement of a replica with nothing under way makes the server's count exact";
const PUT_RIGHT: &str = "what a lost word has left is put right by the next statement, even if more is always asked for";
const NO_MORE_THAN_HELD: &str =
    "where each word comes in time and in order, nothing is counted that nobody holds";

/// The protocol, and a rule of it that is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Heartbeats {
    Whole,
    /// A statement has no unit for the charge that is under way at that moment.
    ForgetsAsked,
    /// The server takes what is under way for held.
    CountsAsked,
    /// The server notes the number of a statement even if it leaves its count.
    NotesEach,
    /// The server counts a statement whatever came before it.
    BelievesLate,
    /// The server subtracts what a later statement has left out already.
    GivesBackTwice,
    /// The server counts what the replica has said for ever.
    NeverExpires,
    /// A replica states what it holds while something is under way.
    NeverBars,
    /// A request begins even if the answer comes after the time-out, which is shorter than the lifetime.
    BeginsLate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    is_down: bool,
    /// Requests that run.
    held: u8,
    /// The charge whose answer it waits for: which of its words it was, and when.
    asked: Option<(u8, u8)>,
    words: u8,
    /// The number of its last statement, and how many words it had said then.
    statement: u8,
    stated_at: u8,
    /// Whether a word or an answer was lost, or not awaited, after its last statement.
    lost_since: bool,
    /// Whether it asks for nothing until its next statement is heard.
    is_barred: bool,
    /// Whether the server has forgotten its units, as it has said nothing for too long, and has counted
    /// no statement since with nothing under way. What it then gives back is subtracted from what it holds.
    was_silent: bool,
}

/// What the server knows of the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    units: u8,
    until: u8,
    statement: u8,
    heard_at: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Charge { id: u8, statement: u8 },
    Answer { id: u8, fits: bool },
    GiveBack { statement: u8 },
    Statement { number: u8, units: u8, under_way: u8 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    known: Known,
    replica: Replica,
    /// The units of the rival.
    rival: u8,
    /// Between the replica and the server, in any order, each with when it was sent. A connection that
    /// does not deliver them within the lifetime is closed.
    messages: Vec<(u8, Message)>,
    /// The last statement with nothing under way that the server has counted, and not forgotten since.
    counted: u8,
    /// Whether nothing was said or heard since that statement.
    is_exact: bool,
    /// Whether the server has counted the charge whose answer the replica waits for.
    is_asked_counted: bool,
    /// Whether the server has just heard the last statement, in order and with nothing lost since, and
    /// counts units that no request holds.
    is_left: bool,
    /// Whether a word was lost or late, or an answer was not awaited.
    is_disturbed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Tick,
    Ask,
    /// The time-out of a charge.
    GiveUp,
    End,
    State,
    Kill,
    Deliver(usize),
    Lose(usize),
    RivalBegins,
    RivalEnds,
}

impl State {
    fn send(&mut self, message: Message) {
        self.messages.push((self.now, message));
        self.messages.sort_unstable();
    }

    /// The units that requests hold, or have held until they were given back, or that are about to be held.
    fn known_to_be_held(&self) -> u8 {
        let is_back = |(_, message): &&_| matches!(message, Message::GiveBack { .. });
        let given_back = self.messages.iter().filter(is_back).count() as u8;
        let is_counted = self.replica.asked.is_some() && self.is_asked_counted;
        self.replica.held + given_back + u8::from(is_counted)
    }

    fn lose(&mut self) {
        self.replica.lost_since = !self.replica.is_down;
    }

    fn fits(&self) -> bool {
        self.known.units + self.rival < LIMIT
    }
}

impl Heartbeats {
    fn deliver(self, state: &mut State, message: Message) {
        let (now, fits) = (state.now, state.fits());
        state.is_exact &= matches!(message, Message::Answer { .. });
        let known = &mut state.known;
        let before = *known;
        match message {
            Message::Charge { id, statement } => {
                if fits {
                    known.units += 1;
                    known.statement = known.statement.max(statement);
                    let asked = state.replica.asked;
                    state.is_asked_counted |= asked.is_some_and(|(asked, _)| asked == id);
                }
                state.send(Message::Answer { id, fits });
            }
            Message::GiveBack { statement } => {
                if statement >= known.statement || self == Self::GivesBackTwice {
                    known.units = known.units.saturating_sub(1);
                    known.statement = known.statement.max(statement);
                }
            }
            Message::Statement { number, units, under_way } => {
                let is_last = number == state.replica.statement
                    && state.replica.words == state.replica.stated_at;
                state.replica.is_barred = false;
                state.is_disturbed |= !is_last;
                if number > known.statement || self == Self::BelievesLate {
                    let agreed = match self {
                        Self::CountsAsked => units + under_way,
                        _ => known.units.clamp(units, units + under_way),
                    };
                    let is_between = units < known.units && known.units <= units + under_way;
                    if !is_between || self == Self::NotesEach || self == Self::CountsAsked {
                        (known.units, known.statement) = (agreed, number);
                    }
                    (known.until, known.heard_at) = (now + LIFETIME, now);
                    if under_way == 0 {
                        state.counted = state.counted.max(number);
                        state.is_exact = is_last;
                        state.replica.was_silent &= units + state.rival > LIMIT;
                    }
                }
                if is_last && !state.replica.lost_since {
                    state.is_left = state.known.units > state.known_to_be_held();
                }
            }
            Message::Answer { id, fits } => {
                let this = &mut state.replica;
                let is_awaited = this.asked.is_some_and(|(asked, _)| asked == id);
                let is_in_time = this.asked.is_some_and(|(_, at)| now < at + LIFETIME);
                if is_awaited {
                    this.asked = None;
                    state.is_disturbed |= !is_in_time;
                }
                if !this.is_down && (is_awaited && is_in_time || self == Self::BeginsLate) {
                    this.held += u8::from(fits);
                }
                if is_awaited && !is_in_time {
                    state.lose();
                }
                return;
            }
        }
        let known = &mut state.known;
        if *known != before {
            (known.until, known.heard_at) = (now + LIFETIME, now);
        }
        // It keeps nothing of a replica that holds nothing.
        if known.units == 0 {
            known.statement = 0;
        }
    }
}

impl Model for Heartbeats {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Replica { is_down, held, asked, words, is_barred, .. } = state.replica;
        let may_speak = !is_down && words < MAX_WORDS;
        let possible = [
            (state.now < END, Action::Tick),
            (may_speak && asked.is_none() && !is_barred, Action::Ask),
            (!is_down && asked.is_some(), Action::GiveUp),
            (may_speak && held > 0, Action::End),
            (may_speak && (asked.is_none() || !is_barred), Action::State),
            (!is_down, Action::Kill),
            (state.fits(), Action::RivalBegins),
            (state.rival > 0, Action::RivalEnds),
        ];
        let possible = possible.into_iter().filter(|(is_possible, _)| *is_possible);
        actions.extend(possible.map(|(_, action)| action));
        let messages = 0..state.messages.len();
        actions.extend(messages.flat_map(|index| [Action::Deliver(index), Action::Lose(index)]));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = State { is_left: false, ..before.clone() };
        let this = &mut state.replica;
        if action == Action::State && this.asked.is_some() && *self == Self::Whole {
            this.is_barred = true;
            return Some(state);
        }
        let is_word = matches!(action, Action::Ask | Action::End | Action::State);
        this.words += u8::from(is_word);
        state.is_exact &= !is_word;
        state.is_disturbed |= matches!(action, Action::Lose(_) | Action::GiveUp | Action::Kill);
        let Replica { words: id, statement, held, .. } = *this;
        match action {
            Action::Tick => {
                state.now += 1;
                let now = state.now;
                let messages = state.messages.len();
                state.messages.retain(|(sent, _)| now < sent + LIFETIME);
                if state.messages.len() < messages {
                    (state.is_disturbed, state.replica.is_barred) = (true, false);
                    state.lose();
                }
                if state.known.until <= now && *self != Self::NeverExpires {
                    state.replica.was_silent |= state.known.units > 0;
                    state.is_disturbed |= state.known.units > 0;
                    (state.known.units, state.known.statement, state.counted) = (0, 0, 0);
                    state.is_exact = false;
                }
            }
            Action::Ask => {
                this.asked = Some((id, before.now));
                state.is_asked_counted = false;
                state.send(Message::Charge { id, statement });
            }
            Action::GiveUp => {
                this.asked = None;
                state.lose();
            }
            Action::End => {
                this.held -= 1;
                state.send(Message::GiveBack { statement });
            }
            Action::State => {
                this.statement += 1;
                this.lost_since = false;
                this.stated_at = this.words;
                let asked = this.asked.is_some() && *self != Self::ForgetsAsked;
                let (number, under_way) = (this.statement, u8::from(asked));
                state.send(Message::Statement { number, units: held, under_way });
            }
            Action::Kill => *this = Replica { is_down: true, ..Replica::default() },
            Action::Deliver(index) => {
                let (_, message) = state.messages.remove(index);
                self.deliver(&mut state, message);
            }
            Action::Lose(index) => {
                let (_, lost) = state.messages.remove(index);
                state.replica.is_barred &= !matches!(lost, Message::Statement { .. });
                state.lose();
            }
            Action::RivalBegins => state.rival += 1,
            Action::RivalEnds => state.rival -= 1,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_MORE, |_, state: &State| {
                state.replica.was_silent || state.replica.held + state.rival <= LIMIT
            }),
            Property::always(COMES_BACK, |_, state: &State| {
                let is_over = state.now - state.known.heard_at >= LIFETIME;
                !state.replica.is_down || !is_over || state.known.units == 0
            }),
            Property::always(
                NEVER_LESS,
                |_, State { now, known, replica, counted, .. }: &State| {
                    let is_stated = replica.statement > 0 && *counted == replica.statement;
                    let is_over = replica.is_down || known.until <= *now;
                    !is_stated || is_over || known.units >= replica.held
                },
            ),
            Property::always(EXACT, |_, State { is_exact, known, replica, .. }: &State| {
                !is_exact || replica.is_down || known.units == replica.held
            }),
            Property::always(PUT_RIGHT, |_, state: &State| state.replica.is_down || !state.is_left),
            Property::always(NO_MORE_THAN_HELD, |_, state: &State| {
                state.is_disturbed || state.known.units <= state.known_to_be_held()
            }),
            Property::sometimes("a killed replica's unit is used again", |_, state: &State| {
                state.replica.is_down && state.known.heard_at > 0 && state.rival == 1
            }),
            Property::sometimes("silence leads to more than the limit", |_, state: &State| {
                state.replica.held + state.rival > LIMIT
            }),
        ]
    }
}

#[test]
fn no_more_than_the_limit_is_in_flight_and_units_come_back() {
    assert_holds(Heartbeats::Whole);
}

#[test]
fn each_rule_of_the_heartbeats_is_needed() {
    use Heartbeats::{
        BeginsLate, BelievesLate, CountsAsked, ForgetsAsked, GivesBackTwice, NeverBars,
        NeverExpires, NotesEach,
    };
    for broken in [ForgetsAsked, BelievesLate, GivesBackTwice, BeginsLate] {
        assert_breaks(broken, NEVER_MORE);
    }
    for broken in [CountsAsked, NotesEach] {
        assert_breaks(broken, NO_MORE_THAN_HELD);
    }
    assert_breaks(NeverExpires, COMES_BACK);
    assert_breaks(NeverBars, PUT_RIGHT);
}
