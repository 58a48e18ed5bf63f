//! The scenarios, by what they are about.

mod boot;
mod crash;
mod crowd;
mod debugger;
mod disks;
mod firmware;
mod hotplug;
mod images;
mod installed;
mod kernels;
mod libiscsi;
mod libvirt;
mod life;
mod scsi;
mod uefi;

use super::Scenario;

/// Functions with their names.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub(super) const SCENARIOS: &[crate::suite::Scenario] =
            &[$(crate::suite::Scenario { name: stringify!($name), play: $name }),*];
    };
}
use scenarios;

/// All there are.
pub(super) fn all() -> impl Iterator<Item = &'static Scenario> {
    usual()
        .chain(libvirt::SCENARIOS)
        .chain(libiscsi::SCENARIOS)
        .chain(crowd::SCENARIOS)
        .chain(kernels::SCENARIOS)
        .chain(installed::SCENARIOS)
}

/// Those that are played when none is named, in the order in which they run.
pub(super) fn usual() -> impl Iterator<Item = &'static Scenario> {
    [
        boot::SCENARIOS,
        life::SCENARIOS,
        disks::SCENARIOS,
        scsi::SCENARIOS,
        hotplug::SCENARIOS,
        images::SCENARIOS,
        crash::SCENARIOS,
        debugger::SCENARIOS,
        // Real mode is what the emulated processor does worst: a lab machine that it breaks has done the rest.
        firmware::SCENARIOS,
        uefi::SCENARIOS,
    ]
    .into_iter()
    .flatten()
}
