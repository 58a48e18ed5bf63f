//! What passed, and whether what failed is explained in `docs/qtests.md`.

use std::fs;

use anyhow::{Context, Result};

use super::build::PROGRAMS;
use super::suite::{End, Outcome};
use crate::bench::table;
use crate::paths;

/// Prints a line for each program.
pub(super) fn print(outcomes: &[Outcome]) {
    let mut rows = vec![["program", "passed", "failed", "skipped"].map(str::to_owned).to_vec()];
    for program in PROGRAMS {
        let of = |wanted: fn(&End) -> bool| {
            outcomes.iter().filter(|outcome| outcome.program == *program && wanted(&outcome.end)).count().to_string()
        };
        let passed = of(|end| *end == End::Passed);
        let failed = of(|end| matches!(end, End::Failed(_)));
        rows.push(vec![(*program).to_owned(), passed, failed, of(|end| *end == End::Skipped)]);
    }
    println!("\n{}", table::format(&rows));
}

/// Failures that are not explained, and explained ones that do not fail (if `whole`, that is, all tests were run).
pub(super) fn surprises(outcomes: &[Outcome], whole: bool) -> Result<Vec<String>> {
    let path = paths::root().join("docs/qtests.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let explained: Vec<&str> = text.lines().filter_map(explained).collect();
    let mut surprises = Vec::new();
    for outcome in outcomes {
        if let End::Failed(why) = &outcome.end
            && !explained.iter().any(|pattern| matches(pattern, &outcome.path))
        {
            surprises.push(format!("not explained: {} {}: {why}", outcome.program, outcome.path));
        }
    }
    let fails = |pattern: &str| {
        outcomes.iter().any(|outcome| matches!(outcome.end, End::Failed(_)) && matches(pattern, &outcome.path))
    };
    let idle = explained.iter().filter(|pattern| whole && !fails(pattern));
    surprises.extend(idle.map(|pattern| format!("explained, but nothing fails: {pattern}")));
    Ok(surprises)
}

/// The test in the first column of a table's row: "| `/x86_64/ide/flush` | why |".
fn explained(line: &str) -> Option<&str> {
    line.strip_prefix("| `/")?;
    line.strip_prefix("| `")?.split('`').next()
}

/// Whether `pattern`, which may end in `*`, names `path`.
fn matches(pattern: &str, path: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == path, |beginning| path.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::{explained, matches};

    #[test]
    fn first_column_names_the_test() {
        assert_eq!(explained("| `/x86_64/ide/*` | because |"), Some("/x86_64/ide/*"));
        assert_eq!(explained("| ide-test | 3 |"), None);
    }

    #[test]
    fn star_stands_for_the_rest() {
        assert!(matches("/a/*", "/a/b/c") && matches("/a", "/a") && !matches("/a", "/a/b"));
    }
}
