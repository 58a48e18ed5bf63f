//! What has been read so far, and what follows from all of it together.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use crate::spec::chardev::ChardevSpec;
use crate::spec::error::{Shown, Words};
use crate::spec::machine::{Accel, Board, MachineOptions, MachineType, choose_accel};
use crate::spec::numa::{self, NumaOptions};
use crate::spec::object::{MemoryCommon, MemoryFileSpec, MemoryRamSpec};
use crate::spec::process::MonitorSpec;
use crate::spec::read::{self, Source};
use crate::spec::smbios::SmbiosSpec;
use crate::spec::{ByteSize, DeviceSpec, MachineSpec, MemorySpec, NumaSpec, ObjectSpec, SpecError, VmSpec};

use super::arg::Arg;
use super::error::CliError;
use super::globals::{self, Global};
use super::legacy;

/// A device whose properties wait for all `-global`s.
pub(super) struct PendingDevice {
    pub(super) arg: Arg,
    pub(super) object: Map<String, Value>,
    pub(super) source: Source,
}

/// Options so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) program: String,
    /// What needs nothing else to be understood.
    pub(super) spec: VmSpec,

    /// Properties of all `-machine`s, and of the options that are short for them.
    pub(super) machine: Map<String, Value>,
    /// The choice of each `-accel` and `-enable-kvm`.
    pub(super) accels: Vec<String>,
    pub(super) mem_path: Option<String>,
    pub(super) mem_prealloc: bool,
    pub(super) numa: Vec<NumaOptions>,
    /// Fields by type.
    pub(super) smbios: BTreeMap<String, Map<String, Value>>,

    pub(super) devices: Vec<PendingDevice>,
    pub(super) globals: Vec<Global>,

    pub(super) serial_given: bool,
    pub(super) monitor_given: bool,
    pub(super) no_defaults: bool,
    pub(super) nographic: bool,
    pub(super) display_given: bool,
    /// How many monitors `-monitor`, `-qmp` and the defaults made: their names are numbered together.
    pub(super) compat_monitors: usize,
}

impl Draft {
    /// Puts what follows from all options together.
    pub(super) fn finish(mut self) -> Result<VmSpec, CliError> {
        self.machine()?;
        self.numa()?;
        self.memory_objects()?;
        self.smbios()?;
        self.default_devices()?;
        self.devices()?;
        self.check()?;
        Ok(self.spec)
    }

    fn machine(&mut self) -> Result<(), SpecError> {
        let mut object = std::mem::take(&mut self.machine);
        let kind = match object.shift_remove("type") {
            Some(Value::String(name)) => MachineType::find(&name)?,
            _ => Default::default(),
        };
        let options: MachineOptions = read::read(object, Source::Either, Words::Properties("pc-i440fx-7.2-machine"))?;
        options.check()?;
        options.boot.check()?;
        self.spec.accel = self.accel(options.accel.as_deref())?;
        self.spec.smp = options.smp.resolve(kind.name, kind.max_cpus)?;
        self.spec.memory = options.memory.resolve()?;
        self.spec.machine = MachineSpec {
            kind,
            acpi: options.has_acpi(),
            dump_guest_core: options.dump_guest_core,
            mem_merge: options.mem_merge,
            memory_backend: options.memory_backend,
            pflash: [options.pflash0, options.pflash1],
            kernel_unpack: options.x_kernel_unpack,
            no_defaults: self.no_defaults,
        };
        let boot = &mut self.spec.boot;
        boot.kernel = boot.kernel.take().or(options.kernel.map(Into::into));
        boot.initrd = boot.initrd.take().or(options.initrd.map(Into::into));
        boot.append = boot.append.take().or(options.append);
        boot.firmware = boot.firmware.take().or(options.firmware.map(Into::into));
        boot.options = options.boot;
        if boot.kernel.is_none() && boot.append.is_some() {
            return Err(SpecError::new("-append only allowed with -kernel option"));
        }
        if boot.kernel.is_none() && boot.initrd.is_some() {
            return Err(SpecError::new("-initrd only allowed with -kernel option"));
        }
        self.backend_size(options.memory.size)
    }

