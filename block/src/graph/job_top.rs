//! The node that a job has on top of an image while it works, so that clients see it and can name it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::open::{Parts, Settings};
use super::reopen::Recipe;
use super::{Graph, Node};
use crate::error::BlockError;
use crate::filter::job_top::JobTop;
use crate::spec::DetectZeroes;

/// A node on top of another that is there until this is dropped.
pub struct TopNode {
    graph: Arc<Graph>,
    node: Arc<Node>,
}

impl Drop for TopNode {
    fn drop(&mut self) {
        self.graph.lock().remove(self.node.name());
    }
}

/// What a job shows itself as.
#[derive(Debug, Clone, Copy)]
pub struct JobNode<'a> {
    /// The kind of job.
    pub job: &'static str,
    /// QEMU's driver.
    pub driver: &'static str,
    /// What the image beneath is to it.
    pub role: &'static str,
    /// The name that was asked for; one is made up without, and then who asks for a disk is told of what is beneath.
    pub name: Option<&'a str>,
}

impl Graph {
    /// Puts a job's node on `beneath`. Nobody can use it or take it away.
    ///
    /// # Errors
    /// When its name is bad or taken.
    pub fn add_top(self: &Arc<Self>, top: JobNode<'_>, beneath: &Arc<Node>) -> Result<TopNode, BlockError> {
        let cache = beneath.recipe().cache();
        let settings = Settings {
            read_only: beneath.is_read_only(),
            auto_read_only: false,
            direct: cache.direct == Some(true),
            no_flush: cache.no_flush == Some(true),
            force_share: false,
            discard: true,
            detect_zeroes: DetectZeroes::Off,
            key_secret: None,
        };
        let layer = Arc::new(JobTop::new(top.driver, beneath.layer().clone()));
        let children = vec![(top.role, beneath.clone())];
        let parts = Parts { layer, filename: beneath.filename(), children, place: None };
        let node = self.finish(top.name, &settings, parts, Recipe::made_here(&settings))?;
        node.attached.store(1, Ordering::Release);
        node.asked.store(top.name.is_some(), Ordering::Release);
        *node.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(top.job);
        Ok(TopNode { graph: self.clone(), node })
    }

    /// What a client is told that a disk on `node` shows: a job's node on it that was asked for by name, or `node`.
    #[must_use]
    pub fn seen_on(&self, node: Arc<Node>) -> Arc<Node> {
        let named = |above: &&Arc<Node>| above.layer().as_any().is::<JobTop>() && above.asked.load(Ordering::Acquire);
        let on = |above: &&Arc<Node>| above.children().iter().any(|(_, below)| Arc::ptr_eq(below, &node));
        self.nodes().iter().filter(named).find(on).cloned().unwrap_or(node)
    }
}
