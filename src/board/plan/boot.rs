//! What starts the guest when no kernel is handed over: the firmware's image and what it is told.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rhea_arch::x86_64::boot::handover;
use rhea_devices::pci::Bdf;
use rhea_devices::virtio::scsi::ScsiAddress;
use thiserror::Error;

use super::storage::storage;
use super::{Channels, DrivePlan, PciDevice, PciPlan, StoragePlan, ToFirmware};
use crate::spec::VmSpec;
use crate::spec::boot::BootSpec;
use crate::spec::device::DiskSpec;
use crate::spec::drive::DriveInterface;

/// Where distributions put the files of firmware: Debian and Fedora, then Arch, Alpine and SUSE, then what was built
/// by hand.
const DATA_DIRS: [&str; 3] = ["/usr/share/seabios", "/usr/share/qemu", "/usr/local/share/qemu"];
/// SeaBIOS as QEMU's `pc` uses it.
const DEFAULT_IMAGE: &str = "bios-256k.bin";
/// QEMU's order: disk, floppy, CD.
const DEFAULT_ORDER: &str = "cad";
/// Most bytes of a file for the guest: what a 32-bit size and a sane user can want.
const MOST: u64 = 1 << 30;

/// What was asked for cannot start the guest.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootPlanError {
    /// Nothing to start with.
    #[error(
        "there is nothing to start: install firmware (the package seabios, or seabios-bin on Fedora), name its directory \
         with -L, or give -kernel"
    )]
    NoFirmware,
    /// A kernel that calls the BIOS, and none there.
    #[error(
        "kernel {0} starts in real mode and calls the BIOS: install firmware (the package seabios, or seabios-bin on \
         Fedora), or name its directory with -L"
    )]
    NoFirmwareForKernel(PathBuf),
    /// The image named is nowhere.
    #[error("could not load PC BIOS '{0}': there is no such file here or in a directory of -L")]
    NoImage(PathBuf),
    /// `-bios` and flash.
    #[error("-bios and firmware in flash are two firmwares: leave out one")]
    TwoFirmwares,
    /// A chip that a PC has not.
    #[error("machine type does not support if=pflash,bus=0,unit={0}; there are units 0 and 1")]
    NoChip(u32),
    /// `-machine pflash0=` and `if=pflash`.
    #[error("pflash{0} is given twice: with -machine and with -drive")]
    ChipTaken(u32),
    /// The second chip alone.
    #[error("pflash1 requires pflash0: the first chip holds the firmware, the second its variables")]
    NoFirstChip,
    /// An option ROM that nothing runs.
    #[error("-option-rom needs firmware, and -kernel starts without: leave out one, or name firmware with -bios")]
    RomWithoutFirmware,
    /// An option ROM cannot be read, or is none.
    #[error("-option-rom {file}")]
    OptionRom {
        /// Its path.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A drive that a PC has not.
    #[error("Invalid boot device for PC: '{0}'")]
    Device(char),
    /// More than CMOS has room for.
    #[error("Too many boot devices for PC: '{0}'; at most three are possible")]
    TooMany(String),
    /// A timeout firmware does not understand.
    #[error("reboot timeout is invalid, it should be a value between -1 and 65535")]
    Timeout,
    /// A file cannot be read.
    #[error("-fw_cfg name={name}: can't load {file}")]
    File {
        /// Its name for the guest.
        name: String,
        /// The host's path.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Firmware to start.
#[derive(Debug, Clone)]
pub enum FirmwarePlan {
    /// In ROM, from this image.
    Rom(PathBuf),
    /// In flash; the first chip ends at 4 GiB, each further one where the one before begins.
    Flash(Vec<FlashPlan>),
}

/// A flash chip.
#[derive(Debug, Clone)]
pub struct FlashPlan {
    /// Its name, `system.flash0` or `system.flash1`.
    pub id: String,
    /// What is in it.
    pub storage: StoragePlan,
}

/// What firmware starts, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootPlan {
    /// Kinds of devices in CMOS's code: 1 floppy, 2 disk, 3 CD, 4 network.
    pub order: [u8; 3],
    /// The same for the first start.
    pub once: Option<[u8; 3]>,
    /// Let the user choose.
    pub menu: bool,
    /// How long, in milliseconds.
    pub menu_wait: Option<u16>,
    /// Milliseconds until firmware starts anew when nothing started; -1 for never.
    pub fail_wait: i32,
    /// Start nothing but `paths`.
    pub strict: bool,
    /// Look for the signature of a boot sector before a floppy is started.
    pub check_floppy: bool,
    /// What firmware is told of devices.
    pub told: Told,
}

impl BootPlan {
    /// The order that counts at the first start.
    #[must_use]
    pub fn first_order(&self) -> [u8; 3] {
        self.once.unwrap_or(self.order)
    }

    /// The order of later starts as bytes of CMOS memory, with their places.
    #[must_use]
    pub fn cmos_order(&self) -> [(u8, u8); 2] {
        let [first, second, third] = self.order;
        [(0x3d, first | second << 4), (0x38, third << 4 | u8::from(!self.check_floppy))]
    }

    /// The content of fw_cfg's `bootorder`: a path a line, a zero behind the last; nothing when there are none.
    #[must_use]
    pub fn bootorder(&self) -> Vec<u8> {
        let halt = self.strict.then_some("HALT");
        list(self.told.order.iter().map(String::as_str).chain(halt))
    }

    /// The content of fw_cfg's `bios-geometry`, in the same form: a path, cylinders, heads and sectors a line.
    #[must_use]
    pub fn bios_geometry(&self) -> Vec<u8> {
        let line = |(path, [c, h, s]): &(String, [u32; 3])| format!("{path} {c} {h} {s}");
        list(self.told.shapes.iter().map(line))
    }
}

/// Lines with a zero behind the last; nothing when there are none.
fn list(lines: impl Iterator<Item = impl AsRef<str>>) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        text.extend(line.as_ref().bytes().chain([b'\n']));
    }
    if let Some(last) = text.last_mut() {
        *last = 0;
    }
    text
}

