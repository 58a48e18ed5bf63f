//! `snapshot`: an image's internal snapshots.

use rhea_block::format::qcow2::{Qcow2, Snapshot};
use rhea_block::{BlockError, ErrorKind};

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Want};
use super::{clock, output};
use crate::spec::human_size;

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::value('f').or("format"),
    Opt::flag('l').or("list"),
    Opt::value('a').or("apply"),
    Opt::value('c').or("create"),
    Opt::value('d').or("delete"),
    Opt::flag('q').or("quiet"),
];

/// Runs the verb.
///
/// # Errors
/// The image has no such snapshot, cannot have any, or cannot be read or written.
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let actions = ["l", "a", "c", "d"].map(|action| parsed.all(action).count());
    if actions.iter().sum::<usize>() > 1 {
        return Err(ImgError::Usage("Cannot mix '-l', '-a', '-c', '-d'".to_owned()));
    }
    let change = ["a", "c", "d"].iter().find_map(|action| parsed.get(action).map(|name| (*action, name)));
    let want = Want { no_backing: true, ..Want::of(parsed)? };
    let Some((action, which)) = change else {
        let image = open::open(name, want)?;
        let list = image.layer().as_any().downcast_ref::<Qcow2>().map_or(Ok(Vec::new()), Qcow2::snapshots);
        let list = list.map_err(ImgError::block(format!("Could not read the snapshots of '{name}'")))?;
        return if list.is_empty() { Ok(()) } else { output::line(table(&list)) };
    };
    let image = open::open(name, want.writing())?;
    let verb = match action {
        "a" => "apply",
        "c" => "create",
        _ => "delete",
    };
    let fail = |text: String| ImgError::Said(format!("Could not {verb} snapshot '{which}': {text}"));
    let Some(qcow2) = image.layer().as_any().downcast_ref::<Qcow2>() else {
        return Err(fail(format!("-{} (Operation not supported)", libc::ENOTSUP)));
    };
    let result: Result<(), BlockError> = match action {
        "a" => qcow2.snapshot_apply(which),
        "c" => qcow2.snapshot_create(which, clock::now()),
        _ => delete(qcow2, which),
    };
    result.map_err(|e| {
        fail(match (e.kind(), action) {
            (ErrorKind::NotFound, "a") => "Failed to load snapshot: No such file or directory".to_owned(),
            (ErrorKind::NotFound, "d") => "snapshot not found".to_owned(),
            _ => chain(&e),
        })
    })?;
    image.close()
}

/// Deletes the first snapshot of that name. As in QEMU `-d` takes no numbers, where `-a` and `-l` do.
fn delete(image: &Qcow2, name: &str) -> Result<(), BlockError> {
    match image.snapshots()?.iter().find(|snapshot| snapshot.name == name) {
        Some(snapshot) => image.snapshot_delete(&snapshot.id),
        None => Err(BlockError::new(ErrorKind::NotFound, "snapshot not found")),
    }
}

/// The list as `-l` and `info` show it.
pub(super) fn table(list: &[Snapshot]) -> String {
    let lines = list.iter().map(|s| {
        let icount = Some(s.icount).filter(|icount| *icount != u64::MAX);
        format!("\n{}", line(&s.id, &s.name, s.vm_state_size, s.date.0, s.vm_clock, icount))
    });
    format!("Snapshot list:\n{}{}", heading(), lines.collect::<String>())
}

/// The line above a list.
pub(crate) fn heading() -> String {
    row("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT")
}

/// A line of a list: `date` in seconds since 1970, `vm_clock` in nanoseconds.
pub(crate) fn line(id: &str, name: &str, state: u64, date: u32, vm_clock: u64, icount: Option<u64>) -> String {
    let icount = icount.map(|icount| icount.to_string()).unwrap_or_default();
    row(id, name, &human_size(state), &clock::local(date), &clock::guest(vm_clock), &icount)
}

fn row(id: &str, tag: &str, size: &str, date: &str, clock: &str, icount: &str) -> String {
    format!("{id:<9} {tag:<16} {size:>8}{date:>20}{clock:>13}{icount:>11}")
}
