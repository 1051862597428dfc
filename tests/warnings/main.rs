//! Tests that read warnings. In a process of their own, because each warning is given once in a
//! process.

mod first_requests;
mod plans;