/// The firmware of a machine that needs one.
pub(super) fn firmware(spec: &VmSpec, disks: &[DrivePlan]) -> Result<Option<FirmwarePlan>, BootPlanError> {
    let flash = flash(&spec.machine.pflash, disks)?;
    let spec = &spec.boot;
    match (flash.is_empty(), &spec.firmware) {
        (false, Some(_)) => return Err(BootPlanError::TwoFirmwares),
        (false, None) => return Ok(Some(FirmwarePlan::Flash(flash))),
        (true, _) => {}
    }
    let found = match (&spec.firmware, &spec.kernel) {
        (Some(name), _) if name.is_file() => name.clone(),
        (Some(name), _) => look_up(spec, name).ok_or_else(|| BootPlanError::NoImage(name.clone()))?,
        (None, Some(kernel)) if handover::is_needed(kernel) => {
            look_up(spec, Path::new(DEFAULT_IMAGE)).ok_or_else(|| BootPlanError::NoFirmwareForKernel(kernel.clone()))?
        }
        (None, Some(_)) => return Ok(None),
        (None, None) => look_up(spec, Path::new(DEFAULT_IMAGE)).ok_or(BootPlanError::NoFirmware)?,
    };
    Ok(Some(FirmwarePlan::Rom(found)))
}

/// Chips of a PC.
const CHIPS: u32 = 2;

/// The chips that `-machine pflash0=` and `if=pflash` ask for.
fn flash(of_machine: &[Option<String>; 2], disks: &[DrivePlan]) -> Result<Vec<FlashPlan>, BootPlanError> {
    let drives = disks.iter().filter(|drive| drive.interface == DriveInterface::Pflash);
    if let Some(wrong) = drives.clone().find(|drive| drive.index >= CHIPS) {
        return Err(BootPlanError::NoChip(wrong.index));
    }
    let mut chips = Vec::new();
    for (number, named) in (0..CHIPS).zip(of_machine) {
        let drive = drives.clone().find(|drive| drive.index == number);
        let storage = match (named, drive) {
            (Some(_), Some(_)) => return Err(BootPlanError::ChipTaken(number)),
            (Some(name), None) => storage(Some(name), &DiskSpec::default(), disks),
            (None, Some(drive)) => storage(Some(&drive.id), &DiskSpec::default(), disks),
            (None, None) => continue,
        };
        if chips.len() != usize::try_from(number).unwrap_or(0) {
            return Err(BootPlanError::NoFirstChip);
        }
        chips.push(FlashPlan { id: format!("system.flash{number}"), storage });
    }
    Ok(chips)
}

fn look_up(spec: &BootSpec, name: &Path) -> Option<PathBuf> {
    let dirs = spec.data_dirs.iter().map(PathBuf::as_path).chain(DATA_DIRS.iter().map(Path::new));
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// `-boot`, with what firmware is told of devices.
pub(super) fn order(spec: &BootSpec, told: Told) -> Result<BootPlan, BootPlanError> {
    let options = &spec.options;
    let fail_wait = options.reboot_timeout.unwrap_or(-1);
    if !(-1..=i32::from(u16::MAX)).contains(&fail_wait) {
        return Err(BootPlanError::Timeout);
    }
    Ok(BootPlan {
        order: codes(options.order.as_deref().unwrap_or(DEFAULT_ORDER))?,
        once: options.once.as_deref().map(codes).transpose()?,
        menu: options.menu,
        menu_wait: options.splash_time,
        fail_wait,
        strict: options.strict,
        check_floppy: !spec.any_floppy,
        told,
    })
}

fn codes(letters: &str) -> Result<[u8; 3], BootPlanError> {
    let mut codes = [0; 3];
    if letters.chars().count() > codes.len() {
        return Err(BootPlanError::TooMany(letters.to_owned()));
    }
    for (code, letter) in codes.iter_mut().zip(letters.chars()) {
        *code = match letter {
            'a' | 'b' => 1,
            'c' => 2,
            'd' => 3,
            'n' => 4,
            other => return Err(BootPlanError::Device(other)),
        };
    }
    Ok(codes)
}

/// What firmware is told of devices, by their Open Firmware paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Those with a place in it, the first first.
    pub order: Vec<String>,
    /// Those whose shape it is to show programs.
    pub shapes: Vec<(String, [u32; 3])>,
}

