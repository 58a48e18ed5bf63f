//! Errors of the block library: a small kind to match on, a sentence for the person, the cause.

use std::fmt;

/// What a caller may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file is not there.
    NotFound,
    /// The host does not let us.
    Permission,
    /// Another program has the image (byte-range lock).
    Locked,
    /// The image breaks its format's rules.
    Corrupt,
    /// The image is valid but uses what is not supported, or the request is not supported for it.
    Unsupported,
    /// The caller's arguments make no sense.
    Invalid,
    /// The disk is full.
    NoSpace,
    /// Another request is in the way and the thread must not wait for it; never told to a caller outside.
    WouldWait,
    /// The image was found to be damaged and is no longer used.
    NoMedium,
    /// Input or output failed.
    Io,
}

/// A failure: kind, one sentence in lower case, except where scripts know it from QEMU, and what is underneath.
#[derive(Debug)]
pub struct BlockError {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// What the host said, where the cause that told it is not kept.
    host: Option<i32>,
    /// Where something is copied: it could not be read.
    reading: bool,
    /// What a person at a terminal may look for, in a sentence of its own.
    hint: Option<String>,
}

impl BlockError {
    /// An error that has no cause beneath it.
    #[must_use]
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None, host: None, reading: false, hint: None }
    }

    /// An I/O error while doing `context`; the kind follows from the error.
    #[must_use]
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOENT) => ErrorKind::NotFound,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::Permission,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        let source = Some(Box::new(source) as _);
        Self { kind, context: context.into(), source, host: None, reading: false, hint: None }
    }

    /// The same error with a sentence around it.
    #[must_use]
    pub fn within(self, context: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            context: context.into(),
            host: self.host,
            reading: self.reading,
            hint: None,
            source: Some(Box::new(self)),
        }
    }

    /// The same with a hint for a person at a terminal, in a sentence of its own: the error's own does without.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The hint of `error` or of what is underneath.
    #[must_use]
    pub fn hint_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        causes.find_map(|error| error.downcast_ref::<Self>()?.hint.as_deref())
    }

    /// The error and all its causes in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(next) = cause {
            text = text + ": " + &next.to_string();
            cause = next.source();
        }
        text
    }

    /// The same error once more, its causes within its sentence.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self {
            kind: self.kind,
            context: self.sentence(),
            source: None,
            host: self.host_errno(),
            reading: self.reading,
            hint: self.hint.clone(),
        }
    }

    /// The same error, of the source of a copy.
    #[must_use]
    pub fn while_reading(self) -> Self {
        Self { reading: true, ..self }
    }

    /// It is of the source of a copy.
    #[must_use]
    pub fn is_of_reading(&self) -> bool {
        self.reading
    }

    /// What a caller may want to tell apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The `errno` a guest or a client gets.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self.kind {
            ErrorKind::NotFound => libc::ENOENT,
            ErrorKind::Permission => libc::EACCES,
            ErrorKind::Locked | ErrorKind::WouldWait => libc::EAGAIN,
            ErrorKind::Unsupported => libc::ENOTSUP,
            ErrorKind::Invalid => libc::EINVAL,
            ErrorKind::NoSpace => self.host_errno().unwrap_or(libc::ENOSPC),
            ErrorKind::NoMedium => libc::ENOMEDIUM,
            ErrorKind::Corrupt | ErrorKind::Io => libc::EIO,
        }
    }

    /// What the host said: a full disk, a quota and the limit of a file's size are different things.
    fn host_errno(&self) -> Option<i32> {
        let mut causes = std::iter::successors(std::error::Error::source(self), |error| error.source());
        self.host.or_else(|| causes.find_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error()))
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for BlockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_that_takes_no_more_says_why() {
        let said = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
        let errors = said.map(|errno| BlockError::io("a", std::io::Error::from_raw_os_error(errno)).within("b"));

        assert_eq!(errors.each_ref().map(BlockError::kind), [ErrorKind::NoSpace; 3]);
        assert_eq!(errors.each_ref().map(BlockError::errno), said);
        assert_eq!(errors.map(|error| error.copied().within("c").copied().errno()), said);
        assert_eq!(BlockError::new(ErrorKind::NoSpace, "full").errno(), libc::ENOSPC);
    }
}
