//! What the tests of the example servers share.
#![allow(dead_code, unused_imports, reason = "each test uses its part")]

mod answer;
mod server;

pub use self::{
    answer::{Answer, answer},
    server::{PATIENCE, Result, Server},
};
