//! Options about devices and the objects they use.

use crate::spec::error::{SpecError, Words, did_you_mean};
use crate::spec::{DeviceSpec, ObjectSpec};

use super::arg::{Arg, Help};
use super::draft::{Draft, PendingDevice};
use super::error::Stop;
use super::help;
use super::legacy;
use super::table::{OptionDef, takes};
use super::text;

pub(super) const OPTIONS: &[OptionDef] = &[
    takes(
        "device",
        "[driver=]TYPE[,PROP=VALUE...]",
        "a device, also as JSON; -device help lists the types, -device TYPE,help the properties",
        device,
    ),
    takes(
        "object",
        "[qom-type=]TYPE,id=ID[,PROP=VALUE...]",
        "an object, also as JSON; -object help lists the types, -object TYPE,help the properties",
        object,
    ),
    takes("debugcon", "CHARDEV", "print what the guest writes to port 0xe9", debugcon),
    takes("display", "none", "how the guest's display is shown; there is none", display),
    takes("vga", "none", "the graphics adapter; there is none", vga),
    takes("vnc", "none", "a display over the network; there is none", vnc),
    takes("net", "none", "network; there is none", network),
    takes("nic", "none", "network; there is none", network),
    takes("parallel", "none", "parallel port; there is none", parallel),
    takes("audiodev", "[driver=]none,id=ID", "sound; there is none", audiodev),
];

fn device(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    match arg.help("driver") {
        Some(Help::All) => return Err(Stop::Print(help::devices())),
        Some(Help::Of(name)) => return Err(help::device(&name).map_or_else(Stop::NoHelp, Stop::Print)),
        None => {}
    }
    let (object, source) = match arg.json()? {
        Some(object) => (object, crate::spec::read::Source::Json),
        None => (text::flat(arg.pairs(Some("driver"))?, &[]), crate::spec::read::Source::Text),
    };
    // Told now, in the order of the command line; the rest of it once all -global are known.
    if let Some(name) = object.get("driver").and_then(serde_json::Value::as_str) {
        DeviceSpec::variant(name)?;
    }
    draft.devices.push(PendingDevice { arg: arg.clone(), object, source });
    Ok(())
}

fn object(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    match arg.help("qom-type") {
        Some(Help::All) => return Err(Stop::Print(help::objects())),
        Some(Help::Of(name)) => return Err(Stop::Print(help::object(&name)?)),
        None => {}
    }
    let (object, source) = arg.object("qom-type")?;
    draft.spec.objects.push(ObjectSpec::read(object, source)?);
    Ok(())
}

fn debugcon(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.text()? == "none" {
        return Ok(());
    }
    let chardev = legacy::add(draft, arg.text()?, "debugcon")?;
    let device = format!("isa-debugcon,chardev={}", chardev.replace(',', ",,"));
    let object = text::flat(text::pairs(&device, Some("driver"))?, &[]);
    let source = crate::spec::read::Source::Text;
    draft.devices.push(PendingDevice { arg: arg.clone(), object, source });
    Ok(())
}

/// Accepts `none`, and refuses what QEMU has besides.
fn only_none(arg: &Arg, what: &str, others: &[&str], instead: &str) -> Result<(), Stop> {
    let text = arg.text()?;
    let name = text.split(',').next().unwrap_or_default();
    if name == "help" {
        return Err(Stop::Print(String::from("none\n")));
    }
    if text == "none" {
        return Ok(());
    }
    if others.contains(&name) {
        return Err(SpecError::refused(format_args!("{what} {name}"), instead).into());
    }
    let hint = did_you_mean(name, ["none"]);
    Err(SpecError::new(format!("unknown {what}: {}{hint}", crate::spec::error::Shown(name))).into())
}

fn display(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.display_given = true;
    let others = ["gtk", "sdl", "vnc", "curses", "egl-headless", "spice-app", "dbus", "cocoa", "default"];
    let instead = "use -display none, with -nographic or -serial for a text console";
    only_none(arg, "display type", &others, instead)
}

fn vga(_: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let others = ["std", "cirrus", "vmware", "qxl", "xenfb", "virtio", "tcx", "cg3"];
    only_none(arg, "vga type", &others, "use -vga none, with -nographic or -serial for a text console")
}

fn vnc(_: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.text()? == "none" {
        return Ok(());
    }
    Err(SpecError::refused("another display than 'none'", "there is no display; use -nographic or -serial").into())
}

fn network(_: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let others = ["nic", "user", "tap", "bridge", "socket", "vde", "l2tpv3", "vhost-user", "passt"];
    only_none(arg, "network type", &others, "use none")
}

fn parallel(_: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    only_none(arg, "parallel port", &["null", "stdio", "pty", "vc"], "use -parallel none")
}

fn audiodev(_: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(String::from("Available audio drivers:\nnone\n")));
    }
    let (object, _) = arg.object("driver")?;
    if !object.contains_key("id") {
        return Err(SpecError::missing("id").into());
    }
    match object.get("driver").and_then(serde_json::Value::as_str) {
        None => return Err(SpecError::missing("driver").into()),
        Some("none") => {}
        Some(other) => return Err(SpecError::refused(format_args!("audio driver '{other}'"), "use none").into()),
    }
    match object.keys().find(|key| !matches!(key.as_str(), "driver" | "id")) {
        Some(key) => Err(SpecError::unknown(Words::Parameters, key, ["driver", "id"]).into()),
        None => Ok(()),
    }
}
