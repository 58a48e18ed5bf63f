//! An error as one sentence for people, whoever they are told by: standard error, the log, a QMP client.

use std::error::Error;
use std::io::{self, Write};

/// Writes a line to standard error. Where that cannot be written, its disk full or its reader gone, there is nobody to
/// be told, and what is under way goes on.
pub fn to_stderr(line: impl AsRef<str>) {
    let mut bytes = line.as_ref().as_bytes().to_vec();
    bytes.push(b'\n');
    let _ = io::stderr().write_all(&bytes);
}

/// The error and the causes behind it, parted by colons. A cause that the text before it ends with is not said again.
pub fn sentence(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !sentence.ends_with(&text) {
            sentence.push_str(": ");
            sentence.push_str(&text);
        }
        cause = inner.source();
    }
    plain(&sentence)
}

/// The text without the numbers that Rust puts behind the host's words for an error: "(os error 2)" tells nobody more
/// than strerror(3) before it does, and scripts look for a line that ends with those words.
pub fn plain(text: &str) -> String {
    const MARK: &str = " (os error ";
    let mut parts = text.split(MARK);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|letter: char| letter.is_ascii_digit());
        match rest.strip_prefix(')').filter(|_| rest.len() < part.len()) {
            Some(rest) => plain.push_str(rest),
            None => plain.extend([MARK, part]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the log file")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("disk: {0}")]
    struct Telling(#[source] io::Error);

    #[test]
    fn causes_follow_in_the_hosts_words_alone() {
        let error = Outer(io::Error::from_raw_os_error(libc::ENOENT));

        assert_eq!(sentence(&error), "cannot open the log file: No such file or directory");
    }

    #[test]
    fn cause_that_was_said_is_not_said_again() {
        let error = Telling(io::Error::from_raw_os_error(libc::EACCES));

        assert_eq!(sentence(&error), "disk: Permission denied");
    }

    #[test]
    fn only_numbers_of_errors_are_left_out() {
        assert_eq!(plain("a (os error 2): b (os error 13)"), "a: b");
        assert_eq!(plain("disk (os error x) (os error )"), "disk (os error x) (os error )");
        assert_eq!(plain("Kein (Fehler)"), "Kein (Fehler)");
    }
}
