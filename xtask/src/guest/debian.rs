//! A disk with Debian installed on it as an administrator would install it: mmdebstrap fills the file system, GRUB lies
//! in front of it. Neither is mounted, nor does anything of it run here beyond what packages do when they are installed.
//!
//! ```text
//! sector 0      GRUB's boot.img with the partition table
//! sector 1 on   GRUB's core.img: drivers for disk, partition and file system
//! 1 MiB on      ext4, label rhea
//! 960 MiB on    FAT, empty: the system partition of UEFI
//! ```
//!
//! GRUB's own installer is on the disk, for a guest to run it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{command, host, packages, paths};

const SECTOR: u64 = 512;
const PARTITION: u64 = 1 << 20;
const DISK: u64 = 1 << 30;
const SYSTEM_PARTITION: u64 = DISK - (64 << 20);
/// Where the disk's signature and then the partition table begin in the first sector; before them is room for code.
/// UEFI's boot entries name a disk by its signature (UEFI 2.10, 10.3.5.1).
const SIGNATURE: usize = 440;
const LINUX: u8 = 0x83;
const UEFI: u8 = 0xef;
const BOOTABLE: u8 = 0x80;

const GRUB: &str = "/usr/lib/grub/i386-pc";
/// What core.img is made of.
const GRUB_MODULES: &[&str] =
    &["biosdisk", "part_msdos", "ext2", "normal", "linux", "echo", "serial", "terminal", "search", "search_label"];

/// A small system with the kernel that has every driver.
const PACKAGES: &str =
    "linux-image-amd64,initramfs-tools,systemd-sysv,udev,kmod,grub2-common,grub-pc-bin,grub-efi-amd64-bin,efibootmgr";
/// What nobody reads here, and drivers that no guest of ours needs.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/lib/modules/*/kernel/sound/*",
    "/lib/modules/*/kernel/drivers/gpu/*",
    "/lib/modules/*/kernel/drivers/net/*",
    "/lib/modules/*/kernel/drivers/media/*",
];
/// The initramfs has drivers for each bus that the tests put the disk on.
const DRIVERS: &str = r#"
    mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
    echo MODULES=list >"$1/etc/initramfs-tools/conf.d/rhea"
    printf '%s\n' ata_piix sd_mod virtio_pci virtio_blk virtio_scsi ext4 >"$1/usr/share/initramfs-tools/modules.d/rhea"
"#;

/// The disk, in raw form, with the kernel and the initramfs that are on it beside it.
pub(crate) struct DebianDisk {
    pub(crate) image: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl DebianDisk {
    /// Where it is.
    pub(crate) fn open() -> Result<Self> {
        let directory = super::directory()?;
        let [image, kernel, initramfs] =
            ["raw", "vmlinuz", "initrd"].map(|kind| directory.join(format!("debian.{kind}")));
        Ok(Self { image, kernel, initramfs })
    }

    /// The same, made the first time.
    pub(crate) fn prepare() -> Result<Self> {
        let disk = Self::open()?;
        if ![&disk.image, &disk.kernel, &disk.initramfs].into_iter().all(|path| path.is_file()) {
            disk.make()?;
        }
        Ok(disk)
    }

    fn make(&self) -> Result<()> {
        let disk = &self.image;
        ensure!(host::is_root(), "a Debian disk can only be made by root, whose files are on it");
        packages::ensure(packages::INSTALLED)?;
        packages::ensure(packages::DISK)?;
        let partial = disk.with_extension(format!("partial-{}", std::process::id()));
        let tree = disk.with_extension(format!("files-{}", std::process::id()));
        install(&tree)?;
        let image = File::create(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        image.set_len(DISK)?;
        file_system(&tree, &partial)?;
        system_partition(&partial)?;
        boot_loader(&image, &tree.with_extension("core"))?;
        for (link, copy) in [("vmlinuz", &self.kernel), ("initrd.img", &self.initramfs)] {
            let file = tree.join(fs::read_link(tree.join(link))?);
            fs::copy(&file, copy).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        fs::rename(&partial, disk)?;
        fs::remove_dir_all(&tree)?;
        Ok(())
    }
}

/// Installs Debian into a directory, with what makes it boot.
fn install(tree: &Path) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}")]);
    mmdebstrap.arg("--aptopt=Apt::Install-Recommends \"false\"");
    mmdebstrap.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    mmdebstrap.arg(format!("--essential-hook={DRIVERS}")).arg("bookworm").arg(tree);
    println!("installing Debian on a disk, which takes some minutes");
    command::output(&mut mmdebstrap)?;
    fs::write(tree.join("etc/fstab"), "LABEL=rhea / ext4 defaults 0 1\n")?;
    fs::write(tree.join("etc/hostname"), "guest\n")?;
    let grub = tree.join("boot/grub");
    fs::create_dir_all(&grub)?;
    fs::copy(paths::guest_recipe("grub-debian.cfg"), grub.join("grub.cfg"))?;
    fs::copy(paths::guest_recipe("put-grub"), tree.join("usr/local/sbin/put-grub"))?;
    fs::create_dir_all(tree.join("boot/efi"))?;
    Ok(())
}

fn file_system(tree: &Path, image: &Path) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.env("PATH", host::search_path());
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "rhea", "-E", &format!("offset={PARTITION}"), "-d"]);
    mke2fs.arg(tree).arg(image).arg(format!("{}k", (SYSTEM_PARTITION - PARTITION) >> 10));
    command::output(&mut mke2fs).map(drop)
}

fn system_partition(image: &Path) -> Result<()> {
    let mut mformat = Command::new("mformat");
    let place = format!("{}@@{SYSTEM_PARTITION}", image.display());
    let [sectors, hidden] = [DISK - SYSTEM_PARTITION, SYSTEM_PARTITION].map(|bytes| (bytes / SECTOR).to_string());
    mformat.args(["-i", &place, "-h", "64", "-s", "32", "-T", &sectors, "-H", &hidden, "-v", "UEFI", "::"]);
    command::output(&mut mformat).map(drop)
}

/// Puts GRUB where grub-install puts it, with the partition table in between.
fn boot_loader(image: &File, core: &Path) -> Result<()> {
    let mut mkimage = Command::new("grub-mkimage");
    mkimage.args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o"]).arg(core).args(GRUB_MODULES);
    command::output(&mut mkimage)?;
    let code = fs::read(core)?;
    fs::remove_file(core)?;
    ensure!(SECTOR + code.len() as u64 <= PARTITION, "GRUB's core has {} bytes and does not fit", code.len());
    let boot = fs::read(Path::new(GRUB).join("boot.img"))?;
    let boot = boot.get(..SIGNATURE).context("GRUB's boot.img is too short")?;
    let sectors = |bytes: u64| ((bytes / SECTOR) as u32).to_le_bytes();
    let entry = |state: u8, kind: u8, from: u64, to: u64| {
        [&[state, 0, 0, 0, kind, 0, 0, 0][..], &sectors(from), &sectors(to - from)].concat()
    };
    let linux = entry(BOOTABLE, LINUX, PARTITION, SYSTEM_PARTITION);
    let uefi = entry(0, UEFI, SYSTEM_PARTITION, DISK);
    image.write_all_at(&[boot, b"rhea\0\0", &linux, &uefi, &[0; 32], &[0x55, 0xaa]].concat(), 0)?;
    image.write_all_at(&code, SECTOR)?;
    Ok(())
}
