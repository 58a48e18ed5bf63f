//! The line that is being typed: cursor, history, the keys people expect.

use std::collections::VecDeque;

/// The longest line, in bytes.
const MAX_LINE: usize = 4095;
/// Lines remembered.
const MAX_HISTORY: usize = 64;

/// What a key did besides changing the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// Nothing.
    Edited,
    /// Enter: the line is complete.
    Line(String),
    /// Tab, with what stands before the cursor.
    Complete(String),
}

/// A line, its cursor and those before it.
#[derive(Debug, Default)]
pub(crate) struct Editor {
    line: Vec<u8>,
    cursor: usize,
    history: VecDeque<Vec<u8>>,
    /// Where in the history, counted from the newest; 0 is the line itself.
    back: usize,
    escape: Escape,
    /// The last byte was `\r`: a `\n` after it belongs to it.
    after_return: bool,
}

/// In an escape sequence (ECMA-48): after ESC, or after ESC `[` with a parameter.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    Sequence(u8),
}

impl Editor {
    /// Takes a byte; what the terminal is to show goes to `echo`.
    pub(crate) fn push(&mut self, byte: u8, echo: &mut Vec<u8>) -> Key {
        let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        match (self.escape, byte) {
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Sequence(0),
            (Escape::Begun, _) => self.escape = Escape::None,
            (Escape::Sequence(_), b'0'..=b'9') => self.escape = Escape::Sequence(byte),
            (Escape::Sequence(_), b';') => {}
            (Escape::Sequence(parameter), _) => {
                self.escape = Escape::None;
                self.sequence(parameter, byte, echo);
            }
            (Escape::None, b'\n') if after_return => {}
            (Escape::None, b'\r' | b'\n') => return Key::Line(self.finish(echo)),
            (Escape::None, b'\t') => return Key::Complete(self.before_cursor()),
            (Escape::None, _) => self.plain(byte, echo),
        }
        Key::Edited
    }

    fn plain(&mut self, byte: u8, echo: &mut Vec<u8>) {
        match byte {
            0x1b => self.escape = Escape::Begun,
            0x01 => self.move_to(0, echo),
            0x02 => self.move_to(self.cursor.saturating_sub(1), echo),
            0x03 => self.clear(echo),
            0x04 => self.remove(self.cursor, self.cursor + 1, echo),
            0x05 => self.move_to(self.line.len(), echo),
            0x06 => self.move_to(self.cursor + 1, echo),
            0x08 | 0x7f => self.remove(self.cursor.saturating_sub(1), self.cursor, echo),
            0x0b => self.remove(self.cursor, self.line.len(), echo),
            0x0e => self.recall(self.back.saturating_sub(1), echo),
            0x10 => self.recall(self.back + 1, echo),
            0x15 => self.remove(0, self.cursor, echo),
            0x17 => self.remove(self.word_start(), self.cursor, echo),
            0..0x20 => {}
            _ => self.insert(&[byte], echo),
        }
    }

    fn sequence(&mut self, parameter: u8, last: u8, echo: &mut Vec<u8>) {
        match (parameter, last) {
            (_, b'A') => self.recall(self.back + 1, echo),
            (_, b'B') => self.recall(self.back.saturating_sub(1), echo),
            (_, b'C') => self.move_to(self.cursor + 1, echo),
            (_, b'D') => self.move_to(self.cursor.saturating_sub(1), echo),
            (_, b'H') | (b'1' | b'7', b'~') => self.move_to(0, echo),
            (_, b'F') | (b'4' | b'8', b'~') => self.move_to(self.line.len(), echo),
            (b'3', b'~') => self.remove(self.cursor, self.cursor + 1, echo),
            _ => {}
        }
    }

    /// Puts text in at the cursor.
    pub(crate) fn insert(&mut self, text: &[u8], echo: &mut Vec<u8>) {
        if self.line.len() + text.len() > MAX_LINE {
            return;
        }
        let tail = self.line.split_off(self.cursor.min(self.line.len()));
        self.line.extend(text);
        self.cursor = self.line.len();
        echo.extend(text);
        if !tail.is_empty() {
            echo.extend(&tail);
            step_left(tail.len(), echo);
            self.line.extend(tail);
        }
    }

    /// Shows the line again after something else was printed.
    pub(crate) fn redraw(&self, echo: &mut Vec<u8>) {
        echo.extend(&self.line);
        step_left(self.line.len() - self.cursor.min(self.line.len()), echo);
    }

    /// What is typed is forgotten; what was typed before is not.
    pub(crate) fn reset(&mut self) {
        self.line.clear();
        self.cursor = 0;
        self.back = 0;
        self.escape = Escape::None;
    }

    fn move_to(&mut self, place: usize, echo: &mut Vec<u8>) {
        let place = place.min(self.line.len());
        if place < self.cursor {
            step_left(self.cursor - place, echo);
        } else {
            echo.extend(self.line.get(self.cursor..place).unwrap_or_default());
        }
        self.cursor = place;
    }

    fn remove(&mut self, from: usize, to: usize, echo: &mut Vec<u8>) {
        let to = to.min(self.line.len());
        if from >= to {
            return;
        }
        self.move_to(from, echo);
        self.line.drain(from..to);
        echo.extend(b"\x1b[K");
        let tail = self.line.get(from..).unwrap_or_default();
        echo.extend(tail);
        step_left(tail.len(), echo);
    }

    fn clear(&mut self, echo: &mut Vec<u8>) {
        self.move_to(0, echo);
        self.remove(0, self.line.len(), echo);
        self.back = 0;
    }

    fn recall(&mut self, back: usize, echo: &mut Vec<u8>) {
        if back > self.history.len() {
            return;
        }
        let line = back.checked_sub(1).and_then(|index| self.history.get(index)).cloned().unwrap_or_default();
        self.clear(echo);
        self.insert(&line, echo);
        self.back = back;
    }

    fn word_start(&self) -> usize {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        let end = before.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
        before.get(..end).unwrap_or_default().iter().rposition(|byte| *byte == b' ').map_or(0, |blank| blank + 1)
    }

    fn before_cursor(&self) -> String {
        String::from_utf8_lossy(self.line.get(..self.cursor).unwrap_or_default()).into_owned()
    }

    fn finish(&mut self, echo: &mut Vec<u8>) -> String {
        echo.extend(b"\r\n");
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line).into_owned();
        let is_new = self.history.front() != Some(&line);
        if is_new && !text.trim().is_empty() {
            self.history.push_front(line);
            self.history.truncate(MAX_HISTORY);
        }
        self.reset();
        text
    }
}

fn step_left(count: usize, echo: &mut Vec<u8>) {
    if count > 0 {
        echo.extend(format!("\x1b[{count}D").bytes());
    }
}