    fn accel(&self, of_machine: Option<&str>) -> Result<Accel, SpecError> {
        match of_machine {
            Some(_) if !self.accels.is_empty() => {
                Err(SpecError::new("The -accel and \"-machine accel=\" options are incompatible"))
            }
            Some(list) => choose_accel(list),
            None if self.accels.is_empty() => Ok(Accel::default()),
            None => choose_accel(&self.accels.join(":")),
        }
    }

    /// The size of the object that is the guest's memory counts where `-m` says nothing.
    fn backend_size(&mut self, asked: Option<ByteSize>) -> Result<(), SpecError> {
        let Some(id) = &self.spec.machine.memory_backend else { return Ok(()) };
        let object = self.spec.objects.iter().find(|object| object.id() == id);
        let Some(common) = object.and_then(ObjectSpec::memory) else {
            return Err(SpecError::new(format!(
                "Memory backend '{}' not found; define it with -object memory-backend-ram,id=...",
                Shown(id)
            )));
        };
        match asked {
            None => self.spec.memory = MemorySpec { size: common.size },
            Some(_) if self.spec.memory.size == common.size => {}
            Some(_) => {
                return Err(SpecError::new(format!(
                    "Machine memory size ({}) does not match the size of the memory backend ({})",
                    self.spec.memory.size, common.size
                )));
            }
        }
        Ok(())
    }

    /// `-mem-path` and `-mem-prealloc` are short for a memory object.
    fn memory_objects(&mut self) -> Result<(), SpecError> {
        if self.mem_path.is_none() && !self.mem_prealloc {
            return Ok(());
        }
        if self.spec.machine.memory_backend.is_some() {
            return Err(SpecError::new(
                "'-mem-path' and '-mem-prealloc' go without 'memory-backend'; give the object mem-path and prealloc",
            ));
        }
        let common = MemoryCommon {
            id: String::from("pc.ram"),
            size: self.spec.memory.size,
            prealloc: self.mem_prealloc,
            merge: self.spec.machine.mem_merge,
            dump: self.spec.machine.dump_guest_core,
            ..MemoryCommon::default()
        };
        let object = match self.mem_path.take() {
            Some(path) => {
                ObjectSpec::MemoryFile(MemoryFileSpec { common, mem_path: path.into(), ..MemoryFileSpec::default() })
            }
            None => ObjectSpec::MemoryRam(MemoryRamSpec { common, ..MemoryRamSpec::default() }),
        };
        self.spec.objects.push(object);
        self.spec.machine.memory_backend = Some(String::from("pc.ram"));
        Ok(())
    }

    fn numa(&mut self) -> Result<(), SpecError> {
        let spec = &mut self.spec;
        let beside = numa::Beside {
            smp: &spec.smp,
            memory: spec.memory.size.0,
            objects: &spec.objects,
            memory_backend: spec.machine.memory_backend.as_deref(),
        };
        spec.numa = NumaSpec::resolve(&self.numa, &beside, &mut spec.warnings)?;
        if (self.mem_path.is_some() || self.mem_prealloc) && spec.numa.nodes.iter().any(|node| node.memdev.is_some()) {
            return Err(SpecError::new(
                "'-mem-path' and '-mem-prealloc' go without '-numa memdev'; give the objects mem-path and prealloc",
            ));
        }
        Ok(())
    }

    fn smbios(&mut self) -> Result<(), SpecError> {
        for object in std::mem::take(&mut self.smbios).into_values() {
            self.spec.smbios.fields.push(SmbiosSpec::read(object, Source::Text)?);
        }
        Ok(())
    }

