//! Who has which name and which PCI slot: from the plan of the machine on, for as long as it lives.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use rhea_devices::pci::Bdf;

use super::boot::has_place;
use super::check::PlanError;
use crate::spec::DeviceSpec;
use crate::spec::pci::PciSpec;

/// Slots 0 and 1 are the board's own.
const FIRST_SLOT: u8 = 2;
const SLOTS: u8 = 32;

/// The slots that functions can be plugged into and taken out of, a bit each: all but the board's own.
pub const PLUGGABLE_SLOTS: u32 = u32::MAX << FIRST_SLOT;

/// Names and slots that are taken.
#[derive(Debug, Clone, Default)]
pub struct Places {
    pub(super) names: Names,
    pub(super) slots: PciSlots,
    /// SCSI adapters that the user gave no name: their buses are counted.
    pub(super) unnamed_adapters: usize,
}

impl Places {
    /// Where the function called `id` is.
    #[must_use]
    pub fn of(&self, id: &str) -> Option<Bdf> {
        self.slots.taken.iter().find(|(_, who)| who == id).map(|(bdf, _)| *bdf)
    }

    /// The names of the functions in these slots, a bit each.
    #[must_use]
    pub fn in_slots(&self, slots: u32) -> Vec<String> {
        let is_there = |bdf: &Bdf| slots >> bdf.device() & 1 == 1;
        self.slots.taken.iter().filter(|(bdf, _)| is_there(bdf)).map(|(_, id)| id.clone()).collect()
    }

    /// The devices that were asked for, by their names.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &Taken)> {
        self.names.taken.iter().filter_map(|(name, taken)| Some((name.as_str(), taken.as_ref()?)))
    }

    /// Gives the disk called `id` another place in the order of starting.
    pub(super) fn set_bootindex(&mut self, id: &str, index: i32) -> Result<(), PlanError> {
        self.names.check_bootindex(Some(index))?;
        let taken = self.names.taken.get_mut(id).and_then(Option::as_mut);
        if let Some(disk) = taken.and_then(|taken| taken.device.disk_mut()) {
            disk.bootindex = Some(index);
        }
        Ok(())
    }

    /// The machine is there: devices from now on are plugged into it.
    pub(super) fn complete(&mut self) {
        self.names.is_complete = true;
    }

    /// As it is before a device is planned.
    pub(super) fn mark(&self) -> Mark {
        let Names { counter, order, .. } = self.names;
        Mark { counter, order, unnamed_adapters: self.unnamed_adapters }
    }

    /// `device`, the only one planned since `mark`, was refused: what it has taken is free.
    pub(super) fn take_back(&mut self, device: &DeviceSpec, mark: Mark) {
        let name = device.id().map_or_else(|| self.names.made_up(device), str::to_owned);
        let taken = self.names.taken.get(&name).and_then(Option::as_ref);
        // Another may have the name, who had it before.
        if taken.is_some_and(|taken| taken.order > mark.order) {
            self.free(&name);
        }
        (self.names.counter, self.names.order) = (mark.counter, mark.order);
        self.unnamed_adapters = mark.unnamed_adapters;
    }

    /// The device called `id` is gone: its name, and its place if it has one here, are free.
    pub(super) fn free(&mut self, id: &str) {
        self.names.taken.remove(id);
        self.slots.taken.retain(|(_, who)| who != id);
    }
}

/// How far the counts of [`Places`] were, for taking one device's back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    counter: usize,
    order: usize,
    unnamed_adapters: usize,
}

/// Names of devices, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Who has each; nobody for those of the board's own chips.
    taken: BTreeMap<String, Option<Taken>>,
    counter: usize,
    order: usize,
    is_complete: bool,
}

/// A device that was asked for.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What was asked for.
    pub device: DeviceSpec,
    /// It was plugged into the machine that was there.
    pub is_hotplugged: bool,
    /// Counts devices in the order in which they came.
    pub order: usize,
}

impl Taken {
    /// It is a virtio device behind a transport.
    #[must_use]
    pub fn is_virtio(&self) -> bool {
        matches!(self.device, DeviceSpec::VirtioBlk(_) | DeviceSpec::VirtioRng(_) | DeviceSpec::VirtioScsi(_))
    }

    /// The type of the device behind the transport: `virtio-blk-device`.
    #[must_use]
    pub fn backend_type(&self) -> String {
        format!("{}-device", self.device.driver().trim_end_matches("-pci"))
    }
}

/// What made-up names begin with; no user can give such a name.
const MADE_UP: char = '#';

impl Names {
    /// The user's name, or one made up of the driver's.
    pub(super) fn take(&mut self, device: &DeviceSpec) -> Result<String, PlanError> {
        let name = match device.id() {
            Some(id) => id.to_owned(),
            None => {
                self.counter += 1;
                self.made_up(device)
            }
        };
        self.check_bootindex(device.bootindex())?;
        self.order += 1;
        let taken = Taken { device: device.clone(), is_hotplugged: self.is_complete, order: self.order };
        self.put(name, Some(taken))
    }

    /// Each place in the order of starting is given once; those below 0 are none.
    fn check_bootindex(&self, index: Option<i32>) -> Result<(), PlanError> {
        let mut given = self.taken.values().flatten().map(|taken| taken.device.bootindex());
        match index {
            Some(at) if has_place(&at) && given.any(|other| other == index) => Err(PlanError::BootIndex(at)),
            _ => Ok(()),
        }
    }

    /// The name that was made up last, if it was for `device`.
    fn made_up(&self, device: &DeviceSpec) -> String {
        format!("{MADE_UP}{}.{}", device.driver(), self.counter)
    }

