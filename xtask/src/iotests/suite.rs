//! One run of the suite with one set of flags, each test by itself.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::IotestsArgs;
use crate::{command, paths};

/// How one test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Passed,
    /// The test itself says that it does not apply.
    NotRun,
    /// With the first line that differs.
    Failed(String),
    /// Debian's own qemu-img fails here, too.
    NoJudge,
}

/// One test and its end.
pub(super) struct Outcome {
    pub(super) flags: String,
    pub(super) test: String,
    pub(super) end: End,
}

/// The suite and the programs it is run with.
pub(super) struct Suite {
    /// The directory with `check`.
    tests: PathBuf,
    /// Where the tests write.
    work: PathBuf,
    /// What is tested.
    rhea: Programs,
    /// QEMU's own, which tell whether a test can pass at all here.
    own: Programs,
    /// Where QEMU's programs are.
    judge: PathBuf,
    limit: Duration,
}

/// What a test takes for QEMU.
struct Programs {
    image_tool: PathBuf,
    machine: PathBuf,
}

/// Debian's machine was built without the accelerator that the suite asks for; its emulator does as well. (An order
/// of the suite, not of a user: the word stands alone.)
const MACHINE: &str = "#!/bin/bash
for word; do [ \"$word\" = qtest ] && word=tcg; words+=(\"$word\"); done
exec JUDGE/qemu-system-x86_64 \"${words[@]}\"
";

/// The suite of QEMU 7.2 does not know the member `compressed`, which later ones print: it is taken out for it.
const IMAGE_TOOL: &str = "#!/bin/bash
tool=\"${0%/*}/rhea/qemu-img\"
[ \"$1\" = map ] || exec \"$tool\" \"$@\"
\"$tool\" \"$@\" | sed -E 's/, \"compressed\": (true|false)//'
exit \"${PIPESTATUS[0]}\"
";

impl Suite {
    pub(super) fn new(source: &Path, program: &Path, args: &IotestsArgs) -> Result<Self> {
        let work = paths::target().join("iotests");
        let rhea = work.join("rhea");
        fs::create_dir_all(&rhea)?;
        // A copy, since some tests follow symbolic links to their end, where the name is another.
        for name in ["qemu-img", "qemu-system-x86_64"] {
            let copy = rhea.join(name);
            if copy.exists() {
                fs::remove_file(&copy)?;
            }
            fs::copy(program, copy)?;
        }
        let image_tool = script(&work, "qemu-img", IMAGE_TOOL)?;
        let judge = std::path::absolute(&args.judge)?;
        let emulator = MACHINE.replace("JUDGE", &judge.display().to_string());
        let emulator = script(&work, "qemu-system-x86_64", &emulator)?;
        let machine = if args.machine { rhea.join("qemu-system-x86_64") } else { emulator.clone() };
        let own = Programs { image_tool: judge.join("qemu-img"), machine: emulator };
        let rhea = Programs { image_tool, machine };
        let limit = Duration::from_secs(args.limit);
        Ok(Self { tests: source.join("tests/qemu-iotests"), work, rhea, own, judge, limit })
    }

    /// Runs the tests of `only`, or all.
    pub(super) fn run(&self, flags: &str, only: &[String]) -> Result<Vec<Outcome>> {
        let names = if only.is_empty() { self.names(flags)? } else { only.to_vec() };
        names
            .into_iter()
            .map(|test| {
                let end = match self.one(flags, &test, &self.rhea)? {
                    End::Failed(why) => match self.one(flags, &test, &self.own)? {
                        End::Failed(_) => End::NoJudge,
                        _ => End::Failed(why),
                    },
                    end => end,
                };
                println!("{flags} {test}: {}", end.word());
                Ok(Outcome { flags: flags.to_owned(), test, end })
            })
            .collect()
    }

    fn names(&self, flags: &str) -> Result<Vec<String>> {
        let listed = command::output(self.check(flags, &self.rhea).arg("-n"))?;
        let names: Vec<_> = listed.lines().filter_map(|line| Some(line.rsplit('/').next()?.to_owned())).collect();
        if names.is_empty() {
            bail!("the suite lists no test for {flags}");
        }
        Ok(names)
    }

    /// Runs one test with `programs`; what it printed stays in a file of the test's name.
    fn one(&self, flags: &str, test: &str, programs: &Programs) -> Result<End> {
        let scratch = self.work.join("scratch");
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        fs::create_dir_all(&scratch)?;
        let judged = std::ptr::eq(programs, &self.rhea);
        let log = self.work.join(format!("{test}.{}", if judged { "log" } else { "judge.log" }));
        let output = File::create(&log)?;
        let mut check = self.check(flags, programs);
        check.args(["-tap", test]).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let status = command::within(&mut check, self.limit)?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(match status {
            None => End::Failed(format!("no end within {} s", self.limit.as_secs())),
            Some(_) => end_of(&said),
        })
    }

    /// The suite's own program, with its flags and the programs it is to use.
    fn check(&self, flags: &str, programs: &Programs) -> Command {
        let mut check = Command::new("python3");
        check.arg("check").args(flags.split_whitespace()).current_dir(&self.tests);
        check.env("QEMU_IMG_PROG", &programs.image_tool).env("QEMU_PROG", &programs.machine);
        for (variable, program) in
            [("QEMU_IO_PROG", "qemu-io"), ("QEMU_NBD_PROG", "qemu-nbd"), ("QSD_PROG", "qemu-storage-daemon")]
        {
            check.env(variable, self.judge.join(program));
        }
        check.env("TEST_DIR", self.work.join("scratch")).env("SOCK_DIR", std::env::temp_dir().join("rhea-iotests"));
        check
    }
}

fn script(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The end that the suite's output (TAP, with the differences behind it) tells.
fn end_of(said: &str) -> End {
    let verdict = said.lines().find(|line| line.starts_with("ok ") || line.starts_with("not ok "));
    match verdict {
        Some(line) if line.contains("# SKIP") => End::NotRun,
        Some(line) if line.starts_with("ok ") => End::Passed,
        _ => {
            let differs =
                |line: &&str| line.starts_with(['-', '+']) && !line.starts_with("---") && !line.starts_with("+++");
            let line = said.lines().find(differs).or_else(|| said.lines().last());
            End::Failed(line.unwrap_or("nothing was said").to_owned())
        }
    }
}

impl End {
    pub(super) fn word(&self) -> &str {
        match self {
            Self::Passed => "passed",
            Self::NotRun => "not run",
            Self::Failed(why) => why,
            Self::NoJudge => "fails with QEMU's own qemu-img, too",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{End, end_of};

    #[test]
    fn verdict_of_the_suite_is_read() {
        assert_eq!(end_of("1..1\n# running raw 001\nok raw 001\n"), End::Passed);
        assert_eq!(end_of("ok raw 001 # SKIP\n"), End::NotRun);
    }

    #[test]
    fn first_difference_is_the_reason() {
        let said = "not ok raw 001\n--- a.out\n+++ a.out.bad\n@@ -1 +1 @@\n-wanted\n+found\n";

        assert_eq!(end_of(said), End::Failed("-wanted".to_owned()));
        assert_eq!(end_of("Traceback\n"), End::Failed("Traceback".to_owned()));
    }
}
