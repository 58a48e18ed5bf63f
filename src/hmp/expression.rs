//! Numbers as people write them at the monitor: `0x1000 + 4 * (2 | 1)`.

/// How deep parentheses may be.
const MAX_DEPTH: usize = 32;

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpressionError {
    /// The text ends too soon or goes on too long.
    #[error("invalid expression")]
    Invalid,
    /// Registers have names here that are not known.
    #[error("unknown register")]
    Register,
    /// By zero.
    #[error("division by zero")]
    Division,
}

/// The value of the whole text.
pub(crate) fn evaluate(text: &str) -> Result<i64, ExpressionError> {
    let mut parser = Parser { rest: text.trim_start(), depth: 0 };
    let value = parser.sum()?;
    if parser.rest.is_empty() { Ok(value) } else { Err(ExpressionError::Invalid) }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
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
            return Err(ExpressionError::Invalid);
        }
        let value = match self.sign(&['+', '-', '~', '(', '$']) {
            Some('-') => self.unary()?.wrapping_neg(),
            Some('~') => !self.unary()?,
            Some('(') => {
                let value = self.sum()?;
                self.sign(&[')']).ok_or(ExpressionError::Invalid)?;
                value
            }
            Some('$') => return Err(ExpressionError::Register),
            Some(_) => self.unary()?,
            None => self.number()?,
        };
        self.depth -= 1;
        Ok(value)
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
        let value = u64::from_str_radix(digits, radix).map_err(|_| ExpressionError::Invalid)?;
        self.skip(end);
        Ok(value.cast_signed())
    }
}
