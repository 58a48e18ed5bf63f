//! What a program printed and returned, and whether another said the same.

use std::fmt;
use std::process::Output;

use serde_json::Value;

/// The ends of qemu-img's complaints about what we can do.
const REFUSED_BY_QEMU: &[&str] = &[
    "Block job failed: Operation not supported",
    "Failed to zero out new clusters: Operation not supported",
    "Can't resize a v2 image which has snapshots",
    "Image size is not a multiple of request alignment",
];

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n{}{}", self.code, self.out, self.err)
    }
}

impl Told {
    /// Whether the program ended well.
    pub(super) fn worked(&self) -> bool {
        self.code == Some(0)
    }

    /// How this differs from what `real` printed and returned, but for what is known to.
    pub(super) fn differs(&self, real: &Self, line: &str) -> Option<String> {
        let shows_progress = line.contains(" -p ");
        let same = self.code == real.code && (shows_progress || plain(&self.out) == plain(&real.out));
        (!same).then(|| format!("rhea: {self}\nqemu-img: {real}"))
    }

    /// Whether docs/img.md says that both differ here.
    pub(super) fn is_known_to_differ(&self, real: &Self, line: &str) -> bool {
        // What ran out of time tells nothing, on either side.
        if self.code.is_none() || real.code.is_none() {
            return true;
        }
        let refused = REFUSED_BY_QEMU.iter().any(|words| real.err.trim_end().ends_with(words));
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let known = match verb {
            "rebase" => rest.contains("-b mid -F raw"),
            "convert" => rest.ends_with(" out out"),
            "measure" => rest.contains("lz4") || real.err.contains("Invalid compatibility level"),
            "compare" => rest.contains("-s ") && rest.contains("foreign"),
            "map" => rest.contains("foreign"),
            _ => false,
        };
        known || (self.worked() && refused)
    }

    /// The complaints of both, if they are not the same.
    pub(super) fn other_words(&self, real: &Self) -> Option<String> {
        (self.err != real.err).then(|| format!("rhea: {}qemu-img: {}", self.err, real.err))
    }
}

/// The text without what may differ: sizes on the host's disk, keys that versions of qemu-img have or lack.
fn plain(text: &str) -> String {
    if let Ok(mut value) = serde_json::from_str::<Value>(text) {
        strip(&mut value);
        value.sort_all_objects();
        return value.to_string();
    }
    let mut of_child = false;
    let kept = text.lines().filter(|line| {
        // Nodes beneath, which qemu-img tells from 8.0 on, up to the next image.
        of_child = (of_child && !line.is_empty()) || line.starts_with("Child node '");
        !of_child && !line.starts_with("disk size: ")
    });
    kept.collect::<Vec<_>>().join("\n")
}

fn strip(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(object) => {
            for key in ["compressed", "children", "actual-size"] {
                object.remove(key);
            }
            object.values_mut().for_each(strip);
        }
        _ => {}
    }
}
