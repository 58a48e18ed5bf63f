//! Every command there is, as one typed value.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::QmpError;
use super::qapi::{At, Qapi, Schema};
use super::reply::{block, cpu, device, machine, migration, monitor};

pub mod args;
pub(crate) mod blockdev_check;
mod blockdev_schema;
pub mod create;
mod offer;
mod spec_args;
#[cfg(test)]
mod tests;

pub use offer::Offer;

/// Declares [`Command`]: a line gives the name on the wire, the variant with the type of its arguments if it takes any,
/// and what it answers.
macro_rules! commands {
    ($( $(#[$meta:meta])* $wire:literal $variant:ident $(($args:ident))? -> $result:ty ),* $(,)?) => {
        /// A command with its arguments.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Command {
            $( $(#[$meta])* $variant $((args::$args))? ),*
        }

        impl Command {
            /// The name of every command on the wire.
            pub const NAMES: &'static [&'static str] = &[ $( $wire ),* ];

            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $( commands!(@pattern $variant $($args)?) => $wire ),* }
            }

            /// Makes a command of its name and its `arguments` member.
            ///
            /// # Errors
            ///
            /// `CommandNotFound`, or `GenericError` with QEMU's sentence about the first argument that is wrong.
            pub fn parse(name: &str, arguments: Map<String, Value>) -> Result<Self, QmpError> {
                match name {
                    $( $wire => commands!(@parse arguments $variant $($args)?), )*
                    _ => Err(QmpError::command_not_found(name)),
                }
            }

            /// Adds those commands to the schema that `offer` has.
            pub fn describe_all(schema: &mut Schema, offer: &Offer) {
                $(
                    if offer.has($wire) {
                        let arguments = <commands!(@type $($args)?) as Qapi>::describe(schema);
                        let result = <$result as Qapi>::describe(schema);
                        schema.command($wire, &arguments, &result, features($wire));
                    }
                )*
            }
        }
    };
    (@pattern $variant:ident) => { Self::$variant };
    (@pattern $variant:ident $args:ident) => { Self::$variant(_) };
    (@parse $map:ident $variant:ident) => { no_arguments(&$map).map(|()| Self::$variant) };
    (@parse $map:ident $variant:ident $args:ident) => { arguments($map).map(Self::$variant) };
    (@type) => { () };
    (@type $args:ident) => { args::$args };
}

