//! Running other programs, with errors that name the program and what it said.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs a program whose output belongs to the reader; an unsuccessful end is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a program and gives back its standard output; an unsuccessful end is an error that quotes standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", line(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program for `limit` at most, in a process group of its own, which is ended with it: what it started and left
/// behind ends, too. Gives its status; nothing when the time was over.
pub(crate) fn within(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start {}", line(command)))?;
    let start = Instant::now();
    let mut status = None;
    while status.is_none() && start.elapsed() < limit {
        status = child.try_wait()?;
        std::thread::sleep(Duration::from_millis(10));
    }
    let group = i32::try_from(child.id())?;
    #[expect(unsafe_code, reason = "the standard library does not end process groups")]
    // SAFETY: kill takes two numbers; the group is the one that was made for this program.
    unsafe {
        libc::kill(-group, libc::SIGKILL);
    }
    if status.is_none() {
        child.wait()?;
    }
    Ok(status)
}

/// The command as a reader would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// One word as a POSIX shell reads it back unchanged.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn plain_word_stays_as_it_is() {
        assert_eq!(quote("-drive=file=a.qcow2,if=virtio"), "-drive=file=a.qcow2,if=virtio");
    }

    #[test]
    fn word_with_spaces_and_quotes_survives_a_shell() {
        let word = "it's $HOME \"here\"";

        let said = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(word))).output();

        assert_eq!(String::from_utf8_lossy(&said.unwrap().stdout), word);
    }
}
