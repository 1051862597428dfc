//! The application without its limits.

pub(crate) async fn notes() -> &'static str {
    "buy milk\n"
}

pub(crate) async fn sign_in() -> &'static str {
    "welcome\n"
}
