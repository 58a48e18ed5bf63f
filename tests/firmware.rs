//! SeaBIOS, as the distribution ships it, starts a disk of one sector: needs `/dev/kvm` (a software KVM suffices) and
//! the package seabios.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A boot sector's last bytes.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// `isa-debug-exit` makes this of the value 0x10.
const EXIT_STATUS: i32 = 0x21;

/// Real-mode code of a boot sector.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    /// `out dx, al`.
    fn out(mut self, port: u16, value: u8) -> Self {
        self.0.push(0xba); // mov dx, port
        self.0.extend(port.to_le_bytes());
        self.0.extend([0xb0, value, 0xee]); // mov al, value; out dx, al
        self
    }

    /// Writes `text` to the first serial port.
    fn print(self, text: &str) -> Self {
        text.bytes().fold(self, |code, byte| code.out(0x3f8, byte))
    }

    fn exit(self) -> Self {
        self.out(0x501, 0x10)
    }

    /// Runs `first` when CMOS byte 0x7f has not yet the mark, which is put there, and `second` after a reset.
    fn once(mut self, first: &Code, second: &Code) -> Self {
        const MARK: u8 = 0x5a;
        self = self.out(0x70, 0x7f);
        self.0.extend([0xe4, 0x71, 0x3c, MARK]); // in al, 0x71; cmp al, MARK
        let marking = Code::default().out(0x70, 0x7f).out(0x71, MARK);
        let skip = i16::try_from(marking.0.len() + first.0.len()).expect("short code");
        self.0.extend([0x0f, 0x84]); // je second
        self.0.extend(skip.to_le_bytes());
        self.0.extend(marking.0.iter().chain(&first.0).chain(&second.0));
        self
    }

    /// A Linux bzImage whose real-mode part is the code: boot protocol 2.06, one sector of setup behind the first.
    fn kernel(self, dir: &Path) -> PathBuf {
        const CODE: usize = 0x268;
        let mut image = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]); // setup_sects
        put(0x1f4, &64u32.to_le_bytes()); // syssize, in units of 16 bytes
        put(0x1fe, &SIGNATURE);
        put(0x200, &[0xeb, (CODE - 0x202) as u8]); // jmp over the header
        put(0x202, b"HdrS\x06\x02");
        put(0x211, &[1]); // loaded high
        put(0x22c, &0x37ff_ffffu32.to_le_bytes()); // initrd_addr_max
        put(0x238, &255u32.to_le_bytes()); // cmdline_size
        put(CODE, &self.0);
        let path = dir.join("bzImage");
        fs::write(&path, &image).expect("kernel image");
        path
    }

    /// Writes `count` bytes from `segment:0` to the first serial port.
    fn print_memory(mut self, segment: u16, count: u8) -> Self {
        self.0.push(0x68); // push segment
        self.0.extend(segment.to_le_bytes());
        self.0.extend([0x1f, 0x31, 0xf6]); // pop ds; xor si, si
        self.0.extend([0xba, 0xf8, 0x03]); // mov dx, 0x3f8
        self.0.extend([0xb9, count, 0x00]); // mov cx, count
        self.0.extend([0xac, 0xee, 0xe2, 0xfc]); // again: lodsb; out dx, al; loop again
        self
    }

    /// Starts all other processors and waits until `count` have counted themselves in the word at 0x500; those whose
    /// x2APIC id is 256 or more do so at 0x502, too.
    fn start_the_others(mut self, count: u16) -> Self {
        /// A start-up interrupt names a page.
        const PAGE: u8 = 7;
        #[rustfmt::skip]
        const OTHER: [u8; 32] = [
            0x66, 0xb8, 0x0b, 0, 0, 0, 0x66, 0x31, 0xc9, 0x0f, 0xa2, // mov eax, 0xb; xor ecx, ecx; cpuid
            0x66, 0x81, 0xfa, 0, 1, 0, 0, 0x72, 0x05, // cmp edx, 256; jb below
            0xf0, 0xff, 0x06, 0x02, 0x05, // lock inc word [0x502]
            0xf0, 0xff, 0x06, 0x00, 0x05, // below: lock inc word [0x500]
            0xf4, 0x90, // hlt; nop
        ];
        self.0.extend([0x31, 0xc0, 0x8e, 0xd8]); // xor ax, ax; mov ds, ax
        self.0.extend([0xa3, 0x00, 0x05, 0xa3, 0x02, 0x05]); // mov [0x500], ax; mov [0x502], ax
        for (at, word) in (u16::from(PAGE) << 12..).step_by(2).zip(OTHER.as_chunks::<2>().0) {
            self.0.extend([0xc7, 0x06]); // mov word [at], word
            self.0.extend(at.to_le_bytes().iter().chain(word));
        }
        self.0.extend([0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32]); // mov ecx, IA32_APIC_BASE; rdmsr
        self.0.extend([0x80, 0xcc, 0x0c, 0x0f, 0x30]); // or ah, enabled | x2APIC; wrmsr
        self.0.extend([0x66, 0xb9, 0x30, 0x08, 0, 0, 0x66, 0x31, 0xd2]); // mov ecx, ICR; xor edx, edx
        for [mode, vector] in [[0x45, 0], [0x46, PAGE]] {
            self.0.extend([0x66, 0xb8, vector, mode, 0x0c, 0, 0x0f, 0x30]); // mov eax, all but self | mode; wrmsr
        }
        self.0.extend([0xf3, 0x90, 0x81, 0x3e, 0x00, 0x05]); // again: pause; cmp word [0x500], count
        self.0.extend(count.to_le_bytes());
        self.0.extend([0x75, 0xf6]); // jne again
        self
    }

    /// A firmware of 64 KiB, whose last 16 bytes are where a processor begins.
    fn rom(mut self, dir: &Path) -> PathBuf {
        self.0.resize(0xfff0, 0xf4); // hlt
        self.0.extend([0xea, 0, 0, 0, 0xf0]); // jmp 0xf000:0
        self.0.resize(0x1_0000, 0xff);
        let path = dir.join("rom");
        fs::write(&path, &self.0).expect("firmware");
        path
    }

    /// The sector as the boot image of a CD without emulation (El Torito 1.0, 2 and 3): the boot record volume points
    /// to the catalog, the catalog's default entry to the image.
    fn disc(mut self, dir: &Path) -> PathBuf {
        const SECTOR: usize = 2048;
        const RECORD: usize = 17;
        const CATALOG: usize = 19;
        const IMAGE: usize = 20;
        self.0.insert(0, 0xfa); // cli
        self.0.push(0xf4); // hlt
        let mut disc = vec![0; 64 * SECTOR];
        let mut put = |sector: usize, offset: usize, bytes: &[u8]| {
            let at = sector * SECTOR + offset;
            disc[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(16, 0, b"\x01CD001\x01");
        put(RECORD, 0, b"\0CD001\x01EL TORITO SPECIFICATION");
        put(RECORD, 0x47, &(CATALOG as u32).to_le_bytes());
        put(18, 0, b"\xffCD001\x01");
        // The validation entry: x86, and the two key bytes.
        put(CATALOG, 0, &[1, 0]);
        put(CATALOG, 0x1e, &SIGNATURE);
        // The default entry: bootable, no emulation, four sectors of 512 bytes.
        put(CATALOG, 0x20, &[0x88, 0]);
        put(CATALOG, 0x26, &4u16.to_le_bytes());
        put(CATALOG, 0x28, &(IMAGE as u32).to_le_bytes());
        put(IMAGE, 0, &self.0);
        let path = dir.join("disc.iso");
        fs::write(&path, &disc).expect("disc image");
        path
    }

    /// The sector, on a disk of 1 MiB.
    fn disk(mut self, dir: &Path) -> PathBuf {
        // Without interrupts, the firmware's own console does not mix its text in.
        self.0.insert(0, 0xfa); // cli
        self.0.push(0xf4); // hlt
        assert!(self.0.len() <= 510, "a boot sector has 510 bytes for {}", self.0.len());
        self.0.resize(510, 0);
        self.0.extend(SIGNATURE);
        self.0.resize(1 << 20, 0);
        let path = dir.join("disk.raw");
        fs::write(&path, &self.0).expect("disk image");
        path
    }
}

struct Ran {
    output: Output,
    /// What the firmware said on its debug port.
    log: String,
}

impl Ran {
    fn serial(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn status(&self) -> Option<i32> {
        self.output.status.code()
    }
}

/// Runs the program with a serial port on its standard output.
fn rhea(dir: &Path, args: &[&str]) -> Ran {
    let log = dir.join("firmware.log");
    let debugcon = format!("file:{}", log.display());
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_rhea"), "-m", "64", "-nodefaults", "-display", "none", "-serial", "stdio"])
        .args(["-debugcon", &debugcon, "-global", "isa-debugcon.iobase=0x402", "-device", "isa-debug-exit"])
        .args(args)
        .output()
        .expect("the program runs");
    Ran { output, log: fs::read_to_string(log).unwrap_or_default() }
}

fn drive(disk: &Path) -> String {
    format!("file={},format=raw,if=none,id=d", disk.display())
}

fn starts_from(device: &str) {
    let dir = tempfile::tempdir().expect("directory");
    let disk = Code::default().print("started\r\n").exit().disk(dir.path());

    let ran = rhea(dir.path(), &["-drive", &drive(&disk), "-device", device]);

    assert_eq!(ran.status(), Some(EXIT_STATUS), "{}{}", ran.serial(), String::from_utf8_lossy(&ran.output.stderr));
    assert!(ran.serial().ends_with("started\r\n"), "{}", ran.serial());
}

#[test]
fn seabios_starts_a_modern_virtio_disk() {
    starts_from("virtio-blk-pci,drive=d,disable-legacy=on");
}

#[test]
fn seabios_starts_a_legacy_virtio_disk() {
    starts_from("virtio-blk-pci,drive=d,disable-modern=on");
}

#[test]
fn seabios_starts_an_ide_disk() {
    let dir = tempfile::tempdir().expect("directory");
    let disk = Code::default().print("started\r\n").exit().disk(dir.path());
    let drive = format!("file={},format=raw,index=1", disk.display());

    let ran = rhea(dir.path(), &["-drive", &drive]);

    assert!(ran.log.contains("ata0-1: QEMU HARDDISK ATA-7 Hard-Disk (1 MiBytes)"), "{}", ran.log);
    assert!(ran.serial().ends_with("started\r\n"), "{}", ran.serial());
}

#[test]
fn seabios_starts_a_cd_before_a_disk_when_told() {
    let dir = tempfile::tempdir().expect("directory");
    let disk = Code::default().print("disk\r\n").exit().disk(dir.path());
    let disc = Code::default().print("disc\r\n").exit().disc(dir.path());
    let (disk, disc) = (disk.display().to_string(), disc.display().to_string());

    let ran = rhea(dir.path(), &["-hda", &disk, "-cdrom", &disc, "-boot", "d"]);

    assert!(ran.log.contains("DVD/CD [ata1-0: QEMU DVD-ROM ATAPI-4 DVD/CD]"), "{}", ran.log);
    assert!(ran.serial().ends_with("disc\r\n"), "{}", ran.serial());
}

#[test]
fn bootindex_of_an_ide_drive_reaches_the_firmware() {
    let dir = tempfile::tempdir().expect("directory");
    let other = tempfile::tempdir().expect("directory");
    let first = Code::default().print("master\r\n").exit().disk(dir.path());
    let second = Code::default().print("second\r\n").exit().disk(other.path());
    let drives = [drive(&first), drive(&second).replace("id=d", "id=e")];

    let ran = rhea(
        dir.path(),
        &[
            "-drive",
            &drives[0],
            "-drive",
            &drives[1],
            "-device",
            "ide-hd,drive=d,bus=ide.0,unit=0,bootindex=2",
            "-device",
            "ide-hd,drive=e,bus=ide.1,unit=0,bootindex=1",
        ],
    );

    assert!(ran.serial().ends_with("second\r\n"), "{}", ran.serial());
}

#[test]
fn reset_runs_the_firmware_again() {
    let dir = tempfile::tempdir().expect("directory");
    let reset = Code::default().print("first ").out(0xcf9, 2).out(0xcf9, 6);
    let end = Code::default().print("second ").exit();
    let disk = Code::default().once(&reset, &end).disk(dir.path());

    let ran = rhea(dir.path(), &["-drive", &drive(&disk), "-device", "virtio-blk-pci,drive=d"]);

    assert_eq!(ran.status(), Some(EXIT_STATUS), "{}", ran.log);
    let said = ran.serial();
    let (first, second) = (said.find("first "), said.find("second "));
    assert!(first.is_some() && first < second, "{said}");
    assert_eq!(said.matches("SeaBIOS (version").count(), 2, "{said}");
}

#[test]
fn bootindex_comes_before_the_slot() {
    let dir = tempfile::tempdir().expect("directory");
    let other = tempfile::tempdir().expect("directory");
    let by_slot = Code::default().print("slot\r\n").exit().disk(dir.path());
    let by_index = Code::default().print("index\r\n").exit().disk(other.path());
    let (first, second) = (drive(&by_slot), drive(&by_index).replace("id=d", "id=e"));

    let ran = rhea(
        dir.path(),
        &[
            "-drive",
            &first,
            "-drive",
            &second,
            "-device",
            "virtio-blk-pci,drive=d,addr=3,bootindex=5",
            "-device",
            "virtio-blk-pci,drive=e,addr=4,bootindex=1",
        ],
    );

    assert!(ran.serial().ends_with("index\r\n"), "{}", ran.serial());
    assert!(ran.log.contains("/pci@i0cf8/*@4"), "{}", ran.log);
}

#[test]
fn panic_that_the_guest_tells_of_ends_the_process_or_not_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Code::default().out(0x505, 1).print("went on").exit().disk(dir.path()).display().to_string();
    let ran = |action| rhea(dir.path(), &["-hda", &disk, "-device", "pvpanic", "-action", action]);

    let (failed, went_on) = (ran("panic=exit-failure"), ran("panic=none"));

    assert_eq!(failed.status(), Some(1));
    assert_eq!((went_on.serial().contains("went on"), went_on.status()), (true, Some(EXIT_STATUS)));
}

#[test]
fn strict_order_without_a_disk_starts_nothing_and_restarts_after_the_timeout() {
    let dir = tempfile::tempdir().expect("directory");

    let ran = rhea(dir.path(), &["-boot", "strict=on,reboot-timeout=100", "-no-reboot"]);

    assert_eq!(ran.status(), Some(0), "{}", ran.log);
    assert!(ran.serial().contains("No bootable device.  Retrying in"), "{}", ran.serial());
}

/// The firmware starts every processor with a start-up interrupt, and says how many have told it that they run.
///
/// It has them all wait in turn for one lock, whose holder is seldom one of those that the host runs: 255 took from 5 s
/// to many minutes, and the host with them.
#[test]
fn seabios_counts_processors_whose_apic_ids_pass_eight_bits() {
    const PATIENCE: Duration = Duration::from_secs(120);
    let dir = tempfile::tempdir().expect("directory");
    let log = dir.path().join("firmware.log");
    // Eight places for five threads, eight for five cores and four for three dies: the second socket begins at id 256,
    // with the 76th processor.
    let mut machine = Command::new(env!("CARGO_BIN_EXE_rhea"))
        .args(["-m", "64", "-nodefaults", "-display", "none"])
        .args(["-smp", "76,maxcpus=150,sockets=2,dies=3,cores=5,threads=5"])
        .args(["-debugcon", &format!("file:{}", log.display()), "-global", "isa-debugcon.iobase=0x402"])
        .spawn()
        .expect("the program starts");
    let since = Instant::now();
    let found = loop {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if said.contains("max supported") || since.elapsed() > PATIENCE {
            break said;
        }
        sleep(Duration::from_millis(50));
    };
    machine.kill().expect("killed");
    machine.wait().expect("ended");

    assert!(found.contains("handle_smp: apic_id=0x100\n"), "{found}");
    // The last id is 256 + 2 * 64 + 4 * 8 + 4, and the firmware counts places up to it.
    assert!(found.contains("Found 76 cpu(s) max supported 421 cpu(s)"), "{found}");
}

/// Each of the others, sent INIT and a start-up interrupt by the first through its x2APIC, counts itself and rests.
#[test]
fn two_hundred_and_fifty_five_processors_start() {
    let dir = tempfile::tempdir().expect("directory");
    let rom = Code::default().start_the_others(254).print_memory(0x50, 4).exit().rom(dir.path()).display().to_string();

    let ran = rhea(dir.path(), &["-bios", &rom, "-smp", "255,sockets=51,cores=5"]);

    // Eight places for five cores: the ids of the last 19 sockets pass eight bits.
    let counted = [254u16, 19 * 5].map(u16::to_le_bytes).concat();
    assert_eq!((ran.status(), &ran.output.stdout), (Some(EXIT_STATUS), &counted), "{}", ran.log);
}

#[test]
fn seabios_starts_from_flash() {
    let dir = tempfile::tempdir().expect("directory");
    let disk = Code::default().print("started\r\n").exit().disk(dir.path());
    let flash = "if=pflash,format=raw,readonly=on,file=/usr/share/seabios/bios-256k.bin";

    let ran = rhea(dir.path(), &["-drive", flash, "-drive", &drive(&disk), "-device", "virtio-blk-pci,drive=d"]);

    assert_eq!(ran.status(), Some(EXIT_STATUS), "{}{}", ran.serial(), String::from_utf8_lossy(&ran.output.stderr));
    assert!(ran.serial().ends_with("started\r\n"), "{}", ran.serial());
}

#[test]
fn seabios_starts_the_kernel_with_its_command_line_before_any_disk() {
    let dir = tempfile::tempdir().expect("directory");
    let disk = Code::default().print("disk\r\n").exit().disk(dir.path());
    let kernel = Code::default().print("kernel ").print_memory(0x2000, 5).exit().kernel(dir.path());

    let ran = rhea(
        dir.path(),
        &["-bios", "bios-256k.bin", "-kernel", &kernel.display().to_string(), "-append", "words", "-hda"]
            .into_iter()
            .chain([&*disk.display().to_string()])
            .collect::<Vec<_>>(),
    );

    assert_eq!(ran.status(), Some(EXIT_STATUS), "{}{}", ran.serial(), String::from_utf8_lossy(&ran.output.stderr));
    assert!(ran.serial().ends_with("kernel words"), "{}", ran.serial());
}

#[test]
fn seabios_is_there_for_a_kernel_that_starts_in_real_mode() {
    let dir = tempfile::tempdir().expect("directory");
    // Its header names no 32-bit entry.
    let kernel = Code::default().print("kernel\r\n").exit().kernel(dir.path());

    let ran = rhea(dir.path(), &["-kernel", &kernel.display().to_string()]);

    assert_eq!(ran.status(), Some(EXIT_STATUS), "{}{}", ran.serial(), String::from_utf8_lossy(&ran.output.stderr));
    assert!(ran.serial().ends_with("kernel\r\n"), "{}", ran.serial());
}

#[test]
fn option_rom_of_the_user_runs() {
    let dir = tempfile::tempdir().expect("directory");
    let mut rom = vec![0x55, 0xaa, 1];
    rom.extend(Code::default().exit().0);
    rom.resize(511, 0);
    rom.push(rom.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg());
    let path = dir.path().join("test.rom");
    fs::write(&path, &rom).expect("ROM");

    let ran = rhea(dir.path(), &["-option-rom", &path.display().to_string()]);

    assert_eq!(ran.status(), Some(EXIT_STATUS), "{}", ran.log);
    assert!(ran.log.contains("/rom@genroms/test.rom"), "{}", ran.log);
}

#[test]
fn flash_beside_another_firmware_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let flash = "if=pflash,format=raw,readonly=on,file=/usr/share/seabios/bios-256k.bin";

    let ran = rhea(dir.path(), &["-drive", flash, "-bios", "bios-256k.bin"]);

    let said = String::from_utf8_lossy(&ran.output.stderr).into_owned();
    assert_eq!(ran.status(), Some(1), "{said}");
    assert!(said.ends_with("rhea: -bios and firmware in flash are two firmwares: leave out one\n"), "{said}");
}

#[test]
fn missing_firmware_names_the_file() {
    let dir = tempfile::tempdir().expect("directory");

    let ran = rhea(dir.path(), &["-bios", "no-such-firmware"]);

    let said = String::from_utf8_lossy(&ran.output.stderr).into_owned();
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(ran.status(), Some(1), "{said}");
    assert!(last.starts_with("rhea: could not load PC BIOS 'no-such-firmware': "), "{said}");
}
