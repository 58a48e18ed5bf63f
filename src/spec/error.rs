//! What is wrong with what a user asked for, in the words that QEMU's users and tools know.

use std::fmt;

/// Which of QEMU's ways of saying that a name is unknown applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// Options that are a list of pairs: `Invalid parameter 'x'`.
    Options,
    /// Options and commands that are objects: `Parameter 'x' is unexpected`.
    Parameters,
    /// Properties of a device or machine type: `Property 'type.x' not found`.
    Properties(&'static str),
}

/// One sentence about one thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct SpecError {
    sentence: String,
}

impl SpecError {
    /// Any sentence: it says the cause and what would work, and starts with a capital only if QEMU's does.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into() }
    }

    /// A name that there is not, and the nearest that there is.
    #[must_use]
    pub fn unknown<'a>(words: Words, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let hint = did_you_mean(name, known);
        let name = Shown(name);
        Self::new(match words {
            Words::Options => format!("Invalid parameter '{name}'{hint}"),
            Words::Parameters => format!("Parameter '{name}' is unexpected{hint}"),
            Words::Properties(of) => format!("Property '{of}.{name}' not found{hint}"),
        })
    }

    /// A required parameter is not there.
    #[must_use]
    pub fn missing(name: impl fmt::Display) -> Self {
        Self::new(format!("Parameter '{name}' is missing"))
    }

    /// A value that is not what `expects`, a noun phrase, says.
    #[must_use]
    pub fn expects(name: impl fmt::Display, expects: &str) -> Self {
        Self::new(format!("Parameter '{name}' expects {expects}"))
    }

    /// JSON of the wrong type.
    #[must_use]
    pub fn wrong_type(name: impl fmt::Display, expected: &str) -> Self {
        Self::new(format!("Invalid parameter type for '{name}', expected: {expected}"))
    }

    /// A word that is none of those there are.
    #[must_use]
    pub fn not_one_of(name: impl fmt::Display, value: &str, words: &[&str]) -> Self {
        Self::new(format!("Parameter '{name}' does not accept value '{}'; it takes {}", Shown(value), listed(words)))
    }

    /// Something that QEMU has and this program has not: `what` it is, and what would work instead.
    #[must_use]
    pub fn refused(what: impl fmt::Display, instead: impl fmt::Display) -> Self {
        Self::new(format!("{what} is not supported; {instead}"))
    }
}

/// `a, b or c`.
#[must_use]
pub fn listed(words: &[&str]) -> String {
    match words {
        [] => String::from("nothing"),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// `; did you mean 'x'?`, or nothing when no name is near.
#[must_use]
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default()
}

/// The known name that `name` is most likely meant to be: at most a third of its letters differ.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names are short; a long text is no misspelling, and the table below is quadratic.
    if name.len() > 64 {
        return None;
    }
    let limit = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (above, y) in row.iter_mut().skip(1).zip(&b) {
            let changed = diagonal + usize::from(x != *y);
            diagonal = *above;
            left = changed.min(left + 1).min(*above + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Text of a user in a message: control characters escaped, so that the message stays one line, and not longer than
/// helps.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 512;
        for c in self.0.chars().take(MOST) {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        if self.0.chars().nth(MOST).is_some() { f.write_str("...") } else { Ok(()) }
    }
}