commands! {
    /// Ends the negotiation. Answered by the session.
    "qmp_capabilities" QmpCapabilities(QmpCapabilities) -> (),
    /// Which QEMU this stands in for.
    "query-version" QueryVersion -> monitor::VersionInfo,
    /// The names of the commands.
    "query-commands" QueryCommands -> Vec<monitor::CommandInfo>,
    /// Commands, events and types.
    "query-qmp-schema" QueryQmpSchema -> Value,
    /// The options of the command line.
    "query-command-line-options" QueryCommandLineOptions(QueryCommandLineOptions)
        -> Vec<monitor::CommandLineOptionInfo>,
    /// Hands over a descriptor under a name.
    "getfd" GetFd(FdName) -> (),
    /// Forgets it.
    "closefd" CloseFd(FdName) -> (),
    /// Puts a descriptor into a set for `/dev/fdset/N`.
    "add-fd" AddFd(AddFd) -> monitor::AddfdInfo,
    /// Takes it out.
    "remove-fd" RemoveFd(RemoveFd) -> (),
    /// The sets.
    "query-fdsets" QueryFdsets -> Vec<monitor::FdsetInfo>,
    /// A line for the human monitor.
    "human-monitor-command" HumanMonitorCommand(HumanMonitorCommand) -> String,

    /// The run state.
    "query-status" QueryStatus -> machine::StatusInfo,
    /// `-name`.
    "query-name" QueryName -> machine::NameInfo,
    /// `-uuid`.
    "query-uuid" QueryUuid -> machine::UuidInfo,
    /// Whether KVM is there and used.
    "query-kvm" QueryKvm -> machine::KvmInfo,
    /// Which architecture.
    "query-target" QueryTarget -> machine::TargetInfo,
    /// The machine types.
    "query-machines" QueryMachines -> Vec<machine::MachineInfo>,
    /// How much memory the guest has.
    "query-memory-size-summary" QueryMemorySizeSummary -> machine::MemoryInfo,
    /// What the machine can do.
    "query-current-machine" QueryCurrentMachine -> machine::CurrentMachineParams,
    /// Memory that was plugged: there is none.
    "query-memory-devices" QueryMemoryDevices -> Vec<Value>,
    /// Writes memory as a vCPU sees it to a file.
    "memsave" Memsave(Memsave) -> (),
    /// The same of memory as the machine has it.
    "pmemsave" Pmemsave(Pmemsave) -> (),
    /// The memory backends.
    "query-memdev" QueryMemdev -> Vec<machine::Memdev>,
    /// How far the guest's balloon is blown up: there is none.
    "query-balloon" QueryBalloon -> machine::BalloonInfo,
    /// The I/O threads.
    "query-iothreads" QueryIothreads -> Vec<machine::IoThreadInfo>,
    /// The vCPUs.
    "query-cpus-fast" QueryCpusFast -> Vec<cpu::CpuInfoFast>,
    /// The places for vCPUs.
    "query-hotpluggable-cpus" QueryHotpluggableCpus -> Vec<cpu::HotpluggableCpu>,
    /// The CPU models.
    "query-cpu-definitions" QueryCpuDefinitions -> Vec<cpu::CpuDefinitionInfo>,
    /// What a CPU model comes to.
    "query-cpu-model-expansion" QueryCpuModelExpansion(CpuModelExpansion) -> cpu::CpuModelExpansionInfo,
    /// The PCI functions.
    "query-pci" QueryPci -> Vec<device::PciInfo>,
    /// TPM models there are.
    "query-tpm-models" QueryTpmModels -> Vec<String>,
    /// TPM backends there are.
    "query-tpm-types" QueryTpmTypes -> Vec<String>,

    /// Stops the vCPUs and drains the devices.
    "stop" Stop -> (),
    /// Lets them go on.
    "cont" Cont -> (),
    /// Resets the machine.
    "system_reset" SystemReset -> (),
    /// Presses the power button.
    "system_powerdown" SystemPowerdown -> (),
    /// Wakes a sleeping guest.
    "system_wakeup" SystemWakeup -> (),
    /// Ends the process.
    "quit" Quit -> (),
    /// What happens on reboot, shutdown, panic, watchdog.
    "set-action" SetAction(SetAction) -> (),
    /// A non-maskable interrupt to all vCPUs.
    "inject-nmi" InjectNmi -> (),

    /// The disks.
    "query-block" QueryBlock -> Vec<block::BlockInfo>,
    /// Their counters.
    "query-blockstats" QueryBlockstats(QueryBlockstats) -> Vec<block::BlockStats>,
    /// The nodes of the block graph.
    "query-named-block-nodes" QueryNamedBlockNodes(QueryNamedBlockNodes) -> Vec<block::BlockDeviceInfo>,
    /// The block jobs.
    "query-block-jobs" QueryBlockJobs -> Vec<block::BlockJobInfo>,
    /// All jobs.
    "query-jobs" QueryJobs -> Vec<block::JobInfo>,
    /// Gives a node another size.
    "block_resize" BlockResize(BlockResize) -> (),
    /// Opens the tray of a drive and takes the medium out.
    "eject" Eject(Eject) -> (),
    /// Opens the tray of a drive.
    "blockdev-open-tray" BlockdevOpenTray(Eject) -> (),
    /// Closes it.
    "blockdev-close-tray" BlockdevCloseTray(CloseTray) -> (),
    /// Takes the medium out of the open tray.
    "blockdev-remove-medium" BlockdevRemoveMedium(Id) -> (),
    /// Puts a node into the open tray.
    "blockdev-insert-medium" BlockdevInsertMedium(InsertMedium) -> (),
    /// Puts another file into a drive.
    "blockdev-change-medium" BlockdevChangeMedium(ChangeMedium) -> (),
    /// Limits the rates of a disk.
    "block_set_io_throttle" BlockSetIoThrottle(BlockSetIoThrottle) -> (),
    /// Puts a node into the graph.
    "blockdev-add" BlockdevAdd(BlockdevAdd) -> (),
    /// Has a write told that goes past a place in a node.
    "block-set-write-threshold" BlockSetWriteThreshold(BlockSetWriteThreshold) -> (),
    /// Has nodes written to, or only read.
    "blockdev-reopen" BlockdevReopen(BlockdevReopen) -> (),
    /// Takes a node out of the graph.
    "blockdev-del" BlockdevDel(NodeName) -> (),
    /// Puts an overlay that is in the graph onto a node.
    "blockdev-snapshot" BlockdevSnapshot(BlockdevSnapshot) -> (),
    /// Makes an overlay and puts it onto a node.
    "blockdev-snapshot-sync" BlockdevSnapshotSync(BlockdevSnapshotSync) -> (),
    /// Makes a snapshot inside an image.
    "blockdev-snapshot-internal-sync" BlockdevSnapshotInternalSync(BlockdevSnapshotInternal) -> (),
    /// Deletes a snapshot inside an image.
    "blockdev-snapshot-delete-internal-sync" BlockdevSnapshotDeleteInternalSync(BlockdevSnapshotDeleteInternalSync) -> block::SnapshotInfo,
    /// Makes a file, or an image in a node; a job.
    "blockdev-create" BlockdevCreate(BlockdevCreate) -> (),
    /// Pulls what lies beneath a node up into it; a job.
    "block-stream" BlockStream(BlockStream) -> (),
    /// Writes what an overlay holds into a node beneath it; a job.
    "block-commit" BlockCommit(BlockCommit) -> (),
    /// Copies a disk into another node, and follows it; a job.
    "blockdev-mirror" BlockdevMirror(BlockdevMirror) -> (),
    /// Copies a disk as it is now into another node; a job.
    "blockdev-backup" BlockdevBackup(BlockdevBackup) -> (),
    /// The same into an image file.
    "drive-backup" DriveBackup(DriveBackup) -> (),
    /// Copies a disk into an image file, and follows it; a job.
    "drive-mirror" DriveMirror(DriveMirror) -> (),
    /// Puts a bitmap on a node, which says what changes.
    "block-dirty-bitmap-add" BlockDirtyBitmapAdd(DirtyBitmapAdd) -> (),
    /// Takes it away.
    "block-dirty-bitmap-remove" BlockDirtyBitmapRemove(DirtyBitmap) -> (),
    /// Forgets what changed until now.
    "block-dirty-bitmap-clear" BlockDirtyBitmapClear(DirtyBitmap) -> (),
    /// Has it record.
    "block-dirty-bitmap-enable" BlockDirtyBitmapEnable(DirtyBitmap) -> (),
    /// Has it record no more.
    "block-dirty-bitmap-disable" BlockDirtyBitmapDisable(DirtyBitmap) -> (),
    /// Adds what others say has changed.
    "block-dirty-bitmap-merge" BlockDirtyBitmapMerge(DirtyBitmapMerge) -> (),
    /// Has the machine listen for NBD clients.
    "nbd-server-start" NbdServerStart(NbdServerStart) -> (),
    /// Ends that, and all exports.
    "nbd-server-stop" NbdServerStop -> (),
    /// Shows a device's node or another to others: `block-export-add` in older words.
    "nbd-server-add" NbdServerAdd(NbdServerAdd) -> (),
    /// Shows it no more.
    "nbd-server-remove" NbdServerRemove(NbdServerRemove) -> (),
    /// Names another file in the header of an overlay, which goes on as it is.
    "change-backing-file" ChangeBackingFile(ChangeBackingFile) -> (),
    /// Shows a node to others.
    "block-export-add" BlockExportAdd(BlockExportAdd) -> (),
    /// Shows it no more.
    "block-export-del" BlockExportDel(BlockExportDel) -> (),
    /// What is shown.
    "query-block-exports" QueryBlockExports -> Vec<block::BlockExportInfo>,
    /// Has a job that is ready go over to what it has made.
    "job-complete" JobComplete(Id) -> (),
    /// The same.
    "block-job-complete" BlockJobComplete(JobDevice) -> (),
    /// Ends a job.
    "job-cancel" JobCancel(Id) -> (),
    /// Holds it.
    "job-pause" JobPause(Id) -> (),
    /// Lets it go on.
    "job-resume" JobResume(Id) -> (),
    /// Finishes one whose work is done.
    "job-finalize" JobFinalize(Id) -> (),
    /// Forgets one that is over.
    "job-dismiss" JobDismiss(Id) -> (),
    /// Ends a job on a node.
    "block-job-cancel" BlockJobCancel(BlockJobCancel) -> (),
    /// Holds it.
    "block-job-pause" BlockJobPause(JobDevice) -> (),
    /// Lets it go on.
    "block-job-resume" BlockJobResume(JobDevice) -> (),
    /// Limits its speed.
    "block-job-set-speed" BlockJobSetSpeed(BlockJobSetSpeed) -> (),
    /// Finishes one whose work is done.
    "block-job-finalize" BlockJobFinalize(Id) -> (),
    /// Forgets one that is over.
    "block-job-dismiss" BlockJobDismiss(Id) -> (),
    /// Several of them at one moment, or none.
    "transaction" Transaction(Transaction) -> (),

    /// Plugs a device.
    "device_add" DeviceAdd(DeviceAdd) -> (),
    /// Asks the guest to let a device go.
    "device_del" DeviceDel(Id) -> (),

    /// The character devices.
    "query-chardev" QueryChardev -> Vec<monitor::ChardevInfo>,
    /// The kinds of them.
    "query-chardev-backends" QueryChardevBackends -> Vec<monitor::ChardevBackendInfo>,
    /// Makes one.
    "chardev-add" ChardevAdd(ChardevAdd) -> monitor::ChardevReturn,
    /// Removes one.
    "chardev-remove" ChardevRemove(Id) -> (),
    /// Sends a break condition.
    "chardev-send-break" ChardevSendBreak(Id) -> (),
    /// Writes into a ring buffer.
    "ringbuf-write" RingbufWrite(RingbufWrite) -> (),
    /// Reads and empties it.
    "ringbuf-read" RingbufRead(RingbufRead) -> String,

    /// What is below a place in the tree of objects.
    "qom-list" QomList(QomList) -> Vec<device::ObjectPropertyInfo>,
    /// A property of an object.
    "qom-get" QomGet(QomGet) -> Value,
    /// Gives a property of an object another value.
    "qom-set" QomSet(QomSet) -> (),
    /// The types of objects.
    "qom-list-types" QomListTypes(QomListTypes) -> Vec<device::ObjectTypeInfo>,
    /// The properties of a type.
    "qom-list-properties" QomListProperties(TypeName) -> Vec<device::ObjectPropertyInfo>,
    /// The properties of a device type.
    "device-list-properties" DeviceListProperties(TypeName) -> Vec<device::ObjectPropertyInfo>,
    /// Makes an object.
    "object-add" ObjectAdd(ObjectAdd) -> (),
    /// Removes an object.
    "object-del" ObjectDel(Id) -> (),

    /// How far a migration is: none is ever under way.
    "query-migrate" QueryMigrate -> migration::MigrationInfo,
    /// What migration can do.
    "query-migrate-capabilities" QueryMigrateCapabilities -> Vec<migration::MigrationCapabilityStatus>,
    /// Sets that.
    "migrate-set-capabilities" MigrateSetCapabilities(MigrateSetCapabilities) -> (),
    /// Sets how a migration would be made.
    "migrate-set-parameters" MigrateSetParameters(MigrateSetParameters) -> (),
    /// How a migration would be made.
    "query-migrate-parameters" QueryMigrateParameters -> migration::MigrationParameters,
}

