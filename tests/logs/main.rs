//! Tests that read the log. In a process of their own, because the subscriber is the process's.

mod blocked;
mod events;
mod jump_ehr;
mod log;
mod same_mistake;
mod sqlite_log;
