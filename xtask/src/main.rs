//! Rhea developer commands.
fn main() {}
