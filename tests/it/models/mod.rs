//! What processes do together through Redis, as small models. A model checker goes through all that
//! can happen in them: each order of messages, each that is lost or late, each process that is killed.
//!
//! A model has the rules of its protocol and nothing else, so it says nothing of the code: the tests on
//! real servers, `redis` and `replicas`, do that. Each rule can be broken, and the checker must then
//! find out why the rule is there.

mod heartbeats;
mod leases;
mod override_versions;

use std::{fmt::Debug, hash::Hash};

use stateright::{Checker, HasDiscoveries, Model};

/// Goes through all states, and fails with the shortest way to one that should not be.
fn assert_holds<M>(model: M)
where
    M: Model + Clone + Debug + Send + Sync + 'static,
    M::State: Debug + Hash + Eq + Clone + Send + Sync + 'static,
    M::Action: Debug + PartialEq + Clone + Send + Sync + 'static,
{
    let checked = model.checker().threads(2).spawn_bfs().join();
    assert!(checked.is_done(), "all states were visited");
    checked.assert_properties();
}

/// Finds a way to a state in which the property does not hold.
fn assert_breaks<M>(model: M, property: &'static str)
where
    M: Model + Clone + Debug + Send + Sync + 'static,
    M::State: Debug + Hash + Eq + Clone + Send + Sync + 'static,
    M::Action: Debug + PartialEq + Clone + Send + Sync + 'static,
{
    let described = format!("{model:?}");
    let finds_it = HasDiscoveries::AllOf([property].into());
    let checked = model.checker().finish_when(finds_it).threads(2).spawn_bfs().join();
    assert!(checked.discovery(property).is_some(), "{described} does not break `{property}`");
}
