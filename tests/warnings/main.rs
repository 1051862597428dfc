//! The warnings of a process, which tests read: each is given once in a process, to whichever test
//! shows the mistake first.

mod first_requests;
mod plans;
