//! What is said on the line, written down (`-qtest-log`): a line for each, with the direction and the seconds since the
//! client came.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::QtestError;

struct Sink {
    to: Box<dyn Write + Send>,
    opened: Instant,
}

/// Where it is written; nowhere for `none`, standard error when nothing is said.
pub struct Log(Option<Mutex<Sink>>);

impl Log {
    /// Opens what `-qtest-log` names.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn open(path: Option<&str>) -> Result<Self, QtestError> {
        let to: Box<dyn Write + Send> = match path {
            Some("none") => return Ok(Self(None)),
            Some(path) => {
                let refused = |source| QtestError::Log { path: path.to_owned(), source };
                Box::new(File::create(path).map_err(refused)?)
            }
            None => Box::new(io::stderr()),
        };
        Ok(Self(Some(Mutex::new(Sink { to, opened: Instant::now() }))))
    }

    /// A client came; time begins.
    pub(super) fn opened(&self) {
        self.with(|sink| {
            sink.opened = Instant::now();
            writeln!(sink.to, "[I {:.06}] OPENED", 0.0)
        });
    }

    /// The client went.
    pub(super) fn closed(&self) {
        self.with(|sink| writeln!(sink.to, "[I +{:.06}] CLOSED", sink.opened.elapsed().as_secs_f64()));
    }

    /// The client's line.
    pub(super) fn received(&self, text: &str) {
        self.line('R', text);
    }

    /// A line to the client.
    pub(super) fn sent(&self, text: &str) {
        self.line('S', text);
    }

    fn line(&self, direction: char, text: &str) {
        self.with(|sink| writeln!(sink.to, "[{direction} +{:.06}] {text}", sink.opened.elapsed().as_secs_f64()));
    }

    fn with(&self, write: impl FnOnce(&mut Sink) -> io::Result<()>) {
        if let Some(sink) = &self.0
            && let Err(error) = write(&mut sink.lock().unwrap_or_else(PoisonError::into_inner))
        {
            log::debug!("qtest's log: {error}");
        }
    }
}
