//! QEMU's devices that are not here, and what to do without them.

use crate::spec::error::{Shown, SpecError};

const NETWORK: &str = "there is no network device; leave it out and use -nic none";
const DISPLAY: &str = "there is no display; leave it out and use -nographic or -serial";
const USB: &str = "there is no USB; leave it out";
const SOUND: &str = "there is no sound; leave it out";
const SERIAL: &str = "use isa-serial or -serial";
const FILES: &str = "use -drive with an image that holds the files";
const STORAGE: &str = "use virtio-blk-pci, virtio-scsi-pci or ide-hd";
const MEMORY: &str = "give all memory at start with -m";
const ADAPTER: &str = "use virtio-scsi-pci";
const HOST: &str = "host devices are not passed through; use virtio-blk-pci on their block device";
const PLAIN: &str = "leave it out";

/// What would work instead, and of which devices. A name that ends with `*` stands for all that begin like it.
const ABSENT: &[(&str, &[&str])] = &[
    (NETWORK, &["e1000*", "rtl8139", "ne2k_*", "pcnet", "i825*", "vmxnet3", "virtio-net*", "vhost-user-net*", "igb"]),
    (DISPLAY, &["VGA", "cirrus-vga", "qxl*", "vmware-svga", "bochs-display", "virtio-vga*", "virtio-gpu*", "ramfb"]),
    (DISPLAY, &["secondary-vga", "isa-vga", "isa-cirrus-vga", "virtio-input*", "virtio-keyboard*", "virtio-mouse*"]),
    (USB, &["usb-*", "qemu-xhci", "nec-usb-xhci", "piix3-usb-uhci", "piix4-usb-uhci", "ich9-usb-*", "pci-ohci"]),
    (SOUND, &["intel-hda", "ich9-intel-hda", "hda-*", "AC97", "ES1370", "sb16", "adlib", "gus", "cs4231a"]),
    (SERIAL, &["virtio-serial*", "virtconsole", "virtserialport", "pci-serial*", "isa-parallel"]),
    (FILES, &["virtio-9p*", "vhost-user-fs*"]),
    (STORAGE, &["nvme*", "ahci", "ich9-ahci"]),
    (ADAPTER, &["lsi*", "megasas*", "mptsas1068", "am53c974", "pvscsi", "dc390"]),
    ("commands are not passed through to a host device; use scsi-hd with the device as its file", &["scsi-block"]),
    ("commands are not passed through to a host device; use scsi-hd or scsi-cd", &["scsi-generic"]),
    (STORAGE, &["floppy", "isa-fdc", "sd-card", "sdhci-pci", "isa-ide", "piix3-ide", "piix4-ide", "vhost-user-blk*"]),
    (MEMORY, &["pc-dimm", "nvdimm", "virtio-mem*", "virtio-pmem*"]),
    (HOST, &["vfio-*", "vhost-scsi*"]),
    (PLAIN, &["virtio-balloon*", "vhost-vsock*", "virtio-crypto*", "virtio-iommu*", "virtio-sound*", "pvpanic-pci"]),
    (PLAIN, &["i6300esb", "ib700", "tpm-*", "ivshmem-*", "edu", "pci-bridge", "pcie-*", "ioh3420", "intel-iommu"]),
    (PLAIN, &["vmcoreinfo", "vmgenid", "hyperv-testdev", "i82801b11-bridge", "smbus-*"]),
];

/// The sentence about a device that QEMU has and this program has not.
pub(super) fn refusal(name: &str) -> Option<SpecError> {
    let is_meant = |known: &&str| known.strip_suffix('*').map_or(name == *known, |start| name.starts_with(start));
    let (instead, _) = ABSENT.iter().find(|(_, names)| names.iter().any(is_meant))?;
    Some(SpecError::refused(format_args!("device '{}'", Shown(name)), instead))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::describe::DescribeUnion;
    use crate::spec::device::DeviceSpec;

    #[test]
    fn device_of_qemus_that_is_not_here_says_what_to_do() {
        let said = refusal("usb-tablet").map(|error| error.to_string());

        assert_eq!(said.as_deref(), Some("device 'usb-tablet' is not supported; there is no USB; leave it out"));
        assert!(refusal("no-such-device").is_none());
    }

    #[test]
    fn devices_that_are_here_are_not_listed() {
        for name in DeviceSpec::UNION.names() {
            assert!(refusal(name).is_none(), "{name}");
        }
    }
}
