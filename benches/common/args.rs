//! The command line: `benches/run [--quick] [--seconds N] [--row part of a name] [part of a title …]`.

/// What was asked for.
pub struct Args {
    /// A smoke run: small numbers of keys and few rounds.
    pub quick: bool,
    /// How long fresh keys churn.
    pub seconds: u64,
    filters: Vec<String>,
    row: String,
}

impl Args {
    pub fn parse() -> Self {
        let mut args = Self { quick: false, seconds: 60, filters: Vec::new(), row: String::new() };
        let mut given = std::env::args().skip(1);
        while let Some(arg) = given.next() {
            match arg.as_str() {
                "--bench" => {} // from cargo
                "--quick" => (args.quick, args.seconds) = (true, 1),
                "--seconds" => {
                    let seconds = given.next().and_then(|seconds| seconds.parse().ok());
                    args.seconds = seconds.expect("`--seconds` and a whole number");
                }
                "--row" => args.row = given.next().expect("`--row` and a part of a name"),
                filter => args.filters.push(filter.to_lowercase()),
            }
        }
        args
    }

    /// Whether the table of this title is wanted.
    pub fn wants(&self, title: &str) -> bool {
        let title = title.to_lowercase();
        self.filters.is_empty() || self.filters.iter().any(|filter| title.contains(filter))
    }

    /// Whether the row of this name is wanted. Benchmarks whose rows are many ask for it.
    #[allow(dead_code, reason = "some benchmarks have few rows")]
    pub fn wants_row(&self, name: &str) -> bool {
        name.contains(&self.row)
    }

    /// `full`, or `quick` in a smoke run.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
