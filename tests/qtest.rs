//! Devices driven through QEMU's qtest protocol: needs neither KVM nor a guest.

#[path = "qtest/hostile.rs"]
mod hostile;
#[path = "qtest/reserve.rs"]
mod reserve;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A machine without vCPUs and the line to it.
struct Qtest {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Changes of interrupt pins that came before the last answer.
    interrupts: Vec<String>,
}

impl Qtest {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rhea"))
            .args(["-accel", "qtest", "-qtest", "stdio", "-m", "16"])
            .args(["-nodefaults", "-display", "none", "-qtest-log", "none"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let input = child.stdin.take().expect("standard input");
        let output = BufReader::new(child.stdout.take().expect("standard output"));
        Self { child, input, output, interrupts: Vec::new() }
    }

    /// Sends a command and gives its answer.
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").expect("the program listens");
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("the program answers") > 0, "{command}: no answer");
            let line = line.trim_end().to_owned();
            if !line.starts_with("IRQ ") {
                return line;
            }
            self.interrupts.push(line);
        }
    }

    fn all(&mut self, commands: &[&str]) -> Vec<String> {
        commands.iter().map(|command| self.ask(command)).collect()
    }
}

impl Drop for Qtest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn memory_is_written_and_read_in_every_form() {
    let mut machine = Qtest::start(&[]);

    let answers = machine.all(&[
        "write 0x1000 4 0x01020304",
        "read 0x1000 4",
        "b64read 0x1000 4",
        "readw 0x1000",
        "b64write 0x2000 2 qrs=",
        "read 0x2000 4",
        "memset 0x2001 2 0x7f",
        "read 0x2000 4",
        "endianness",
    ]);

    let expected = [
        "OK",
        "OK 0x01020304",
        "OK AQIDBA==",
        "OK 0x0000000000000201",
        "OK",
        "OK 0xaabb0000",
        "OK",
        "OK 0xaa7f7f00",
        "OK little",
    ];
    assert_eq!(answers, expected);
}

#[test]
fn clock_update_raises_interrupt_8_when_time_is_stepped() {
    let mut machine = Qtest::start(&[]);

    machine.all(&["irq_intercept_in ioapic", "outb 0x70 0x0b", "outb 0x71 0x12"]);
    let stepped = machine.ask("clock_step 1000000000");
    machine.all(&["outb 0x70 0x0c", "inb 0x71"]);

    assert_eq!(stepped, "OK 1000000000");
    assert_eq!(machine.interrupts, ["IRQ raise 8", "IRQ lower 8"]);
}

#[test]
fn shadowed_memory_takes_writes_only_when_the_bridge_says() {
    let mut machine = Qtest::start(&[]);

    let dropped = machine.all(&["writeb 0xe0000 0x5a", "readb 0xe0000"]);
    // PAM5 (0x5e), low half: 0xe0000 to 0xe3fff, read and write.
    let kept = machine.all(&["outl 0xcf8 0x8000005c", "outb 0xcfe 0x03", "writeb 0xe0000 0x5a", "readb 0xe0000"]);

    assert_ne!(dropped[1], "OK 0x000000000000005a");
    assert_eq!(kept[3], "OK 0x000000000000005a");
}

#[test]
fn fw_cfg_gives_its_signature_and_a_file_of_the_user() {
    let mut machine = Qtest::start(&["-fw_cfg", "name=opt/test,string=hello"]);

    let signature = machine.all(&["outw 0x510 0", "inb 0x511", "inb 0x511", "inb 0x511", "inb 0x511"]);
    let memory = machine.all(&["outw 0x510 3", "inb 0x511", "inb 0x511", "inb 0x511", "inb 0x511"]);

    assert_eq!(signature[1..], ["OK 0x0051", "OK 0x0045", "OK 0x004d", "OK 0x0055"]);
    assert_eq!(memory[4], "OK 0x0001");
}

#[test]
fn wrong_commands_fail_and_the_next_is_served() {
    let mut machine = Qtest::start(&[]);

    let answers =
        machine.all(&["nonsense", "outb", "read 0 0xffffffffffff", "inb 0x12345", "write 0 1 0xz", "", "inb 0x92"]);

    assert!(answers[..6].iter().all(|answer| answer.starts_with("FAIL ")), "{answers:?}");
    assert_eq!(answers[6], "OK 0x0000");
}

