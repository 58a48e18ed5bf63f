//! The chips of an AT-compatible board.
