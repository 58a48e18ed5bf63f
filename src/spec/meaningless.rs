//! What is accepted and changes nothing, because what it would change is not there. One reason a line; everything else
//! that has no effect is refused.

/// Something accepted without effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaningless {
    /// How it is written.
    pub what: &'static str,
    /// Why it has nothing to change.
    pub reason: &'static str,
}

const fn line(what: &'static str, reason: &'static str) -> Meaningless {
    Meaningless { what, reason }
}

/// Options that mean nothing here in whole.
pub const OPTIONS: &[(&str, Option<&str>, &str)] = &[
    ("no-user-config", None, "no configuration files are read"),
    ("no-hpet", None, "there is no HPET"),
    ("k", Some("LANGUAGE"), "there is no display whose keyboard could have a layout"),
];

/// Parts of options that mean nothing here.
pub const PARTS: &[Meaningless] = &[
    line("-display none, -vga none, -vnc none, -net none, -nic none, -parallel none, -audiodev none", "there are none"),
    line("-machine usb=off, vmport=off, smm=off, hpet=off, nvdimm=off, hmat=off", "there are none"),
    line("-machine graphics", "there is no display to draw on"),
    line("-machine suppress-vmdesc", "a migration stream is not described"),
    line("-rtc driftfix=slew", "the clock's periodic interrupt is computed from the time: guests read kvmclock"),
    line("-sandbox obsolete=deny, elevateprivileges=deny, spawn=deny, resourcecontrol=deny", "they are denied always"),
    line("-global PIIX4_PM.disable_s3=1, PIIX4_PM.disable_s4=1", "sleep is never offered"),
    line("-name debug-threads", "threads have names that say what they do always"),
    line("rombar of PCI devices, romfile without a name", "no device has an option ROM"),
    line("x-use-canonical-path-for-ramblock-id of memory objects", "it names memory in a migration from QEMU"),
    line("seal=on of memory-backend-memfd, reserve=on of memory objects", "it is so always"),
];
