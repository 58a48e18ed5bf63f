//! Random registers and random guest memory at every device of a machine: nothing may panic, hang or end it.
//!
//! The sequences are made to get deep: drives get commands and packets, PRD tables and descriptors lie in memory, queues
//! are set up before they are rung. `RHEA_QTEST_SEED` and `RHEA_QTEST_ROUNDS` play others than the usual ones.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// As much as a few seconds play.
const ROUNDS: u64 = 1500;
/// No batch of commands takes longer, or something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where memory is made hostile.
const PRD_TABLE: u64 = 0x1000;
const DESCRIPTORS: u64 = 0x2000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
const INDIRECT: u64 = 0x5000;
const BUFFERS: u64 = 0x8000;
const FW_CFG_DMA: u64 = 0x6000;

/// Slots of the virtio functions, and where their registers are put.
const FUNCTIONS: [u64; 3] = [4, 5, 6];
const QUEUE_SIZE: u64 = 16;

/// Where the parts of a virtio function's registers lie in its memory (the capabilities say the same).
const PART: u64 = 0x1000;
const COMMON: u64 = 0;
const DEVICE: u64 = 2 * PART;
const NOTIFY: u64 = 3 * PART;

/// Steele, Lea and Flood: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A number at some limit, or any.
    fn value(&mut self) -> u64 {
        let any = self.next();
        let limits = [0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff];
        if self.chance(50) { self.pick(&limits) } else { any >> self.below(64) }
    }

    /// An address: mostly in the small RAM, at its ends, or where nothing is.
    fn address(&mut self) -> u64 {
        let inside = BUFFERS + self.below(0x8000);
        let value = self.value();
        let others = [0, 0xa_0000, 0xf_fff0, 0xff_fff8, 0x100_0000, 0xfec0_0000, u64::MAX - 7, value];
        if self.chance(75) { inside } else { self.pick(&others) }
    }
}

/// The program, and commands for it that are not sent yet.
struct Machine {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    batch: Vec<String>,
}