    /// The serial port and the monitor that a machine has unless the user says otherwise.
    fn default_devices(&mut self) -> Result<(), SpecError> {
        if self.no_defaults || self.spec.machine.kind.board == Board::None {
            return Ok(());
        }
        let is_serial =
            |device: &PendingDevice| device.object.get("driver").is_some_and(|driver| driver == "isa-serial");
        let serial = !self.serial_given && !self.devices.iter().any(is_serial);
        let monitor = !self.monitor_given;
        if self.nographic {
            if self.spec.process.daemonize && (serial || monitor) {
                return Err(SpecError::new("-nographic cannot be used with -daemonize; use -display none"));
            }
            match (serial, monitor) {
                (true, true) => legacy::add_serial(self, "mon:stdio")?,
                (true, false) => legacy::add_serial(self, "stdio")?,
                (false, true) => legacy::add_monitor(self, "stdio", legacy::HUMAN)?,
                (false, false) => {}
            }
            return Ok(());
        }
        if serial {
            // QEMU puts it into the window; there is none.
            legacy::add_serial(self, "null")?;
            if !self.display_given {
                let hint = "there is no display; use -nographic for the guest's serial console in this terminal";
                self.spec.warnings.push(hint.to_owned());
            }
        }
        Ok(())
    }

    fn devices(&mut self) -> Result<(), CliError> {
        globals::resolve(std::mem::take(&mut self.globals), &mut self.spec)?;
        let (json, text): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.devices).into_iter().partition(|device| device.source == Source::Json);
        self.spec.json_devices = json.len();
        for PendingDevice { arg, object, source } in text.into_iter().chain(json) {
            let device = DeviceSpec::read_with(object, source, &self.spec.globals).map_err(|error| arg.wrong(error))?;
            self.spec.devices.push(device);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SpecError> {
        let spec = &self.spec;
        once("chardev", spec.chardevs.iter().map(|chardev| chardev.common().id.as_str()))?;
        once("object", spec.objects.iter().map(ObjectSpec::id))?;
        once("device", spec.devices.iter().filter_map(DeviceSpec::id))?;
        once("mon", spec.monitors.iter().filter_map(|monitor| monitor.id.as_deref()))?;
        once("drive", spec.drives.iter().filter_map(|drive| drive.options.id.as_deref()))?;
        if spec.gdb.is_some() && (spec.accel != Accel::Kvm || spec.machine.kind.board == Board::None) {
            return Err(SpecError::new("-gdb and -s need a guest that runs; leave them out"));
        }
        let has = |id: &str| spec.chardevs.iter().any(|chardev| chardev.common().id == id);
        let named = spec.monitors.iter().map(|monitor| monitor.chardev.as_str());
        let named = named.chain(spec.qtest.as_deref()).chain(spec.gdb.as_deref());
        let named = named.chain(spec.serials.iter().flatten().map(String::as_str));
        if let Some(id) = named.into_iter().find(|id| !has(id)) {
            return Err(SpecError::new(format!("chardev \"{}\" not found; define it with -chardev", Shown(id))));
        }
        let stdio = spec.chardevs.iter().filter(|chardev| matches!(chardev, ChardevSpec::Stdio(_))).count();
        if stdio > 1 {
            return Err(SpecError::new(
                "cannot use stdio by multiple character devices; share one with mux=on, as in -serial mon:stdio",
            ));
        }
        if stdio > 0 && spec.process.daemonize {
            return Err(SpecError::new("cannot use stdio with -daemonize; use a socket, a file or null"));
        }
        Ok(())
    }

    /// Adds a monitor under the next name.
    pub(super) fn push_monitor(&mut self, monitor: MonitorSpec) {
        self.spec.monitors.push(monitor);
    }
}

fn once<'a>(what: &str, ids: impl Iterator<Item = &'a str>) -> Result<(), SpecError> {
    let mut seen = HashSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(SpecError::new(format!("Duplicate ID '{}' for {what}", Shown(id))));
        }
    }
    Ok(())
}
