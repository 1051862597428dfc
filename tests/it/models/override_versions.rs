//! Versions of shared overrides: replicas change one hash, and read what others have changed. As no
//! replica hears of another but through the hash, the model has one, and the changes of all others.
//! `src/store/redis/overrides/` and `src/limiter/overrides/` are the code.

use stateright::{Model, Property};

use super::{assert_breaks, assert_holds};

const FIELDS: usize = 2;
/// How many changes the server remembers.
const MAX_LOG: usize = 2;
const MAX_CHANGES: u8 = 4;
/// On the way to the replica: that of a read, and that of a change.
const MAX_ANSWERS: usize = 2;
const SAME: &str = "a replica with the server's version has its overrides";

/// The protocol, and a rule of it that is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Versions {
    Whole,
    /// A version is a number, without the id of the change.
    WithoutId,
    /// A replica applies what it has read even if it has applied something else meanwhile.
    AppliesLate,
    /// The server answers with the changes it remembers, even if it has forgotten some.
    ForgetsSilently,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Version {
    number: u8,
    id: u8,
}

/// What each field says, if anything: the id of the change that set it.
type Overrides = [Option<u8>; FIELDS];

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Server {
    version: Version,
    overrides: Overrides,
    /// The id and the field of each change, the last one last.
    log: Vec<(u8, usize)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Replica {
    known: Option<Version>,
    overrides: Overrides,
    answers: Vec<Answer>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Answer {
    asked: Option<Version>,
    version: Version,
    is_all: bool,
    changed: Vec<(usize, Option<u8>)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    server: Server,
    /// What the server's own replica has, which takes over in a fail-over.
    copy: Server,
    replica: Replica,
    changes: u8,
    fail_overs: u8,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    /// Sets or ends the override of a field. The answer to the replica has what has changed.
    Change {
        is_own: bool,
        field: usize,
        sets: bool,
    },
    Read,
    Apply(usize),
    LoseAnswer(usize),
    Copy,
    FailOver,
}

impl Versions {
    fn change(self, server: &mut Server, field: usize, sets: bool, id: u8) {
        if !sets && server.overrides[field].is_none() {
            return;
        }
        server.overrides[field] = sets.then_some(id);
        let id = if self == Self::WithoutId { 0 } else { id };
        server.version = Version { number: server.version.number + 1, id };
        server.log.push((id, field));
        if server.log.len() > MAX_LOG {
            server.log.remove(0);
        }
    }

    fn answer(self, server: &Server, asked: Option<Version>) -> Answer {
        let Server { version, overrides, log } = server;
        let value = |field: &usize| (*field, overrides[*field]);
        let changes = match asked {
            Some(known) if known == *version => Some(Vec::new()),
            Some(known) => {
                let forgotten = version.number as usize - log.len();
                let index = (known.number as usize).checked_sub(forgotten + 1);
                let is_known =
                    |index: &usize| log.get(*index).is_some_and(|(id, _)| *id == known.id);
                match index.filter(is_known) {
                    Some(index) => {
                        Some(log[index + 1..].iter().map(|(_, field)| value(field)).collect())
                    }
                    None if self == Self::ForgetsSilently => {
                        Some(log.iter().map(|(_, field)| value(field)).collect())
                    }
                    None => None,
                }
            }
            None => None,
        };
        let is_all = changes.is_none();
        let changed = changes.unwrap_or_else(|| (0..FIELDS).map(|field| value(&field)).collect());
        Answer { asked, version: *version, is_all, changed }
    }

    fn apply(self, replica: &mut Replica, answer: Answer) {
        if answer.asked != replica.known && self != Self::AppliesLate {
            return;
        }
        if answer.is_all {
            replica.overrides = Overrides::default();
        }
        for (field, value) in answer.changed {
            replica.overrides[field] = value;
        }
        replica.known = Some(answer.version);
    }
}

impl Model for Versions {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let answers = state.replica.answers.len();
        let may_ask = answers < MAX_ANSWERS;
        if state.changes < MAX_CHANGES {
            for field in 0..FIELDS {
                let change = |is_own| move |sets| Action::Change { is_own, field, sets };
                actions.extend([true, false].map(change(false)));
                actions.extend([true, false].map(change(true)).into_iter().filter(|_| may_ask));
            }
        }
        actions.extend(may_ask.then_some(Action::Read));
        actions.extend((0..answers).flat_map(|at| [Action::Apply(at), Action::LoseAnswer(at)]));
        if state.copy != state.server {
            actions.push(Action::Copy);
            actions.extend((state.fail_overs == 0).then_some(Action::FailOver));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        let State { server, copy, replica, changes, fail_overs } = &mut state;
        match action {
            Action::Change { field, sets, .. } => {
                *changes += 1;
                self.change(server, field, sets, *changes);
            }
            Action::Read => {}
            Action::Apply(answer) => {
                let answer = replica.answers.remove(answer);
                self.apply(replica, answer);
            }
            Action::LoseAnswer(answer) => drop(replica.answers.remove(answer)),
            Action::Copy => *copy = server.clone(),
            Action::FailOver => {
                *server = copy.clone();
                *fail_overs += 1;
            }
        }
        if matches!(action, Action::Read | Action::Change { is_own: true, .. }) {
            replica.answers.push(self.answer(server, replica.known));
            replica.answers.sort();
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAME, |_, State { server, replica, .. }: &State| {
                replica.known != Some(server.version) || replica.overrides == server.overrides
            }),
            Property::sometimes(
                "a replica that was behind a fail-over catches up",
                |_, state: &State| {
                    let number = state.server.version.number;
                    state.fail_overs == 1
                        && number == 2
                        && state.replica.known == Some(state.server.version)
                },
            ),
        ]
    }
}

#[test]
fn a_replica_has_the_overrides_of_its_version_whatever_is_lost() {
    assert_holds(Versions::Whole);
}

#[test]
fn each_rule_of_the_versions_is_needed() {
    for broken in [Versions::WithoutId, Versions::AppliesLate, Versions::ForgetsSilently] {
        assert_breaks(broken, SAME);
    }
}
