//! Pages over the request log: [`UsagePage`] for callers, [`OperatorPage`] for operators.
//!
//! One address answers with data as JSON, and to a browser with a page that draws these data and
//! keeps itself up to date.

mod answer;
mod operator_page;
mod quota_json;
mod usage_page;

pub use self::{
    operator_page::{OperatorPage, OperatorPageBuilder},
    usage_page::{UsagePage, UsagePageBuilder},
};
