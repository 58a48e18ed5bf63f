//! libiscsi's tests of SCSI disks, which `iscsi-test-cu` of Debian's `libiscsi-bin` has, through Linux' SG_IO.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kernel::Flavor;
use crate::suite::stage::Stage;

super::scenarios![libiscsi];

/// What the disk is told. It is there twice: another unit shows another node of the same file.
const UNIT: &str = "serial=raw,wwn=0x5000c50015ea71ac,dpofua=on";
const NODE: &str = "driver=raw,file.driver=file,discard=unmap,file.locking=off";

/// How many tests pass, so that none is left out without being seen.
const PASSED: usize = 151;
/// The tests that fail, and why.
const FAILED: &[(&str, &str)] =
    &[("CompareAndWrite.Simple", COUNT), ("CompareAndWrite.Miscompare", COUNT), ("Inquiry.BlockLimits", LIMIT)];

/// The program counts blocks up to 256 in a field of one byte: 0 of them are no error (SBC-4, 5.2).
const COUNT: &str = "0 blocks are compared and written without an error";
/// `max_unmap_size` is 1 GiB, as in QEMU: more than 1048576 blocks of 512 bytes, which the program takes for a mistake.
const LIMIT: &str = "UNMAP takes more than the program thinks is sane";

/// Tests that the program itself does not survive where the disk is not behind iSCSI: it reaches into a session that is
/// not there.
const NOT_HERE: &[&str] = &["Sanitize.OverwriteReserved"];

/// A family of tests takes no longer than this.
const FAMILY: Duration = Duration::from_secs(400);

fn libiscsi(stage: &Stage<'_>) -> Result<()> {
    let file = stage.image("disk", "raw", "64M")?;
    let mut recipe = stage.vm().flavor(Flavor::Generic).elf().processors(2).memory(768).tools()?;
    recipe = recipe.with(&["-device", "virtio-scsi-pci,id=scsi0"]);
    for way in ["first", "second"] {
        let node = format!("{NODE},node-name={way},file.filename={}", file.display());
        recipe = recipe.with(&["-blockdev", &node, "-device", &format!("scsi-hd,drive={way},{UNIT}")]);
    }
    let mut vm = recipe.boot()?;
    vm.enter_tools()?;
    vm.run("for i in $(seq 100); do [ -e /dev/sdb ] && break; sleep 0.1; done; ls /dev/sda /dev/sdb")?;

    let families = families(&vm.run("chroot /mnt iscsi-test-cu --list")?);
    let mut results = Results::default();
    for (done, family) in families.iter().enumerate() {
        // A lab machine that is silent for long is taken for dead.
        if done % 10 == 9 {
            println!("libiscsi: {done} of {} families", families.len());
        }
        let line =
            format!("chroot /mnt iscsi-test-cu --dataloss --allow-sanitize -t ALL.{family} /dev/sda /dev/sdb; true");
        results.read(&vm.run_within(&line, FAMILY)?);
    }
    println!("libiscsi: {}", results.summary());
    vm.power_off()?;
    let differs = results.differs(FAILED, PASSED);
    ensure!(differs.is_empty(), "{}", differs.join("; "));
    Ok(())
}

/// What is run by itself, of the names that the program lists: families, and single tests of those with one that ends
/// the program, and with it all that would come after.
fn families(listed: &str) -> Vec<String> {
    let broken: BTreeSet<&str> =
        NOT_HERE.iter().filter_map(|test| test.split_once('.')).map(|(name, _)| name).collect();
    let wanted = |name: &&str| {
        let family = name.split('.').next().unwrap_or(name);
        broken.contains(family) == name.contains('.') && !NOT_HERE.contains(name)
    };
    let names = listed.lines().filter_map(|line| line.trim().strip_prefix("ALL."));
    names.filter(wanted).map(str::to_owned).collect()
}

/// How a test went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    Failed,
    /// Begun and not ended.
    Broken,
}

