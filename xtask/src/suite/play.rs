//! The playing itself, inside the lab: a line for each scenario.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;

use super::stage::Theatre;
use super::{Scenario, SuiteArgs, scenarios};

/// Plays the scenarios with these names.
pub(super) fn all(args: &SuiteArgs) -> Result<u8> {
    let theatre = Theatre::open(args.programs.clone())?;
    let wanted = |scenario: &&Scenario| args.filter.iter().any(|name| name == scenario.name);
    let scenarios: Vec<_> = scenarios::all().filter(wanted).collect();
    let played: Vec<bool> = scenarios.into_iter().map(|scenario| play(&theatre, scenario)).collect();
    Ok(u8::from(played.contains(&false)))
}

/// Plays one and prints how it went.
fn play(theatre: &Theatre, scenario: &Scenario) -> bool {
    let start = Instant::now();
    let mut complaints = String::new();
    let outcome = theatre.stage(scenario.name).and_then(|stage| {
        let outcome = (scenario.play)(&stage);
        complaints = stage.complaints();
        outcome
    });
    let seconds = start.elapsed().as_secs_f64();
    match &outcome {
        Ok(()) => println!("ok {} ({seconds:.1} s)", scenario.name),
        Err(error) => {
            let details = indented(&format!("{error:#}\n{complaints}"));
            println!("not ok {} ({seconds:.1} s)\n{details}", scenario.name);
        }
    }
    outcome.is_ok()
}

/// The scenario that a line is about, and whether it went well.
pub(super) fn told(line: &str) -> Option<(&str, bool)> {
    let (rest, ok) = match line.strip_prefix("not ok ") {
        Some(rest) => (rest, false),
        None => (line.strip_prefix("ok ")?, true),
    };
    Some((rest.split_once(" (")?.0, ok))
}

/// What is printed of a scenario in one piece, for several lab machines print at a time: a line with those set apart
/// behind it.
#[derive(Default)]
pub(super) struct Report(String);

impl Report {
    /// Takes a line that a lab machine printed.
    pub(super) fn add(&mut self, line: &str) {
        if !line.starts_with(APART) {
            self.print();
        }
        self.0.push_str(line);
        self.0.push('\n');
        // What follows a failure belongs to it.
        if !line.starts_with(APART) && !line.starts_with("not ok ") {
            self.print();
        }
    }

    fn print(&mut self) {
        // Whoever reads it may be gone; the playing goes on.
        let _ = std::io::stdout().write_all(std::mem::take(&mut self.0).as_bytes());
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.print();
    }
}

/// What stands before a line that is set apart.
const APART: &str = "    | ";

/// Set apart, so that nothing a guest said is taken for a line of ours.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("{APART}{line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn outcome_is_read_from_its_line() {
        assert_eq!(told("ok boots (1.5 s)"), Some(("boots", true)));
        assert_eq!(told("not ok boots (1.5 s)"), Some(("boots", false)));
    }

    #[test]
    fn what_a_guest_said_is_no_outcome() {
        assert_eq!(told("    | ok boots (1.5 s)"), None);
    }
}
