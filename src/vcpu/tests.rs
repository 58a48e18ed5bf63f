use std::sync::Mutex;

use super::*;
use crate::machine::event::event_channel;

/// A port whose bytes are what they mean.
#[derive(Default)]
struct Port(Mutex<Vec<String>>);

impl Port {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Platform for Port {
    fn read_port(&self, _: u16, _: &mut [u8]) {}
    fn write_port(&self, _: u16, data: &[u8]) -> Effect {
        self.note(format!("write {data:?}"));
        match data {
            [b'm'] => Effect::Remap(Bdf::new(0, 3, 0)),
            [b'e'] => Effect::Eject(1 << 3),
            [b'c'] => Effect::Crash(Crash::Loaded),
            [b'r'] => Effect::Power(PowerRequest::Reset),
            _ => Effect::None,
        }
    }
    fn read_memory(&self, _: u64, _: &mut [u8]) {}
    fn write_memory(&self, _: u64, _: &[u8]) -> Effect {
        Effect::None
    }
    fn remap(&self, bdf: Bdf) {
        self.note(format!("remap {bdf}"));
    }
    fn eject(&self, slots: u32) {
        self.note(format!("eject {slots:#x}"));
    }
    fn remap_memory(&self) {}
}

/// `rep outsb` of these bytes: what it comes to, what the port saw, what the main thread hears.
fn write_string(bytes: &[u8]) -> (Outcome, Vec<String>, Vec<String>) {
    let (sender, queue) = event_channel().unwrap();
    let port = Port::default();
    let outcome = serve(&port, &sender, 0, Exit::PortOut { port: 0x505, width: 1, data: bytes });
    let told = std::iter::from_fn(|| queue.take()).map(|event| format!("{event:?}")).collect();
    (outcome, port.0.into_inner().unwrap(), told)
}

#[test]
fn items_of_a_string_after_one_that_concerns_the_machine_are_written_too() {
    let (outcome, seen, told) = write_string(b"mec.");

    assert!(matches!(outcome, Outcome::GoOn), "{outcome:?}");
    let order = ["write [109]", "remap 00:03.0", "write [101]", "eject 0x8", "write [99]", "write [46]"];
    assert_eq!(seen, order);
    assert_eq!(told, ["Ejected(8)", "GuestCrashed(Loaded)"]);
}

#[test]
fn string_ends_with_the_item_that_resets_the_machine() {
    let (outcome, seen, told) = write_string(b".r.");

    assert!(matches!(outcome, Outcome::Park(MachineEvent::Power(PowerRequest::Reset))), "{outcome:?}");
    assert_eq!(seen, ["write [46]", "write [114]"]);
    assert!(told.is_empty(), "{told:?}");
}
