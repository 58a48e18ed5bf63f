//! A line for people: its words, the command that it names, and what is said about a line that is none.

use crate::qmp::{Command, QmpError};

use super::table::{ABSENT, COMMANDS};
use super::{Context, expression, info};

/// The words of a line after the command's name.
pub(crate) struct Words<'a>(&'a [String]);

impl<'a> Words<'a> {
    /// These words.
    pub(crate) fn of(words: &'a [String]) -> Self {
        Self(words)
    }

    /// The `index`th word.
    pub(crate) fn get(&self, index: usize) -> Option<&'a str> {
        self.0.get(index).map(String::as_str)
    }

    /// The `index`th word, which has to be there.
    pub(crate) fn need(&self, index: usize, what: &str) -> Result<&'a str, Failure> {
        self.get(index).ok_or_else(|| Failure::Usage(format!("{what} is missing")))
    }

    /// The number that the `index`th word comes to.
    pub(crate) fn number(&self, context: &mut Context<'_>, index: usize) -> Result<i64, Failure> {
        let text = self.get(index).unwrap_or_default();
        expression::evaluate(text, &mut |register| context.register(register))
            .map_err(|error| Failure::Usage(error.to_string()))
    }

    /// All words as they were, with a space between.
    pub(crate) fn rest(&self, from: usize) -> String {
        self.0.get(from..).unwrap_or_default().join(" ")
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Why a command printed no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The words are wrong; a hint to `help` follows.
    Usage(String),
    /// The machine said so.
    Error(QmpError),
}

impl From<QmpError> for Failure {
    fn from(error: QmpError) -> Self {
        Self::Error(error)
    }
}

/// What a command prints.
pub(crate) type Printed = Result<String, Failure>;

/// A command of the monitor.
pub(crate) struct Entry {
    /// The name and short forms: `stop|s`.
    pub(crate) names: &'static str,
    /// What follows it.
    pub(crate) parameters: &'static str,
    /// The most words that follow it.
    pub(crate) words: usize,
    /// One line.
    pub(crate) help: &'static str,
    /// Does it.
    pub(crate) run: fn(&mut Context<'_>, &Words<'_>) -> Printed,
}

impl Entry {
    fn answers_to(&self, name: &str) -> bool {
        self.names.split('|').any(|one| one == name)
    }

    fn describe(&self, before: &str) -> String {
        format!("{before}{} {} -- {}\n", self.names, self.parameters, self.help)
    }
}

/// Runs a line; what goes wrong is printed like what goes right.
pub(crate) fn run(context: &mut Context<'_>, line: &str) -> String {
    let words = match split(line) {
        Ok(words) => words,
        Err(why) => return format!("{why}\n"),
    };
    let Some((name, rest)) = words.split_first() else { return String::new() };
    // `x/4xw 0` is as good as `x /4xw 0`.
    let (name, joined) = match name.split_once('/') {
        Some((name, format)) => (name, [vec![format!("/{format}")], rest.to_vec()].concat()),
        None => (name.as_str(), rest.to_vec()),
    };
    run_in(COMMANDS, context, name, &joined, "")
}

fn run_in(table: &[Entry], context: &mut Context<'_>, name: &str, words: &[String], before: &str) -> String {
    let Some(entry) = table.iter().find(|entry| entry.answers_to(name)) else {
        if let Some((_, instead)) = ABSENT.iter().find(|(absent, _)| before.is_empty() && *absent == name) {
            return format!("Error: {name} is not supported: {instead}\n");
        }
        return format!("unknown command: '{before}{name}'\n");
    };
    let usage = |why: &str| format!("{why}\nTry \"help {before}{name}\" for more information\n");
    if words.len() > entry.words {
        return usage(&format!("{}: extraneous characters at the end of line", entry.names));
    }
    match (entry.run)(context, &Words(words)) {
        Ok(text) => text,
        Err(Failure::Usage(why)) => usage(&why),
        Err(Failure::Error(error)) => format!("Error: {error}\n"),
    }
}

/// Words are parted by blanks; in double quotes a blank is part of a word.
fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut letters = line.trim().chars().peekable();
    while let Some(first) = letters.peek().copied() {
        if first.is_whitespace() {
            letters.next();
            continue;
        }
        words.push(if first == '"' { quoted(&mut letters)? } else { plain(&mut letters) });
    }
    Ok(words)
}

type Letters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn plain(letters: &mut Letters<'_>) -> String {
    std::iter::from_fn(|| letters.next_if(|letter| !letter.is_whitespace())).collect()
}

fn quoted(letters: &mut Letters<'_>) -> Result<String, &'static str> {
    letters.next();
    let mut word = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Ok(word),
            '\\' => word.push(match letters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => break,
            }),
            other => word.push(other),
        }
    }
    Err("unterminated string")
}

/// For commands that print nothing when all is well.
pub(crate) fn quiet(context: &mut Context<'_>, command: Command) -> Printed {
    context.run(command)?;
    Ok(String::new())
}

pub(super) fn help(_: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let describe = |table: &[Entry], before: &str, name: Option<&str>| -> String {
        let chosen = table.iter().filter(|entry| name.is_none_or(|name| entry.answers_to(name)));
        chosen.map(|entry| entry.describe(before)).collect()
    };
    Ok(match (words.get(0), words.get(1)) {
        (Some("info"), name) => describe(info::TOPICS, "info ", name),
        (name, _) => describe(COMMANDS, "", name),
    })
}

pub(super) fn run_info(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    Ok(match words.0.split_first() {
        None => info::TOPICS.iter().map(|entry| entry.describe("info ")).collect(),
        Some((topic, rest)) => run_in(info::TOPICS, context, topic, rest, "info "),
    })
}

/// What the words typed so far may go on as: for the Tab key.
pub(crate) fn complete(line: &str) -> Vec<&'static str> {
    let (table, start) = match line.trim_start().strip_prefix("info ").or(line.trim_start().strip_prefix("help ")) {
        Some(rest) if line.trim_start().starts_with("info") => (info::TOPICS, rest),
        Some(rest) => (COMMANDS, rest),
        None => (COMMANDS, line.trim_start()),
    };
    let names = table.iter().filter_map(|entry| entry.names.split('|').next());
    names.filter(|name| name.starts_with(start)).collect()
}
