//! Options about serial ports, monitors and the character devices behind them.

use crate::spec::SpecError;
use crate::spec::chardev::ChardevSpec;
use crate::spec::error::Words;
use crate::spec::process::{MonitorMode, MonitorSpec};
use crate::spec::read::{self, Source};

use super::arg::{Arg, Help};
use super::draft::Draft;
use super::error::Stop;
use super::help;
use super::legacy;
use super::table::{OptionDef, flag, takes};
use super::text;

pub(super) const OPTIONS: &[OptionDef] = &[
    flag("nographic", "no display; serial port and monitor in this terminal, Ctrl-a h for help", nographic),
    takes("serial", "CHARDEV", "the next serial port: stdio, mon:stdio, pty, unix:PATH, none, ...", serial),
    takes("monitor", "CHARDEV", "a monitor for people, on a character device as for -serial", monitor),
    takes("qmp", "CHARDEV", "a QMP monitor, on a character device as for -serial", qmp),
    takes("qmp-pretty", "CHARDEV", "as -qmp, with line breaks", qmp_pretty),
    takes(
        "chardev",
        "[backend=]TYPE,id=ID[,OPTION=VALUE...]",
        "a character device; -chardev help lists the types, -chardev TYPE,help the options",
        chardev,
    ),
    takes("gdb", "CHARDEV", "expect a debugger here, as in target remote: tcp::PORT, unix:PATH, stdio, ...", gdb),
    flag("s", "short for -gdb tcp::1234", gdb_at_1234),
    takes("qtest", "CHARDEV", "drive the devices from here, without a guest; with -accel qtest", qtest),
    takes("qtest-log", "FILE|none", "log of what is said on -qtest; standard error if not given", qtest_log),
    takes(
        "mon",
        "[chardev=]ID[,mode=readline|control][,pretty=on|off]",
        "a monitor on a character device; control is QMP",
        mon,
    ),
];

/// A debugger comes and goes, so its address is listened at, whether or not the user says so.
fn gdb(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    expect_debugger(draft, arg.text()?)
}

fn gdb_at_1234(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    expect_debugger(draft, "tcp::1234")
}

fn expect_debugger(draft: &mut Draft, at: &str) -> Result<(), Stop> {
    let listens = if at.starts_with("tcp:") { ",server=on,wait=off,nodelay=on" } else { "" };
    draft.spec.gdb = if at == "none" { None } else { Some(legacy::add(draft, &format!("{at}{listens}"), "gdb")?) };
    Ok(())
}

fn qtest(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.qtest = Some(legacy::add(draft, arg.text()?, "qtest")?);
    Ok(())
}

fn qtest_log(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.qtest_log = Some(arg.text()?.to_owned());
    Ok(())
}

fn nographic(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.nographic = true;
    Ok(())
}

fn serial(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.serial_given = true;
    let text = arg.text()?;
    if let Some(rest) = text.strip_prefix("mon:")
        && !rest.is_empty()
    {
        draft.monitor_given = true;
    }
    Ok(legacy::add_serial(draft, text)?)
}

fn monitor(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.monitor_given = true;
    Ok(legacy::add_monitor(draft, arg.text()?, legacy::HUMAN)?)
}

fn qmp(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.monitor_given = true;
    Ok(legacy::add_monitor(draft, arg.text()?, legacy::QMP)?)
}

fn qmp_pretty(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.monitor_given = true;
    Ok(legacy::add_monitor(draft, arg.text()?, legacy::QMP_PRETTY)?)
}

fn chardev(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    match arg.help("backend") {
        Some(Help::All) => return Err(Stop::Print(help::chardevs())),
        Some(Help::Of(name)) => return Err(Stop::Print(help::chardev(&name)?)),
        None => {}
    }
    draft.spec.chardevs.push(read_chardev(arg.text()?)?);
    Ok(())
}

/// What `-chardev` and the monitor's `chardev-add` are given.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_chardev(text: &str) -> Result<ChardevSpec, SpecError> {
    ChardevSpec::read(text::flat(legacy::socket_pairs(text, "backend")?, &[]), Source::Text)
}

fn mon(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.monitor_given = true;
    let object = text::flat(arg.pairs(Some("chardev"))?, &[]);
    let spec: MonitorSpec = read::read(object, Source::Text, Words::Options)?;
    if spec.pretty && spec.mode == MonitorMode::Readline {
        return Err(SpecError::new("'pretty' is for QMP; add mode=control").into());
    }
    draft.push_monitor(spec);
    Ok(())
}