#[test]
fn ide_disk_is_identified_and_raises_interrupt_14() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, vec![0; 1 << 20]).expect("image");
    let drive = format!("file={},format=raw,if=ide", path.display());
    let mut machine = Qtest::start(&["-drive", &drive]);

    machine.all(&["irq_intercept_in ioapic", "outb 0x1f6 0xa0", "outb 0x1f7 0xec"]);
    let mut polls = 0;
    while machine.ask("inb 0x3f6") != "OK 0x0058" {
        polls += 1;
        assert!(polls < 100_000, "the drive stays busy");
    }
    let word = machine.ask("inw 0x1f0");

    assert_eq!(word, "OK 0x0040");
    assert!(machine.interrupts.contains(&"IRQ raise 14".to_owned()), "{:?}", machine.interrupts);
}

#[test]
fn test_devices_pull_interrupts_hold_bytes_and_count_writes() {
    let mut machine = Qtest::start(&["-device", "pc-testdev", "-device", "pci-testdev,addr=4"]);

    machine.all(&["irq_intercept_in ioapic", "outb 0x200e 1", "outb 0x200e 0"]);
    let held = machine.all(&["outl 0xe0 0x12345678", "inb 0xe9", "writeb 0xff00ffff 0x5a", "readb 0xff00ffff"]);
    // The function's first BAR, and memory decoding.
    machine.all(&["outl 0xcf8 0x80002010", "outl 0xcfc 0xe0000000", "outl 0xcf8 0x80002004", "outw 0xcfc 2"]);
    let counted =
        machine.all(&["writeb 0xe0000000 1", "readl 0xe0000004", "writeb 0xe0000804 0xfa", "readl 0xe000000c"]);

    assert_eq!(machine.interrupts, ["IRQ raise 14", "IRQ lower 14"]);
    assert_eq!(held, ["OK", "OK 0x0056", "OK", "OK 0x000000000000005a"]);
    assert_eq!(counted, ["OK", "OK 0x0000000000000804", "OK", "OK 0x0000000000000001"]);
}

/// IDENTIFY DEVICE of the drive on the first channel, by word.
fn identify(machine: &mut Qtest) -> Vec<u16> {
    machine.all(&["outb 0x1f6 0xa0", "outb 0x1f7 0xec"]);
    while machine.ask("inb 0x3f6") != "OK 0x0058" {}
    (0..256).map(|_| u16::from_str_radix(&machine.ask("inw 0x1f0")[5..], 16).expect("a word")).collect()
}

#[test]
fn properties_of_an_ide_disk_reach_the_guest() {
    let image = tempfile::NamedTempFile::new().expect("image");
    image.as_file().set_len(1 << 20).expect("image");
    let drive = format!("if=none,id=d,format=raw,file={}", image.path().display());
    let device = "ide-hd,drive=d,bus=ide.0,unit=0,serial=abc,ver=1.2,model=Disk,wwn=0x5000c50015ea71ab,cyls=16,heads=4,\
                  secs=32,rotation_rate=1,write-cache=off,physical_block_size=4096";
    let mut machine = Qtest::start(&["-drive", &drive, "-device", device]);

    let words = identify(&mut machine);

    let text = |at: usize, len: usize| -> String {
        words[at..at + len].iter().flat_map(|word| word.to_be_bytes()).map(char::from).collect()
    };
    assert_eq!((text(10, 10).trim(), text(23, 4).trim(), text(27, 20).trim()), ("abc", "1.2", "Disk"));
    assert_eq!(words[108..112], [0x5000, 0xc500, 0x15ea, 0x71ab]);
    assert_eq!((words[1], words[3], words[6], words[54], words[55], words[56]), (16, 4, 32, 16, 4, 32));
    assert_eq!((words[217], words[85] & 0x20, words[106]), (1, 0, 0x6003));
}

