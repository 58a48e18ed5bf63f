//! What the lab machine says to us in the midst of a program's output: lines that start with the byte 1.

/// Every marker starts so. No program prints it by accident.
const PREFIX: &[u8] = b"\x01lab ";
/// Longer markers are none.
const LONGEST: usize = 32;

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// The machine is up; the program starts now.
    Up,
    /// The program ended with this status.
    Exit(u8),
}

/// Takes markers out of a stream that may be cut anywhere.
#[derive(Default)]
pub(crate) struct Filter {
    held: Vec<u8>,
}

impl Filter {
    /// Appends to `plain` what is no marker; gives the markers back.
    pub(crate) fn feed(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Vec<Marker> {
        bytes.iter().filter_map(|byte| self.push(*byte, plain)).collect()
    }

    fn push(&mut self, byte: u8, plain: &mut Vec<u8>) -> Option<Marker> {
        self.held.push(byte);
        let known = self.held.len().min(PREFIX.len());
        let is_marker = self.held[..known] == PREFIX[..known] && self.held.len() <= LONGEST;
        if is_marker && byte != b'\n' {
            return None;
        }
        let held = std::mem::take(&mut self.held);
        let marker = is_marker.then(|| parse(&held)).flatten();
        if marker.is_none() {
            plain.extend(held);
        }
        marker
    }
}

fn parse(line: &[u8]) -> Option<Marker> {
    let words = std::str::from_utf8(line.get(PREFIX.len()..)?).ok()?.trim_end();
    match words.split_once(' ') {
        None if words == "up" => Some(Marker::Up),
        Some(("exit", status)) => status.parse().ok().map(Marker::Exit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, Marker};

    #[test]
    fn marker_cut_in_two_is_found_and_not_shown() {
        let (mut filter, mut plain) = (Filter::default(), Vec::new());

        let first = filter.feed(b"text\x01lab ex", &mut plain);
        let second = filter.feed(b"it 3\nmore", &mut plain);

        assert_eq!((first, second), (vec![], vec![Marker::Exit(3)]));
        assert_eq!(plain, b"textmore");
    }

    #[test]
    fn what_only_looks_like_a_marker_is_shown() {
        let (mut filter, mut plain) = (Filter::default(), Vec::new());

        let markers = filter.feed(b"\x01lab exit many\n\x01lax", &mut plain);

        assert_eq!(markers, []);
        assert_eq!(plain, b"\x01lab exit many\n\x01lax");
    }
}
