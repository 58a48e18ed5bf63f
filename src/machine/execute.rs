//! Commands, performed: one arm a command, each handing on to the part that does the work.

use serde_json::Value;

use super::jobs::Verb;
use super::{Machine, query};
use crate::qmp::channel::{Answer, Inspect, Inspection, Target, answer, done};
use crate::qmp::command::Offer;
use crate::qmp::command::args::SetAction;
use crate::qmp::command::args::TransactionAction;
use crate::qmp::event::ShutdownCause;
use crate::qmp::reply::device::PciInfo;
use crate::qmp::reply::machine::CurrentMachineParams;
use crate::qmp::reply::migration::{MigrationCapability, MigrationCapabilityStatus, MigrationInfo};
use crate::qmp::{Command, Event, QmpError, RunState};

impl Target for Machine {
    fn run_state(&self) -> RunState {
        self.state
    }

    fn execute(&mut self, command: Command) -> Answer {
        match command {
            Command::QueryStatus => answer(&self.status()),
            Command::QueryName => answer(&self.name_info()),
            Command::QueryUuid => answer(&self.uuid_info()),
            Command::QueryKvm => answer(&self.kvm_info()),
            Command::QueryTarget => answer(&Self::target_info()),
            Command::QueryMachines => answer(&Self::machine_types()),
            Command::QueryMemorySizeSummary => answer(&self.memory_info()),
            Command::QueryMemdev => answer(&self.memdevs()),
            Command::QueryCurrentMachine => answer(&CurrentMachineParams { wakeup_suspend_support: false }),
            // Memory is given at start.
            Command::QueryMemoryDevices => answer(&Vec::<Value>::new()),
            Command::QueryBalloon => Err(QmpError::device_not_active("balloon")),
            Command::QueryIothreads => answer(&self.iothreads()),
            Command::QueryCpusFast => answer(&self.cpus()),
            Command::QueryHotpluggableCpus => self.cpu_places(),
            Command::QueryCpuDefinitions => answer(&crate::cpu::definitions(self.facts.host_cpu.as_ref())),
            Command::QueryCpuModelExpansion(args) => {
                answer(&crate::cpu::expand(args.r#type, &args.model, self.facts.host_cpu.as_ref())?)
            }
            Command::QueryPci => answer(&self.pci()),
            Command::QueryTpmModels | Command::QueryTpmTypes => answer(&Vec::<String>::new()),

            Command::QueryBlock => self.disks(),
            Command::QueryBlockstats(args) => answer(&self.disk_counters(args.query_nodes.unwrap_or(false))),
            Command::QueryNamedBlockNodes(args) => self.nodes(args.flat.unwrap_or(false)),
            Command::QueryBlockJobs => self.block_jobs(),
            Command::QueryJobs => self.all_jobs(),
            Command::BlockResize(args) => self.resize_disk(&args),
            Command::Eject(args) => self.eject(&args),
            Command::BlockdevOpenTray(args) => self.open_tray(&args),
            Command::BlockdevCloseTray(args) => self.close_tray(&args),
            Command::BlockdevRemoveMedium(args) => self.remove_medium(&args.id),
            Command::BlockdevInsertMedium(args) => self.insert_medium(&args),
            Command::BlockdevChangeMedium(args) => self.change_medium(&args),
            Command::BlockSetIoThrottle(args) => self.limit_disk(&args),
            Command::BlockdevAdd(args) => self.add_node(&args.0),
            Command::BlockSetWriteThreshold(args) => self.set_write_threshold(&args),
            Command::BlockdevReopen(args) => self.reopen_nodes(&args),
            Command::BlockdevDel(args) => self.remove_node(&args.node_name),
            Command::BlockdevSnapshot(args) => self.act(TransactionAction::BlockdevSnapshot(args)),
            Command::BlockdevSnapshotSync(args) => self.act(TransactionAction::BlockdevSnapshotSync(args)),
            Command::BlockdevSnapshotInternalSync(args) => {
                self.act(TransactionAction::BlockdevSnapshotInternalSync(args))
            }
            Command::BlockdevSnapshotDeleteInternalSync(args) => self.delete_internal_snapshot(&args),
            Command::BlockdevBackup(args) => self.act(TransactionAction::BlockdevBackup(args)),
            Command::BlockDirtyBitmapAdd(args) => self.act(TransactionAction::BlockDirtyBitmapAdd(args)),
            Command::BlockDirtyBitmapRemove(args) => self.act(TransactionAction::BlockDirtyBitmapRemove(args)),
            Command::BlockDirtyBitmapClear(args) => self.act(TransactionAction::BlockDirtyBitmapClear(args)),
            Command::BlockDirtyBitmapEnable(args) => self.act(TransactionAction::BlockDirtyBitmapEnable(args)),
            Command::BlockDirtyBitmapDisable(args) => self.act(TransactionAction::BlockDirtyBitmapDisable(args)),
            Command::BlockDirtyBitmapMerge(args) => self.act(TransactionAction::BlockDirtyBitmapMerge(args)),
            Command::Transaction(args) => self.transaction(&args),

            Command::Memsave(args) => self.save_linear_memory(&args),
            Command::Pmemsave(args) => self.save_memory(&args),

            Command::NbdServerStart(args) => self.start_nbd_server(&args),
            Command::NbdServerStop => self.stop_nbd_server(),
            Command::NbdServerAdd(args) => self.add_nbd_export(&args),
            Command::NbdServerRemove(args) => self.remove_export(&args.name, args.mode),
            Command::ChangeBackingFile(args) => self.change_backing_file(&args),
            Command::BlockExportAdd(args) => self.add_export(&args),
            Command::BlockExportDel(args) => self.remove_export(&args.id, args.mode),
            Command::QueryBlockExports => answer(&self.exports()),

            Command::BlockdevCreate(args) => self.create_image(&args),
            Command::BlockStream(args) => self.stream(&args),
            Command::BlockCommit(args) => self.commit(&args),
            Command::DriveBackup(args) => self.act(TransactionAction::DriveBackup(args)),
            Command::DriveMirror(args) => self.drive_mirror(&args),
            Command::BlockdevMirror(args) => self.mirror(&args),
            Command::JobComplete(args) => self.order_job(&args.id, Verb::Complete),
            Command::BlockJobComplete(args) => self.order_block_job(&args.device, Verb::Complete),
            Command::JobCancel(args) => self.order_job(&args.id, Verb::Cancel),
            Command::JobPause(args) => self.order_job(&args.id, Verb::Pause),
            Command::JobResume(args) => self.order_job(&args.id, Verb::Resume),
            Command::JobFinalize(args) => self.order_job(&args.id, Verb::Finalize),
            Command::JobDismiss(args) => self.order_job(&args.id, Verb::Dismiss),
            Command::BlockJobCancel(args) => {
                let verb = if args.force == Some(true) { Verb::Cancel } else { Verb::Leave };
                self.order_block_job(&args.device, verb)
            }
            Command::BlockJobPause(args) => self.order_block_job(&args.device, Verb::Pause),
            Command::BlockJobResume(args) => self.order_block_job(&args.device, Verb::Resume),
            Command::BlockJobSetSpeed(args) => self.order_block_job(&args.device, Verb::SetSpeed(args.speed)),
            Command::BlockJobFinalize(args) => self.order_block_job(&args.id, Verb::Finalize),
            Command::BlockJobDismiss(args) => self.order_block_job(&args.id, Verb::Dismiss),

            Command::Stop => self.stop(RunState::Paused).map_err(|e| QmpError::from_error(&e)).and_then(|()| done()),
            Command::Cont => {
                self.cont().map_err(|e| QmpError::from_error(&e))?;
                done()
            }
            Command::SystemReset => {
                self.restart(ShutdownCause::HostQmpSystemReset).map_err(|e| QmpError::from_error(&e))?;
                done()
            }
            Command::SystemPowerdown => {
                self.press_power_button();
                self.bus.emit(&Event::Powerdown);
                done()
            }
            Command::Quit => {
                self.quit(ShutdownCause::HostQmpQuit);
                done()
            }
            Command::SetAction(actions) => {
                self.set_actions(&actions);
                done()
            }
            Command::InjectNmi => self.inject_nmi(),

            Command::QueryMigrate => answer(&MigrationInfo {}),
            Command::QueryMigrateCapabilities => answer(&[MigrationCapabilityStatus {
                capability: MigrationCapability::Events,
                state: self.migration_events,
            }]),
            Command::MigrateSetParameters(args) => {
                if args.block_bitmap_mapping.is_some() {
                    self.migration_parameters = args;
                }
                done()
            }
            Command::QueryMigrateParameters => answer(&self.migration_parameters),
            Command::MigrateSetCapabilities(args) => {
                for wanted in args.capabilities {
                    match wanted.capability {
                        MigrationCapability::Events => self.migration_events = wanted.state,
                    }
                }
                done()
            }

            Command::DeviceAdd(args) => self.add_device(args.0),
            Command::DeviceDel(args) => self.ask_device_back(&args.id),
            Command::ObjectAdd(args) => self.add_object(&args.0),
            Command::ObjectDel(args) => self.remove_object(&args.id),

            Command::QomList(args) => self.list_objects(&args.path),
            Command::QomGet(args) => self.object_property(&args.path, &args.property),
            Command::QomSet(args) => self.set_object_property(&args.path, &args.property, args.value),
            other => Err(QmpError::generic(format!("The command {} is not for the machine", other.name()))),
        }
    }

    fn inspect(&mut self, query: Inspect) -> Result<Inspection, QmpError> {
        self.look(&query)
    }
}

impl Machine {
    fn set_actions(&mut self, wanted: &SetAction) {
        let actions = &mut self.actions;
        actions.reboot = wanted.reboot.unwrap_or(actions.reboot);
        actions.shutdown = wanted.shutdown.unwrap_or(actions.shutdown);
        actions.panic = wanted.panic.unwrap_or(actions.panic);
        actions.watchdog = wanted.watchdog.unwrap_or(actions.watchdog);
    }

    fn pci(&self) -> Vec<PciInfo> {
        self.guest.as_ref().map(|guest| query::pci::bus(&guest.board)).unwrap_or_default()
    }

    fn press_power_button(&self) {
        if let Some(guest) = &self.guest {
            guest.board.press_power_button();
        }
    }

    fn inject_nmi(&self) -> Answer {
        for vcpu in self.vcpus() {
            let raised = vcpu.call(|v| v.inject_nmi()).map_err(|e| QmpError::from_error(&e))?;
            raised.map_err(|e| QmpError::from_error(&e))?;
        }
        done()
    }
}

/// The commands that this machine has.
pub(super) fn offer() -> Offer {
    // Nothing sleeps here: S3 needs firmware.
    Offer::all().without(&["system_wakeup"])
}