impl Told {
    /// Of these functions, the drives on IDE, and `roms` with a place in the order.
    pub(super) fn new<'a>(
        functions: impl Iterator<Item = &'a PciPlan>,
        ide: &Channels,
        roms: Vec<(i32, String)>,
    ) -> Self {
        let mut indexed = roms;
        let mut shapes = Vec::new();
        for (path, told) in functions.flat_map(function_paths).chain(ide_paths(ide)) {
            indexed.extend(told.index.filter(has_place).map(|index| (index, path.clone())));
            shapes.extend(told.shape.map(|shape| (path, shape)));
        }
        indexed.sort_by_key(|(index, _)| *index);
        Self { order: indexed.into_iter().map(|(_, path)| path).collect(), shapes }
    }
}

/// A `bootindex` below 0 is none.
pub(super) const fn has_place(index: &i32) -> bool {
    *index >= 0
}

/// A virtio disk is a function by itself; behind an adapter, each unit has its place on the one channel.
fn function_paths(function: &PciPlan) -> Vec<(String, ToFirmware)> {
    let path = pci_path("scsi", function.bdf);
    match &function.device {
        PciDevice::Blk(_) => vec![(format!("{path}/disk@0,0"), function.told)],
        PciDevice::Scsi(adapter) => {
            let place = |at: ScsiAddress| format!("{path}/channel@0/disk@{:x},{:x}", at.target, at.lun);
            adapter.units.iter().map(|unit| (place(unit.address), unit.told)).collect()
        }
        PciDevice::Rng(_) | PciDevice::Test { .. } => Vec::new(),
    }
}

/// Channels are drives of the function, and drives are disks of the channel.
fn ide_paths(channels: &Channels) -> impl Iterator<Item = (String, ToFirmware)> {
    channels.iter().enumerate().flat_map(|(channel, drives)| {
        drives.iter().enumerate().filter_map(move |(unit, drive)| {
            let function = pci_path("ide", Bdf::new(0, 1, 1));
            Some((format!("{function}/drive@{channel:x}/disk@{unit:x}"), drive.as_ref()?.told))
        })
    })
}

/// A function's Open Firmware path, `name` after its class.
fn pci_path(name: &str, bdf: Bdf) -> String {
    match (bdf.device(), bdf.function()) {
        (slot, 0) => format!("/pci@i0cf8/{name}@{slot:x}"),
        (slot, function) => format!("/pci@i0cf8/{name}@{slot:x},{function:x}"),
    }
}

