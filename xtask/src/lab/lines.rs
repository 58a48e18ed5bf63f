//! Bytes to lines.

/// Collects bytes until a line is whole.
#[derive(Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    /// Hands each line that these bytes complete to `line`, without its end.
    pub(crate) fn feed(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' {
                line(&String::from_utf8_lossy(&std::mem::take(&mut self.0)));
            } else {
                self.0.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn line_cut_in_two_is_handed_on_whole() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());

        lines.feed(b"one\ntw", &mut |line| seen.push(line.to_owned()));
        lines.feed(b"o\nrest", &mut |line| seen.push(line.to_owned()));

        assert_eq!(seen, ["one", "two"]);
    }
}
