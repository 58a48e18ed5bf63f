use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::*;
use std::sync::Arc;

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl EventListener for Heard {
    fn event(&self, event: &Event, _: Duration) {
        self.0.lock().unwrap().push(event.name().into());
    }
}

#[test]
fn event_without_data_has_no_data_member() {
    let message = Event::Stop.to_message(Duration::new(1, 2_345_678));
    assert_eq!(message, json!({"timestamp": {"seconds": 1, "microseconds": 2345}, "event": "STOP"}));
}

#[test]
fn shutdown_says_who_wanted_it() {
    let message = Event::Shutdown(ShutdownCause::GuestShutdown.into()).to_message(Duration::ZERO);
    assert_eq!(message["data"], json!({"guest": true, "reason": "guest-shutdown"}));
    let message = Event::Reset(ShutdownCause::HostQmpSystemReset.into()).to_message(Duration::ZERO);
    assert_eq!(message["data"], json!({"guest": false, "reason": "host-qmp-system-reset"}));
}

#[test]
fn block_error_leaves_out_what_is_unknown() {
    let data = BlockIoErrorData {
        device: String::new(),
        node_name: Some("n0".into()),
        operation: IoOperationType::Write,
        action: BlockErrorAction::Report,
        nospace: None,
        reason: "Input/output error".into(),
    };
    assert_eq!(
        Event::BlockIoError(data).to_message(Duration::ZERO)["data"],
        json!({"device": "", "node-name": "n0", "operation": "write", "action": "report", "reason": "Input/output error"})
    );
}

#[test]
fn every_listener_hears_events_in_order() {
    let bus = EventBus::new();
    let (one, other) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
    bus.listen(one.clone());
    bus.listen(other.clone());

    bus.emit(&Event::Stop);
    bus.clone().emit(&Event::Resume);

    for heard in [one, other] {
        assert_eq!(*heard.0.lock().unwrap(), ["STOP", "RESUME"]);
    }
}
