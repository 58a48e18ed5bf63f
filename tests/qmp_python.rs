//! The public Python client, `qemu.qmp` from PyPI, against our monitor and a small machine.
//!
//! The interpreter is `RHEA_TEST_PYTHON`, else `python3`; the package has to be there.

use std::io::Write;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rhea::chardev::config::{Backend, Config, SocketAddress, SocketConfig};
use rhea::chardev::{Chardevs, FdTable};
use rhea::qmp::command::Offer;
use rhea::qmp::{
    Answer, Command, Event, EventBus, Inspect, Inspection, Mode, Monitors, QmpError, RunState, Services, Target,
    channel, event::ShutdownCause, reply::machine::StatusInfo, request_channel,
};

const SCRIPT: &str = r#"
import asyncio, sys
from qemu.qmp import EventListener, QMPClient
from qemu.qmp.qmp_client import ExecuteError

async def main(path):
    qmp = QMPClient("test")
    await qmp.connect(path)
    assert qmp.greeting.QMP.version["qemu"]["major"] == 7, qmp.greeting
    status = await qmp.execute("query-status")
    assert status == {"running": False, "singlestep": False, "status": "prelaunch"}, status
    listener = EventListener(("RESUME", "STOP"))
    with qmp.listen(listener):
        await qmp.execute("cont")
        assert (await asyncio.wait_for(listener.get(), 10))["event"] == "RESUME"
        await qmp.execute("stop")
        assert (await asyncio.wait_for(listener.get(), 10))["event"] == "STOP"
    try:
        await qmp.execute("no-such-command")
    except ExecuteError as error:
        assert error.error_class == "CommandNotFound", error
    else:
        raise AssertionError("an unknown command was taken")
    commands = [c["name"] for c in await qmp.execute("query-commands")]
    assert "query-qmp-schema" in commands
    schema = await qmp.execute("query-qmp-schema")
    described = {e["name"] for e in schema if e["meta-type"] == "command"}
    assert described == set(commands), described ^ set(commands)
    # Many at once: the client sorts the answers by id.
    answers = await asyncio.gather(*(qmp.execute("query-status") for _ in range(100)))
    assert len(answers) == 100
    shutdown = EventListener("SHUTDOWN")
    with qmp.listen(shutdown):
        await qmp.execute("quit")
        event = await asyncio.wait_for(shutdown.get(), 10)
        assert event["data"] == {"guest": False, "reason": "host-qmp-quit"}, event
    await qmp.disconnect()
    print("all good")

asyncio.run(main(sys.argv[1]))
"#;

/// A machine that runs, stops and quits.
struct Machine {
    state: RunState,
    bus: EventBus,
    has_quit: bool,
}

impl Target for Machine {
    fn run_state(&self) -> RunState {
        self.state
    }

    fn execute(&mut self, command: Command) -> Answer {
        match command {
            Command::QueryStatus => return channel::answer(&StatusInfo::from(self.state)),
            Command::Cont => {
                self.state = RunState::Running;
                self.bus.emit(&Event::Resume);
            }
            Command::Stop => {
                self.state = RunState::Paused;
                self.bus.emit(&Event::Stop);
            }
            Command::Quit => {
                self.has_quit = true;
                self.bus.emit(&Event::Shutdown(ShutdownCause::HostQmpQuit.into()));
            }
            other => return Err(QmpError::generic(format!("{} is not in this machine", other.name()))),
        }
        channel::done()
    }

    fn inspect(&mut self, _: Inspect) -> Result<Inspection, QmpError> {
        Err(QmpError::generic("there is nothing to see"))
    }
}

fn python() -> String {
    std::env::var("RHEA_TEST_PYTHON").unwrap_or_else(|_| "python3".into())
}

fn need_client() {
    let import = Process::new(python()).args(["-c", "import qemu.qmp"]).stderr(Stdio::null()).status();
    assert!(
        import.is_ok_and(|status| status.success()),
        "the Python package qemu.qmp is missing: pip install qemu.qmp (in a virtual environment whose python is in \
         RHEA_TEST_PYTHON)"
    );
}

/// Needs `/dev/kvm`; no guest code runs.
#[test]
fn public_python_client_uses_every_command_of_the_program() {
    need_client();
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qmp_program.py");

    let output = Process::new("timeout")
        .args(["120", &python(), script, env!("CARGO_BIN_EXE_rhea"), dir.path().to_str().unwrap()])
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all good\n", "{said}");
}

#[test]
fn public_python_client_drives_the_monitor() {
    need_client();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let (requests, queue) = request_channel().unwrap();
    let chardevs = Arc::new(Chardevs::new(Arc::new(FdTable::new()), Arc::new(|_| {})).unwrap());
    let bus = EventBus::new();
    let services = Arc::new(Services::new(Offer::all(), "rhea-test", Arc::clone(&chardevs)));
    let monitors = Monitors::start(requests, services, &bus).unwrap();
    let socket = SocketConfig {
        address: SocketAddress::Unix { path: path.clone(), is_abstract: false, tight: true },
        server: true,
        wait: false,
        telnet: false,
        nodelay: false,
        reconnect: Duration::ZERO,
    };
    chardevs.add(&Config::new("qmp", Backend::Socket(socket))).unwrap();
    assert!(monitors.add(chardevs.frontend("qmp").unwrap(), Mode::Control { pretty: false }));

    let mut client = Process::new(python())
        .args(["-", path.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(SCRIPT.as_bytes()).unwrap();
    let mut machine = Machine { state: RunState::Prelaunch, bus, has_quit: false };
    let until = Instant::now() + Duration::from_secs(60);
    while client.try_wait().unwrap().is_none() && Instant::now() < until {
        wait(&queue);
        while let Some(request) = queue.take() {
            request.serve(&mut machine);
        }
    }
    // After the deadline it is still there, and its output says how far it came.
    let _ = client.kill();
    let output = client.wait_with_output().unwrap();

    monitors.stop();
    chardevs.shut_down();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all good\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(machine.has_quit);
}

fn wait(queue: &rhea::qmp::RequestQueue) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(queue, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap();
}
