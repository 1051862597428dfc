//! The Redis store on real servers, in real time. In a process of its own, so that no computing test
//! takes its processors.

mod completions;
mod configured;
mod doubts;
mod in_flight;
mod leases;
mod outage;
mod overrides;
mod penalties;
mod reload;
mod reservations;
mod sentinel;
mod servers;
mod settle_at_end;
mod store;
mod tls;
