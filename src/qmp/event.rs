//! What clients are told without having asked.

use serde::Serialize;
use serde_json::{Value, json};

use super::qapi::{Qapi, Schema};

mod bus;

pub use bus::{EventBus, EventListener};

qapi_enum! {
    /// Why the machine stops for good.
    pub enum ShutdownCause {
        /// No cause is known.
        None = "none",
        /// A fault on the host's side.
        HostError = "host-error",
        /// The QMP command `quit`.
        HostQmpQuit = "host-qmp-quit",
        /// The QMP command `system_reset`.
        HostQmpSystemReset = "host-qmp-system-reset",
        /// SIGINT, SIGTERM or SIGHUP.
        HostSignal = "host-signal",
        /// A display window was closed, or the human monitor's or the mux's quit.
        HostUi = "host-ui",
        /// The guest turned the machine off.
        GuestShutdown = "guest-shutdown",
        /// The guest reset the machine.
        GuestReset = "guest-reset",
        /// The guest's kernel panicked.
        GuestPanic = "guest-panic",
        /// A device needs the machine reset.
        SubsystemReset = "subsystem-reset",
        /// A snapshot is being loaded.
        SnapshotLoad = "snapshot-load",
    }
}

impl ShutdownCause {
    /// The guest, and not the host, wanted it.
    pub fn is_guest(self) -> bool {
        matches!(self, Self::GuestShutdown | Self::GuestReset | Self::GuestPanic)
    }
}

qapi_struct! {
    /// Data of `SHUTDOWN` and `RESET`.
    pub struct ShutdownData {
        /// [`ShutdownCause::is_guest`] of `reason`.
        pub guest: bool,
        /// The cause.
        pub reason: ShutdownCause,
    }
}

impl From<ShutdownCause> for ShutdownData {
    fn from(reason: ShutdownCause) -> Self {
        Self { guest: reason.is_guest(), reason }
    }
}

qapi_enum! {
    /// Which way a failed disk request went.
    pub enum IoOperationType {
        /// From the disk.
        Read = "read",
        /// To the disk.
        Write = "write",
    }
}

qapi_enum! {
    /// What a disk does about a failed request.
    pub enum BlockErrorAction {
        /// Goes on as if nothing had happened.
        Ignore = "ignore",
        /// Tells the guest.
        Report = "report",
        /// Stops the machine; `cont` tries again.
        Stop = "stop",
    }
}

qapi_struct! {
    /// Data of `BLOCK_IO_ERROR`.
    pub struct BlockIoErrorData {
        /// The `id=` of the `-drive`, or empty.
        pub device: String,
        /// The node that the request went to.
        pub node_name: Option<String>,
        /// Which way.
        pub operation: IoOperationType,
        /// What is done about it.
        pub action: BlockErrorAction,
        /// The disk was full.
        pub nospace: Option<bool>,
        /// For people.
        pub reason: String,
    }
}

qapi_struct! {
    /// Data of `BLOCK_IMAGE_CORRUPTED`.
    pub struct BlockImageCorruptedData {
        /// The `id=` of the `-drive` that has the image at its top, or empty.
        pub device: String,
        /// The node of the image.
        pub node_name: Option<String>,
        /// What was found, for people.
        pub msg: String,
        /// First byte of the image file that would have been written.
        pub offset: Option<i64>,
        /// How many.
        pub size: Option<i64>,
        /// The image is not used any more.
        pub fatal: bool,
    }
}

qapi_struct! {
    /// Data of `DEVICE_DELETED` and `DEVICE_UNPLUG_GUEST_ERROR`.
    pub struct DevicePathData {
        /// The `id=` of the device, if it has one.
        pub device: Option<String>,
        /// Its place in the tree of objects.
        pub path: String,
    }
}

qapi_struct! {
    /// Data of `DEVICE_TRAY_MOVED`.
    pub struct TrayMovedData {
        /// The `id=` of the `-drive`, or empty.
        pub device: String,
        /// The `id=` of the device.
        pub id: String,
        /// Where the tray is now.
        pub tray_open: bool,
    }
}

qapi_struct! {
    /// Data of `VSERPORT_CHANGE`.
    pub struct VserportChangeData {
        /// The `id=` of the port.
        pub id: String,
        /// The guest has it open.
        pub open: bool,
    }
}