#[test]
fn flash_programs_its_image_and_refuses_to_program_a_read_only_one() {
    let dir = tempfile::tempdir().expect("directory");
    let (code, variables) = (dir.path().join("code.fd"), dir.path().join("vars.fd"));
    std::fs::write(&code, vec![0x11; 128 << 10]).expect("image");
    std::fs::write(&variables, vec![0x22; 64 << 10]).expect("image");
    let first = format!("if=pflash,unit=0,format=raw,readonly=on,file={}", code.display());
    let second = format!("if=pflash,unit=1,format=raw,file={}", variables.display());
    let mut machine = Qtest::start(&["-drive", &first, "-drive", &second]);

    // 128 KiB end at 4 GiB, and 64 KiB below them.
    let places = machine.all(&["readb 0xfffe0000", "readb 0xfffdffff", "readb 0xfffd0000", "readb 0xe0000"]);
    let done = machine.all(&["writeb 0xfffd0040 0x10", "writeb 0xfffd0040 0xab", "readb 0xfffd0000"]);
    let array = machine.all(&["writeb 0xfffd0000 0xff", "readb 0xfffd0040"]);
    let refused = machine.all(&["writeb 0xfffe0000 0x10", "writeb 0xfffe0000 0xab", "readb 0xfffe0000"]);

    let byte = |value| format!("OK 0x{value:016x}");
    assert_eq!(places, [byte(0x11), byte(0x22), byte(0x22), byte(0x11)]);
    assert_eq!((&done[2], &array[1], &refused[2]), (&byte(0x80), &byte(0xab), &byte(0x90)));
    let written = std::fs::read(&variables).expect("image");
    assert_eq!((written[0x3f], written[0x40], written[0x41]), (0x22, 0xab, 0x22));
}

impl Qtest {
    /// An item of the firmware configuration, through its DMA interface.
    fn item(&mut self, key: u16, len: usize) -> Vec<u8> {
        const READ_AND_SELECT: u32 = 1 << 1 | 1 << 3;
        let control = u32::from(key) << 16 | READ_AND_SELECT;
        self.ask(&format!("write 0x1000 16 0x{control:08x}{len:08x}0000000000010000"));
        self.ask("outl 0x518 0x00100000");
        assert_eq!(self.ask("read 0x1000 4"), "OK 0x00000000", "the transfer went well");
        let answer = self.ask(&format!("read 0x10000 {len}"));
        let digits = answer.strip_prefix("OK 0x").expect("bytes").as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn file(&mut self, name: &str) -> Vec<u8> {
        const DIRECTORY: u16 = 0x19;
        let directory = self.item(DIRECTORY, 4 + 64 * 64);
        let entry = directory[4..].chunks(64).find(|entry| entry[8..].starts_with(name.as_bytes())).expect("the file");
        let size = u32::from_be_bytes(*entry.first_chunk().unwrap()) as usize;
        self.item(u16::from_be_bytes([entry[4], entry[5]]), size)
    }
}

/// SeaBIOS puts the power management registers of PIIX4 at 0x600, OVMF at 0xb000; both then hand over what they read.
#[test]
fn tables_for_firmware_say_where_it_has_put_the_power_management_registers() {
    let rom = tempfile::NamedTempFile::new().expect("a file");
    rom.as_file().set_len(64 << 10).expect("its size");
    let mut machine = Qtest::start(&["-bios", rom.path().to_str().expect("a name")]);
    let mut blocks_at = |base: u16| {
        let place = format!("outl 0xcfc {:#x}", base | 1);
        machine.all(&["outl 0xcf8 0x80000b40", &place, "outl 0xcf8 0x80000b80", "outb 0xcfc 1"]);
        let tables = machine.file("etc/acpi/tables");
        let fadt = tables.windows(4).position(|name| name == b"FACP").expect("a FADT");
        // PM1a event and control block, PM timer (ACPI 6.5, 5.2.9).
        [56, 64, 76].map(|at| u32::from_le_bytes(*tables[fadt + at..].first_chunk().unwrap()))
    };

    assert_eq!(blocks_at(0xb000), [0xb000, 0xb004, 0xb008]);
    assert_eq!(blocks_at(0x600), [0x600, 0x604, 0x608]);
}