/// Reads the files of `-fw_cfg`.
pub(super) fn files(spec: &BootSpec) -> Result<Vec<(String, Vec<u8>)>, BootPlanError> {
    let read = |file: &str| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(file)?.take(MOST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST {
            return Err(io::Error::other("it has more than 1 GiB"));
        }
        Ok(bytes)
    };
    spec.files
        .iter()
        .map(|asked| match (&asked.file, &asked.string) {
            (Some(file), _) => {
                let failed = |source| BootPlanError::File { name: asked.name.clone(), file: file.clone(), source };
                Ok((asked.name.clone(), read(file).map_err(failed)?))
            }
            (None, text) => Ok((asked.name.clone(), text.clone().unwrap_or_default().into_bytes())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::boot::BootOptions;
    use crate::spec::device::OnError;
    use crate::spec::drive::DriveMedia;

    fn letters(order: &str) -> BootSpec {
        let options = BootOptions { order: Some(order.into()), ..BootOptions::default() };
        BootSpec { options, ..BootSpec::default() }
    }

    #[test]
    fn default_order_is_disk_floppy_cd() {
        let plan = order(&BootSpec::default(), Told::default()).unwrap();

        assert_eq!(plan.first_order(), [2, 1, 3]);
        assert_eq!(plan.cmos_order(), [(0x3d, 0x12), (0x38, 0x30)]);
    }

    #[test]
    fn order_for_once_gives_way_to_the_usual_one() {
        let mut spec = letters("c");
        spec.options.once = Some("d".into());

        let plan = order(&spec, Told::default()).unwrap();

        assert_eq!((plan.first_order(), plan.cmos_order()[0]), ([3, 0, 0], (0x3d, 0x02)));
    }

    #[test]
    fn floppies_without_a_signature_start_when_the_user_says_so() {
        let plan = order(&BootSpec { any_floppy: true, ..BootSpec::default() }, Told::default()).unwrap();

        assert_eq!(plan.cmos_order(), [(0x3d, 0x12), (0x38, 0x31)]);
    }

    #[test]
    fn letters_that_no_pc_has_are_refused() {
        assert_eq!(order(&letters("x"), Told::default()).unwrap_err().to_string(), "Invalid boot device for PC: 'x'");
        assert!(matches!(order(&letters("acdn"), Told::default()), Err(BootPlanError::TooMany(_))));
    }

    #[test]
    fn shapes_for_firmware_are_lines_of_path_and_numbers() {
        let shapes = vec![("/a".into(), [10_000, 120, 30]), ("/b".into(), [0, 1, 0])];

        let plan = BootPlan { told: Told { shapes, ..Told::default() }, ..BootPlan::default() };

        assert_eq!(plan.bios_geometry(), b"/a 10000 120 30\n/b 0 1 0\0");
        assert!(BootPlan::default().bios_geometry().is_empty());
    }

    #[test]
    fn bootorder_is_lines_with_one_zero_and_halt_when_strict() {
        let paths = vec![pci_path("scsi", Bdf::new(0, 4, 0)), pci_path("scsi", Bdf::new(0, 0x1f, 2))];
        let told = Told { order: paths, ..Told::default() };
        let plan = BootPlan { strict: true, told, ..BootPlan::default() };

        assert_eq!(plan.bootorder(), b"/pci@i0cf8/scsi@4\n/pci@i0cf8/scsi@1f,2\nHALT\0");
        assert!(BootPlan::default().bootorder().is_empty());
    }

    fn rom(spec: BootSpec) -> Result<Option<PathBuf>, BootPlanError> {
        let found = firmware(&VmSpec { boot: spec, ..VmSpec::default() }, &[])?;
        Ok(found.map(|firmware| match firmware {
            FirmwarePlan::Rom(image) => image,
            FirmwarePlan::Flash(_) => panic!("nobody asked for flash"),
        }))
    }

    #[test]
    fn firmware_is_looked_for_in_the_directories_of_the_user_first() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(DEFAULT_IMAGE), [0]).unwrap();
        let spec = BootSpec { data_dirs: vec![dir.path().to_owned()], ..BootSpec::default() };

        assert_eq!(rom(spec).unwrap(), Some(dir.path().join(DEFAULT_IMAGE)));
    }

    #[test]
    fn kernel_needs_no_firmware() {
        let spec = BootSpec { kernel: Some("vmlinuz".into()), ..BootSpec::default() };

        assert_eq!(rom(spec).unwrap(), None);
    }

    #[test]
    fn image_that_is_nowhere_is_named() {
        let spec = BootSpec { firmware: Some("no-such-image".into()), ..BootSpec::default() };

        assert!(matches!(rom(spec), Err(BootPlanError::NoImage(name)) if name == Path::new("no-such-image")));
    }

    fn chip(index: u32) -> DrivePlan {
        DrivePlan {
            id: format!("pflash{index}"),
            node: Some(format!("node{index}")),
            interface: DriveInterface::Pflash,
            index,
            media: DriveMedia::Disk,
            read_only: false,
            write_cache: true,
            on_write_error: OnError::Auto,
            on_read_error: OnError::Auto,
        }
    }

    fn nodes(of_machine: [Option<&str>; 2], disks: &[DrivePlan]) -> Result<Vec<String>, BootPlanError> {
        let chips = flash(&of_machine.map(|name| name.map(str::to_owned)), disks)?;
        Ok(chips.into_iter().filter_map(|chip| chip.storage.node).collect())
    }

    #[test]
    fn chips_come_from_drives_and_from_the_machine() {
        assert_eq!(nodes([None, None], &[chip(1), chip(0)]).unwrap(), ["node0", "node1"]);
        assert_eq!(nodes([Some("code"), None], &[chip(1)]).unwrap(), ["code", "node1"]);
    }

    #[test]
    fn chips_that_a_pc_cannot_have_are_refused() {
        assert!(matches!(nodes([None, None], &[chip(1)]), Err(BootPlanError::NoFirstChip)));
        assert!(matches!(nodes([None, None], &[chip(0), chip(2)]), Err(BootPlanError::NoChip(2))));
        assert!(matches!(nodes([Some("code"), None], &[chip(0)]), Err(BootPlanError::ChipTaken(0))));
    }
}