#[derive(Default)]
struct Results(BTreeMap<String, Outcome>);

impl Results {
    /// Reads what the program printed: of each test its name and three dots, then what it has to say, then the outcome.
    fn read(&mut self, said: &str) {
        let (mut family, mut test, mut skipped) = ("", None, false);
        for line in said.lines() {
            let mut rest = line.trim();
            if let Some(name) = rest.strip_prefix("Suite: ") {
                family = name;
            } else if let Some((name, first)) = rest.strip_prefix("Test: ").and_then(|line| line.split_once(" ...")) {
                let name = format!("{family}.{name}");
                self.0.insert(name.clone(), Outcome::Broken);
                (test, skipped, rest) = (Some(name), false, first.trim());
            }
            skipped |= rest.starts_with("[SKIPPED]");
            let outcome = match rest {
                "passed" if skipped => Outcome::Skipped,
                "passed" => Outcome::Passed,
                "FAILED" => Outcome::Failed,
                _ => continue,
            };
            if let Some(test) = test.take() {
                self.0.insert(test, outcome);
            }
        }
    }

    /// What went otherwise than it should.
    fn differs(&self, explained: &[(&str, &str)], passed: usize) -> Vec<String> {
        let failed = self.failed();
        let is_explained = |test: &&&str| explained.iter().any(|(other, _)| other == *test);
        let mut differs: Vec<String> =
            failed.iter().filter(|test| !is_explained(test)).map(|test| format!("{test} fails")).collect();
        differs.extend(
            explained
                .iter()
                .filter(|(test, _)| !failed.contains(test))
                .map(|(test, why)| format!("{test} no longer fails, for which {why:?} was the reason")),
        );
        let really = self.of(Outcome::Passed).count();
        if really != passed {
            differs.push(format!("{really} tests pass, not {passed}"));
        }
        differs
    }

    fn of(&self, outcome: Outcome) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(_, is)| **is == outcome).map(|(name, _)| name.as_str())
    }

    fn failed(&self) -> Vec<&str> {
        self.of(Outcome::Failed).chain(self.of(Outcome::Broken)).collect()
    }

    fn summary(&self) -> String {
        let count = |outcome| self.of(outcome).count();
        format!(
            "{} passed, {} failed, {} skipped",
            count(Outcome::Passed),
            self.failed().len(),
            count(Outcome::Skipped)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
Suite: Read10
  Test: Simple ...passed
  Test: DpoFua ...    [FAILED] READ10 successful but should have failed
FAILED
    1. test_read10_dpofua.c:66  - CU_ASSERT_EQUAL(_r,0)
  Test: Async ...    [SKIPPED] not here
passed
Suite: Write10
  Test: Simple ...Segmentation fault
";

    #[test]
    fn outcomes_are_read_and_a_test_without_one_has_failed() {
        let mut results = Results::default();
        results.read(SAID);
        assert_eq!(results.summary(), "1 passed, 2 failed, 1 skipped");
        assert_eq!(results.failed(), ["Read10.DpoFua", "Write10.Simple"]);
    }

    #[test]
    fn only_what_is_in_the_table_may_fail_and_all_of_it_has_to() {
        let mut results = Results::default();
        results.read(SAID);
        let both = [("Read10.DpoFua", ""), ("Write10.Simple", "")];
        assert_eq!(results.differs(&both, 1), [""; 0]);
        assert_eq!(results.differs(&both[..1], 1), ["Write10.Simple fails"]);
        assert_eq!(results.differs(&[both[0], both[1], ("Read6.Simple", "it")], 2).len(), 2);
    }

    #[test]
    fn family_with_a_test_that_cannot_be_run_comes_in_single_tests() {
        let listed = "ALL\nALL.Read6\nALL.Read6.Simple\nALL.Sanitize\nALL.Sanitize.Reset\nALL.Sanitize.OverwriteReserved\nSCSI.Read6\n";
        assert_eq!(families(listed), ["Read6", "Sanitize.Reset"]);
    }
}
