use std::fs::OpenOptions;
use std::os::fd::AsFd;

use super::*;

#[test]
fn pty_drops_output_until_someone_opens_it_and_again_after() {
    let fixture = Fixture::new();
    let path = fixture.chardevs.add(&Config::new("c0", Backend::Pty)).unwrap().unwrap();
    let device = fixture.chardevs.frontend("c0").unwrap();
    let guest = Fixture::attach(&device);
    assert_eq!(device.filename(), format!("pty:{path}"));
    assert_eq!(device.write(b"unheard"), 7);

    for round in 1..=2 {
        let mut other = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        guest.wait_event(CharEvent::Opened, round);
        device.write(b"heard");
        assert_eq!(read_exactly(&mut other, 5), b"heard");
        other.write_all(b"k").unwrap();
        guest.wait_bytes(&b"kk"[..round]);
        drop(other);
        guest.wait_event(CharEvent::Closed, round);
    }
}

#[test]
fn pty_is_raw() {
    let fixture = Fixture::new();
    let path = fixture.chardevs.add(&Config::new("c0", Backend::Pty)).unwrap().unwrap();
    let other = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let modes = rustix::termios::tcgetattr(other.as_fd()).unwrap();
    assert!(!modes.local_modes.contains(rustix::termios::LocalModes::ECHO));
    assert!(!modes.output_modes.contains(rustix::termios::OutputModes::OPOST));
}

#[test]
fn announcement_has_the_form_that_tools_look_for() {
    assert_eq!(Chardevs::announcement("serial0", "/dev/pts/3"), "char device redirected to /dev/pts/3 (label serial0)");
}
