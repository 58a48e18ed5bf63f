//! What only the human monitor asks for: registers, memory, maps and trees, as text.

use std::fmt::Write as _;

use rhea_arch::kvm::VcpuSnapshot;
use rhea_arch::x86_64::layout::{HIGH_MEMORY_START, VGA_WINDOW_START};
use vm_memory::{Bytes, GuestAddress};

use super::registers::{Shown, named};
use super::{interrupts, paging};
use crate::machine::{KvmGuest, Machine};
use crate::qmp::QmpError;
use crate::qmp::channel::{ApicOf, Inspect, Inspection};
use crate::vcpu::{VcpuHandle, perform};

const PAGE: u64 = 4096;
/// Where firmware is seen: its chips end at 4 GiB, and none is larger than 16 MiB.
pub(super) const FIRMWARE_START: u64 = FIRMWARE_END - (16 << 20);
pub(super) const FIRMWARE_END: u64 = 1 << 32;
/// What a read of a chip takes at once.
const WORD: usize = 8;

impl Machine {
    /// Answers a query.
    ///
    /// # Errors
    /// What the person is told.
    pub(in crate::machine) fn look(&mut self, query: &Inspect) -> Result<Inspection, QmpError> {
        match *query {
            Inspect::Registers { cpu } => self.register_dump(cpu).map(Inspection::Text),
            Inspect::Register { cpu, ref name } => self.register(cpu, name).map(Inspection::Bytes),
            Inspect::Paging { cpu, pages } => self.paging(cpu, pages).map(Inspection::Text),
            Inspect::InterruptCounts => Ok(Inspection::Text(interrupts::counts(&self.kvm()?.vm.irq_counts()))),
            Inspect::InterruptControllers => {
                let chips = self.kvm()?.vm.irqchip().map_err(|e| QmpError::from_error(&e))?;
                Ok(Inspection::Text(interrupts::controllers(&chips)))
            }
            Inspect::LocalApic { of } => self.local_apic(of).map(Inspection::Text),
            Inspect::NumaNodes => Ok(Inspection::Text(self.numa_nodes())),
            Inspect::MemoryTree => Ok(Inspection::Text(self.memory_tree())),
            Inspect::DeviceTree => Ok(Inspection::Text(self.device_tree())),
            Inspect::ObjectTree { ref path } => Ok(Inspection::Text(self.object_tree(path))),
            Inspect::Roms => Ok(Inspection::Text(self.roms())),
            Inspect::Memory { cpu, address, length } => self.memory(cpu, address, length).map(Inspection::Bytes),
            Inspect::Port { port, size } => Ok(Inspection::Bytes(self.port(port, size))),
            Inspect::WritePort { port, ref bytes } => {
                self.write_port(port, bytes);
                Ok(Inspection::Text(String::new()))
            }
            Inspect::Translate { cpu, address } => {
                let found = self.physical(cpu, address)?;
                let line = found.map_or_else(|| "Unmapped\n".to_owned(), |found| format!("gpa: {found:#x}\n"));
                Ok(Inspection::Text(line))
            }
            Inspect::Commit { ref disk } => {
                let committed = disk.as_ref().map_or_else(|| self.commit_all(), |disk| self.commit_disk(disk));
                committed.map(|()| Inspection::Text(String::new()))
            }
            Inspect::AddDrive(ref drive) => self.add_drive(drive).map(|()| Inspection::Text(String::new())),
            Inspect::RemoveDrive { ref name } => self.remove_drive(name).map(|()| Inspection::Text(String::new())),
            Inspect::DiskIo { ref disk, work } => self.disk_io(disk, work).map(Inspection::Text),
            Inspect::Hold { ref disk, ref order } => self.hold(disk, order).map(|()| Inspection::Text(String::new())),
        }
    }

    fn register_dump(&self, cpu: Option<u32>) -> Result<String, QmpError> {
        let mut text = String::new();
        for vcpu in self.vcpus().iter().filter(|vcpu| cpu.is_none_or(|wanted| wanted == vcpu.index())) {
            let state = snapshot(vcpu)?;
            let _ = writeln!(text, "\nCPU#{}", vcpu.index());
            Shown::from(&state).write(&mut text);
        }
        match cpu {
            Some(cpu) if text.is_empty() => Ok(format!("CPU#{cpu} not available\n")),
            _ => Ok(text),
        }
    }

    fn register(&self, cpu: u32, name: &str) -> Result<Vec<u8>, QmpError> {
        let Some(vcpu) = self.vcpus().iter().find(|vcpu| vcpu.index() == cpu) else { return Ok(Vec::new()) };
        let state = snapshot(vcpu)?;
        Ok(named(state.regs(), state.sregs(), name).map(|value| value.to_le_bytes().to_vec()).unwrap_or_default())
    }

    fn kvm(&self) -> Result<&KvmGuest, QmpError> {
        let kvm = self.guest.as_ref().and_then(|guest| guest.kvm.as_ref());
        kvm.ok_or_else(|| QmpError::generic("there are no interrupt controllers of KVM's without -accel kvm"))
    }

    fn paging(&self, cpu: u32, pages: bool) -> Result<String, QmpError> {
        let found = self.vcpus().iter().find(|vcpu| vcpu.index() == cpu).zip(self.guest.as_ref());
        let Some((vcpu, guest)) = found else { return Ok("No CPU available\n".into()) };
        let sregs = vcpu.call(|v| v.sregs()).map_err(|e| QmpError::from_error(&e))?;
        let sregs = sregs.map_err(|e| QmpError::from_error(&e))?;
        let read = |at, into: &mut [u8]| guest.board.ram().read_slice(into, GuestAddress(at)).is_ok();
        Ok(if pages { paging::pages(&sregs, &read) } else { paging::ranges(&sregs, &read) })
    }