impl Command {
    /// The command adds, removes or resizes something that the guest or a saved state can see.
    pub fn changes_devices(&self) -> bool {
        matches!(
            self,
            Self::BlockResize(_)
                | Self::Eject(_)
                | Self::BlockdevOpenTray(_)
                | Self::BlockdevCloseTray(_)
                | Self::BlockdevRemoveMedium(_)
                | Self::BlockdevInsertMedium(_)
                | Self::BlockdevChangeMedium(_)
                | Self::BlockdevAdd(_)
                | Self::BlockdevReopen(_)
                | Self::BlockdevDel(_)
                | Self::BlockStream(_)
                | Self::BlockCommit(_)
                | Self::BlockdevMirror(_)
                | Self::BlockdevBackup(_)
                | Self::DriveBackup(_)
                | Self::DriveMirror(_)
                | Self::BlockdevSnapshot(_)
                | Self::BlockdevSnapshotSync(_)
                | Self::BlockdevSnapshotInternalSync(_)
                | Self::BlockdevSnapshotDeleteInternalSync(_)
                | Self::Transaction(_)
                | Self::ObjectAdd(_)
                | Self::ObjectDel(_)
                | Self::QomSet(_)
                | Self::DeviceAdd(_)
                | Self::DeviceDel(_)
        )
    }
}

/// What the schema says of a command beside its types: managers look for these words.
fn features(name: &str) -> &'static [&'static str] {
    match name {
        // -device takes JSON, and what it takes is what device_add takes.
        "device_add" => &["json-cli", "json-cli-hotplug"],
        // Managers are to take blockdev-backup.
        "drive-backup" => &["deprecated"],
        // The overlay may have been opened for writing before: libvirt asks for that.
        "blockdev-snapshot" => &["allow-write-only-overlay"],
        _ => &[],
    }
}

/// Reads the arguments of a command; the check comes first because its words are those that clients know.
fn arguments<T: Qapi + DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, QmpError> {
    let value = Value::Object(arguments);
    T::check(&value, &At::TOP)?;
    serde_json::from_value(value).map_err(|error| QmpError::from_error(&error))
}

fn no_arguments(arguments: &Map<String, Value>) -> Result<(), QmpError> {
    At::TOP.no_others(arguments, |_| false)
}
