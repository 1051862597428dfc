//! What is logged, which tests read: the subscriber to `tracing` events is the process's.

mod blocked;
mod events;
mod jump_ehr;
mod log;
mod sqlite_log;
