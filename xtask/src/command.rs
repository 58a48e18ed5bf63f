//! Running other programs, with errors that name the program and what it said.

use std::process::{Command, Stdio};

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
