//! The guide: one chapter for each question of a first project, from the algorithm to production.
//!
//! | chapter | its questions |
//! |---|---|
//! | [features] | what is there? |
//! | [algorithms] | which algorithm? what does each let pass? how are calls to another API limited? |
//! | [placement] | in which order do CORS, authentication, time-outs and the layer go? what is counted? |
//! | [gRPC](grpc) | where does the layer go in a tonic server, and what does a refused call look like? |
//! | [proxies] | which address does a request come from, behind nginx, HAProxy, Caddy, Cloudflare, an ALB or an ingress? |
//! | [plans] | where do the quotas of customers come from? |
//! | [replicas] | what changes with the second replica, and during a release? |
//! | [log-ins](sign_in) | how are passwords and codes protected against guessing? |
//! | [responses] | what do responses say about limits, and what do clients do with it? |
//! | [testing] | how are limits tested without waiting? |
//! | [operating] | what to watch, when to alert, and what does each warning mean? |
//! | [security] | what can a hostile caller do, what is stored, what does a flood cost? |
//! | [from other limiters](from_tower_governor) | what replaces each setting of `tower_governor`, `axum-governor` and `express-rate-limit`? |
//!
//! The docs of each type have the details. Each block of code in the guide is a doc test.

// A chapter is in the docs with any features. Its examples need the features that are named here.

#[doc = include_str!("features.md")]
pub mod features {}

#[doc = include_str!("algorithms.md")]
#[doc = ""]
#[doc = include_str!("algorithms.svg")]
#[doc = ""]
#[doc = include_str!("algorithms_chosen.md")]
pub mod algorithms {}

#[cfg_attr(any(not(doctest), feature = "axum"), doc = include_str!("placement.md"))]
pub mod placement {}

#[cfg_attr(any(not(doctest), feature = "tonic"), doc = include_str!("grpc.md"))]
pub mod grpc {}

#[doc = include_str!("proxies.md")]
pub mod proxies {}

#[doc = include_str!("plans.md")]
pub mod plans {}

#[cfg_attr(any(not(doctest), feature = "redis"), doc = include_str!("replicas.md"))]
pub mod replicas {}

#[doc = include_str!("sign_in.md")]
pub mod sign_in {}

#[doc = include_str!("responses.md")]
pub mod responses {}

#[cfg_attr(
    any(not(doctest), all(feature = "axum", feature = "describe", feature = "testing")),
    doc = include_str!("testing.md")
)]
pub mod testing {}

#[cfg_attr(any(not(doctest), feature = "describe"), doc = include_str!("operating.md"))]
pub mod operating {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("from_tower_governor.md")]
pub mod from_tower_governor {}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use crate::warning::Code;

    const OPERATING: &str = include_str!("operating.md");

    #[test]
    fn the_table_of_warnings_has_each_code_once() {
        let table = OPERATING.split("| code | meanwhile | mend |").nth(1).unwrap();
        let rows = table.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next());
        let all: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(rows.collect::<Vec<_>>(), all);
    }

    /// On a desk, rustdoc shows about 94 characters of a line of code.
    #[test]
    fn no_line_of_code_is_wider_than_a_page() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide");
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let chapters: Vec<_> = files.filter(|path| path.extension().unwrap() == "md").collect();
        assert!(chapters.len() > 10, "{chapters:?}");
        for chapter in chapters {
            let text = fs::read_to_string(&chapter).unwrap();
            let blocks = text.split("```").skip(1).step_by(2);
            let shown = blocks.flat_map(str::lines).filter(|line| !line.starts_with("# "));
            for line in shown {
                assert!(line.chars().count() <= 90, "{}: {line}", chapter.display());
            }
        }
    }

    /// The docs of the crate list them; a test of metrics asserts that list.
    #[test]
    fn alerts_are_about_metrics_and_verdicts_that_there_are() {
        let listed = include_str!("../lib.rs");
        let alerts = OPERATING.split("```").find(|block| block.starts_with("yaml")).unwrap();
        let is_name = |byte: char| byte.is_ascii_lowercase() || byte == '_';
        let metrics: BTreeSet<_> = alerts
            .split(|byte| !is_name(byte))
            .filter(|name| name.starts_with("tower_quota_"))
            .map(|name| name.trim_end_matches("_bucket"))
            .collect();
        assert_eq!(metrics.len(), 5, "{metrics:?}");
        let verdicts = alerts.split("verdict=").skip(1).filter_map(|rest| rest.split('"').nth(1));
        let verdicts: Vec<_> = verdicts.flat_map(|words| words.split('|')).collect();
        assert!(verdicts.len() > 5, "{verdicts:?}");
        for name in metrics.into_iter().chain(verdicts) {
            assert!(listed.contains(&format!("`{name}`")), "{name}");
        }
    }
}
