//! Options about what the guest starts.

use serde_json::Value;

use crate::spec::boot::{BootOptions, FwCfgSpec, OptionRomSpec};
use crate::spec::read::{self, Source};

use super::arg::Arg;
use super::draft::Draft;
use super::error::Stop;
use super::help;
use super::table::{OptionDef, flag, takes};
use super::text;

pub(super) const OPTIONS: &[OptionDef] = &[
    takes("kernel", "FILE", "kernel to start: bzImage, ELF or multiboot", kernel),
    takes("initrd", "FILE", "initial ramdisk, or multiboot's modules: FILE [ARGUMENTS],FILE...", initrd),
    takes("append", "TEXT", "command line of the kernel", append),
    takes("bios", "FILE", "firmware to start; SeaBIOS when there is no kernel", bios),
    takes("L", "DIR", "directory in which firmware is looked for first", data_dir),
    takes("fw_cfg", "[name=]NAME,file=FILE|string=TEXT", "a file for firmware and guest", fw_cfg),
    takes("option-rom", "[romfile=]FILE[,bootindex=N]", "a ROM that firmware runs", option_rom),
    takes(
        "boot",
        "[order=]DRIVES[,once=DRIVES][,menu=on|off][,strict=on|off]",
        "order of drives that firmware starts from",
        boot,
    ),
    flag("no-fd-bootchk", "firmware starts floppies without a signature, too", no_floppy_check),
    flag("S", "do not run the guest until the command cont", paused),
    flag("no-reboot", "turn off when the guest reboots; short for -action reboot=shutdown", no_reboot),
    flag("no-shutdown", "stop when the guest turns off; short for -action shutdown=pause", no_shutdown),
    takes("action", "EVENT=ACTION[,...]", "what reboot, shutdown, panic and watchdog do", action),
    takes("watchdog-action", "ACTION", "short for -action watchdog=ACTION", watchdog_action),
];

fn kernel(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.boot.kernel = Some(arg.path());
    Ok(())
}

fn initrd(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.boot.initrd = Some(arg.path());
    Ok(())
}

fn append(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.boot.append = Some(arg.text()?.to_owned());
    Ok(())
}

fn bios(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.boot.firmware = Some(arg.path());
    Ok(())
}

fn data_dir(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.boot.data_dirs.push(arg.path());
    Ok(())
}

fn fw_cfg(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let spec: FwCfgSpec = arg.options(Some("name"))?;
    spec.check()?;
    if !spec.name.starts_with("opt/") {
        let warning = format!("externally provided fw_cfg item names should be prefixed with \"opt/\": {}", spec.name);
        draft.spec.warnings.push(warning);
    }
    draft.spec.boot.files.push(spec);
    Ok(())
}

fn option_rom(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let spec: OptionRomSpec = arg.options(Some("romfile"))?;
    draft.spec.boot.option_roms.push(spec);
    Ok(())
}

fn boot(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(help::properties::<BootOptions>()));
    }
    let object = text::flat(arg.pairs(Some("order"))?, &[]);
    read::read_below::<BootOptions>("boot", object.clone(), Source::Text)?.check()?;
    let all = draft.machine.entry("boot").or_insert_with(|| Value::Object(serde_json::Map::new()));
    if let Value::Object(all) = all {
        all.extend(object);
    }
    Ok(())
}

fn no_floppy_check(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.spec.boot.any_floppy = true;
    Ok(())
}

fn paused(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.spec.start_paused = true;
    Ok(())
}

fn no_reboot(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.spec.actions.reboot = crate::qmp::command::args::RebootAction::Shutdown;
    Ok(())
}

fn no_shutdown(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.spec.actions.shutdown = crate::qmp::command::args::ShutdownAction::Pause;
    Ok(())
}

fn action(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    for pair in arg.pairs(None)? {
        draft.spec.actions.set(&pair.key, &pair.value)?;
    }
    Ok(())
}

fn watchdog_action(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    Ok(draft.spec.actions.set("watchdog", arg.text()?)?)
}
