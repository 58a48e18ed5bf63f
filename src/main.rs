//! Rhea.
fn main() {}
