//! Options of QEMU that mean nothing here, and those that are not supported.

use super::table::{Action, OptionDef, refused, refused_flag};
use crate::spec::meaningless;

const fn meaningless_options() -> [OptionDef; meaningless::OPTIONS.len()] {
    let empty = OptionDef { name: "", argument: None, help: "", action: Action::Meaningless("") };
    let mut options = [empty; meaningless::OPTIONS.len()];
    let mut index = 0;
    while index < options.len() {
        let (name, argument, reason) = meaningless::OPTIONS[index];
        options[index] = OptionDef { name, argument, help: reason, action: Action::Meaningless(reason) };
        index += 1;
    }
    options
}

/// Accepted without effect.
pub(super) const MEANINGLESS: &[OptionDef] = &meaningless_options();

const SERIAL: &str = "there is no display; use -nographic or -serial";
const DISK: &str = "use -drive file=IMAGE";
const PLAIN: &str = "leave it out";

/// Known and not supported; what would work.
pub(super) const OPTIONS: &[OptionDef] = &[
    refused("dtb", "FILE", "leave it out: PCs are described by ACPI"),
    refused("acpitable", "FILE,...", "leave it out: the machine describes itself"),
    refused("fda", "IMAGE", DISK),
    refused("fdb", "IMAGE", DISK),
    refused("mtdblock", "IMAGE", DISK),
    refused("sd", "IMAGE", DISK),
    refused("fsdev", "TYPE,...", DISK),
    refused("virtfs", "TYPE,...", DISK),
    refused("iscsi", "OPTIONS", "log in with the host's iSCSI initiator and give its block device to -drive"),
    refused("netdev", "TYPE,...", "there is no network device; leave it out or use -nic none"),
    refused_flag("usb", "there is no USB; leave it out or use -machine usb=off"),
    refused("usbdevice", "NAME", "there is no USB; leave it out"),
    refused("spice", "OPTIONS", SERIAL),
    refused_flag("full-screen", SERIAL),
    refused_flag("portrait", SERIAL),
    refused("rotate", "DEGREES", SERIAL),
    refused("g", "WxH[xDEPTH]", SERIAL),
    refused("audio", "DRIVER,...", "there is no sound; leave it out or use -audiodev none,id=ID"),
    refused_flag("audio-help", "there is no sound"),
    refused("watchdog", "MODEL", "there is no watchdog; leave it out"),
    refused("tpmdev", "TYPE,...", "there is no TPM; leave it out"),
    refused("incoming", "URI", "start the guest anew"),
    refused("loadvm", "NAME", "start the guest anew"),
    refused_flag("only-migratable", PLAIN),
    refused("dump-vmstate", "FILE", PLAIN),
    refused("readconfig", "FILE", "give the options on the command line"),
    refused("set", "GROUP.ID.PROPERTY=VALUE", "give the property where the thing is defined, or with -global"),
    refused("compat", "OPTIONS", PLAIN),
    refused_flag("preconfig", "use -S"),
    refused_flag("singlestep", PLAIN),
    refused("icount", "OPTIONS", "KVM does not count instructions; leave it out"),
    refused("seed", "NUMBER", PLAIN),
    refused("dfilter", "RANGES", "use -d"),
    refused("trace", "PATTERN", "use -d trace"),
    refused("plugin", "FILE", PLAIN),
    refused("echr", "NUMBER", "the key is Ctrl-a"),
    refused_flag("async-teardown", PLAIN),
    refused_flag("enable-sync-profile", PLAIN),
    refused_flag("win2k-hack", PLAIN),
    refused("xen-domid", "ID", "use KVM"),
    refused_flag("xen-attach", "use KVM"),
    refused_flag("xen-domid-restrict", "use KVM"),
];
