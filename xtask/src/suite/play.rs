//! The playing itself, inside the lab: a line for each scenario.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;

use super::stage::Theatre;
use super::{Scenario, SuiteArgs, scenarios};

/// Plays the scenarios with these names.
pub(super) fn all(args: &SuiteArgs) -> Result<u8> {
    let theatre = Theatre::open(args.programs.clone())?;
    let wanted = |scenario: &&Scenario| args.filter.iter().any(|name| name == scenario.name);
    let scenarios: Vec<_> = scenarios::all().filter(wanted).collect();
    let next = AtomicUsize::new(0);
    let all_well = AtomicBool::new(true);
    let player = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !play(&theatre, scenario) {
                all_well.store(false, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(player);
        }
    });
    Ok(u8::from(!all_well.into_inner()))
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
    // One call for each, so that two scenarios' lines do not mix.
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

/// Set apart, so that nothing a guest said is taken for a line of ours.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    | {line}")).collect::<Vec<_>>().join("\n")
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
