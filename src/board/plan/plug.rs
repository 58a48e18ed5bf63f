//! Plans for what comes and goes while the machine lives.

use std::collections::BTreeMap;

use super::check::{self, DrivePlan, PlanError};
use super::{BootPlan, Channels, IsaPlan, PciDevice, PciPlan, Places, Plan, ScsiUnitPlan, Told, scsi};
use crate::spec::{DeviceSpec, ObjectSpec, VmSpec};

/// What the machine was asked to be, kept up to date: devices and objects that come later are planned beside it.
#[derive(Debug, Default)]
pub struct Planner {
    spec: VmSpec,
    drives: Vec<DrivePlan>,
    places: Places,
    functions: BTreeMap<String, PciPlan>,
    ide: Channels,
    isa: Vec<IsaPlan>,
    boot: BootPlan,
    has_firmware: bool,
}

impl Planner {
    /// Goes on from the machine's `plan`, which was made of `spec` and `drives`.
    #[must_use]
    pub fn new(spec: VmSpec, drives: Vec<DrivePlan>, plan: &Plan) -> Self {
        let functions = plan.pci.iter().map(|function| (function.id.clone(), function.clone())).collect();
        let (ide, isa) = (plan.ide.clone(), plan.isa.clone());
        let (boot, has_firmware) = (plan.boot.clone(), plan.firmware.is_some());
        let mut places = plan.places.clone();
        places.complete();
        Self { spec, drives, places, functions, ide, isa, boot, has_firmware }
    }

    /// What firmware is told at the next start, with the devices that are there now.
    #[must_use]
    pub fn boot(&self) -> BootPlan {
        let roms = super::roms::paths(&self.spec.boot, self.has_firmware);
        BootPlan { told: Told::new(self.functions.values(), &self.ide, roms), ..self.boot.clone() }
    }

    /// Who is where.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The drives on IDE.
    #[must_use]
    pub fn ide(&self) -> &Channels {
        &self.ide
    }

    /// The name of the bus that an adapter has.
    #[must_use]
    pub fn scsi_bus(&self, adapter: &str) -> Option<&str> {
        match &self.functions.get(adapter)?.device {
            PciDevice::Scsi(adapter) => Some(&adapter.bus),
            _ => None,
        }
    }

    /// What the machine was asked to be, with the objects that came later.
    #[must_use]
    pub fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// The PCI function called `id`.
    #[must_use]
    pub fn function(&self, id: &str) -> Option<&PciPlan> {
        self.functions.get(id)
    }

    /// The SCSI unit called `id`.
    #[must_use]
    pub fn unit(&self, id: &str) -> Option<&ScsiUnitPlan> {
        self.functions.values().flat_map(PciPlan::units).find(|unit| unit.id == id)
    }

    /// The chips on the ISA bus that were asked for.
    #[must_use]
    pub fn isa(&self) -> &[IsaPlan] {
        &self.isa
    }

    /// The `-drive`s, in their order.
    #[must_use]
    pub fn drives(&self) -> &[DrivePlan] {
        &self.drives
    }

    /// A drive that waits for a device.
    pub fn add_drive(&mut self, drive: DrivePlan) {
        self.drives.push(drive);
    }

    /// The drive called `id` is gone.
    pub fn remove_drive(&mut self, id: &str) {
        self.drives.retain(|drive| drive.id != id);
    }

    /// The drive called `id` has another node, or none.
    pub fn set_node(&mut self, id: &str, node: Option<String>) {
        if let Some(drive) = self.drives.iter_mut().find(|drive| drive.id == id) {
            drive.node = node;
        }
    }

