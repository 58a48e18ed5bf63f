//! Numbers as people write them at the monitor: `0x1000 + 4 * (2 | 1)`.

use std::num::IntErrorKind;

/// How deep parentheses may be.
const MAX_DEPTH: usize = 32;

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpressionError {
    /// The text ends too soon.
    #[error("unexpected end of expression")]
    End,
    /// It goes on too long.
    #[error("extraneous characters at the end of line")]
    Rest,
    /// This cannot stand here.
    #[error("invalid char '{}' in expression", .0.escape_default())]
    Char(char),
    /// A parenthesis stays open.
    #[error("')' expected")]
    Open,
    /// Parentheses and signs are too many.
    #[error("the expression is too deep")]
    Depth,
    /// A number needs more than 64 bits.
    #[error("number too large")]
    Large,
    /// A register has another name.
    #[error("unknown register")]
    Register,
    /// By zero.
    #[error("division by zero")]
    Division,
}

/// What a register of this name, after a `$`, holds.
type Registers<'a> = dyn FnMut(&str) -> Option<u64> + 'a;

/// The value of the whole text.
pub(crate) fn evaluate(text: &str, registers: &mut Registers<'_>) -> Result<i64, ExpressionError> {
    let mut parser = Parser { rest: text.trim_start(), depth: 0, registers };
    let value = parser.sum()?;
    if parser.rest.is_empty() { Ok(value) } else { Err(ExpressionError::Rest) }
}

struct Parser<'a, 'r> {
    rest: &'a str,
    depth: usize,
    registers: &'a mut Registers<'r>,
}

impl Parser<'_, '_> {
    /// Takes one of these signs.
    fn sign(&mut self, signs: &[char]) -> Option<char> {
        let sign = self.rest.chars().next().filter(|sign| signs.contains(sign))?;
        self.skip(sign.len_utf8());
        Some(sign)
    }

    fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default().trim_start();
    }

    fn sum(&mut self) -> Result<i64, ExpressionError> {
        let mut value = self.logic()?;
        while let Some(sign) = self.sign(&['+', '-']) {
            let right = self.logic()?;
            value = if sign == '+' { value.wrapping_add(right) } else { value.wrapping_sub(right) };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, ExpressionError> {
        let mut value = self.product()?;
        while let Some(sign) = self.sign(&['&', '|', '^']) {
            let right = self.product()?;
            value = match sign {
                '&' => value & right,
                '|' => value | right,
                _ => value ^ right,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, ExpressionError> {
        let mut value = self.unary()?;
        while let Some(sign) = self.sign(&['*', '/', '%']) {
            let right = self.unary()?;
            value = match sign {
                '*' => value.wrapping_mul(right),
                _ if right == 0 => return Err(ExpressionError::Division),
                '/' => value.wrapping_div(right),
                _ => value.wrapping_rem(right),
            };
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<i64, ExpressionError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpressionError::Depth);
        }
        let value = match self.sign(&['+', '-', '~', '(', '$']) {
            Some('-') => self.unary()?.wrapping_neg(),
            Some('~') => !self.unary()?,
            Some('(') => {
                let value = self.sum()?;
                self.sign(&[')']).ok_or(ExpressionError::Open)?;
                value
            }
            Some('$') => self.register()?,
            Some(_) => self.unary()?,
            None => self.number()?,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn register(&mut self) -> Result<i64, ExpressionError> {
        let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.');
        let end = self.rest.find(|letter| !is_of_name(letter)).unwrap_or(self.rest.len());
        let name = self.rest.get(..end).unwrap_or_default();
        let value = (self.registers)(name).ok_or(ExpressionError::Register)?;
        self.skip(end);
        Ok(value.cast_signed())
    }

    fn number(&mut self) -> Result<i64, ExpressionError> {
        let end = self.rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let word = self.rest.get(..end).unwrap_or_default();
        let (digits, radix) = match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if word.len() > 1 && word.starts_with('0') => (word, 8),
            None => (word, 10),
        };
        // Addresses use all 64 bits.
        let value = u64::from_str_radix(digits, radix).map_err(|error| match error.kind() {
            IntErrorKind::PosOverflow => ExpressionError::Large,
            _ => self.rest.chars().next().map_or(ExpressionError::End, ExpressionError::Char),
        })?;
        self.skip(end);
        Ok(value.cast_signed())
    }
}
