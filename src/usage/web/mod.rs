//! Pages over the request log: [`UsagePage`] for callers, [`OperatorPage`] for operators.
//!
//! One address answers with JSON, and to a browser with a page that draws this JSON and updates itself.

mod answer;
mod operator_page;
mod quota_json;
mod usage_page;

pub use self::{
    operator_page::{OperatorPage, OperatorPageBuilder},
    usage_page::{UsagePage, UsagePageBuilder},
};
