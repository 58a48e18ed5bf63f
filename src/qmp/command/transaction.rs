//! The arguments of `transaction`: a list of actions, each a type and its data.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::{BlockdevSnapshot, BlockdevSnapshotSync};
use crate::qmp::QmpError;
use crate::qmp::qapi::{At, Case, Member, Qapi, Schema, TypeRef};

qapi_enum! {
    /// What an action does.
    pub enum TransactionActionKind {
        /// Fails, so that all others are undone.
        Abort = "abort",
        /// `blockdev-snapshot`.
        BlockdevSnapshot = "blockdev-snapshot",
        /// `blockdev-snapshot-sync`.
        BlockdevSnapshotSync = "blockdev-snapshot-sync",
    }
}

qapi_struct! {
    /// The data of an action that needs none.
    pub struct NoData {}
}

/// One action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum TransactionAction {
    /// Fails, so that all others are undone.
    Abort(NoData),
    /// `blockdev-snapshot`.
    BlockdevSnapshot(BlockdevSnapshot),
    /// `blockdev-snapshot-sync`.
    BlockdevSnapshotSync(BlockdevSnapshotSync),
}

impl Qapi for TransactionAction {
    fn describe(schema: &mut Schema) -> TypeRef {
        schema.union(std::any::type_name::<Self>(), "type", |schema| {
            let tag = TransactionActionKind::describe(schema);
            let cases = TransactionActionKind::ALL.iter().map(|kind| {
                let data = match kind {
                    TransactionActionKind::Abort => NoData::describe(schema),
                    TransactionActionKind::BlockdevSnapshot => BlockdevSnapshot::describe(schema),
                    TransactionActionKind::BlockdevSnapshotSync => BlockdevSnapshotSync::describe(schema),
                };
                let wrapped = format!("TransactionAction::{kind}");
                let kind_of_case = schema.object(&wrapped, |_| vec![Member::new("data", data, false)]);
                Case { case: kind.as_str().to_owned(), kind: kind_of_case }
            });
            let cases = cases.collect();
            (vec![Member::new("type", tag, false)], cases)
        })
    }

    fn check(value: &Value, at: &At<'_>) -> Result<(), QmpError> {
        let object = at.object(value)?;
        at.check_member::<TransactionActionKind>(object, "type")?;
        let kind = object.get("type").and_then(Value::as_str);
        match TransactionActionKind::ALL.iter().find(|known| Some(known.as_str()) == kind) {
            Some(TransactionActionKind::BlockdevSnapshot) => at.check_member::<BlockdevSnapshot>(object, "data"),
            Some(TransactionActionKind::BlockdevSnapshotSync) => {
                at.check_member::<BlockdevSnapshotSync>(object, "data")
            }
            Some(TransactionActionKind::Abort) | None => at.check_member::<NoData>(object, "data"),
        }?;
        at.no_others(object, &["type", "data"])
    }
}
