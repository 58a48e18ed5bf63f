//! Tests counted from what the programs that run them print.

use std::ops::AddAssign;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

impl Counts {
    /// The counts in a line of `cargo test` (`test result: ok. 3 passed; 0 failed; …`) or of the lab's scenarios
    /// (`lab suite: 3 passed, 0 failed`).
    pub(crate) fn in_line(line: &str) -> Self {
        if !line.starts_with("test result: ") && !line.starts_with("lab suite: ") {
            return Self::default();
        }
        Self { passed: number_before(line, " passed"), failed: number_before(line, " failed") }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

fn number_before(line: &str, word: &str) -> u32 {
    let before = line.split_once(word).map_or("", |(before, _)| before);
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn cargo_result_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

        assert_eq!(Counts::in_line(line), Counts { passed: 12, failed: 3 });
    }

    #[test]
    fn lab_result_is_counted() {
        assert_eq!(Counts::in_line("lab suite: 20 passed, 1 failed"), Counts { passed: 20, failed: 1 });
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Counts::in_line("a guest says 5 passed, 5 failed"), Counts::default());
    }
}
