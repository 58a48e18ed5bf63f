//! Who may use a node beside whom.
//!
//! Whatever stands on a node (a device, an export, a job, a node above) needs something of it, and lets the others there
//! do something. Filters and `raw` pass on what is needed and let through above them, but for the size of a file of which
//! a raw node shows a part; a format that is written to needs its file for itself, and one that is only read cannot bear
//! that its file changes; what an overlay does not hold may change under it only if nobody above minds. As in QEMU, a
//! change is refused when two come to stand on one node of whom one needs what the other does not allow, there or
//! anywhere beneath.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{Graph, Node};
use crate::error::{BlockError, ErrorKind};
use crate::format::raw::Raw;

mod outlook;

pub(super) use outlook::Outlook;

/// Some of: writing, and changing the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights(u8);

impl Rights {
    pub(super) const NONE: Self = Self(0);
    pub(super) const WRITE: Self = Self(1);
    pub(super) const RESIZE: Self = Self(2);
    pub(super) const ALL: Self = Self(3);

    const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::WRITE => "write",
            Self::RESIZE => "resize",
            _ => "write, resize",
        }
    }
}

/// What someone does with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) needs: Rights,
    /// What the others may do.
    pub(super) shares: Rights,
    /// No other program writes, whatever those of this one may do.
    pub(super) alone: bool,
}

impl Claim {
    /// Of nobody.
    const NOTHING: Self = Self::new(Rights::NONE, Rights::ALL);
    /// Of a job that writes to a node beneath others.
    const ALONE: Self = Self::new(Rights::WRITE, Rights::NONE);

    const fn new(needs: Rights, shares: Rights) -> Self {
        Self { needs, shares, alone: false }
    }

    fn writes(self) -> bool {
        self.needs.and(Rights::WRITE) == Rights::WRITE
    }

    const fn join(self, other: Self) -> Self {
        Self {
            needs: self.needs.or(other.needs),
            shares: self.shares.and(other.shares),
            alone: self.alone || other.alone,
        }
    }
}

/// Someone who uses a node and is no node.
pub(super) struct User {
    who: String,
    claim: Claim,
}

impl User {
    /// A device; its guest is told of another size. With `shares`, others may write beside it.
    pub(super) fn device(who: &str, writes: bool, shares: bool) -> Self {
        let needs = if writes { Rights::WRITE } else { Rights::NONE };
        let shares = if shares { Rights::ALL } else { Rights::RESIZE };
        Self { who: format!("block device '{who}'"), claim: Claim::new(needs, shares) }
    }

    /// Clients, who learn the size once.
    pub(super) fn export(id: &str, writes: bool) -> Self {
        let needs = if writes { Rights::WRITE } else { Rights::NONE };
        Self { who: format!("export '{id}'"), claim: Claim::new(needs, Rights::WRITE) }
    }

    /// Whether it writes.
    pub(super) fn writes(&self) -> bool {
        self.claim.writes()
    }

    /// A job that writes to its target, which may stand on a disk that is in use. What another program wrote there would
    /// be lost, or show in the copy.
    pub(super) fn job(kind: &str) -> Self {
        let claim = Claim { alone: true, ..Claim::new(Rights::WRITE, Rights::WRITE) };
        Self { who: format!("block job '{kind}'"), claim }
    }

    /// A job that copies what others may go on to write, and learns the size once.
    pub(super) fn copier(kind: &str) -> Self {
        Self { claim: Claim::new(Rights::NONE, Rights::WRITE), ..Self::job(kind) }
    }

    /// A command that has done with it when it is answered.
    pub(super) fn command(name: &str, needs: Rights) -> Self {
        Self { who: format!("'{name}'"), claim: Claim::new(needs, Rights::ALL) }
    }
}

/// A node in use, until this is dropped. Other programs then know of it.
pub(super) struct Use {
    graph: Arc<Graph>,
    node: Arc<Node>,
    user: Arc<User>,
}

impl Use {
    /// The user has `node` from now on, whoever stands against that.
    pub(super) fn move_to(&mut self, node: &Arc<Node>) {
        node.enter(&self.user);
        let former = std::mem::replace(&mut self.node, node.clone());
        former.leave(&self.user);
        self.graph.lock_all_as_used(vec![former, node.clone()]);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.node.leave(&self.user);
        self.graph.lock_as_used(&self.node);
    }
}

impl Node {
    /// `user` has it from now on.
    pub(super) fn enter(&self, user: &Arc<User>) {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).push(user.clone());
    }

    /// `user` has it no more.
    pub(super) fn leave(&self, user: &Arc<User>) {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, user));
    }

    /// Whether a job of the kind `kind` writes to it.
    pub(super) fn is_target_of(&self, kind: &str) -> bool {
        let who = User::job(kind).who;
        self.users.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|user| user.who == who && user.writes())
    }

    /// Whether someone who is no node writes to it.
    pub(super) fn has_writing_user(&self) -> bool {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|user| user.writes())
    }

    /// Refuses a job that would write past a device or an export which writes to this very node.
    pub(super) fn check_unwritten(&self, job: &str) -> Result<(), BlockError> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(user) = users.iter().find(|user| user.writes()) else { return Ok(()) };
        let job = Edge { who: job.to_owned(), role: "root", claim: Claim::NOTHING };
        Err(conflict(&self.name, Rights::WRITE, &Edge::of(user), &job))
    }
}

