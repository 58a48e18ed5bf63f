//! Which options of a node can be changed, and what is said of those that cannot.

use serde_json::{Map, Value};

use super::super::Node;
use super::super::drive::options;
use super::refuse;
use crate::error::BlockError;
use crate::spec::BlockdevSpec;

/// Options that can be changed, whatever the driver; children are looked at by themselves.
const CHANGING: [&str; 7] =
    ["node-name", "read-only", "auto-read-only", "backing", "cache", "discard", "detect-zeroes"];

/// Options that can be changed of one driver.
const OF_DRIVER: [(&str, &str); 13] = [
    ("throttle", "throttle-group"),
    ("raw", "offset"),
    ("raw", "size"),
    ("qcow2", "pass-discard-request"),
    ("qcow2", "pass-discard-snapshot"),
    ("qcow2", "pass-discard-other"),
    ("qcow2", "lazy-refcounts"),
    ("qcow2", "cache-size"),
    ("qcow2", "l2-cache-size"),
    ("qcow2", "l2-cache-entry-size"),
    ("qcow2", "refcount-cache-size"),
    ("qcow2", "cache-clean-interval"),
    ("qcow2", "overlap-check"),
];

/// Options that say the same when they are not there.
const DEFAULTS: [(&str, &str); 2] = [("force-share", "false"), ("locking", "\"auto\"")];

/// Refuses what of `spec`, which is to be how `node` is open, differs from `former` and cannot.
pub(super) fn check(spec: &BlockdevSpec, former: &BlockdevSpec, node: &Node) -> Result<(), BlockError> {
    let (mut then, mut now) = (unchanging(spec)?, unchanging(former)?);
    for (role, child) in node.children() {
        let names = |options: &Map<String, Value>| options.get(role).and_then(Value::as_str) == Some(child.name());
        // Its `file` is planned by itself; a child that is named and is there says nothing new, however it was described.
        let same = role == "file" || names(&then);
        if same || names(&now) {
            now.remove(role);
        }
        if same {
            then.remove(role);
        }
    }
    if then.get("driver") != now.get("driver") {
        return Err(refuse("Cannot change the option 'driver'".to_owned()));
    }
    if let Some(name) = now.keys().find(|name| !then.contains_key(*name)) {
        return Err(refuse(format!("Option '{name}' cannot be reset to its default value")));
    }
    match then.iter().find(|(name, value)| now.get(*name) != Some(*value)) {
        Some((name, _)) => Err(refuse(format!("Cannot change the option '{name}'"))),
        None => Ok(()),
    }
}

fn unchanging(spec: &BlockdevSpec) -> Result<Map<String, Value>, BlockError> {
    let mut options = options::to_object(spec)?;
    let driver = options.get("driver").and_then(Value::as_str).unwrap_or_default().to_owned();
    for name in CHANGING.iter().chain(OF_DRIVER.iter().filter(|(of, _)| *of == driver).map(|(_, name)| name)) {
        options.remove(*name);
    }
    options.retain(|name, value| !DEFAULTS.contains(&(name.as_str(), value.to_string().as_str())));
    Ok(options)
}
