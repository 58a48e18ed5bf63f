//! Dropping what holds another of its kind, and that the next, by a loop: a chain may be longer than a thread's stack is
//! deep.

use std::any::Any;
use std::cell::RefCell;

thread_local! {
    /// What waits to be dropped by a call further up on this thread, if there is one.
    static WAITING: RefCell<Option<Vec<Box<dyn Any>>>> = const { RefCell::new(None) };
}

/// Drops `what`: here, or, where this is called while something is dropped in here, after that.
pub(crate) fn let_go<T: 'static>(what: T) {
    let mut what: Option<Box<dyn Any>> = Some(Box::new(what));
    // At the end of a thread there is nowhere to wait, and little left to drop.
    let begins = WAITING.try_with(|waiting| match &mut *waiting.borrow_mut() {
        Some(waiting) => {
            waiting.extend(what.take());
            false
        }
        none => {
            *none = Some(Vec::new());
            true
        }
    });
    drop(what);
    if begins != Ok(true) {
        return;
    }
    while let Ok(Some(next)) = WAITING.try_with(|waiting| waiting.borrow_mut().as_mut().and_then(Vec::pop)) {
        drop(next);
    }
    let _ = WAITING.try_with(|waiting| waiting.borrow_mut().take());
}
