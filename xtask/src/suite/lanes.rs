//! Several lab machines at a time, one on each of the host's processors, and what is left for them to play.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{SuiteArgs, play};
use crate::host;
use crate::lab::Lab;
use crate::lab::lines::Lines;

/// The lab machine itself fails now and then: an emulated processor's virtualization is an unusual host. What was not
/// played then is played in another, but not for ever.
const FAILURES: u32 = 12;
/// A lab machine plays so many parts of its share and ends, so that no lane waits long for another's last machine.
const PARTS: usize = 3;
/// No scenario takes this long, so a lab machine that is silent for so long has failed: those of every run, and those
/// that are played by name.
const SILENCE: Duration = Duration::from_secs(180);
const SILENCE_BY_NAME: Duration = Duration::from_secs(420);

/// Plays these scenarios to their end and gives how many passed and how many failed.
pub(super) fn play_all(args: &SuiteArgs, scenarios: &[&'static str]) -> Result<(usize, usize)> {
    let lanes = host::processors()?.len();
    let stage = Programme {
        args,
        share: scenarios.len().div_ceil(lanes * PARTS),
        state: Mutex::new(State { left: scenarios.iter().copied().collect(), ..State::default() }),
    };
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let stage = &stage;
            scope.spawn(move || stage.play(lane));
        }
    });
    let state = stage.lock();
    for name in &state.failed_once {
        println!("in need of a second lab machine: {name}");
    }
    Ok((state.passed, state.failed + state.left.len()))
}

/// What the lanes share.
struct Programme<'a> {
    args: &'a SuiteArgs,
    /// How many scenarios a lab machine plays.
    share: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    left: VecDeque<&'static str>,
    failed_once: Vec<&'static str>,
    passed: usize,
    failed: usize,
    /// Lab machines that did not do all that they were to.
    failures: u32,
}

impl Programme<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plays in one lab machine after another until nothing is left.
    fn play(&self, lane: usize) {
        loop {
            let mut share = self.lock().take(self.share);
            if share.is_empty() {
                return;
            }
            let outcome = self.play_in_lab(lane, &mut share);
            if share.is_empty() {
                continue;
            }
            let why =
                outcome.map_or_else(|error| format!("{error:#}"), |status| format!("it ended with status {status}"));
            println!("a lab machine left {} scenarios to play (again): {why}", share.len());
            self.lock().give_back(share);
        }
    }

    /// Plays in one lab machine; what was played to its end goes out of `share`.
    fn play_in_lab(&self, lane: usize, share: &mut Vec<&'static str>) -> Result<u8> {
        let silence = if self.args.filter.is_empty() { SILENCE } else { SILENCE_BY_NAME };
        let lab = Lab { limit: Duration::from_secs(self.args.timeout), silence, lane, ..Lab::default() };
        let this = std::env::current_exe().context("where is this program?")?;
        let mut words = vec![this.display().to_string(), "suite".into(), "--here".into()];
        words.extend(["--monitor".into(), self.args.programs.monitor.display().to_string()]);
        words.extend(["--img".into(), self.args.programs.img.clone()]);
        words.extend(share.iter().map(|name| (*name).to_owned()));
        let mut lines = Lines::default();
        let mut report = play::Report::default();
        lab.run_watched(&words, &mut |bytes| {
            lines.feed(bytes, &mut |line| {
                report.add(line);
                if let Some((name, ok)) = play::told(line) {
                    self.lock().played(name, ok, share);
                }
            });
            Ok(())
        })
    }
}

impl State {
    /// The next `share` scenarios; none if too many lab machines have failed.
    fn take(&mut self, share: usize) -> Vec<&'static str> {
        let count = if self.failures < FAILURES { share.min(self.left.len()) } else { 0 };
        self.left.drain(..count).collect()
    }

    fn give_back(&mut self, share: Vec<&'static str>) {
        self.failures += 1;
        self.left.extend(share);
    }

    /// The emulated processor stalls a guest now and then, under any monitor: a scenario counts as failed when it fails
    /// in two lab machines.
    fn played(&mut self, name: &str, ok: bool, share: &mut Vec<&'static str>) {
        let Some(at) = share.iter().position(|scenario| *scenario == name) else { return };
        if !ok && !self.failed_once.contains(&share[at]) {
            self.failed_once.push(share[at]);
            return;
        }
        share.remove(at);
        *(if ok { &mut self.passed } else { &mut self.failed }) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{FAILURES, State};

    fn state() -> State {
        State { left: ["a", "b", "c"].into_iter().collect(), ..State::default() }
    }

    #[test]
    fn scenario_fails_when_it_fails_in_two_lab_machines() {
        let mut state = state();
        for failed in [0, 1] {
            let mut share = state.take(1);
            state.played("a", false, &mut share);
            assert_eq!(state.failed, failed);
            state.give_back(share);
            state.left.rotate_right(1);
        }
        assert_eq!(state.failed_once, ["a"]);
    }

    #[test]
    fn what_a_dead_machine_left_is_played_after_the_rest() {
        let mut state = state();
        let mut share = state.take(2);

        state.played("a", true, &mut share);
        state.give_back(share);

        assert_eq!((state.passed, state.take(9)), (1, vec!["c", "b"]));
    }

    #[test]
    fn too_many_dead_machines_end_the_run() {
        let mut state = state();
        for _ in 0..FAILURES {
            let share = state.take(1);
            state.give_back(share);
        }

        assert!(state.take(1).is_empty());
        assert_eq!(state.left.len(), 3);
    }
}