    /// A name for a chip of the board's own.
    pub(super) fn reserve(&mut self, name: String) -> Result<String, PlanError> {
        self.put(name, None)
    }

    fn put(&mut self, name: String, taken: Option<Taken>) -> Result<String, PlanError> {
        match self.taken.entry(name.clone()) {
            Entry::Occupied(_) => Err(PlanError::DuplicateId(name)),
            Entry::Vacant(place) => {
                place.insert(taken);
                Ok(name)
            }
        }
    }
}

/// The name was made up: the user gave none.
#[must_use]
pub fn is_made_up(name: &str) -> bool {
    name.starts_with(MADE_UP)
}

/// Where the tree of objects has the devices that the user named.
pub const PERIPHERAL: &str = "/machine/peripheral";
/// Where it has the others.
pub const PERIPHERAL_ANON: &str = "/machine/peripheral-anon";

/// Driver and count of the device called `name`, if the name was made up.
fn counted(name: &str) -> Option<(&str, usize)> {
    let (driver, count) = name.strip_prefix(MADE_UP)?.rsplit_once('.')?;
    Some((driver, count.parse().ok()?))
}

/// What the tree of objects calls the device with this made-up count in [`PERIPHERAL_ANON`].
fn anonymous(count: usize) -> String {
    format!("device[{}]", count.saturating_sub(1))
}

/// Where the tree of objects has the device called `name`: those without a name of the user's are counted.
#[must_use]
pub fn object_path(name: &str) -> String {
    match counted(name) {
        Some((_, count)) => format!("{PERIPHERAL_ANON}/{}", anonymous(count)),
        None => format!("{PERIPHERAL}/{name}"),
    }
}

/// The name in `path`, if that leads to a device which the user named.
#[must_use]
pub fn named_in(path: &str) -> Option<&str> {
    path.strip_prefix(PERIPHERAL)?.strip_prefix('/')
}

/// A device as messages call it: by the user's name, or by its driver's where the user gave none.
pub(crate) struct Called<'a>(pub(crate) &'a str);

impl fmt::Display for Called<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.strip_prefix(MADE_UP) {
            Some(made_up) => write!(f, "device {}", made_up.rsplit_once('.').map_or(made_up, |(driver, _)| driver)),
            None => write!(f, "device \"{}\"", self.0),
        }
    }
}

/// Who has which slot.
#[derive(Debug, Clone, Default)]
pub(super) struct PciSlots {
    taken: Vec<(Bdf, String)>,
}

impl PciSlots {
    pub(super) fn claim(&mut self, id: &str, spec: &PciSpec) -> Result<Bdf, PlanError> {
        if let Some(bus) = spec.bus.as_ref().filter(|bus| *bus != "pci.0" && *bus != "pci") {
            return Err(PlanError::NoBus { bus: bus.clone() });
        }
        let bdf = match spec.addr {
            Some(addr) => Bdf::new(0, addr.slot(), addr.function()),
            None => self.free().ok_or_else(|| PlanError::NoSlot(id.to_owned()))?,
        };
        let by = match bdf.device() {
            0 => Some("the host bridge".to_owned()),
            1 if matches!(bdf.function(), 0 | 1 | 3) => Some("the PIIX3".to_owned()),
            _ => self.taken.iter().find(|(there, _)| *there == bdf).map(|(_, who)| Called(who).to_string()),
        };
        if let Some(by) = by {
            let (slot, function) = (bdf.device(), bdf.function());
            return Err(PlanError::SlotTaken { id: id.to_owned(), slot, function, by });
        }
        self.taken.push((bdf, id.to_owned()));
        Ok(bdf)
    }

    /// The first slot without any function.
    fn free(&self) -> Option<Bdf> {
        let used = |slot| self.taken.iter().any(|(bdf, _)| bdf.device() == slot);
        (FIRST_SLOT..SLOTS).find(|&slot| !used(slot)).map(|slot| Bdf::new(0, slot, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::device::VirtioRngSpec;

    fn rng(id: Option<&str>) -> DeviceSpec {
        let pci = PciSpec { id: id.map(Into::into), ..PciSpec::default() };
        DeviceSpec::VirtioRng(VirtioRngSpec { pci, ..VirtioRngSpec::default() })
    }

    #[test]
    fn device_without_a_name_is_called_by_its_driver() {
        let mut names = Names::default();
        let made_up = names.take(&rng(None)).unwrap();
        let given = names.take(&rng(Some("disk0"))).unwrap();

        assert_eq!(Called(&made_up).to_string(), "device virtio-rng-pci");
        assert_eq!(Called(&given).to_string(), "device \"disk0\"");
        assert!(is_made_up(&made_up) && !is_made_up(&given));
        assert_eq!(object_path(&made_up), "/machine/peripheral-anon/device[0]");
        assert_eq!(object_path(&given), "/machine/peripheral/disk0");
        assert_eq!(named_in("/machine/peripheral/disk0"), Some("disk0"));
        assert_eq!(named_in(&object_path(&made_up)), None);
    }

    #[test]
    fn place_and_name_are_free_again() {
        let mut places = Places::default();
        let spec = PciSpec { addr: "5".parse().ok(), ..PciSpec::default() };
        places.names.take(&rng(Some("a"))).unwrap();
        places.slots.claim("a", &spec).unwrap();
        assert_eq!(places.in_slots(1 << 5), ["a"]);

        places.free("a");

        assert!(places.names.take(&rng(Some("a"))).is_ok());
        assert!(places.slots.claim("b", &spec).is_ok());
        assert_eq!(places.of("a"), None);
    }
}
