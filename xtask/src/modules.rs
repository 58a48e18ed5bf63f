//! Kernel modules in the order in which they can be inserted.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// One module, unpacked.
pub(crate) struct Module {
    /// The name it goes by, with underscores.
    pub(crate) name: String,
    /// The object file.
    pub(crate) object: Vec<u8>,
}

/// The modules `wanted` and all they depend on, dependencies first. What is built into the kernel is left out.
pub(crate) fn with_dependencies(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let order = order(&read("modules.dep")?, &read("modules.builtin")?, wanted)?;
    order
        .into_iter()
        .map(|path| Ok(Module { name: name_of(path.as_str()), object: load(&directory.join(path))? }))
        .collect()
}

/// Paths, relative to the modules' directory, in the order of insertion.
fn order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let needs: HashMap<_, _> = dep.lines().filter_map(|line| line.split_once(':')).collect();
    let paths: HashMap<_, _> = needs.keys().map(|path| (name_of(path), *path)).collect();
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some(path) = paths.get(*name) else {
            if builtin.lines().any(|line| name_of(line) == *name) {
                continue;
            }
            bail!("the kernel has no module {name}");
        };
        // modules.dep lists all dependencies, also of dependencies, the deepest last.
        for path in needs[path].split_whitespace().rev().chain([*path]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

/// `kernel/fs/9p/9p.ko.xz` gives `9p`; hyphens become underscores, as in `lsmod`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn load(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_some_and(|extension| extension == "xz") {
        let mut object = Vec::new();
        liblzma::read::XzDecoder::new(bytes.as_slice()).read_to_end(&mut object)?;
        return Ok(object);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::order;

    const DEP: &str = "a/one.ko: b/two-x.ko c/three.ko\nb/two-x.ko: c/three.ko\nc/three.ko:\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let order = order(DEP, "", &["two_x", "one"]).unwrap();

        assert_eq!(order, ["c/three.ko", "b/two-x.ko", "a/one.ko"]);
    }

    #[test]
    fn built_in_module_is_left_out() {
        assert!(order(DEP, "kernel/fs/ext4/ext4.ko\n", &["ext4"]).unwrap().is_empty());
    }

    #[test]
    fn unknown_module_is_refused_by_name() {
        let error = order(DEP, "", &["four"]).unwrap_err();

        assert_eq!(error.to_string(), "the kernel has no module four");
    }
}
