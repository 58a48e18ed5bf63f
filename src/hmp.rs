//! The human monitor: lines for people, made of the same commands as QMP.
//!
//! A session edits a line on the `qmp` thread and sends it, like any command, to the main thread, where [`execute`]
//! takes it apart. What QMP has no command for it asks with [`crate::qmp::Inspect`].

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::qmp::channel::Answer;
use crate::qmp::command::args::HumanMonitorCommand;
use crate::qmp::{Command, Inspect, Inspection, QmpError, Services, Target, channel};

mod block;
mod commands;
mod disk_io;
mod editor;
mod exports;
mod expression;
mod info;
mod info_block;
mod info_pci;
mod jobs;
mod memory;
mod objects;
mod session;
mod table;

pub(crate) use session::HumanSession;

/// What a line has at hand.
pub(crate) struct Context<'a> {
    target: &'a mut dyn Target,
    services: &'a Arc<Services>,
    /// The vCPU that `info registers` and `x` mean.
    pub(crate) cpu: u32,
}

impl Context<'_> {
    /// Runs a command as QMP would.
    pub(crate) fn run(&mut self, command: Command) -> Answer {
        if !self.services.offer().has(command.name()) {
            return Err(QmpError::command_not_found(command.name()));
        }
        match self.services.execute(&command, None) {
            Some(answer) => answer,
            None => channel::execute(self.target, command),
        }
    }

    /// Runs a command and reads its result.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, command: Command) -> Result<T, QmpError> {
        serde_json::from_value(self.run(command)?).map_err(|error| QmpError::from_error(&error))
    }

    pub(crate) fn inspect(&mut self, query: Inspect) -> Result<Inspection, QmpError> {
        self.target.inspect(query)
    }

    /// A register of the vCPU by the name that expressions have for it.
    pub(crate) fn register(&mut self, name: &str) -> Option<u64> {
        match self.inspect(Inspect::Register { cpu: self.cpu, name: name.to_owned() }) {
            Ok(Inspection::Bytes(bytes)) => bytes.try_into().ok().map(u64::from_le_bytes),
            _ => None,
        }
    }

    pub(crate) fn version(&self) -> String {
        let version = self.services.version();
        let qemu = version.qemu;
        format!("{}.{}.{}{}", qemu.major, qemu.minor, qemu.micro, version.package)
    }
}

/// `human-monitor-command`: runs a line and answers what it prints, with `\r\n` at line ends.
///
/// # Errors
///
/// The vCPU is none of the machine's. What is wrong with the line itself is printed.
pub fn execute(target: &mut dyn Target, services: &Arc<Services>, args: &HumanMonitorCommand) -> Answer {
    let mut context = Context { target, services, cpu: 0 };
    if let Some(index) = args.cpu_index {
        context.cpu = known_cpu(&mut context, index).ok_or_else(|| QmpError::expects("cpu-index", "a CPU number"))?;
    }
    let text = commands::run(&mut context, &args.command_line);
    Ok(text.replace('\n', "\r\n").into())
}

fn known_cpu(context: &mut Context<'_>, index: i64) -> Option<u32> {
    let cpus: Vec<crate::qmp::reply::cpu::CpuInfoFast> = context.ask(Command::QueryCpusFast).ok()?;
    cpus.iter().find(|cpu| cpu.cpu_index == index).and_then(|cpu| u32::try_from(cpu.cpu_index).ok())
}
