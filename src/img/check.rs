//! `check`: is an image's metadata sound? And repair.

use std::path::Path;
use std::sync::Arc;

use rhea_block::format::qcow2::{CheckReport, Repair, backing_of, check, data_file_of, repair};
use rhea_block::graph::CacheMode;
use rhea_block::layer::Layer;
use rhea_block::nbd::NbdName;
use serde_json::{Map, Value};

use super::args::{Opt, Parsed};
use super::error::{ImgError, chain};
use super::open::{self, Want};
use super::output::{self, Form};
use crate::sentence::to_stderr;

/// The verb's options.
pub(super) const OPTIONS: &[Opt] = &[
    open::OBJECT,
    open::IMAGE_OPTS,
    open::FORCE_SHARE,
    Opt::flag('q').or("quiet"),
    Opt::value('f').or("format"),
    Opt::value('r').or("repair"),
    Opt::value('T').or("cache"),
    Opt::long_value("output"),
];

/// Exit codes: the check itself failed; corruptions; leaks; the format has no check.
const FAILED: u8 = 1;
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NO_CHECK: u8 = 63;

/// Runs the verb.
///
/// # Errors
/// The image cannot be checked (exit codes 1, 63), or something is left that is wrong (2, 3).
pub(super) fn run(parsed: &Parsed) -> Result<(), ImgError> {
    let form = Form::of(parsed.get("output"))?;
    let what = match parsed.get("r") {
        None => None,
        Some("leaks") => Some(Repair::Leaks),
        Some("all") => Some(Repair::All),
        Some(other) => {
            let text = format!("Unknown option value for -r (expecting 'leaks' or 'all'): {other}");
            return Err(ImgError::Usage(text));
        }
    };
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    let cache = open::cache_mode("source ", parsed.get("T"), CacheMode::default())?;
    let want = Want { cache, write: what.is_some(), ..Want::of(parsed)? };
    let file = open::open_file(name, want)?;
    if file.format != "qcow2" {
        drop(file);
        open::open(name, Want { no_backing: true, warn: what.is_some(), ..want })?;
        return Err(ImgError::Said("This image format does not support checks".to_owned()).coded(NO_CHECK));
    }
    let is_one = open::probed(file.layer.as_ref()).is_ok_and(|format| format.as_deref() == Some("qcow2"));
    let failed = if is_one { format!("Check of '{name}' failed") } else { format!("Could not open '{name}'") };
    if is_one && (want.image_opts || name.starts_with("json:")) {
        check_described_backing(name, want)?;
    } else if is_one {
        check_backing(name, &file.layer, want)?;
    }
    if is_one
        && !file.data_file_given
        && data_file_of(file.layer.as_ref()).is_ok_and(|name| name.as_deref() == Some(""))
    {
        // Which file the clusters are in is not known, and counts of this one for them would be taken for leaks.
        return Err(ImgError::Said(format!("Could not open '{name}': 'data-file' is required for this image")));
    }
    let found = examine(&file.layer, what).map_err(ImgError::block(failed))?;
    found.messages.iter().for_each(to_stderr);
    let quiet = parsed.has("q");
    output::beside(match form {
        Form::Human => human(&found, quiet),
        Form::Json if !quiet => output::json(&json(name, &file.format, &found)),
        Form::Json => Ok(()),
    });
    let last = &found.report;
    match (last.check_errors > 0, last.corruptions > 0, last.leaks > 0) {
        (true, ..) => Err(ImgError::Exit(FAILED)),
        (_, true, _) => Err(ImgError::Exit(CORRUPT)),
        (_, _, true) => Err(ImgError::Exit(LEAKS)),
        _ => Ok(()),
    }
}

/// What lies beneath the image must be there, as for every use of it.
fn check_backing(name: &str, file: &Arc<dyn Layer>, want: Want<'_>) -> Result<(), ImgError> {
    let (below, format) = backing_of(file.as_ref()).map_err(ImgError::block(format!("Could not open '{name}'")))?;
    // What the servers of others have is not looked at.
    let is_file = |name: &String| NbdName::parse(name).is_ok_and(|export| export.is_none());
    let Some(below) = below.filter(|below| is_file(below) && open::check_protocol(below).is_ok()) else {
        return Ok(());
    };
    let image = Path::new(name.strip_prefix("file:").unwrap_or(name));
    let shown = open::beside(image, &below).display().to_string();
    let want = Want { format: format.as_deref(), write: false, no_data: true, ..want };
    let Err(e) = open::open(&shown, want) else { return Ok(()) };
    let text = chain(&e);
    // The file's own message names it.
    let why = text.strip_prefix(&format!("Could not open '{shown}': ")).unwrap_or(&text);
    Err(ImgError::Said(format!("Could not open '{name}': Could not open backing file: {why}")))
}

