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

/// How the process at the terminal ends.
const ENDINGS: [&str; 6] = ["removed", "exit", "panic", "abort", "SIGTERM", "SIGSEGV"];

/// Not a test by itself: the process that the next test starts on a terminal, which takes it raw and ends as told.
#[test]
fn process_at_a_terminal() {
    let Ok(ending) = std::env::var("RHEA_TEST_ENDING") else { return };
    let fixture = Fixture::new();
    let device = fixture.add(Backend::Stdio { signal: false });
    let guest = Fixture::attach(&device);
    guest.wait_event(CharEvent::Opened, 1);
    device.write(b"RAW\n");
    guest.wait_bytes(b"\x03go");
    match ending.as_str() {
        "removed" => {
            fixture.chardevs.shut_down();
            println!("GONE");
            std::thread::sleep(PATIENCE);
        }
        "exit" => std::process::exit(3),
        "panic" => panic!("as told"),
        "abort" => std::process::abort(),
        name => {
            let signal = if name == "SIGTERM" { rustix::process::Signal::TERM } else { rustix::process::Signal::SEGV };
            rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
            std::thread::sleep(PATIENCE);
        }
    }
}

#[test]
fn terminal_is_raw_meanwhile_and_restored_however_the_process_ends() {
    for ending in ENDINGS {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let terminal = open();
        let before = modes(&terminal);
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "chardev::tests::terminals::process_at_a_terminal", "--nocapture", "--test-threads=1"])
            .env("RHEA_TEST_ENDING", ending)
            .stdin(open())
            .stdout(open())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut master = std::fs::File::from(master);

        wait_for(&mut master, "RAW");
        assert_ne!(modes(&terminal), before, "{ending}: not raw");
        // Ctrl-C is a character for the guest, not a signal.
        master.write_all(b"\x03go").unwrap();
        if ending == "removed" {
            wait_for(&mut master, "GONE");
            assert_eq!(modes(&terminal), before, "{ending}: not restored");
            child.kill().unwrap();
        }
        child.wait().unwrap();

        assert_eq!(modes(&terminal), before, "{ending}: not restored");
    }
}

fn modes(terminal: &std::fs::File) -> String {
    format!("{:?}", rustix::termios::tcgetattr(terminal.as_fd()).unwrap())
}

fn wait_for(master: &mut std::fs::File, text: &str) {
    let mut seen = Vec::new();
    while !seen.windows(text.len()).any(|window| window == text.as_bytes()) {
        seen.extend(read_exactly(master, 1));
    }
}
