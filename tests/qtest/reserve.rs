//! Two SCSI units on one node, behind an adapter each: one reserves the disk, and the other is kept out.

use std::path::Path;
use std::process::Command;

use super::Qtest;

const GOOD: u8 = 0;
const CHECK: u8 = 2;
const CONFLICT: u8 = 0x18;
const WRITE_EXCLUSIVE: u8 = 1;

/// An adapter as a driver of the legacy interface (virtio 1.2, section 4.1.4.8) has it, with its first request queue.
struct Adapter {
    port: u64,
    /// Descriptors, the available and the used ring, and a page for what they point to.
    ring: u64,
    sent: u16,
}

/// What a command gave.
struct Answer {
    status: u8,
    sense: [u8; 3],
    data: Vec<u8>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn read(machine: &mut Qtest, address: u64, len: usize) -> Vec<u8> {
    let answer = machine.ask(&format!("read {address:#x} {len}"));
    let digits = answer.strip_prefix("OK 0x").expect("bytes");
    (0..len).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).expect("a byte")).collect()
}

impl Adapter {
    fn start(machine: &mut Qtest, slot: u64, port: u64, ring: u64) -> Self {
        for (register, value) in [(0x10, port), (0x04, 5)] {
            machine.ask(&format!("outl 0xcf8 {:#x}", 0x8000_0000 | slot << 11 | register));
            machine.ask(&format!("outl 0xcfc {value:#x}"));
        }
        // Status, features, queue 2, its page, status.
        for (width, register, value) in [('b', 18, 3), ('l', 4, 0), ('w', 14, 2), ('l', 8, ring >> 12), ('b', 18, 7)] {
            assert_eq!(machine.ask(&format!("out{width} {:#x} {value:#x}", port + register)), "OK");
        }
        let mut adapter = Self { port, ring, sent: 0 };
        // Power on.
        assert_eq!(adapter.command(machine, &[0; 6], &[], 0).status, CHECK);
        adapter
    }

    fn command(&mut self, machine: &mut Qtest, cdb: &[u8], out: &[u8], room: u32) -> Answer {
        let page = self.ring + 0x3000;
        let (request, sent, response, got) = (page, page + 0x100, page + 0x400, page + 0x600);
        let mut bytes = vec![1, 0, 0x40, 0, 0, 0, 0, 0];
        bytes.resize(19, 0);
        bytes.extend(cdb);
        bytes.resize(51, 0);
        machine.ask(&format!("write {request:#x} 51 {}", hex(&bytes)));
        let mut parts = vec![(request, 51, 0)];
        if !out.is_empty() {
            machine.ask(&format!("write {sent:#x} {} {}", out.len(), hex(out)));
            parts.push((sent, out.len() as u32, 0));
        }
        parts.push((response, 108, 2));
        if room > 0 {
            parts.push((got, room, 2));
        }
        for (n, (address, len, flags)) in parts.iter().enumerate() {
            let more = u16::from(n + 1 < parts.len());
            let mut descriptor = u64::to_le_bytes(*address).to_vec();
            descriptor.extend(len.to_le_bytes());
            descriptor.extend((flags | more).to_le_bytes());
            descriptor.extend((n as u16 + 1).to_le_bytes());
            machine.ask(&format!("write {:#x} 16 {}", self.ring + 16 * n as u64, hex(&descriptor)));
        }
        self.sent += 1;
        // Every entry of the available ring is the chain at descriptor 0.
        machine.ask(&format!("writew {:#x} {}", self.ring + 0x1002, self.sent));
        machine.ask(&format!("outw {:#x} 2", self.port + 16));
        let done = u16::to_le_bytes(self.sent);
        while read(machine, self.ring + 0x2002, 2) != done {
            std::thread::yield_now();
        }
        let head = read(machine, response, 12 + 18);
        assert_eq!(head[11], 0, "the adapter's response");
        let data = if room > 0 { read(machine, got, room as usize) } else { Vec::new() };
        Answer { status: head[10], sense: [head[14] & 0xf, head[24], head[25]], data }
    }

    /// PERSISTENT RESERVE OUT.
    fn persistent(&mut self, machine: &mut Qtest, action: u8, key: u64, about: u64) -> u8 {
        let list = [key.to_be_bytes(), about.to_be_bytes(), [0; 8]].concat();
        self.command(machine, &[0x5f, action, WRITE_EXCLUSIVE, 0, 0, 0, 0, 0, 24, 0], &list, 0).status
    }