qapi_enum! {
    /// Where a job is in its life.
    pub enum JobStatus {
        /// Not yet known of.
        Undefined = "undefined",
        /// Made, not started.
        Created = "created",
        /// At work.
        Running = "running",
        /// Told to pause.
        Paused = "paused",
        /// Done in the main, following changes.
        Ready = "ready",
        /// Ready and paused.
        Standby = "standby",
        /// Waits for others of its transaction.
        Waiting = "waiting",
        /// Waits to be finalized.
        Pending = "pending",
        /// Being rolled back.
        Aborting = "aborting",
        /// Over, still listed.
        Concluded = "concluded",
        /// Over and forgotten.
        Null = "null",
    }
}

impl JobStatus {
    /// The job may still come to a good end.
    #[must_use]
    pub fn is_active(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Ready | Self::Standby | Self::Waiting | Self::Pending => true,
            Self::Undefined | Self::Created | Self::Aborting | Self::Concluded | Self::Null => false,
        }
    }
}

qapi_struct! {
    /// Data of `JOB_STATUS_CHANGE`.
    pub struct JobStatusData {
        /// The job's id.
        pub id: String,
        /// Where it is now.
        pub status: JobStatus,
    }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_COMPLETED` and `BLOCK_JOB_CANCELLED`.
    pub struct BlockJobData {
        /// `stream` and so on.
        pub r#type: String,
        /// The job's id.
        pub device: String,
        /// Bytes to do in all.
        pub len: i64,
        /// Bytes done.
        pub offset: i64,
        /// Limit of bytes a second; 0 is none.
        pub speed: i64,
        /// Why it failed.
        pub error: Option<String>,
    }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_READY`.
    pub struct BlockJobReadyData {
        /// `commit` and so on.
        pub r#type: String,
        /// The job's id.
        pub device: String,
        /// Bytes to do in all.
        pub len: i64,
        /// Bytes done.
        pub offset: i64,
        /// Limit of bytes a second; 0 is none.
        pub speed: i64,
    }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_ERROR`.
    pub struct BlockJobErrorData {
        /// The job's id.
        pub device: String,
        /// What failed.
        pub operation: IoOperationType,
        /// What is done about it.
        pub action: BlockErrorAction,
    }
}

qapi_struct! {
    /// Data of `BLOCK_WRITE_THRESHOLD`.
    pub struct BlockWriteThresholdData {
        /// The node.
        pub node_name: String,
        /// How far past the threshold the write ended, in bytes.
        pub amount_exceeded: u64,
        /// The threshold, which is taken back by this.
        pub write_threshold: u64,
    }
}

qapi_struct! {
    /// Data of `BLOCK_EXPORT_DELETED`.
    pub struct BlockExportDeletedData {
        /// The export's id.
        pub id: String,
    }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_PENDING`.
    pub struct BlockJobPendingData {
        /// `stream` and so on.
        pub r#type: String,
        /// The job's id.
        pub id: String,
    }
}

qapi_enum! {
    /// What is done about a guest's panic.
    pub enum GuestPanicAction {
        /// The machine is paused.
        Pause = "pause",
        /// It is turned off.
        Poweroff = "poweroff",
        /// It goes on.
        Run = "run",
    }
}

qapi_struct! {
    /// Data of `GUEST_PANICKED` and `GUEST_CRASHLOADED`.
    pub struct GuestPanickedData {
        /// What is done about it.
        pub action: GuestPanicAction,
    }
}

qapi_struct! {
    /// Data of `RTC_CHANGE`.
    pub struct RtcChangeData {
        /// Seconds that the guest's clock is now ahead of what it would show if it had run from where `-rtc base=` had it
        /// start, with the host's time.
        pub offset: i64,
        /// The clock's place in the tree of objects.
        pub qom_path: String,
    }
}

