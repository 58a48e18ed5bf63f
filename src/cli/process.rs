//! Options about the process.

use log::LevelFilter;

use crate::spec::SpecError;
use crate::spec::error::{Shown, listed};
use crate::spec::process::{AddFdSpec, MsgSpec, RunAs, SandboxSpec};

use super::arg::Arg;
use super::draft::Draft;
use super::error::Stop;
use super::help;
use super::table::{OptionDef, flag, takes};

pub(super) const OPTIONS: &[OptionDef] = &[
    flag("nodefaults", "no devices but those asked for", no_defaults),
    flag("daemonize", "go into the background once all is set up", daemonize),
    takes("pidfile", "FILE", "write the process's number there", pidfile),
    takes("runas", "USER", "become this user, by name or as UID:GID, once all is set up", runas),
    takes("chroot", "DIR", "make this directory the root once all is set up", chroot),
    takes("sandbox", "on|off", "filter the system calls of each thread; on by default", sandbox),
    takes("msg", "[timestamp=on|off][,guest-name=on|off]", "what stands in front of messages", msg),
    takes("D", "FILE", "write what -d asks for there rather than to standard error", logfile),
    takes("d", "ITEM[,...]", "write more messages; -d help lists the items", debug),
    takes("add-fd", "fd=N,set=N[,opaque=TEXT]", "put an inherited descriptor into the set /dev/fdset/N", add_fd),
];

fn no_defaults(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.no_defaults = true;
    Ok(())
}

fn daemonize(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.spec.process.daemonize = true;
    Ok(())
}

fn pidfile(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.process.pidfile = Some(arg.path());
    Ok(())
}

fn runas(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let text = arg.text()?;
    let numbers = text.split_once(':').map(|(uid, gid)| (uid.parse(), gid.parse()));
    draft.spec.process.runas = Some(match numbers {
        Some((Ok(uid), Ok(gid))) => RunAs::Ids { uid, gid },
        None if !text.is_empty() => RunAs::User(text.to_owned()),
        _ => {
            let sentence = format!("User \"{}\" is neither a name nor UID:GID", Shown(text));
            return Err(SpecError::new(sentence).into());
        }
    });
    Ok(())
}

fn chroot(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.process.chroot = Some(arg.path());
    Ok(())
}

fn sandbox(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(help::properties::<SandboxSpec>()));
    }
    let spec: SandboxSpec = arg.options(Some("enable"))?;
    spec.check()?;
    draft.spec.process.sandbox = spec;
    Ok(())
}

fn msg(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.process.msg = arg.options::<MsgSpec>(None)?;
    Ok(())
}

fn logfile(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.process.logfile = Some(arg.path());
    Ok(())
}

/// Items of `-d`: how much each shows.
pub(super) const ITEMS: &[(&str, LevelFilter, &str)] = &[
    ("guest_errors", LevelFilter::Info, "what guests do wrong"),
    ("unimp", LevelFilter::Info, "what guests ask for in vain"),
    ("info", LevelFilter::Info, "what happens to the machine"),
    ("debug", LevelFilter::Debug, "what helps to find a fault"),
    ("trace", LevelFilter::Trace, "every step"),
    ("none", LevelFilter::Warn, "nothing more"),
];

fn debug(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(help::log_items()));
    }
    for item in arg.text()?.split(',') {
        let Some((_, level, _)) = ITEMS.iter().find(|(name, ..)| *name == item) else {
            let names: Vec<&str> = ITEMS.iter().map(|(name, ..)| *name).collect();
            let sentence = format!("unknown log item '{}'; there are {}", Shown(item), listed(&names));
            return Err(SpecError::new(sentence).into());
        };
        let before = draft.spec.process.verbose.unwrap_or(LevelFilter::Warn);
        draft.spec.process.verbose = Some(before.max(*level));
    }
    Ok(())
}

fn add_fd(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let spec: AddFdSpec = arg.options(None)?;
    spec.check()?;
    draft.spec.process.add_fds.push(spec);
    Ok(())
}