/// One who stands on a node.
#[derive(Clone, PartialEq, Eq)]
struct Edge {
    who: String,
    /// What the node is to it.
    role: &'static str,
    claim: Claim,
}

impl Edge {
    fn of(user: &User) -> Self {
        Self { who: user.who.clone(), role: "root", claim: user.claim }
    }
}

/// What `node` does with `beneath`, which is its `role`, when those on it do `above`.
fn passed(node: &Node, role: &str, beneath: &Node, above: Claim, writes: bool) -> Claim {
    on(beneath, needed(node, role, beneath, above, writes))
}

/// The same, whatever `beneath` says of itself.
fn needed(node: &Node, role: &str, beneath: &Node, above: Claim, writes: bool) -> Claim {
    match (role, node.layer().driver()) {
        ("backing", _) if beneath.kept.load(Ordering::Acquire) => Claim::new(Rights::NONE, Rights::NONE),
        ("backing", _) => Claim::new(Rights::NONE, above.shares.and(Rights::WRITE)),
        // It grows with what is written.
        ("data-file", _) => {
            let needs = if above.writes() { Rights::ALL } else { above.needs };
            Claim { needs, shares: above.shares.without(Rights::RESIZE), ..above }
        }
        ("file", driver) if !matches!(driver, "raw" | "throttle" | "copy-on-read" | "copy-before-write") => {
            of_format(writes)
        }
        // What it shows is in the middle of the file, and may not be cut off.
        ("file", "raw") if node.layer().as_any().downcast_ref().is_some_and(|raw: &Raw| !raw.is_whole()) => {
            Claim { shares: above.shares.without(Rights::RESIZE), ..above }
        }
        _ => above,
    }
}

/// `claim` of a node on `beneath`. With `force-share` others may do anything beside it, but for what grows with writes,
/// which has one writer.
fn on(beneath: &Node, claim: Claim) -> Claim {
    let forced = beneath.recipe().settings.force_share && claim.needs.and(Rights::RESIZE) == Rights::NONE;
    if forced { Claim { shares: Rights::ALL, ..claim } } else { claim }
}

/// What a format does with its file.
const fn of_format(writes: bool) -> Claim {
    Claim::new(if writes { Rights::ALL } else { Rights::NONE }, Rights::NONE)
}

fn conflict(node: &str, rights: Rights, needs: &Edge, refuses: &Edge) -> BlockError {
    let uses = |edge: &Edge| format!("{} (uses node '{node}' as '{}' child)", edge.who, edge.role);
    let text = format!(
        "Permission conflict on node '{node}': permissions '{}' are both required by {} and unshared by {}.",
        rights.words(),
        uses(needs),
        uses(refuses)
    );
    BlockError::new(ErrorKind::Invalid, text)
}

/// Refuses `new` beside `other`.
fn check_pair(node: &str, new: &Edge, other: &Edge) -> Result<(), BlockError> {
    for (one, another) in [(other, new), (new, other)] {
        let refused = one.claim.needs.without(another.claim.shares);
        if refused != Rights::NONE {
            return Err(conflict(node, refused, one, another));
        }
    }
    Ok(())
}

impl Graph {
    /// Gives `node` to `user`.
    ///
    /// # Errors
    /// Someone on it, or on what lies beneath, stands against that.
    pub(super) fn take(self: &Arc<Self>, node: &Arc<Node>, user: User) -> Result<Use, BlockError> {
        self.check_user(node, &user)?;
        self.lock_for(node, &user)?;
        let user = Arc::new(user);
        node.enter(&user);
        Ok(Use { graph: self.clone(), node: node.clone(), user })
    }

    /// Refuses `user` where [`Graph::take`] would.
    pub(super) fn check_user(&self, node: &Arc<Node>, user: &User) -> Result<(), BlockError> {
        self.check_outlook(&Outlook::add(node, Edge::of(user)))
    }

    /// Refuses a format, whose node would be called `name`, on `file`.
    pub(super) fn check_format(&self, file: &Arc<Node>, name: Option<&str>, writes: bool) -> Result<(), BlockError> {
        let who = name.map_or_else(|| "a node without a name".to_owned(), |name| format!("node '{name}'"));
        let edge = Edge { who, role: "file", claim: on(file, of_format(writes && !file.is_read_only())) };
        let outlook = Outlook::add(file, edge);
        self.check_outlook(&outlook)?;
        self.lock_files(&outlook)
    }

    /// Has other programs know of what `user` is about to do with `node`.
    pub(super) fn lock_for(&self, node: &Arc<Node>, user: &User) -> Result<(), BlockError> {
        self.lock_files(&Outlook::add(node, Edge::of(user)))
    }

    /// Refuses that `node`, which is only read, is written to.
    pub(super) fn check_writing(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        let mut outlook = Outlook::default();
        outlook.writes(node, true);
        self.check_outlook(&outlook)
    }
}

#[cfg(test)]
mod tests;
