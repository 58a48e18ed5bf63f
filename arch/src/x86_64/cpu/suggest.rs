//! The nearest names to a mistyped one.

/// At most this many names are offered.
const OFFERED: usize = 3;

/// The names closest to `wrong`, nearest first: those within a third of its length in edits, and those that begin with
/// it, case aside.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    // No name is longer; what is cannot be near one.
    const LONGEST: usize = 64;
    if wrong.is_empty() || wrong.len() > LONGEST {
        return Vec::new();
    }
    let wrong = wrong.to_lowercase().replace('_', "-");
    let limit = wrong.len().div_ceil(3);
    let mut scored: Vec<_> = names
        .map(|name| {
            let lower = name.to_lowercase();
            let score = if lower.starts_with(&wrong) { 0 } else { distance(&wrong, &lower) };
            (score, name)
        })
        .filter(|(score, _)| *score <= limit)
        .collect();
    scored.sort_unstable();
    scored.dedup();
    scored.into_iter().take(OFFERED).map(|(_, name)| name.to_owned()).collect()
}

/// `; did you mean a, b or c?`, or nothing.
pub(super) fn offer(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        [most @ .., last] => format!("; did you mean {} or {last}?", most.join(", ")),
    }
}

/// Levenshtein's edit distance: O(a × b).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(from != *to)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
