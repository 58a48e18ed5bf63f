use super::*;

/// What waits, in words: not every event can be compared.
fn taken(queue: &EventQueue) -> Vec<String> {
    std::iter::from_fn(|| queue.take()).map(|event| in_words(&event)).collect()
}

fn in_words(event: &MachineEvent) -> String {
    format!("{event:?}")
}

fn is_readable(queue: &EventQueue) -> bool {
    // A counter that is zero gives none; one that is not is put back.
    queue.0.wake.read().is_ok_and(|count| queue.0.wake.write(count).is_ok())
}

fn moved(device: &str, open: bool) -> MachineEvent {
    MachineEvent::TrayMoved { device: device.into(), open }
}

fn failed(errno: i32) -> MachineEvent {
    let device = "d".into();
    MachineEvent::DiskError(DiskError { device, write: false, stop: false, ignore: false, errno })
}

#[test]
fn few_events_are_all_told_in_order() {
    let (sender, queue) = event_channel().unwrap();

    let events = || [moved("a", true), moved("a", false), failed(5), failed(5)];
    events().into_iter().for_each(|event| sender.send(event));

    assert_eq!(taken(&queue), events().map(|event| in_words(&event)));
}

#[test]
fn flood_of_a_guest_stays_short_and_its_last_word_counts() {
    let (sender, queue) = event_channel().unwrap();

    for round in 0..10_000u32 {
        sender.send(MachineEvent::GuestCrashed(Crash::Loaded));
        sender.send(MachineEvent::Ejected(1 << (round % 3)));
        sender.send(moved("a", round % 2 == 0));
        sender.send(moved("b", round % 2 != 0));
        sender.send(failed(5));
        sender.send(failed(28));
        sender.send(MachineEvent::ClockSet(round.into()));
        sender.send(MachineEvent::Power(PowerRequest::PowerOff));
    }
    sender.send(MachineEvent::Quit);

    let told = taken(&queue);
    assert!(told.len() <= MANY + 9, "{}", told.len());
    let last = |start: &str| told.iter().rfind(|event| event.starts_with(start)).map(String::as_str);
    assert_eq!(last("TrayMoved { device: \"a\""), Some(&*in_words(&moved("a", false))));
    assert_eq!(last("TrayMoved { device: \"b\""), Some(&*in_words(&moved("b", true))));
    assert_eq!(last("ClockSet"), Some("ClockSet(9999)"));
    assert_eq!(last("Ejected"), Some("Ejected(7)"));
    assert!(told.contains(&in_words(&failed(5))) && told.contains(&in_words(&failed(28))));
    assert_eq!(told.last().map(String::as_str), Some("Quit"), "what nobody floods with is never merged");
}

#[test]
fn descriptor_is_readable_exactly_while_events_wait() {
    let (sender, queue) = event_channel().unwrap();
    assert!(!is_readable(&queue));

    sender.send(MachineEvent::Quit);
    sender.send(MachineEvent::Commit);
    assert!(is_readable(&queue));
    queue.take();
    assert!(is_readable(&queue), "one is left");
    queue.take();
    assert!(!is_readable(&queue));

    sender.send(MachineEvent::Power(PowerRequest::Reset));
    queue.forget_resets();
    assert!(!is_readable(&queue));
}

#[test]
fn reset_that_was_done_is_forgotten_and_nothing_else() {
    let (sender, queue) = event_channel().unwrap();
    for request in [PowerRequest::Reset, PowerRequest::PowerOff, PowerRequest::Reset] {
        sender.send(MachineEvent::Power(request));
    }

    queue.forget_resets();

    assert_eq!(taken(&queue), ["Power(PowerOff)"]);
}

#[test]
fn nobody_is_told_once_the_main_thread_has_ended() {
    let (sender, queue) = event_channel().unwrap();
    drop(queue);

    sender.send(MachineEvent::Quit);
}
