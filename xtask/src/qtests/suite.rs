//! One run of one program's tests, each by itself: a test that fails ends its program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use crate::command;

/// How one test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Passed,
    /// The test itself says that it does not apply.
    Skipped,
    /// With what it said.
    Failed(String),
}

/// One test and its end.
pub(super) struct Outcome {
    pub(super) program: String,
    pub(super) path: String,
    pub(super) end: End,
}

/// The programs and the monitor under QEMU's names.
pub(super) struct Suite {
    tests: PathBuf,
    names: PathBuf,
    limit: Duration,
}

impl Suite {
    pub(super) fn new(tests: &Path, monitor: &Path, limit: Duration) -> Result<Self> {
        let names = tests.join("monitor");
        fs::create_dir_all(&names)?;
        for name in ["qemu-system-x86_64", "qemu-img"] {
            // Tests follow symbolic links to their end, where the name is another.
            let program = names.join(name);
            if program.is_symlink() || program.exists() {
                fs::remove_file(&program)?;
            }
            fs::copy(monitor, program)?;
        }
        Ok(Self { tests: tests.to_path_buf(), names, limit })
    }

    /// Runs the tests of `program` with one of `only` in their paths.
    pub(super) fn run(&self, program: &str, only: &[String]) -> Result<Vec<Outcome>> {
        let listed = command::output(self.command(program).arg("-l"))?;
        let paths = listed.lines().filter(|line| line.starts_with('/'));
        let wanted = paths.filter(|path| only.is_empty() || only.iter().any(|word| path.contains(word.as_str())));
        wanted
            .map(|path| {
                let end = self.one(program, path)?;
                println!("{program} {path}: {}", end.word());
                Ok(Outcome { program: program.to_owned(), path: path.to_owned(), end })
            })
            .collect()
    }

    fn one(&self, program: &str, path: &str) -> Result<End> {
        let log = self.names.join("log");
        let output = File::create(&log)?;
        let mut test = self.command(program);
        test.args(["--tap", "-k", "-p", path]).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let status = command::within(&mut test, self.limit)?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(match status {
            None => End::Failed(format!("no end within {} s; {}", self.limit.as_secs(), reason(&said))),
            Some(status) if !status.success() => End::Failed(reason(&said)),
            Some(_) if said.contains("# SKIP") => End::Skipped,
            Some(_) => End::Passed,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.tests.join(program));
        command.env("QTEST_QEMU_BINARY", self.names.join("qemu-system-x86_64"));
        command.env("QTEST_QEMU_IMG", self.names.join("qemu-img")).current_dir(&self.names);
        command
    }
}

impl End {
    pub(super) fn word(&self) -> &str {
        match self {
            Self::Passed => "passed",
            Self::Skipped => "skipped",
            Self::Failed(why) => why,
        }
    }
}

/// The line of a log that says most: what the monitor refused, or what the test found wrong.
fn reason(log: &str) -> String {
    let find = |mark: &str| log.lines().find(|line| line.starts_with(mark) && !line.contains("terminating on signal"));
    let line = find("qemu-system-x86_64: ").or_else(|| find("ERROR:")).or_else(|| log.lines().last());
    line.unwrap_or("nothing was said").to_owned()
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn refusal_of_the_monitor_is_the_reason() {
        let log =
            "ok\nqemu-system-x86_64: terminating on signal 15\nqemu-system-x86_64: -device x: no\nERROR:a.c:1: b\n";

        assert_eq!(reason(log), "qemu-system-x86_64: -device x: no");
    }

    #[test]
    fn assertion_is_the_reason_when_nothing_was_refused() {
        assert_eq!(reason("# x\nERROR:a.c:1: b\nBail out!\n"), "ERROR:a.c:1: b");
    }
}
