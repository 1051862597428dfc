//! The tests that need no process of their own: a module for each subject.

mod allocations;
mod at_once;
mod auto_traits;
mod axum;
mod bad_limits;
mod bodies;
mod body_field;
mod body_limits;
mod browser;
mod build_errors;
#[cfg(feature = "calendar")]
mod calendar;
mod checks;
mod compose;
mod concurrency;
mod configured;
mod configured_server;
mod connection;
mod decisions;
mod describe;
mod examples;
#[cfg(feature = "describe")]
mod explain;
mod fhir_directory;
mod formats;
mod fuzz_corpus;
#[path = "../fuzz/targets/mod.rs"]
mod fuzz_targets;
mod gateway;
mod gateway_server;
mod gather;
mod grpc;
mod headers;
mod hellojohn;
mod hold;
mod hold_fairness;
mod hold_properties;
mod hostile_callers;
mod in_toml;
mod key_identity;
mod limits_as_data;
#[cfg(feature = "describe")]
mod lint;
mod loom;
mod metrics;
mod nested;
mod observers;
mod operator_page;
mod override_source;
mod overrides;
mod overrides_in_file;
mod paths;
mod privacy;
mod rate_limits;
mod readiness;
mod releases;
mod reload;
mod request_log;
mod server;
mod settings;
mod settle;
mod store_failure;
mod structured_fields;
mod tonic_peer;
mod unreadable_keys;
mod usage_page;