    fn local_apic(&self, of: ApicOf) -> Result<String, QmpError> {
        let mut vcpus = self.vcpus().iter();
        let found = match of {
            ApicOf::Cpu(index) => vcpus.find(|vcpu| vcpu.index() == index),
            ApicOf::Id(id) => vcpus.find(|vcpu| vcpu.call(|v| v.id()).is_ok_and(|known| known == id)),
        };
        let Some(vcpu) = found else { return Ok("No CPU available\n".into()) };
        let state = snapshot(vcpu)?;
        Ok(interrupts::local(vcpu.index(), state.sregs().apic_base, |offset| state.lapic(offset)))
    }

    fn numa_nodes(&self) -> String {
        let nodes = &self.facts.numa_nodes;
        let mut text = format!("{} nodes\n", nodes.len());
        for (node, memory) in (0u32..).zip(nodes) {
            let cpus = self.facts.cpus.iter().enumerate();
            let here = cpus.filter(|(_, place)| place.present && place.node == Some(node));
            let here: String = here.map(|(index, _)| format!(" {index}")).collect();
            let _ = writeln!(text, "node {node} cpus:{here}\nnode {node} size: {} MB", memory >> 20);
            let _ = writeln!(text, "node {node} plugged: 0 MB");
        }
        text
    }

    fn memory_tree(&self) -> String {
        let Some(guest) = &self.guest else { return String::new() };
        let mut text = String::from("memory:\n");
        guest.board.describe_ranges(&mut text);
        text
    }

    fn roms(&self) -> String {
        self.guest.as_ref().and_then(|guest| guest.board.loaded()).map(|what| format!("{what}\n")).unwrap_or_default()
    }

    fn port(&self, port: u16, size: u8) -> Vec<u8> {
        let mut bytes = vec![u8::MAX; size.into()];
        if let Some(guest) = &self.guest {
            guest.board.read_port(port, &mut bytes);
        }
        bytes
    }

    fn write_port(&self, port: u16, bytes: &[u8]) {
        let Some(guest) = &self.guest else { return };
        let platform = guest.board.platform();
        if let Some(event) = perform(&*platform, platform.write_port(port, bytes)) {
            self.host.events.send(event);
        }
    }

    /// Guest memory, page by page, through the page tables of `cpu` if one is given.
    fn memory(&self, cpu: Option<u32>, address: u64, length: u32) -> Result<Vec<u8>, QmpError> {
        let mut bytes = vec![0; length as usize];
        for (at, part) in pages(&mut bytes, address) {
            self.memory_in_page(cpu, at, part)?;
        }
        Ok(bytes)
    }

    /// Guest memory that lies in one page, through the page tables of `cpu` if one is given.
    ///
    /// # Errors
    /// When nothing is mapped there, or no RAM.
    pub(in crate::machine) fn memory_in_page(
        &self,
        cpu: Option<u32>,
        address: u64,
        into: &mut [u8],
    ) -> Result<(), QmpError> {
        let refused = || QmpError::generic(format!("Cannot access memory at address {address:#x}"));
        let guest = self.guest.as_ref().ok_or_else(refused)?;
        let physical = match cpu {
            None => address,
            Some(cpu) => self.physical(cpu, address)?.ok_or_else(refused)?,
        };
        // Below 1 MiB, registers of the bridge say what is seen, RAM or ROM.
        if (VGA_WINDOW_START..HIGH_MEMORY_START).contains(&physical)
            || (FIRMWARE_START..FIRMWARE_END).contains(&physical)
        {
            let platform = guest.board.platform();
            for (at, word) in (physical..).step_by(WORD).zip(into.chunks_mut(WORD)) {
                platform.read_memory(at, word);
            }
            return Ok(());
        }
        guest.board.ram().read_slice(into, GuestAddress(physical)).map_err(|_| refused())
    }

    /// The guest-physical address behind a linear one of `cpu`; `None` where nothing is mapped.
    ///
    /// # Errors
    /// When there is no such vCPU, or it does not answer.
    pub(in crate::machine) fn physical(&self, cpu: u32, linear: u64) -> Result<Option<u64>, QmpError> {
        let vcpu = self.vcpus().iter().find(|vcpu| vcpu.index() == cpu);
        let vcpu = vcpu.ok_or_else(|| QmpError::generic("No CPU available"))?;
        let found = vcpu.call(move |v| v.translate(linear)).map_err(|e| QmpError::from_error(&e))?;
        found.map_err(|e| QmpError::from_error(&e))
    }
}

/// The whole state of a vCPU.
fn snapshot(vcpu: &VcpuHandle) -> Result<VcpuSnapshot, QmpError> {
    let state = vcpu.call(|v| v.snapshot()).map_err(|e| QmpError::from_error(&e))?;
    state.map_err(|e| QmpError::from_error(&e))
}

/// Cuts `bytes`, which stand for memory from `address` on, at page boundaries.
pub(in crate::machine) fn pages(bytes: &mut [u8], address: u64) -> Vec<(u64, &mut [u8])> {
    let mut parts = Vec::new();
    let (mut at, mut rest) = (address, bytes);
    while !rest.is_empty() {
        let room = usize::try_from(PAGE - at % PAGE).unwrap_or(1);
        let (part, behind) = rest.split_at_mut(room.min(rest.len()));
        let next = at.wrapping_add(part.len() as u64);
        parts.push((at, part));
        (at, rest) = (next, behind);
    }
    parts
}
