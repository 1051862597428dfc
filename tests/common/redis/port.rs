//! Free ports for servers.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

/// Below the ports that Linux assigns by itself (from 32768), so that no other process gets one
/// between a kill and a restart. The same goes for a cluster's second ports.
const PORTS: Range<u16> = 10_000..22_000;

/// A cluster's node talks to the others on a second port: Redis's default is this much higher.
pub const BUS: u16 = 10_000;

/// A port that is free now, with its second one. Another process may still be faster: try again then.
pub fn free_port() -> u16 {
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let anywhere = RandomState::new().build_hasher().finish() as usize % PORTS.len();
    let mut ports = PORTS.cycle().skip(anywhere).take(PORTS.len());
    ports.find(|&port| is_free(port) && is_free(port + BUS)).expect("a port is free")
}
