//! PCI hot-plug as an operating system finds it (ACPI 6.5, 6.3.3 and 5.6.4; QEMU's docs/specs/acpi_pci_hotplug.rst):
//! a device for each slot, which can be ejected, and the event that says which slots changed.

use super::AcpiSpec;
use super::aml::{
    Aml, Space, and, device, dword_fields, if_, integer, local0, method, name, notify, path, region, scope,
    serialized_method, store,
};
use super::dsdt::{SLOTS, taken};
use crate::x86_64::layout::ports;

/// Notification values (ACPI 6.5, table 5.166): look again, and let go.
const DEVICE_CHECK: u64 = 1;
const EJECT_REQUEST: u64 = 3;

/// First port of the registers, if there are any.
pub(super) fn ports(spec: &AcpiSpec) -> Option<u16> {
    (spec.hotplug_slots != 0).then_some(ports::PCI_HOTPLUG)
}

fn slot_numbers(spec: &AcpiSpec) -> impl Iterator<Item = u64> {
    let slots = spec.hotplug_slots;
    (0..SLOTS).filter(move |slot| slots >> slot & 1 == 1)
}

fn slot_name(slot: u64) -> String {
    format!("S{slot:02X}")
}

/// What stands below the PCI root: the registers, and the slots.
pub(super) fn slots(spec: &AcpiSpec) -> Vec<Aml> {
    let Some(base) = ports(spec) else { return Vec::new() };
    let mut terms =
        vec![region("PCST", Space::SystemIo, base.into(), 12), dword_fields("PCST", &["PCIU", "PCID", "PCEJ"])];
    terms.extend(slot_numbers(spec).map(slot));
    terms
}

fn slot(slot: u64) -> Aml {
    device(
        &slot_name(slot),
        &[
            name("_ADR", integer(slot << 16)),
            name("_SUN", integer(slot)),
            method("_EJ0", 1, &[store(integer(1 << slot), path("PCEJ"))]),
        ],
    )
}

/// The handler of general-purpose event 1. Reading the plugged slots takes them, so both are read once.
pub(super) fn event(spec: &AcpiSpec) -> Option<Aml> {
    ports(spec)?;
    let register = |name: &str| path(&format!("\\_SB.PCI0.{name}"));
    let tell = |event: u64| {
        slot_numbers(spec).map(move |slot| {
            let device = path(&format!("\\_SB.PCI0.{}", slot_name(slot)));
            if_(and(local0(), integer(1 << slot)), &[notify(device, integer(event))])
        })
    };
    let mut terms = vec![store(register("PCIU"), local0())];
    terms.extend(tell(DEVICE_CHECK));
    terms.push(store(register("PCID"), local0()));
    terms.extend(tell(EJECT_REQUEST));
    Some(scope("\\_GPE", &[serialized_method("_E01", 0, &terms)]))
}

/// Keeps the registers' ports from being given to anybody else.
pub(super) fn ports_taken(spec: &AcpiSpec) -> Option<Aml> {
    let length = u8::try_from(ports::PCI_HOTPLUG_LEN).ok()?;
    ports(spec).map(|base| taken("PHPR", "PCI hot-plug resources", base, length))
}
