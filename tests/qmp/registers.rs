//! What a guest does to registers, played through the qtest protocol, and what clients hear of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rig::Machine;

/// Behind the vCPUs, of which there is none.
const CLOCK: &str = "/machine/unattached/device[0]";

/// The machine's registers and memory.
struct Registers(BufReader<UnixStream>);

impl Registers {
    /// With the machine that has them.
    fn start(folder: &Path, words: &str) -> (Machine, Self) {
        let machine =
            Machine::start_in(folder, &format!("-qtest unix:qtest,server=on,wait=off -qtest-log none {words}"));
        let stream = UnixStream::connect(folder.join("qtest")).expect("it listens");
        (machine, Self(BufReader::new(stream)))
    }

    /// Sends a command; the number that it gives, if it does.
    fn ask(&mut self, command: &str) -> u64 {
        writeln!(self.0.get_mut(), "{command}").expect("the program listens");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the program answers");
        let answer = line.trim().strip_prefix("OK").unwrap_or_else(|| panic!("{command}: {line}")).trim();
        answer.strip_prefix("0x").map_or(0, |digits| u64::from_str_radix(digits, 16).expect("a number"))
    }

    fn all(&mut self, commands: &[&str]) {
        for command in commands {
            self.ask(command);
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("write {address:#x} {} 0x{digits}", bytes.len()));
    }
}

/// Asks the machine for its state, and thereby for its events, until these are as wanted: half as long as the requests
/// of a limited disk take here.
fn wait_for(machine: &mut Machine, what: &str, wanted: impl Fn(&[Value]) -> bool) {
    let since = Instant::now();
    while !wanted(&machine.events) {
        machine.ask("query-status", &json!({})).expect("a state");
        assert!(since.elapsed() < Duration::from_secs(20), "{what}: {:?}", machine.events);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn guest_that_sets_its_clock_is_told_of_and_its_last_word_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (mut machine, mut registers) = Registers::start(folder.path(), "-rtc base=2001-02-03T04:05:06,clock=vm");
    /// What was told, in seconds.
    fn offsets(events: &[Value]) -> Vec<i64> {
        let changes =
            events.iter().filter(|event| event["event"] == "RTC_CHANGE" && event["data"]["qom-path"] == CLOCK);
        changes.map(|event| event["data"]["offset"].as_i64().expect("an offset")).collect()
    }
    // The clock stands, and the host's time goes on.
    let near = |offset: i64, minutes: i64| (minutes * 60 - 50..=minutes * 60).contains(&offset);

    registers.all(&["outb 0x70 2", "outb 0x71 0x10"]);
    wait_for(&mut machine, "04:10", |events| offsets(events).len() == 1);
    registers.all(&["outb 0x71 0x20", "outb 0x71 0x30", "outb 0x70 4", "outb 0x71 5"]);
    wait_for(&mut machine, "05:30", |events| offsets(events).iter().any(|offset| near(*offset, 85)));

    assert!(near(offsets(&machine.events)[0], 5), "{:?}", machine.events);
    assert_eq!(machine.ask("qom-get", &json!({"path": CLOCK, "property": "type"})), Ok(json!("mc146818rtc")));
}

/// A legacy virtio-blk function in slot 5 gets ports and a queue; `count` reads of a sector wait in it.
fn read_sectors(registers: &mut Registers, count: u16) -> u64 {
    const QUEUE: u64 = 0x1_0000;
    const HEADERS: u64 = 0x2_0000;
    const DATA: u64 = 0x3_0000;
    const STATUS: u64 = 0x2_8000;
    registers.all(&["outl 0xcf8 0x80002810", "outl 0xcfc 0xc000", "outl 0xcf8 0x80002804", "outw 0xcfc 5"]);
    registers.all(&["outb 0xc012 0", "outb 0xc012 3", "outw 0xc00e 0", "outl 0xc008 0x10", "outb 0xc012 7"]);
    let size = registers.ask("inw 0xc00c");
    for n in 0..count {
        let (at, first) = (u64::from(n), 3 * n);
        registers.write(HEADERS + 16 * at, &[[0; 8], at.to_le_bytes()].concat());
        // To be read, to be written, to be written and the last (virtio 1.2, 2.7.5).
        let parts = [(HEADERS + 16 * at, 16u32, 1u16), (DATA + 512 * at, 512, 3), (STATUS + at, 1, 2)];
        for (place, (address, len, flags)) in (first..).zip(parts) {
            let descriptor =
                [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &(place + 1).to_le_bytes()];
            registers.write(QUEUE + 16 * u64::from(place), &descriptor.concat());
        }
        registers.write(QUEUE + 16 * size + 4 + 2 * at, &first.to_le_bytes());
    }
    registers.write(QUEUE + 16 * size + 2, &count.to_le_bytes());
    registers.ask("outw 0xc010 0");
    (QUEUE + 16 * size + 6 + 2 * size).next_multiple_of(4096)
}

#[test]
fn limited_disk_that_goes_does_not_keep_clients_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let (mut machine, mut registers) = Registers::start(
        folder.path(),
        "-drive if=none,id=d,format=raw,file.driver=null-co,throttling.iops-total=1 -device virtio-blk-pci,drive=d,id=v,addr=5",
    );
    let used = read_sectors(&mut registers, 40);
    while registers.ask(&format!("readw {:#x}", used + 2)) == 0 {}
    machine.ask("device_del", &json!({"id": "v"})).expect("asked for");

    // Ejects slot 5, as the guest's ACPI code does.
    registers.ask("outl 0xae08 0x20");

    let gone = |event: &Value| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == "v";
    wait_for(&mut machine, "the device goes", |events| events.iter().any(gone));
}
