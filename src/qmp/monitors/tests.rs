//! Real sockets, a real qmp thread, and a machine that answers from a table.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::chardev::config::{Backend, Config, SocketAddress, SocketConfig};
use crate::chardev::{Chardevs, FdTable};
use crate::qmp::command::Offer;
use crate::qmp::{Command, Event, Inspect, Inspection, QmpError, Request, RunState, Target, channel, request_channel};

mod control;
mod hostile;
mod human;

const PATIENCE: Duration = Duration::from_secs(20);

/// A machine with a state, one vCPU and 4 KiB of memory that counts up.
struct Machine {
    state: RunState,
    bus: EventBus,
}

impl Target for Machine {
    fn run_state(&self) -> RunState {
        self.state
    }

    fn execute(&mut self, command: Command) -> Answer {
        match command {
            Command::Stop => {
                self.state = RunState::Paused;
                self.bus.emit(&Event::Stop);
                channel::done()
            }
            Command::Cont => {
                self.state = RunState::Running;
                self.bus.emit(&Event::Resume);
                channel::done()
            }
            Command::QueryStatus => channel::answer(&crate::qmp::reply::machine::StatusInfo::from(self.state)),
            Command::QueryName => Ok(json!({"name": "test"})),
            Command::QueryCpusFast => Ok(json!([
                {"cpu-index": 0, "qom-path": "/machine/unattached/device[0]", "thread-id": 7, "target": "x86_64"},
                {"cpu-index": 1, "qom-path": "/machine/unattached/device[1]", "thread-id": 8, "target": "x86_64"}
            ])),
            other => Err(QmpError::generic(format!("{} is not in this machine", other.name()))),
        }
    }

    fn inspect(&mut self, query: Inspect) -> Result<Inspection, QmpError> {
        match query {
            Inspect::Registers { cpu } => Ok(Inspection::Text(format!("registers of {cpu:?}\n"))),
            Inspect::Memory { address, length, .. } if address + u64::from(length) <= 4096 => {
                let bytes = (address..address + u64::from(length)).map(|byte| byte.to_le_bytes()[0]);
                Ok(Inspection::Bytes(bytes.collect()))
            }
            _ => Err(QmpError::generic("Cannot access memory")),
        }
    }
}

/// Monitors on sockets in a folder, and the thread that stands for the main thread.
struct Fixture {
    dir: TempDir,
    chardevs: Arc<Chardevs>,
    monitors: Monitors,
    bus: EventBus,
    main: Option<JoinHandle<()>>,
    end: Sender<()>,
    /// Holds the main thread back while locked.
    hold: Arc<Mutex<()>>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Offer::all())
    }

    fn with(offer: Offer) -> Self {
        let (requests, queue) = request_channel().unwrap();
        let chardevs = Arc::new(Chardevs::new(Arc::new(FdTable::new()), Arc::new(|_| {})).unwrap());
        let services = Arc::new(Services::new(offer, "rhea-test", Arc::clone(&chardevs)));
        let bus = EventBus::new();
        let monitors = Monitors::start(requests, services, &bus).unwrap();
        let hold = Arc::new(Mutex::new(()));
        let (end, ended) = channel();
        let (machine, held) = (Machine { state: RunState::Prelaunch, bus: bus.clone() }, Arc::clone(&hold));
        let main = Some(std::thread::spawn(move || serve(&queue, machine, &ended, &held)));
        Self { dir: tempfile::tempdir().unwrap(), chardevs, monitors, bus, main, end, hold }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add(&self, name: &str, mode: Mode) -> PathBuf {
        let path = self.path(name);
        self.chardevs.add(&Config::new(name, Backend::Socket(socket(&path)))).unwrap();
        assert!(self.monitors.add(self.chardevs.frontend(name).unwrap(), mode));
        path
    }

    /// A control monitor and a client that has said `qmp_capabilities`.
    fn client(&self, name: &str) -> Client {
        let mut client = Client::connect(&self.add(name, Mode::Control { pretty: false }));
        client.negotiate();
        client
    }
}

/// What the main thread does: waits for requests and serves them.
fn serve(queue: &crate::qmp::RequestQueue, mut machine: Machine, ended: &Receiver<()>, hold: &Mutex<()>) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    while matches!(ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
        let mut fds = [PollFd::new(queue, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 })).unwrap();
        while let Some(request) = queue.take() {
            let _held = hold.lock().unwrap();
            Request::serve(request, &mut machine);
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.monitors.stop();
        self.chardevs.shut_down();
        let _ = self.end.send(());
        self.main.take().unwrap().join().unwrap();
    }
}

fn socket(path: &Path) -> SocketConfig {
    SocketConfig {
        address: SocketAddress::Unix { path: path.to_owned(), is_abstract: false, tight: true },
        server: true,
        wait: false,
        telnet: false,
        nodelay: false,
        reconnect: Duration::ZERO,
    }
}

struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    fn read(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(text.as_ref()).unwrap();
    }

    fn ask(&mut self, text: impl AsRef<[u8]>) -> Value {
        self.send(text);
        self.read()
    }

    fn error(&mut self, text: impl AsRef<[u8]>) -> (String, String) {
        let error = self.ask(text)["error"].take();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (text("class"), text("desc"))
    }

    fn negotiate(&mut self) {
        assert!(self.read()["QMP"].is_object());
        assert_eq!(self.ask("{\"execute\":\"qmp_capabilities\"}"), json!({"return": {}}));
    }

    /// Reads up to and with `end`.
    fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let mut byte = [0];
            let count = self.stream.read(&mut byte).unwrap();
            assert!(count == 1, "the end came before {end:?}: {}", String::from_utf8_lossy(&bytes));
            bytes.extend(byte);
        }
        String::from_utf8(bytes).unwrap()
    }
}
