//! What a job has on top of an image while it works, as clients see it: under the name of QEMU's driver, and for the rest
//! what is beneath. The job's own filter stands under the front end; this one passes everything on.

use std::any::Any;
use std::sync::Arc;

use crate::graph::ImageDetails;
use crate::layer::Layer;

/// A layer that shows itself under another driver's name.
pub struct JobTop {
    driver: &'static str,
    inner: Arc<dyn Layer>,
}

impl JobTop {
    /// `inner` as a node of the driver `driver`.
    #[must_use]
    pub fn new(driver: &'static str, inner: Arc<dyn Layer>) -> Self {
        Self { driver, inner }
    }
}

impl Layer for JobTop {
    forward!(
        inner: size, limits, read, write, flush, sync_failed, discard, write_zeroes, status, wants_ring, is_cached,
        close, allocated_bytes
    );

    fn driver(&self) -> &'static str {
        self.driver
    }

    fn describe(&self, details: &mut ImageDetails) {
        let mut beneath = details.clone();
        self.inner.describe(&mut beneath);
        details.cluster_size = beneath.cluster_size;
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