/// The same for an image that is named by options, which may describe what lies beneath it.
fn check_described_backing(name: &str, want: Want<'_>) -> Result<(), ImgError> {
    // The file is open already, maybe for repair.
    let want = Want { write: false, force_share: true, no_data: true, ..want };
    let Err(e) = open::open(name, want) else { return Ok(()) };
    let text = chain(&e);
    let why = text.strip_prefix(&format!("Could not open '{name}': ")).unwrap_or(&text);
    // Everything else is what the check is to find.
    if why.starts_with("Could not open backing file: ") { Err(e) } else { Ok(()) }
}

/// What was found, and what was repaired.
struct Found {
    /// The state at the end.
    report: CheckReport,
    /// What was told of the state at the beginning.
    messages: Vec<String>,
    leaks_fixed: u64,
    corruptions_fixed: u64,
}

fn examine(file: &Arc<dyn Layer>, what: Option<Repair>) -> Result<Found, rhea_block::BlockError> {
    let Some(what) = what else {
        let report = check(file)?;
        let messages = report.messages.clone();
        return Ok(Found { report, messages, leaks_fixed: 0, corruptions_fixed: 0 });
    };
    let repaired = repair(file, what)?;
    file.flush()?;
    Ok(Found {
        leaks_fixed: repaired.leaks_fixed,
        corruptions_fixed: repaired.corruptions_fixed,
        messages: repaired.before.messages,
        report: repaired.after,
    })
}

fn human(found: &Found, quiet: bool) -> Result<(), ImgError> {
    if quiet {
        return Ok(());
    }
    if found.leaks_fixed > 0 || found.corruptions_fixed > 0 {
        output::line(format!(
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n\
             Double checking the fixed image now...",
            found.leaks_fixed, found.corruptions_fixed
        ))?;
    }
    let report = &found.report;
    if report.corruptions + report.leaks + report.check_errors == 0 {
        output::line("No errors were found on the image.")?;
    }
    if report.corruptions > 0 {
        output::line(format!(
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
            report.corruptions
        ))?;
    }
    if report.leaks > 0 {
        output::line(format!(
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.",
            report.leaks
        ))?;
    }
    if report.check_errors > 0 {
        output::line(format!("\n{} internal errors have occurred during the check.", report.check_errors))?;
    }
    if report.total_clusters > 0 && report.allocated_clusters > 0 {
        let of = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        output::line(format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            report.allocated_clusters,
            report.total_clusters,
            of(report.allocated_clusters, report.total_clusters),
            of(report.fragmented_clusters, report.allocated_clusters),
            of(report.compressed_clusters, report.allocated_clusters),
        ))?;
    }
    if report.image_end_offset > 0 {
        output::line(format!("Image end offset: {}", report.image_end_offset))?;
    }
    Ok(())
}

/// In QEMU's order. What is 0 is left out, but for the errors of the check itself.
fn json(name: &str, format: &str, found: &Found) -> Value {
    let report = &found.report;
    let mut object = Map::new();
    let mut number = |key: &str, number: u64| {
        if number > 0 || key == "check-errors" {
            object.insert(key.into(), number.into());
        }
    };
    number("image-end-offset", report.image_end_offset);
    number("compressed-clusters", report.compressed_clusters);
    number("total-clusters", report.total_clusters);
    number("corruptions", report.corruptions);
    number("corruptions-fixed", found.corruptions_fixed);
    number("check-errors", report.check_errors);
    number("leaks", report.leaks);
    number("leaks-fixed", found.leaks_fixed);
    number("allocated-clusters", report.allocated_clusters);
    object.insert("filename".into(), name.into());
    object.insert("format".into(), format.into());
    if report.fragmented_clusters > 0 {
        object.insert("fragmented-clusters".into(), report.fragmented_clusters.into());
    }
    Value::Object(object)
}
