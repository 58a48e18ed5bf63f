//! The commands that need no machine: about the protocol itself, descriptors and character devices.

use std::sync::{Arc, LazyLock, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::channel::{Answer, answer, done};
use super::command::args::{ChardevAdd, DataFormat, RingbufRead, RingbufWrite};
use super::command::{Command, Offer};
use super::error::QmpError;
use super::event::Event;
use super::qapi::Schema;
use super::reply::monitor::{ChardevReturn, CommandInfo, VersionInfo, VersionTriple};
use super::types::{self, CpuTypes};
use crate::chardev::config::Config;
use crate::chardev::{Chardev, ChardevError, Chardevs};

/// What all monitors share.
#[derive(Debug)]
pub struct Services {
    offer: Offer,
    package: String,
    chardevs: Arc<Chardevs>,
    /// The types of vCPUs, for `qom-list-types`: made when someone asks, for all models take milliseconds.
    cpus: LazyLock<CpuTypes>,
    schema: OnceLock<Value>,
}

/// The QEMU whose protocol, names and machine types these are.
const VERSION: VersionTriple = VersionTriple { major: 7, minor: 2, micro: 0 };

impl Services {
    /// `offer` is what the machine can do, `package` what `query-version` says this program is.
    pub fn new(offer: Offer, package: impl Into<String>, chardevs: Arc<Chardevs>) -> Self {
        let cpus = LazyLock::new(CpuTypes::default as fn() -> CpuTypes);
        Self { offer, package: package.into(), chardevs, cpus, schema: OnceLock::new() }
    }

    /// With the types of vCPUs that the machine knows.
    pub fn with_cpu_types(self, types: fn() -> CpuTypes) -> Self {
        Self { cpus: LazyLock::new(types), ..self }
    }

    /// The character devices.
    pub fn chardevs(&self) -> &Arc<Chardevs> {
        &self.chardevs
    }

    /// The commands there are.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The version, for the greeting and `query-version`.
    pub fn version(&self) -> VersionInfo {
        VersionInfo { qemu: VERSION, package: self.package.clone() }
    }

    /// `query-qmp-schema`.
    pub fn schema(&self) -> &Value {
        self.schema.get_or_init(|| {
            let mut schema = Schema::new();
            Command::describe_all(&mut schema, &self.offer);
            Event::describe_all(&mut schema);
            schema.finish()
        })
    }

    /// Runs a command that needs no machine; `None` for any other. `from` is the monitor's own connection, on which
    /// descriptors come.
    pub fn execute(&self, command: &Command, from: Option<&dyn Chardev>) -> Option<Answer> {
        let fds = self.chardevs.fds();
        let received = || from.and_then(Chardev::take_fd).ok_or_else(no_descriptor);
        Some(match command {
            Command::QueryVersion => answer(&self.version()),
            Command::QueryCommands => {
                let names = self.offer.names();
                answer(&names.map(|name| CommandInfo { name: name.into() }).collect::<Vec<_>>())
            }
            Command::QueryQmpSchema => Ok(self.schema().clone()),
            Command::GetFd(args) => received().and_then(|fd| fds.name(&args.fdname, fd)).and_then(|()| done()),
            Command::CloseFd(args) => fds.take(&args.fdname).and_then(|_| done()),
            Command::AddFd(args) => {
                received().and_then(|fd| fds.add(args.fdset_id, fd, args.opaque.clone())).and_then(|info| answer(&info))
            }
            Command::RemoveFd(args) => fds.remove(args.fdset_id, args.fd).and_then(|()| done()),
            Command::QueryFdsets => answer(&fds.query()),
            Command::QueryChardev => answer(&self.chardevs.query()),
            Command::QueryChardevBackends => answer(&Chardevs::backends()),
            Command::ChardevAdd(args) => self.add_chardev(args),
            Command::ChardevRemove(args) => result(self.chardevs.remove(&args.id)),
            Command::ChardevSendBreak(args) => result(self.chardevs.device(&args.id).map(|device| device.send_break())),
            Command::RingbufWrite(args) => self.ring_write(args),
            Command::RingbufRead(args) => self.ring_read(args),
            Command::QueryCommandLineOptions(args) => {
                types::command_line_options(args.option.as_deref()).and_then(|options| answer(&options))
            }
            Command::QomListTypes(args) => {
                answer(&types::list(&self.cpus, args.implements.as_deref(), args.r#abstract.unwrap_or(false)))
            }
            Command::QomListProperties(args) => {
                types::object_properties(&self.cpus, &args.typename).and_then(|found| answer(&found))
            }
            Command::DeviceListProperties(args) => {
                types::device_properties(&self.cpus, &args.typename).and_then(|found| answer(&found))
            }
            _ => return None,
        })
    }

    fn add_chardev(&self, args: &ChardevAdd) -> Answer {
        let config = Config::from_spec(&args.0).map_err(|error| QmpError::from_error(&error))?;
        let pty = self.chardevs.add(&config).map_err(|error| match error {
            ChardevError::Exists(_) => QmpError::from_error(&error),
            _ => {
                QmpError::generic(format!("Failed to add chardev '{}': {}", config.label, QmpError::from_error(&error)))
            }
        })?;
        answer(&ChardevReturn { pty })
    }

    fn ring(&self, name: &str) -> Result<Arc<dyn Chardev>, QmpError> {
        self.chardevs.device(name).map_err(|_| QmpError::generic(format!("Device '{name}' not found")))
    }

    fn ring_write(&self, args: &RingbufWrite) -> Answer {
        let device = self.ring(&args.device)?;
        let data = match args.format {
            Some(DataFormat::Base64) => {
                BASE64.decode(&args.data).map_err(|_| QmpError::generic("Base64 data contains invalid characters"))?
            }
            _ => args.data.clone().into_bytes(),
        };
        if device.ring_write(&data) { done() } else { Err(not_a_ring(&args.device)) }
    }

    fn ring_read(&self, args: &RingbufRead) -> Answer {
        let device = self.ring(&args.device)?;
        let size = usize::try_from(args.size).ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| QmpError::generic("size must be greater than zero"))?;
        let data = device.ring_read(size).ok_or_else(|| not_a_ring(&args.device))?;
        Ok(json!(match args.format {
            Some(DataFormat::Base64) => BASE64.encode(&data),
            _ => String::from_utf8_lossy(&data).into_owned(),
        }))
    }
}

fn no_descriptor() -> QmpError {
    QmpError::generic("No file descriptor supplied via SCM_RIGHTS")
}

fn not_a_ring(name: &str) -> QmpError {
    QmpError::generic(format!("{name} is not a ringbuf device"))
}

fn result(outcome: Result<(), ChardevError>) -> Answer {
    match outcome {
        Ok(()) => done(),
        Err(error) => Err(QmpError::from_error(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::qmp::command::args::QomListTypes;

    static MADE: AtomicUsize = AtomicUsize::new(0);

    fn types() -> CpuTypes {
        MADE.fetch_add(1, Ordering::SeqCst);
        CpuTypes { names: vec!["one-x86_64-cpu".into()], properties: Vec::new() }
    }

    #[test]
    fn types_of_vcpus_are_made_once_and_only_when_someone_asks() {
        let chardevs = Chardevs::new(Arc::default(), Arc::new(|_| {})).unwrap();
        let services = Services::new(Offer::all(), "test", Arc::new(chardevs)).with_cpu_types(types);
        let list = Command::QomListTypes(QomListTypes { implements: Some("cpu".into()), r#abstract: None });

        for command in [Command::QueryVersion, Command::QueryCommands, Command::QueryQmpSchema] {
            services.execute(&command, None).unwrap().unwrap();
        }
        assert_eq!(MADE.load(Ordering::SeqCst), 0);
        for _ in 0..2 {
            let names = services.execute(&list, None).unwrap().unwrap();
            assert!(names.to_string().contains("one-x86_64-cpu"), "{names}");
        }
        assert_eq!(MADE.load(Ordering::SeqCst), 1);
        services.chardevs().shut_down();
    }
}
