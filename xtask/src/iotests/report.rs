//! What passed, and whether what failed is explained in `docs/iotests.md`.

use std::fs;

use anyhow::{Context, Result};

use super::suite::{End, Outcome};
use crate::bench::table;
use crate::paths;

/// Prints a line for each set of flags.
pub(super) fn print(flags: &[String], outcomes: &[Outcome]) {
    let mut rows = vec![["flags", "passed", "failed", "fails with QEMU's, too", "not run"].map(str::to_owned).to_vec()];
    for flags in flags {
        let of = |wanted: fn(&End) -> bool| {
            outcomes.iter().filter(|outcome| outcome.flags == *flags && wanted(&outcome.end)).count().to_string()
        };
        let failed = of(|end| matches!(end, End::Failed(_)));
        let (passed, no_judge, not_run) =
            (of(|end| *end == End::Passed), of(|end| *end == End::NoJudge), of(|end| *end == End::NotRun));
        rows.push(vec![flags.clone(), passed, failed, no_judge, not_run]);
    }
    println!("\n{}", table::format(&rows));
}

/// Failures that are not explained. (An explained one may pass: with other flags, or on a machine that is less busy.)
pub(super) fn surprises(outcomes: &[Outcome]) -> Result<Vec<String>> {
    let path = paths::root().join("docs/iotests.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let explained: Vec<&str> = text.lines().flat_map(explained).collect();
    let surprise = |outcome: &Outcome| match &outcome.end {
        End::Failed(why) if !explained.contains(&outcome.test.as_str()) => {
            Some(format!("not explained: {} {}: {why}", outcome.flags, outcome.test))
        }
        _ => None,
    };
    Ok(outcomes.iter().filter_map(surprise).collect())
}

/// The tests in the first column of a table's row: "| `061` `112` | why |".
fn explained(line: &str) -> Vec<&str> {
    let Some(column) = line.strip_prefix("| `").and_then(|rest| rest.split('|').next()) else { return Vec::new() };
    column.split(['`', ' ']).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::explained;

    #[test]
    fn first_column_names_the_tests() {
        assert_eq!(explained("| `061` `112` | because of `x` |"), ["061", "112"]);
        assert!(explained("| flags | `3` |").is_empty());
    }
}
