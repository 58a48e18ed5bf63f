//! `-snapshot`: writes go to an overlay that nobody else can see and that is gone with the process.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Graph;
use super::drive::{DriveSpec, OpenedDrive};
use super::open::{Inherited, Parts, Settings};
use super::reopen::Recipe;
use crate::error::BlockError;
use crate::format::qcow2::{CreateOptions, create};
use crate::layer::Layer;
use crate::protocol::file::{FileOptions, HostFile};
use crate::queue::ring_available;
use crate::spec::{self, Aio, BlockdevSpec, Discard};

impl Graph {
    /// Puts a throw-away overlay on what `opened` is.
    pub(super) fn add_throw_away(&self, drive: &DriveSpec, opened: OpenedDrive) -> Result<OpenedDrive, BlockError> {
        let folder = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        // Without a name from the start: nothing to clean up after a kill.
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC).open(&folder);
        let context = || format!("could not make a temporary file in '{}' for snapshot=on", folder.display());
        let file = file.map_err(|e| BlockError::io(context(), e))?;
        let options = FileOptions {
            // What is thrown away need not be safe from a power cut.
            no_flush: true,
            ring: drive.aio != Some(Aio::Threads) && ring_available().is_ok(),
            lock: None,
            ..FileOptions::default()
        };
        let file: Arc<dyn Layer> = Arc::new(HostFile::from_file(file, &folder, false, options)?);
        let size = opened.node.layer().size();
        let image = create(&file, None, &CreateOptions { size, ..CreateOptions::default() })?;
        image.set_backing(Some(opened.node.layer().clone()));
        let spec = spec::Raw {
            node_name: drive.node_name.clone(),
            discard: Some(Discard::Unmap),
            detect_zeroes: Some(drive.detect_zeroes),
            ..spec::Raw::default()
        };
        let spec = BlockdevSpec::Raw(spec);
        let settings = Settings::of(&spec, Inherited::default())?;
        let parts = Parts {
            layer: Arc::new(image),
            filename: opened.node.filename(),
            place: None,
            children: vec![("backing", opened.node)],
        };
        let node = self.finish(drive.node_name.as_deref(), &settings, parts, Recipe::made_here(&settings))?;
        Ok(OpenedDrive { node, warning: None })
    }
}
