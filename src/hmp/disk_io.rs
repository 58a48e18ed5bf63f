//! `qemu-io`: of its words those that read and write a disk, and those that hold requests.

use super::Context;
use super::commands::{Failure, Printed, Words};
use crate::qmp::{DiskWork, HoldOrder, Inspect, Inspection};
use crate::spec::number::parse_size;

pub(super) const HELP: &str = "on a disk: read|write [-P byte] offset length, write -z [-u] offset length, \
     discard offset length, flush; on a blkdebug node: break event tag, resume tag, remove_break tag";

pub(super) fn run(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    // `-d` says that a device is meant, which a name here may be anyway.
    let first = usize::from(words.get(0) == Some("-d"));
    let (disk, line) = (words.need(first, "device")?.to_owned(), words.need(first + 1, "command")?);
    let mut printed = String::new();
    for line in line.split(';') {
        let words: Vec<_> = line.split_whitespace().collect();
        let order = match words[..] {
            ["break", event, tag] => HoldOrder::Break { event: event.into(), tag: tag.into() },
            ["resume", tag] => HoldOrder::Resume(tag.into()),
            ["remove_break", tag] => HoldOrder::RemoveBreak(tag.into()),
            _ => {
                let work = work(&words).ok_or_else(|| Failure::Usage(format!("'{line}' is not understood: {HELP}")))?;
                if let Inspection::Text(text) = context.inspect(Inspect::DiskIo { disk: disk.clone(), work })? {
                    printed += &text;
                }
                continue;
            }
        };
        context.inspect(Inspect::Hold { disk: disk.clone(), order })?;
    }
    Ok(printed)
}

/// What a line says, if it says anything. Whether a request is waited for (`aio_`) makes no difference: all are.
fn work(words: &[&str]) -> Option<DiskWork> {
    let (verb, rest) = words.split_first()?;
    let (mut pattern, mut zero, mut unmap, mut range) = (None, false, false, Vec::new());
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let Some(letters) = word.strip_prefix('-') else {
            range.push(parse_size(word, 1)?);
            continue;
        };
        if let Some(value) = letters.strip_prefix('P') {
            pattern = Some(byte(if value.is_empty() { rest.next()? } else { value })?);
            continue;
        }
        for letter in letters.chars() {
            match letter {
                'z' => zero = true,
                'u' => unmap = true,
                'q' => {}
                _ => return None,
            }
        }
    }
    let verb = verb.strip_prefix("aio_").unwrap_or(verb);
    match (verb, &range[..]) {
        ("read", &[offset, len]) if !zero && !unmap => Some(DiskWork::Read { pattern, offset, len }),
        ("write", &[offset, len]) if zero && pattern.is_none() => Some(DiskWork::Zero { unmap, offset, len }),
        // QEMU's own pattern.
        ("write", &[offset, len]) if !zero && !unmap => {
            Some(DiskWork::Write { pattern: pattern.unwrap_or(0xcd), offset, len })
        }
        ("discard", &[offset, len]) if pattern.is_none() && !zero && !unmap => Some(DiskWork::Discard { offset, len }),
        ("flush", &[]) => Some(DiskWork::Flush),
        _ => None,
    }
}

fn byte(text: &str) -> Option<u8> {
    match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
