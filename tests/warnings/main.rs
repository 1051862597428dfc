//! Tests that read warnings. In a process of their own, because each warning is given once in a
//! process.

#[cfg(feature = "describe")]
mod explain;
mod first_requests;
#[cfg(not(feature = "grpc"))]
mod grpc;
mod meters;
mod plans;
