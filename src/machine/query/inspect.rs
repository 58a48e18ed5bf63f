//! What only the human monitor asks for: registers, memory, maps and trees, as text.

use std::fmt::Write as _;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use crate::machine::Machine;
use crate::qmp::QmpError;
use crate::qmp::channel::{Inspect, Inspection};

const PAGE: u64 = 4096;

impl Machine {
    /// Answers a query.
    ///
    /// # Errors
    /// What the person is told.
    pub(in crate::machine) fn look(&self, query: &Inspect) -> Result<Inspection, QmpError> {
        match *query {
            Inspect::Registers { cpu } => self.register_dump(cpu).map(Inspection::Text),
            Inspect::MemoryTree => Ok(Inspection::Text(self.memory_tree())),
            Inspect::DeviceTree => Ok(Inspection::Text(self.device_tree())),
            Inspect::Roms => Ok(Inspection::Text(self.roms())),
            Inspect::Memory { cpu, address, length } => self.memory(cpu, address, length).map(Inspection::Bytes),
            Inspect::Port { port, size } => Ok(Inspection::Bytes(self.port(port, size))),
            Inspect::Hold { ref disk, ref order } => self.hold(disk, order).map(|()| Inspection::Text(String::new())),
        }
    }

    fn register_dump(&self, cpu: Option<u32>) -> Result<String, QmpError> {
        let mut text = String::new();
        for vcpu in self.vcpus().iter().filter(|vcpu| cpu.is_none_or(|wanted| wanted == vcpu.index())) {
            let read = vcpu.call(|v| v.regs().and_then(|regs| v.sregs().map(|sregs| (regs, sregs))));
            let (regs, sregs) = read.map_err(|e| QmpError::from_error(&e))?.map_err(|e| QmpError::from_error(&e))?;
            let _ = writeln!(text, "\nCPU#{}", vcpu.index());
            dump(&mut text, &regs, &sregs);
        }
        if text.is_empty() { Err(QmpError::generic("No CPU available")) } else { Ok(text) }
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

/// In the form that people know from QEMU.
fn dump(text: &mut String, regs: &kvm_regs, sregs: &kvm_sregs) {
    let rows = [
        [("RAX", regs.rax), ("RBX", regs.rbx), ("RCX", regs.rcx), ("RDX", regs.rdx)],
        [("RSI", regs.rsi), ("RDI", regs.rdi), ("RBP", regs.rbp), ("RSP", regs.rsp)],
        [("R8 ", regs.r8), ("R9 ", regs.r9), ("R10", regs.r10), ("R11", regs.r11)],
        [("R12", regs.r12), ("R13", regs.r13), ("R14", regs.r14), ("R15", regs.r15)],
    ];
    for row in rows {
        let cells: Vec<_> = row.iter().map(|(name, value)| format!("{name}={value:016x}")).collect();
        let _ = writeln!(text, "{}", cells.join(" "));
    }
    let _ = writeln!(text, "RIP={:016x} RFL={:08x} CPL={}", regs.rip, regs.rflags, sregs.cs.selector & 3);
    let segments = [
        ("ES ", sregs.es),
        ("CS ", sregs.cs),
        ("SS ", sregs.ss),
        ("DS ", sregs.ds),
        ("FS ", sregs.fs),
        ("GS ", sregs.gs),
        ("LDT", sregs.ldt),
        ("TR ", sregs.tr),
    ];
    for (name, segment) in segments {
        let kvm_segment { selector, base, limit, .. } = segment;
        let _ = writeln!(text, "{name}={selector:04x} {base:016x} {limit:08x}");
    }
    let _ = writeln!(text, "GDT=     {:016x} {:08x}", sregs.gdt.base, sregs.gdt.limit);
    let _ = writeln!(text, "IDT=     {:016x} {:08x}", sregs.idt.base, sregs.idt.limit);
    let _ = writeln!(
        text,
        "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x}\nEFER={:016x}",
        sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer
    );
}