impl Machine {
    fn start(directory: &Path) -> Self {
        let file = |name: &str, size: usize| {
            let path = directory.join(name);
            std::fs::write(&path, vec![0x5a; size]).expect("an image");
            path.display().to_string()
        };
        let drive = |id: &str, size| format!("if=none,id={id},format=raw,file={}", file(id, size));
        let errors = File::create(directory.join("errors")).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_rhea"))
            .args(["-accel", "qtest", "-qtest", "stdio", "-qtest-log", "none", "-m", "16", "-nodefaults"])
            .args(["-display", "none", "-no-shutdown", "-serial", "null", "-debugcon", "null"])
            .args(["-drive", &drive("ide", 1 << 20), "-device", "ide-hd,drive=ide,bus=ide.0"])
            .args(["-drive", &drive("cd", 1 << 16), "-device", "ide-cd,drive=cd,bus=ide.0"])
            .args(["-device", "ide-cd,bus=ide.1"])
            .args(["-drive", &drive("blk", 1 << 20), "-device", "virtio-blk-pci,drive=blk,addr=4"])
            .args(["-device", "virtio-rng-pci,addr=5", "-device", "virtio-scsi-pci,id=scsi,addr=6"])
            .args(["-drive", &drive("sd", 1 << 20), "-device", "scsi-hd,drive=sd,bus=scsi.0"])
            .args(["-drive", &drive("sr", 1 << 16), "-device", "scsi-cd,drive=sr,bus=scsi.0"])
            .args(["-fw_cfg", "name=opt/a,string=text"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the program runs");
        let input = child.stdin.take().expect("standard input");
        let output = BufReader::new(child.stdout.take().expect("standard output"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok).filter(|line| !line.starts_with("IRQ ")) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, input, answers, batch: Vec::new() }
    }

    fn say(&mut self, command: String) {
        self.batch.push(command);
    }

    fn out(&mut self, width: char, port: u64, value: u64) {
        self.say(format!("out{width} {port:#x} {value:#x}"));
    }

    fn write(&mut self, width: char, address: u64, value: u64) {
        self.say(format!("write{width} {address:#x} {value:#x}"));
    }

    fn config(&mut self, slot: u64, register: u64, value: u64) {
        self.out('l', 0xcf8, 0x8000_0000 | slot << 11 | register);
        self.out('l', 0xcfc, value);
    }

    /// Sends what was said and takes the answers; the last one.
    fn play(&mut self) -> String {
        let text: String = self.batch.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        self.input.write_all(text.as_bytes()).expect("the program listens");
        let mut last = String::new();
        for command in self.batch.drain(..) {
            last = self.answers.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{command}: {error}"));
            assert!(last.starts_with("OK") || last.starts_with("FAIL"), "{command}: {last}");
        }
        last
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports of chips that take a byte at a time, but not those of what ends the machine.
const PORTS: [u64; 46] = [
    0x20, 0x21, 0x40, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xa0, 0xa1, 0xb2, 0xb3, 0x170, 0x171,
    0x172, 0x173, 0x174, 0x175, 0x176, 0x177, 0x1f0, 0x1f1, 0x1f2, 0x1f3, 0x1f4, 0x1f5, 0x1f6, 0x1f7, 0x376, 0x3f6,
    0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x402, 0x4d0, 0x4d1, 0x511,
];
/// The bus master's registers, after they are given a place.
const BUS_MASTER: u64 = 0xc000;

fn ports(machine: &mut Machine, random: &mut Random) {
    for _ in 0..24 {
        let (port, width) = (random.pick(&PORTS), random.pick(&['b', 'b', 'b', 'w', 'l']));
        let port = if random.chance(20) { BUS_MASTER + random.below(16) } else { port };
        let value = random.value();
        if random.chance(40) {
            machine.say(format!("in{width} {port:#x}"));
        } else {
            machine.out(width, port, value & 0xffff_ffff);
        }
    }
}

fn configuration(machine: &mut Machine, random: &mut Random) {
    for _ in 0..8 {
        let (slot, function) = (random.pick(&[0, 1, 1, 4, 5, 6]), random.below(4));
        let value = random.value();
        // The power management function's own registers would turn the machine off.
        let function = if slot == 1 { function.min(2) } else { function };
        machine.out('l', 0xcf8, 0x8000_0000 | slot << 11 | function << 8 | random.below(256));
        let (width, lane) = (random.pick(&['b', 'w', 'l']), random.below(4));
        if random.chance(50) {
            machine.out(width, 0xcfc + lane, value & 0xffff_ffff);
        } else {
            machine.say(format!("in{width} {:#x}", 0xcfc + lane));
        }
    }
}

/// Known ATA commands, some of them for the other kind of drive.
const ATA: [u64; 34] = [
    0x00, 0x06, 0x08, 0x10, 0x20, 0x21, 0x24, 0x25, 0x27, 0x29, 0x30, 0x34, 0x35, 0x39, 0x40, 0x42, 0x70, 0x90, 0x91,
    0xa0, 0xa1, 0xb0, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xe0, 0xe1, 0xe5, 0xe7, 0xea, 0xec, 0xef,
];
/// Commands of CD drives and disks.
const SCSI: [u64; 44] = [
    0x00, 0x03, 0x04, 0x08, 0x0a, 0x12, 0x15, 0x16, 0x1a, 0x1b, 0x1d, 0x1e, 0x23, 0x25, 0x28, 0x2a, 0x2e, 0x2f, 0x35,
    0x3b, 0x41, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x52, 0x55, 0x5a, 0x5e, 0x5f, 0x88, 0x89, 0x8a, 0x8f, 0x91, 0x93, 0x9e,
    0xa0, 0xa3, 0xa8, 0xad, 0xbd, 0xbe,
];

fn drive(machine: &mut Machine, random: &mut Random) {
    let base = random.pick(&[0x1f0, 0x170]);
    if random.chance(10) {
        machine.out('b', base + 0x206, 4);
        machine.out('b', base + 0x206, 0);
    }
    machine.out('b', base + 6, random.pick(&[0xa0, 0xb0, 0xe0, 0xf0]));
    table(machine, random);
    machine.out('l', BUS_MASTER + 4, PRD_TABLE);
    for register in 1..6 {
        let value = random.value();
        machine.out('b', base + register, value & 0xff);
    }
    let command = if random.chance(35) { 0xa0 } else { random.pick(&ATA) };
    machine.out('b', base + 7, command);
    machine.out('b', BUS_MASTER + if base == 0x170 { 8 } else { 0 }, random.pick(&[0x09, 0x01, 0x00]));
    if command == 0xa0 {
        let packet = cdb(random, 12);
        for word in packet.chunks(2) {
            machine.out('w', base, u64::from(word[0]) | u64::from(word[1]) << 8);
        }
    }
    for _ in 0..random.below(300) {
        machine.say(if random.chance(50) { format!("inw {base:#x}") } else { format!("outl {base:#x} 0x12345678") });
    }
    machine.say(format!("inb {:#x}", base + 7));
}

/// A command block: one that is known with lengths and addresses at their limits, or any.
fn cdb(random: &mut Random, len: usize) -> Vec<u8> {
    let mut cdb = vec![0; len];
    cdb[0] = if random.chance(90) { random.pick(&SCSI) as u8 } else { random.next() as u8 };
    for byte in &mut cdb[1..] {
        let any = random.next() as u8;
        *byte = if random.chance(60) {
            0
        } else if random.chance(40) {
            0xff
        } else {
            any
        };
    }
    cdb
}

/// PRD entries (bus master IDE, 1.2): an address and a length, the last with bit 31.
fn table(machine: &mut Machine, random: &mut Random) {
    for n in 0..8 {
        let (address, len) = (random.address(), random.value());
        machine.write('l', PRD_TABLE + n * 8, address & 0xffff_ffff);
        let last = if random.chance(20) { 1 << 31 } else { 0 };
        machine.write('l', PRD_TABLE + n * 8 + 4, (len & 0xffff) | last);
    }
}

fn registers(slot: u64) -> u64 {
    0xe000_0000 + slot * 0x1_0000
}

/// Gives the functions their places, as firmware would.
fn place(machine: &mut Machine) {
    for slot in FUNCTIONS {
        machine.config(slot, 0x10, 0xd000 + slot * 0x100);
        machine.config(slot, 0x14, registers(slot) + 0x8000);
        machine.config(slot, 0x20, registers(slot));
        machine.config(slot, 0x24, 0);
        machine.config(slot, 0x04, 7);
    }
    machine.out('l', 0xcf8, 0x8000_0920);
    machine.out('l', 0xcfc, BUS_MASTER);
    machine.out('l', 0xcf8, 0x8000_0904);
    machine.out('w', 0xcfc, 5);
}

fn virtio(machine: &mut Machine, random: &mut Random) {
    place(machine);
    let slot = random.pick(&FUNCTIONS);
    let common = registers(slot) + COMMON;
    machine.write('b', common + 0x14, 0);
    machine.write('b', common + 0x14, 3);
    // VERSION_1, and any of the rest.
    for (select, features) in [(0, random.next() & 0x3fff_ffff), (1, 1)] {
        machine.write('l', common + 8, select);
        machine.write('l', common + 12, features);
    }
    machine.write('b', common + 0x14, 11);
    let queue = random.below(4);
    let address = |random: &mut Random, usual| if random.chance(90) { usual } else { random.address() };
    machine.write('w', common + 0x16, queue);
    machine.write('w', common + 0x18, if random.chance(80) { QUEUE_SIZE } else { random.below(0x1_0000) });
    machine.write('q', common + 0x20, address(random, DESCRIPTORS));
    machine.write('q', common + 0x28, address(random, AVAILABLE));
    machine.write('q', common + 0x30, address(random, USED));
    machine.write('w', common + 0x1c, 1);
    machine.write('b', common + 0x14, 15);
    for _ in 0..1 + random.below(4) {
        chains(machine, random, slot);
        machine.write('w', registers(slot) + NOTIFY + queue * 4, queue);
    }
    for _ in 0..random.below(8) {
        let (width, at, value) = (random.pick(&['b', 'w', 'l', 'q']), random.below(0x40), random.value());
        let part = random.pick(&[COMMON, COMMON, DEVICE, PART, 0x8000]);
        if random.chance(50) {
            machine.write(width, registers(slot) + part + at, value);
        } else {
            machine.say(format!("read{width} {:#x}", registers(slot) + part + at));
        }
    }
}

/// A table of descriptors, some of them right, and heads to take.
fn chains(machine: &mut Machine, random: &mut Random, slot: u64) {
    for table in [DESCRIPTORS, INDIRECT] {
        for n in 0..QUEUE_SIZE {
            let address = if random.chance(10) { INDIRECT } else { random.address() };
            let len = random.pick(&[0, 1, 15, 16, 16, 44, 51, 108, 512, 4096, 0xffff_ffff]);
            let len = if random.chance(10) { random.value() & 0xffff_ffff } else { len };
            let flags = random.pick(&[0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 7]);
            let next = if random.chance(80) { (n + 1) % QUEUE_SIZE } else { random.below(0x1_0000) };
            let at = table + n * 16;
            machine.write('q', at, address);
            machine.write('q', at + 8, len | flags << 32 | next << 48);
        }
    }
    // A header: a block request, or a SCSI one with its command block.
    for at in (0..16).map(|n| BUFFERS + n * 64) {
        if slot == 4 {
            machine.write('l', at, random.pick(&[0, 1, 4, 8, 11, 13, 99]));
            machine.write('q', at + 8, random.below(4096));
        } else {
            let lun = random.pick(&[0x01, 0x0001, 0x4000_0001, 0x0100_0001]);
            machine.write('q', at, lun);
            let cdb: String = cdb(random, 16).iter().map(|byte| format!("{byte:02x}")).collect();
            machine.say(format!("write {:#x} 16 0x{cdb}", at + 19));
        }
    }
    // The descriptors that lead there.
    for n in 0..QUEUE_SIZE {
        if random.chance(60) {
            machine.write('q', DESCRIPTORS + n * 16, BUFFERS + n * 64);
        }
    }
    let heads = random.below(QUEUE_SIZE + 2);
    for n in 0..QUEUE_SIZE {
        let head = if random.chance(95) { random.below(QUEUE_SIZE) } else { random.below(0x1_0000) };
        machine.write('w', AVAILABLE + 4 + n * 2, head);
    }
    let index = if random.chance(95) { heads } else { random.below(0x1_0000) };
    machine.write('w', AVAILABLE + 2, index);
}

/// The DMA interface (fw_cfg specification): control, length, address, all big-endian.
fn fw_cfg(machine: &mut Machine, random: &mut Random) {
    let control = random.below(32) | random.pick(&[0, 1, 2, 3, 5, 0x19, 0x20, 0x21, 0x8003, 0xffff]) << 16;
    let (len, address) = (random.value() as u32, random.address());
    machine.write('l', FW_CFG_DMA, u64::from((control as u32).swap_bytes()));
    machine.write('l', FW_CFG_DMA + 4, u64::from(len.swap_bytes()));
    machine.write('q', FW_CFG_DMA + 8, address.swap_bytes());
    let at = if random.chance(90) { FW_CFG_DMA } else { random.address() };
    machine.out('l', 0x514, u64::from(((at >> 32) as u32).swap_bytes()));
    machine.out('l', 0x518, u64::from((at as u32).swap_bytes()));
    machine.out('w', 0x510, random.below(0x40));
    for _ in 0..8 {
        machine.say("inb 0x511".to_owned());
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn random_registers_and_memory_harm_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = Machine::start(directory.path());
    let mut random = Random(number("RHEA_QTEST_SEED", 1));
    place(&mut machine);

    for _ in 0..number("RHEA_QTEST_ROUNDS", ROUNDS) {
        match random.below(12) {
            0 | 1 => ports(&mut machine, &mut random),
            2 => configuration(&mut machine, &mut random),
            3..=5 => drive(&mut machine, &mut random),
            6 => fw_cfg(&mut machine, &mut random),
            7 => machine.say(format!("clock_step {}", random.below(2_000_000_000))),
            _ => virtio(&mut machine, &mut random),
        }
        machine.play();
    }
    machine.say("endianness".to_owned());
    let last = machine.play();
    let errors = std::fs::read_to_string(directory.path().join("errors")).expect("standard error");

    assert_eq!(last, "OK little");
    assert!(!errors.contains("panicked"), "{errors}");
}
