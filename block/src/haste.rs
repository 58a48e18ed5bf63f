//! Whether a thread may wait for other requests.
//!
//! A queue's thread does a short request to its end by itself (`queue.rs`). It must not wait for another request there:
//! that may be one of its own, long done by the kernel, and nobody but this thread takes its completions. So it works in
//! haste: what would have to wait ends with [`ErrorKind::WouldWait`], before anything is done that cannot be done again,
//! and a worker does the request anew. A wait for the host, for input or output, is no such wait.

use std::cell::Cell;

use crate::error::{BlockError, ErrorKind};

thread_local! {
    static IN_HASTE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` without waiting for other requests.
pub(crate) fn in_haste<T>(work: impl FnOnce() -> T) -> T {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            IN_HASTE.set(false);
        }
    }
    IN_HASTE.set(true);
    let _over = Over;
    work()
}

/// To be asked before a wait for other requests.
///
/// # Errors
/// [`ErrorKind::WouldWait`] where the thread must not.
pub(crate) fn may_wait() -> Result<(), BlockError> {
    if IN_HASTE.get() {
        return Err(BlockError::new(ErrorKind::WouldWait, "another request stands in the way"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_haste_refuses_to_wait_and_it_ends_with_the_work() {
        let inside = in_haste(may_wait);

        assert_eq!(inside.map_err(|e| e.kind()), Err(ErrorKind::WouldWait));
        assert!(may_wait().is_ok());
    }
}
