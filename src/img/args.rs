//! Command line words, as GNU `getopt_long` takes them: short options in clusters with or without a space before their
//! value, long ones with `=` or a space and in any unambiguous abbreviation, operands between options, `--` at the end.

use std::ffi::OsString;

use rhea_block::crypto::Secrets;

use super::error::ImgError;

/// One option that a verb has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opt {
    short: Option<char>,
    long: Option<&'static str>,
    value: bool,
}

impl Opt {
    /// `-c` without a value.
    pub(super) const fn flag(short: char) -> Self {
        Self { short: Some(short), long: None, value: false }
    }

    /// `-c VALUE`.
    pub(super) const fn value(short: char) -> Self {
        Self { short: Some(short), long: None, value: true }
    }

    /// `--name` without a value.
    pub(super) const fn long_flag(name: &'static str) -> Self {
        Self { short: None, long: Some(name), value: false }
    }

    /// `--name VALUE`.
    pub(super) const fn long_value(name: &'static str) -> Self {
        Self { short: None, long: Some(name), value: true }
    }

    /// The same option, also by a long name.
    pub(super) const fn or(self, name: &'static str) -> Self {
        Self { long: Some(name), ..self }
    }

    fn is(&self, name: &str) -> bool {
        self.long == Some(name) || self.short.is_some_and(|c| name.chars().eq([c]))
    }
}

/// What the words said.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    options: Vec<(Opt, String)>,
    /// What `--object` gave.
    pub(super) secrets: Secrets,
    /// What is no option, in order.
    pub(super) operands: Vec<String>,
}

impl Parsed {
    /// Whether the option was given; `name` is its long name, or its letter.
    pub(super) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(opt, _)| opt.is(name))
    }

    /// The option's value; the last one counts.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// All options in order: the long name, and the value.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.options.iter().filter_map(|(opt, value)| opt.long.map(|name| (name, value.as_str())))
    }

    /// Every value of an option that may come many times.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.options.iter().filter(move |(opt, _)| opt.is(name)).map(|(_, value)| value.as_str())
    }
}

/// Sorts `words` into the options in `table` and operands.
///
/// # Errors
/// An option that is none, lacks its value or has one too many; a word that is not UTF-8.
pub(super) fn parse(words: Vec<OsString>, table: &[Opt]) -> Result<Parsed, ImgError> {
    let mut parsed = Parsed::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let word = text(word)?;
        if word == "--" {
            for rest in words.by_ref() {
                parsed.operands.push(text(rest)?);
            }
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_owned())));
            let opt = find_long(table, name).ok_or_else(|| unrecognized(&word))?;
            let value = match (opt.value, value) {
                (true, Some(value)) => value,
                (true, None) => text(words.next().ok_or_else(|| missing(&word))?)?,
                (false, None) => String::new(),
                (false, Some(_)) => return Err(unrecognized(&word)),
            };
            parsed.options.push((opt, value));
        } else if word.len() > 1 && word.starts_with('-') {
            cluster(&word, table, &mut words, &mut parsed)?;
        } else {
            parsed.operands.push(word);
        }
    }
    Ok(parsed)
}

/// `-abcVALUE`.
fn cluster(
    word: &str,
    table: &[Opt],
    words: &mut impl Iterator<Item = OsString>,
    parsed: &mut Parsed,
) -> Result<(), ImgError> {
    for (at, letter) in word.char_indices().skip(1) {
        let opt = table.iter().find(|opt| opt.short == Some(letter)).copied().ok_or_else(|| unrecognized(word))?;
        if !opt.value {
            parsed.options.push((opt, String::new()));
            continue;
        }
        let rest = &word[at + letter.len_utf8()..];
        let value = if rest.is_empty() { text(words.next().ok_or_else(|| missing(word))?)? } else { rest.to_owned() };
        parsed.options.push((opt, value));
        break;
    }
    Ok(())
}

/// The option called `name`, or the only one whose name begins so.
fn find_long(table: &[Opt], name: &str) -> Option<Opt> {
    let exact = table.iter().find(|opt| opt.long == Some(name));
    let mut begins = table.iter().filter(|opt| opt.long.is_some_and(|long| !name.is_empty() && long.starts_with(name)));
    exact.or_else(|| begins.next().filter(|_| begins.next().is_none())).copied()
}

/// A word as text: names of images are UTF-8 everywhere else (QMP, headers), so here too.
fn text(word: OsString) -> Result<String, ImgError> {
    word.into_string().map_err(|word| ImgError::Usage(format!("'{}' is not UTF-8", word.display())))
}

fn unrecognized(word: &str) -> ImgError {
    ImgError::Usage(format!("unrecognized option '{word}'"))
}

fn missing(word: &str) -> ImgError {
    ImgError::Usage(format!("missing argument for option '{word}'"))
}
