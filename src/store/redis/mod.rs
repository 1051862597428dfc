//! Counts in Redis or Valkey, which several replicas share.
#![allow(dead_code, reason = "the store that runs it is yet to come")]

mod wire;
