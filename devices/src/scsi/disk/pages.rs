//! A disk's mode pages (SBC-4, 6.5; SPC-5, 7.5) and vital product data pages (SBC-4, 6.6).

use super::{Facts, MAX_COMPARE_BLOCKS, MAX_UNMAP_RANGES, discard_granularity};
use crate::geometry::Geometry;
use crate::scsi::cdb::Cdb;
use crate::scsi::commands::Run;
use crate::scsi::mode::{self, Modes, Values};
use crate::scsi::plan::{MAX_PARAMETERS, Plan, Reply};
use crate::scsi::sense::Sense;

/// Read-write error recovery.
const RECOVERY: u8 = 0x01;
/// Rigid disk geometry (SCSI-2, 9.3.3.7).
const RIGID: u8 = 0x04;
/// Caching.
const CACHING: u8 = 0x08;
/// Control.
const CONTROL: u8 = 0x0a;

const PAGES: [u8; 4] = [RECOVERY, RIGID, CACHING, CONTROL];

/// WCE in the caching page's first byte.
const WRITE_CACHE: u8 = 0x04;

/// What mode pages are made of.
struct Source {
    geometry: Geometry,
    write_cache: bool,
    /// What it was at power-on.
    default_write_cache: bool,
}

impl Source {
    fn page(&self, code: u8, values: Values) -> Option<Vec<u8>> {
        let body = match code {
            RECOVERY => vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            RIGID => rigid(self.geometry),
            CACHING => {
                let on = match values {
                    Values::Current => self.write_cache,
                    Values::Default => self.default_write_cache,
                    Values::Changeable => true,
                };
                let mut body = vec![0; 18];
                *body.first_mut()? = if on { WRITE_CACHE } else { 0 };
                return Some(body);
            }
            // Each nexus has a task set of its own (TST).
            CONTROL => vec![0x22, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
            _ => return None,
        };
        // Nothing else can be changed.
        Some(if values == Values::Changeable { vec![0; body.len()] } else { body })
    }
}

fn rigid(geometry: Geometry) -> Vec<u8> {
    let [high, low] = geometry.cylinders.to_be_bytes();
    let cylinders = [0, high, low];
    let mut body = cylinders.to_vec();
    body.push(geometry.heads);
    // Write precompensation and reduced current start past the last cylinder: never.
    body.extend(cylinders);
    body.extend(cylinders);
    // Step rate 200 (of 100 ns), landing zone untold, no rotational lock, 5400 turns in a minute.
    body.extend([0, 200, 0xff, 0xff, 0xff, 0, 0, 0]);
    body.extend(5400u16.to_be_bytes());
    body.extend([0; 2]);
    body
}

fn with_modes<T>(run: &Run<'_>, f: impl FnOnce(&Modes<'_>) -> Result<T, Sense>) -> Result<T, Sense> {
    let facts = Facts::of(run)?;
    let config = &run.unit.config;
    let source = Source {
        geometry: config.geometry.unwrap_or_else(|| Geometry::guess(facts.info.size)),
        write_cache: run.state.write_cache,
        default_write_cache: config.write_cache.unwrap_or(facts.info.write_cache),
    };
    let protection = if facts.info.read_only { 0x80 } else { 0 };
    let forced = if config.dpofua { 0x10 } else { 0 };
    f(&Modes {
        medium_type: 0,
        device_specific: protection | forced,
        blocks: Some((facts.blocks, config.sizes.logical)),
        pages: &PAGES,
        page: &|code, values| source.page(code, values),
    })
}

pub(super) fn sense(run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    with_modes(run, |modes| mode::mode_sense(cdb, modes))
}

pub(super) fn select(_run: &mut Run<'_>, cdb: &Cdb) -> Result<Plan, Sense> {
    mode::mode_select(cdb)
}

pub(super) fn select_parameters(run: &mut Run<'_>, cdb: &Cdb, data: &[u8]) -> Result<Plan, Sense> {
    let mut write_cache = run.state.write_cache;
    with_modes(run, |modes| {
        mode::select(cdb, data, modes, |code, parameters| {
            if let (CACHING, Some(flags)) = (code, parameters.first()) {
                write_cache = flags & WRITE_CACHE != 0;
            }
        })
    })?;
    let emptied = run.state.write_cache && !write_cache;
    run.state.write_cache = write_cache;
    // What is in the cache when it is switched off has to reach the disk (SBC-4, 6.5.6).
    Ok(if emptied { Plan::Media(crate::scsi::Media::Flush) } else { Reply::good().into() })
}

/// Pages that disks have beside the common ones.
pub(in crate::scsi) const VPD_PAGES: [u8; 3] = [0xb0, 0xb1, 0xb2];

/// The body of such a page.
pub(in crate::scsi) fn vpd(run: &Run<'_>, page: u8) -> Option<Vec<u8>> {
    match page {
        0xb0 => limits(run),
        0xb1 => {
            let mut body = run.unit.config.rotation_rate.to_be_bytes().to_vec();
            body.resize(0x3c, 0);
            Some(body)
        }
        0xb2 => {
            let facts = Facts::of(run).ok()?;
            // UNMAP and both WRITE SAMEs unmap; thinly provisioned.
            let offered = discard_granularity(run, &facts.info).is_some();
            Some(if offered { vec![0, 0xe0, 2, 0] } else { vec![0, 0, 1, 0] })
        }
        _ => None,
    }
}

/// Block limits (SBC-4, 6.6.4).
fn limits(run: &Run<'_>) -> Option<Vec<u8>> {
    let facts = Facts::of(run).ok()?;
    let config = &run.unit.config;
    let block = config.sizes.logical.max(1);
    let blocks = |bytes: u64| u32::try_from(bytes / u64::from(block)).unwrap_or(u32::MAX);
    let granularity = discard_granularity(run, &facts.info);
    let compare = MAX_COMPARE_BLOCKS.min(MAX_PARAMETERS as u64 / 2 / u64::from(block));
    let (unmap, ranges) = match granularity {
        Some(_) => (blocks(config.max_unmap_size), u32::try_from(MAX_UNMAP_RANGES).unwrap_or(1)),
        None => (0, 0),
    };
    // WSNZ, then the most blocks of COMPARE AND WRITE.
    let mut body = vec![1, u8::try_from(compare).unwrap_or(u8::MAX)];
    body.extend(u16::try_from(config.sizes.min_io / block).unwrap_or(u16::MAX).to_be_bytes());
    body.extend(blocks(config.max_io_size).to_be_bytes());
    body.extend((config.sizes.opt_io / block).to_be_bytes());
    body.extend([0; 4]);
    body.extend(unmap.to_be_bytes());
    body.extend(ranges.to_be_bytes());
    body.extend((granularity.unwrap_or(0) / block).to_be_bytes());
    body.extend([0; 4]);
    body.extend(u64::from(blocks(super::MAX_WRITE_SAME)).to_be_bytes());
    body.resize(0x3c, 0);
    Some(body)
}
