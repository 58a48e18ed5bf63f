//! The scenarios, by what they are about.

mod boot;
mod crash;
mod disks;
mod images;
mod life;

use super::Scenario;

/// Functions with their names.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub(super) const SCENARIOS: &[crate::suite::Scenario] =
            &[$(crate::suite::Scenario { name: stringify!($name), play: $name }),*];
    };
}
use scenarios;

/// All of them, in the order in which they run.
pub(super) fn all() -> impl Iterator<Item = &'static Scenario> {
    [boot::SCENARIOS, life::SCENARIOS, disks::SCENARIOS, images::SCENARIOS, crash::SCENARIOS].into_iter().flatten()
}