/// Declares [`Event`]: a line gives the name on the wire, the variant and, if it has any, the type of its data.
macro_rules! events {
    ($( $(#[$meta:meta])* $wire:literal $variant:ident $(($data:ty))? ),* $(,)?) => {
        /// Something that happened to the machine.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event {
            $( $(#[$meta])* $variant $(($data))? ),*
        }

        impl Event {
            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $( events!(@pattern $variant $($data)?) => $wire ),* }
            }

            /// The `data` member, for those events that have one.
            fn data(&self) -> Option<Value> {
                match self { $( events!(@bind data $variant $($data)?) => events!(@value data $($data)?) ),* }
            }

            /// Adds every event to the schema.
            pub fn describe_all(schema: &mut Schema) {
                $( let data = <events!(@type $($data)?) as Qapi>::describe(schema); schema.event($wire, &data); )*
            }
        }
    };
    (@pattern $variant:ident) => { Self::$variant };
    (@pattern $variant:ident $data:ty) => { Self::$variant(_) };
    (@bind $name:ident $variant:ident) => { Self::$variant };
    (@bind $name:ident $variant:ident $data:ty) => { Self::$variant($name) };
    (@value $name:ident) => { None };
    (@value $name:ident $data:ty) => { Some(to_value($name)) };
    (@type) => { () };
    (@type $data:ty) => { $data };
}

events! {
    /// The vCPUs stopped.
    "STOP" Stop,
    /// They go on.
    "RESUME" Resume,
    /// The machine was reset.
    "RESET" Reset(ShutdownData),
    /// The machine turns off; with `-no-shutdown` the process stays.
    "SHUTDOWN" Shutdown(ShutdownData),
    /// The power button was pressed.
    "POWERDOWN" Powerdown,
    /// The guest sleeps.
    "SUSPEND" Suspend,
    /// The guest woke.
    "WAKEUP" Wakeup,
    /// The guest set its clock.
    "RTC_CHANGE" RtcChange(RtcChangeData),
    /// A disk request failed.
    "BLOCK_IO_ERROR" BlockIoError(BlockIoErrorData),
    /// A write would have destroyed metadata of a damaged image.
    "BLOCK_IMAGE_CORRUPTED" BlockImageCorrupted(BlockImageCorruptedData),
    /// A device is gone.
    "DEVICE_DELETED" DeviceDeleted(DevicePathData),
    /// The guest refused to let a device go.
    "DEVICE_UNPLUG_GUEST_ERROR" DeviceUnplugGuestError(DevicePathData),
    /// The tray of a CD drive moved.
    "DEVICE_TRAY_MOVED" DeviceTrayMoved(TrayMovedData),
    /// The guest opened or closed a virtio serial port.
    "VSERPORT_CHANGE" VserportChange(VserportChangeData),
    /// A job went on to another state.
    "JOB_STATUS_CHANGE" JobStatusChange(JobStatusData),
    /// A job on a node is over.
    "BLOCK_JOB_COMPLETED" BlockJobCompleted(BlockJobData),
    /// A job on a node was cancelled.
    "BLOCK_JOB_CANCELLED" BlockJobCancelled(BlockJobData),
    /// A job on a node can be completed.
    "BLOCK_JOB_READY" BlockJobReady(BlockJobReadyData),
    /// A job on a node met an error.
    "BLOCK_JOB_ERROR" BlockJobError(BlockJobErrorData),
    /// A job on a node waits to be finalized.
    "BLOCK_JOB_PENDING" BlockJobPending(BlockJobPendingData),
    /// A write went past the threshold of a node.
    "BLOCK_WRITE_THRESHOLD" BlockWriteThreshold(BlockWriteThresholdData),
    /// An export is gone.
    "BLOCK_EXPORT_DELETED" BlockExportDeleted(BlockExportDeletedData),
    /// The guest's kernel panicked.
    "GUEST_PANICKED" GuestPanicked(GuestPanickedData),
    /// The guest's kernel panicked, and another goes on that was loaded for that.
    "GUEST_CRASHLOADED" GuestCrashloaded(GuestPanickedData),
}

/// The types above have string keys and finite numbers only, so this cannot fail; `null` would say so in the test.
fn to_value(data: &impl Serialize) -> Value {
    serde_json::to_value(data).unwrap_or_default()
}

impl Event {
    /// The message for clients, stamped with this time since 1970.
    pub fn to_message(&self, at: std::time::Duration) -> Value {
        let mut message = json!({
            "timestamp": {"seconds": at.as_secs(), "microseconds": at.subsec_micros()},
            "event": self.name(),
        });
        if let Some(data) = self.data() {
            message["data"] = data;
        }
        message
    }
}

#[cfg(test)]
mod tests;