    /// The objects.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectSpec> {
        self.spec.objects.iter()
    }

    /// Gives the device its name and its place.
    ///
    /// # Errors
    /// When it cannot be plugged, or not where it should go; nothing is taken then.
    pub fn plug(&mut self, device: &DeviceSpec) -> Result<PciPlan, PlanError> {
        if device.pci().is_none() {
            return Err(PlanError::NotPluggable { driver: device.driver() });
        }
        let before = self.places.mark();
        let planned = check::function(&self.spec, device, &self.drives, &mut self.places);
        match &planned {
            Ok(plan) => drop(self.functions.insert(plan.id.clone(), plan.clone())),
            Err(_) => self.places.take_back(device, before),
        }
        planned
    }

    /// The function called `id` is gone; what it and the devices behind it had is free. Gives its plan.
    pub fn unplugged(&mut self, id: &str) -> Option<PciPlan> {
        let plan = self.functions.remove(id)?;
        plan.units().iter().for_each(|unit| self.places.free(&unit.id));
        self.places.free(id);
        Some(plan)
    }

    /// Gives a unit its name and its place behind an adapter; says which bus that is.
    ///
    /// # Errors
    /// When it is no unit on SCSI, or cannot go where it should; nothing is taken then.
    pub fn plug_unit(&mut self, device: &DeviceSpec) -> Result<(String, ScsiUnitPlan), PlanError> {
        let before = self.places.mark();
        let mut adapters: Vec<_> = self.functions.values_mut().filter_map(PciPlan::adapter_mut).collect();
        let planned = scsi::add_unit(&mut adapters, device, &self.drives, &mut self.places.names);
        if planned.is_err() {
            self.places.take_back(device, before);
        }
        planned
    }

    /// The unit called `id` is gone, and its name and place are free. Gives its bus and plan; nothing if there is none.
    pub fn unplugged_unit(&mut self, id: &str) -> Option<(String, ScsiUnitPlan)> {
        let mut adapters = self.functions.values_mut().filter_map(PciPlan::adapter_mut);
        let gone = adapters.find_map(|adapter| {
            let at = adapter.units.iter().position(|unit| unit.id == id)?;
            Some((adapter.bus.clone(), adapter.units.remove(at)))
        })?;
        self.places.free(id);
        Some(gone)
    }

    /// Gives the disk called `id` another place in the order in which firmware tries devices, from the next start on; below 0
    /// it has none.
    ///
    /// # Errors
    /// When another device has this place.
    pub fn set_bootindex(&mut self, id: &str, index: i32) -> Result<(), PlanError> {
        self.places.set_bootindex(id, index)?;
        for function in self.functions.values_mut() {
            if function.id == id {
                function.told.index = Some(index);
            }
            let units = function.adapter_mut().into_iter().flat_map(|adapter| &mut adapter.units);
            units.filter(|unit| unit.id == id).for_each(|unit| unit.told.index = Some(index));
        }
        let drives = self.ide.iter_mut().flatten().flatten();
        drives.filter(|drive| drive.id == id).for_each(|drive| drive.told.index = Some(index));
        Ok(())
    }

    /// What `-global` says of devices.
    #[must_use]
    pub fn globals(&self) -> &[crate::spec::GlobalSpec] {
        &self.spec.globals
    }

    /// An object that devices can name from now on.
    ///
    /// # Errors
    /// There is one of this name.
    pub fn add_object(&mut self, object: ObjectSpec) -> Result<(), PlanError> {
        if self.spec.objects.iter().any(|other| other.id() == object.id()) {
            return Err(PlanError::DuplicateObject(object.id().to_owned()));
        }
        self.spec.objects.push(object);
        Ok(())
    }

    /// Puts an object in the place of that with its name.
    pub fn change_object(&mut self, object: ObjectSpec) {
        if let Some(place) = self.spec.objects.iter_mut().find(|other| other.id() == object.id()) {
            *place = object;
        }
    }

    /// Takes an object away.
    ///
    /// # Errors
    /// There is none of this name, or a device or the machine itself uses it.
    pub fn remove_object(&mut self, id: &str) -> Result<(), PlanError> {
        let at = self.spec.objects.iter().position(|object| object.id() == id);
        let at = at.ok_or_else(|| PlanError::UnknownObject(id.to_owned()))?;
        let is_memory = self.spec.machine.memory_backend.as_deref() == Some(id);
        if is_memory || self.functions.values().flat_map(|function| &function.objects).any(|used| used == id) {
            return Err(PlanError::ObjectInUse(id.to_owned()));
        }
        self.spec.objects.remove(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::read::Source;
    use serde_json::{Value, json};

    fn device(options: Value) -> DeviceSpec {
        let Value::Object(options) = options else { panic!("no object") };
        DeviceSpec::read(options, Source::Json).unwrap()
    }

    fn object(options: Value) -> ObjectSpec {
        let Value::Object(options) = options else { panic!("no object") };
        ObjectSpec::read(options, Source::Json).unwrap()
    }

    fn refusal(planner: &mut Planner, options: Value) -> String {
        planner.plug(&device(options)).unwrap_err().to_string()
    }

    #[test]
    fn refused_device_takes_neither_name_nor_place() {
        let mut planner = Planner::default();
        let wanting = json!({"driver": "virtio-rng-pci", "id": "r", "addr": "4", "rng": "nothing"});

        let said = refusal(&mut planner, wanting);

        assert_eq!(said, "device \"r\": rng 'nothing' not found; give -object rng-random,id=nothing");
        let plan = planner.plug(&device(json!({"driver": "virtio-rng-pci", "id": "r", "addr": "4"}))).unwrap();
        assert_eq!((plan.id.as_str(), plan.bdf.device()), ("r", 4));
    }

    #[test]
    fn name_and_slot_are_each_given_once_and_given_back() {
        let mut planner = Planner::default();
        planner.plug(&device(json!({"driver": "virtio-rng-pci", "id": "r", "addr": "4"}))).unwrap();

        let said = refusal(&mut planner, json!({"driver": "virtio-rng-pci", "id": "r"}));
        assert_eq!(said, "Duplicate device ID 'r'");
        let said = refusal(&mut planner, json!({"driver": "virtio-rng-pci", "addr": "4"}));
        assert_eq!(said, "device virtio-rng-pci: PCI: slot 4 function 0 is taken by device \"r\"");

        planner.unplugged("r");
        assert!(planner.plug(&device(json!({"driver": "virtio-rng-pci", "id": "r", "addr": "4"}))).is_ok());
    }

    #[test]
    fn refused_devices_leave_all_names_and_counts_as_they_were() {
        let mut planner = Planner::default();
        let adapter = json!({"driver": "virtio-scsi-pci", "addr": "4"});
        planner.plug(&device(adapter.clone())).unwrap();
        let of = |planner: &Planner| planner.places().devices().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
        let before = (of(&planner), format!("{:?}", planner.places));

        refusal(&mut planner, adapter);
        refusal(&mut planner, json!({"driver": "virtio-rng-pci", "rng": "nothing"}));
        let wanting = json!({"driver": "scsi-hd", "drive": "n", "bus": "nowhere.0"});
        planner.plug_unit(&device(wanting)).unwrap_err();

        assert_eq!((of(&planner), format!("{:?}", planner.places)), before);
        let next = planner.plug(&device(json!({"driver": "virtio-scsi-pci"}))).unwrap();
        assert_eq!((next.id.as_str(), planner.scsi_bus(&next.id)), ("#virtio-scsi-pci.2", Some("scsi.1")));
    }

    #[test]
    fn devices_of_other_buses_cannot_be_plugged() {
        let said = refusal(&mut Planner::default(), json!({"driver": "ide-cd"}));

        assert_eq!(said, "device ide-cd: its bus does not support hotplugging; give it on the command line");
    }

    #[test]
    fn firmware_is_told_of_what_is_there_now() {
        let mut planner = Planner::default();
        let disk = |id, addr, index| {
            device(
                json!({"driver": "virtio-blk-pci", "id": id, "addr": addr, "drive": "n", "bootindex": index, "lcyls": 9}),
            )
        };
        planner.plug(&disk("late", "4", 7)).unwrap();
        planner.plug(&disk("soon", "5", 1)).unwrap();

        let both = planner.boot().told;
        planner.unplugged("soon");
        let one = planner.boot().told;

        assert_eq!(both.order, ["/pci@i0cf8/scsi@5/disk@0,0", "/pci@i0cf8/scsi@4/disk@0,0"]);
        assert_eq!(one.order, ["/pci@i0cf8/scsi@4/disk@0,0"]);
        assert_eq!(one.shapes, [("/pci@i0cf8/scsi@4/disk@0,0".to_owned(), [9, 0, 0])]);
    }

    #[test]
    fn place_in_the_order_of_starting_is_given_once_and_can_change() {
        let disk = |id, index| device(json!({"driver": "virtio-blk-pci", "id": id, "drive": id, "bootindex": index}));
        let mut planner = Planner::default();
        planner.plug(&disk("a", 1)).unwrap();
        planner.plug(&disk("b", -1)).unwrap();
        let taken = planner.plug(&disk("c", 1)).unwrap_err().to_string();
        let before = planner.boot().told.order;

        planner.set_bootindex("b", 0).unwrap();
        let now = planner.boot().told.order;
        let used = planner.set_bootindex("a", 0).unwrap_err().to_string();
        planner.set_bootindex("b", -5).unwrap();

        assert_eq!(taken, "The bootindex 1 has already been used");
        assert_eq!(before, ["/pci@i0cf8/scsi@2/disk@0,0"]);
        assert_eq!(now, ["/pci@i0cf8/scsi@3/disk@0,0", "/pci@i0cf8/scsi@2/disk@0,0"]);
        assert_eq!(used, "The bootindex 0 has already been used");
        assert_eq!(planner.boot().told.order, before);
        planner.plug(&disk("c", 0)).unwrap();
    }

    #[test]
    fn object_in_use_stays() {
        let mut planner = Planner::default();
        planner.add_object(object(json!({"qom-type": "rng-builtin", "id": "o"}))).unwrap();
        planner.plug(&device(json!({"driver": "virtio-rng-pci", "id": "r", "rng": "o"}))).unwrap();

        let held = planner.remove_object("o").unwrap_err().to_string();
        planner.unplugged("r");

        assert_eq!(held, "object 'o' is in use, can not be deleted");
        assert!(planner.remove_object("o").is_ok());
        assert_eq!(planner.remove_object("o").unwrap_err().to_string(), "object 'o' not found");
    }
}
