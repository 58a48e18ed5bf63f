//! What a file name means: a file, a device, an export of a server.

use std::os::unix::fs::FileTypeExt;

use crate::error::{BlockError, ErrorKind};
use crate::nbd::NbdName;
use crate::spec::{self, BlockdevSpec, NodeRef};

/// The node for the name in `file`, as users give names: `PATH`, `file:PATH`, `nbd://...`, `null-co://` for a disk of
/// nothing, and `blkdebug:CONFIG:NAME` for errors on order.
///
/// # Errors
/// When the name asks for another protocol, or makes no sense in its own.
pub fn by_name(file: spec::File) -> Result<BlockdevSpec, BlockError> {
    if let Some(name) = NbdName::parse(&file.filename)? {
        // How files are moved and locked means nothing there.
        let spec::File { node_name, read_only, auto_read_only, force_share, discard, detect_zeroes, cache, .. } = file;
        return Ok(BlockdevSpec::Nbd(Box::new(spec::Nbd {
            node_name,
            read_only,
            auto_read_only,
            force_share,
            discard,
            detect_zeroes,
            cache,
            ..spec::Nbd::from(&name)
        })));
    }
    if let Some(names) = file.filename.strip_prefix("blkdebug:") {
        let (config, image) =
            names.split_once(':').filter(|(_, image)| !image.starts_with("blkdebug:")).ok_or_else(|| {
                let text = format!("'{}' names no image: write blkdebug:CONFIG:IMAGE", file.filename);
                BlockError::new(ErrorKind::Invalid, text)
            })?;
        return Ok(BlockdevSpec::Blkdebug(Box::new(spec::Blkdebug {
            config: (!config.is_empty()).then(|| config.to_owned()),
            node_name: file.node_name.clone(),
            image: NodeRef::Inline(Box::new(by_name(spec::File {
                filename: image.to_owned(),
                node_name: None,
                ..file
            })?)),
            ..spec::Blkdebug::default()
        })));
    }
    if matches!(file.filename.as_str(), "null-co://" | "null-aio://") {
        let is_co = file.filename.starts_with("null-co");
        let spec::File { node_name, read_only, auto_read_only, force_share, discard, detect_zeroes, cache, .. } = file;
        let common = spec::Null {
            node_name,
            read_only,
            auto_read_only,
            force_share,
            discard,
            detect_zeroes,
            cache,
            ..spec::Null::default()
        };
        return Ok(if is_co { BlockdevSpec::NullCo(common) } else { BlockdevSpec::NullAio(common) });
    }
    check_protocol(&file.filename)?;
    Ok(in_file_system(file))
}

/// The node for a path: a device is not a file.
pub(super) fn in_file_system(file: spec::File) -> BlockdevSpec {
    let path = file.filename.strip_prefix("file:").unwrap_or(&file.filename).to_owned();
    let device = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_block_device());
    let file = spec::File { filename: path, ..file };
    if device { BlockdevSpec::HostDevice(file) } else { BlockdevSpec::File(file) }
}

/// Refuses names that ask for something else than a file. For names in headers, which strangers write, that includes
/// servers.
pub(super) fn check_protocol(name: &str) -> Result<(), BlockError> {
    let unsupported = |text: String| Err(BlockError::new(ErrorKind::Unsupported, text));
    if name.starts_with("json:") {
        let text = "file names of the form json:{...} are not followed: define the node with -blockdev";
        return unsupported(text.to_owned());
    }
    let scheme = name.split_once(':').map(|(scheme, _)| scheme);
    match scheme.filter(|s| !s.contains('/') && *s != "file") {
        Some(scheme) if scheme == "nbd" || scheme.starts_with("nbd+") => {
            let text = "names of NBD servers in images are not followed: define the node with -blockdev";
            unsupported(format!("'{name}': {text}"))
        }
        Some(scheme) => {
            unsupported(format!("Unknown protocol '{scheme}' in '{name}' (write ./{name} for a file of that name)"))
        }
        None => Ok(()),
    }
}