    fn write(&mut self, machine: &mut Qtest, byte: u8) -> Answer {
        self.command(machine, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[byte; 512], 0)
    }

    fn read(&mut self, machine: &mut Qtest) -> u8 {
        let read = self.command(machine, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[], 512);
        assert_eq!(read.status, GOOD);
        read.data[0]
    }
}

#[test]
fn unit_that_reserves_keeps_another_of_its_node_from_writing_until_that_preempts_it() {
    let folder = tempfile::tempdir().expect("directory");
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![0; 1 << 20]).expect("an image");
    let file = format!("driver=raw,node-name=n,file.driver=file,file.filename={}", path.display());
    let adapter =
        |id: u8| [format!("virtio-scsi-pci,id=s{id},addr={id}"), format!("scsi-hd,bus=s{id}.0,drive=n,share-rw=on")];
    let [[a, on_a], [b, on_b]] = [adapter(4), adapter(5)];
    let devices = ["-device", &a, "-device", &on_a, "-device", &b, "-device", &on_b];
    let machine = &mut Qtest::start(&[&["-blockdev", &file], &devices[..]].concat());
    let (mut one, mut other) =
        (Adapter::start(machine, 4, 0xc000, 0x10000), Adapter::start(machine, 5, 0xc100, 0x20000));

    assert_eq!([one.persistent(machine, 0, 0, 1), one.persistent(machine, 1, 1, 0)], [GOOD; 2]);
    assert_eq!(one.write(machine, 7).status, GOOD);
    assert_eq!(other.write(machine, 8).status, CONFLICT);
    assert_eq!(other.read(machine), 7, "what the one wrote");

    assert_eq!([other.persistent(machine, 0, 0, 2), other.persistent(machine, 5, 2, 1)], [GOOD; 2]);
    assert_eq!(one.write(machine, 9).sense, [6, 0x2a, 5], "registrations preempted");
    assert_eq!(one.write(machine, 9).status, CONFLICT);
    assert_eq!(other.write(machine, 10).status, GOOD);
    assert_eq!(one.read(machine), 10);
}

/// What a client of the monitor at `socket` asks for.
fn ask(socket: &Path, command: &str) {
    let mut client = Command::new(env!("CARGO_BIN_EXE_rhea"));
    let asked = client.arg("ctl").arg(socket).args(command.split_whitespace()).output().expect("the program runs");
    assert!(asked.status.success(), "{command}: {}", String::from_utf8_lossy(&asked.stderr));
}

#[test]
fn drive_that_showed_one_disk_hands_no_reservation_to_the_next() {
    let folder = tempfile::tempdir().expect("directory");
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, vec![0; 1 << 20]).expect("an image");
        format!("driver=raw,node-name={name},file.driver=file,file.filename={}", path.display())
    };
    let socket = folder.path().join("qmp");
    let (n, m, monitor) = (file("n"), file("m"), format!("unix:{},server=on,wait=off", socket.display()));
    let blocks = ["-qmp", &monitor, "-blockdev", &n, "-blockdev", &m];
    let adapters = ["-device", "virtio-scsi-pci,id=s4,addr=4", "-device", "virtio-scsi-pci,id=s5,addr=5"];
    let disk = ["-device", "scsi-hd,bus=s4.0,drive=n,share-rw=on"];
    let drive = ["-device", "scsi-cd,bus=s4.0,scsi-id=1,id=cd,drive=n,share-rw=on"];
    let machine = &mut Qtest::start(&[&blocks[..], &adapters, &disk, &drive].concat());
    // Its sockets are there once it answers.
    machine.ask("endianness");
    ask(&socket, "blockdev-open-tray id=cd");
    ask(&socket, "blockdev-remove-medium id=cd");
    ask(&socket, "blockdev-insert-medium id=cd node-name=m");
    ask(&socket, "device_add driver=scsi-hd id=late bus=s5.0 drive=m share-rw=on");
    let (mut one, mut other) =
        (Adapter::start(machine, 4, 0xc000, 0x10000), Adapter::start(machine, 5, 0xc100, 0x20000));

    assert_eq!([one.persistent(machine, 0, 0, 1), one.persistent(machine, 1, 1, 0)], [GOOD; 2]);

    assert_eq!(other.write(machine, 8).status, GOOD, "another disk");
}
