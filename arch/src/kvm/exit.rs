//! Why a vCPU left the guest, as values.

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HYPERV, KVM_EXIT_HYPERV_HCALL, KVM_EXIT_INTERNAL_ERROR,
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use thiserror::Error;

use super::debug::DebugExit;

/// Why the guest stopped running. What is borrowed lies in memory shared with the kernel: reads are answered by
/// filling `data` before the next entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<'a> {
    /// `in` or `ins`: `data` holds one or more items of `width` bytes. A `rep ins` asks for several at once: read
    /// the port once for each, in order.
    PortIn {
        /// The port.
        port: u16,
        /// Bytes of one item: 1, 2 or 4.
        width: usize,
        /// To be filled; a multiple of `width` long.
        data: &'a mut [u8],
    },
    /// `out` or `outs`, likewise.
    PortOut {
        /// The port.
        port: u16,
        /// Bytes of one item: 1, 2 or 4.
        width: usize,
        /// What is written; a multiple of `width` long.
        data: &'a [u8],
    },
    /// A read where no memory slot is, of at most 8 bytes.
    MemoryRead {
        /// Guest-physical address.
        address: u64,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// A write where no memory slot is, or to a read-only one; of at most 8 bytes.
    MemoryWrite {
        /// Guest-physical address.
        address: u64,
        /// What is written.
        data: &'a [u8],
    },
    /// Someone kicked or another signal came: look for orders, then go on.
    Interrupted,
    /// Nothing to do: go on.
    Nothing,
    /// `hlt` without an in-kernel APIC. With one, the kernel waits itself.
    Halted,
    /// Triple fault (SDM volume 3, 6.15, interrupt 8): the processor is in shutdown; a PC resets.
    Shutdown,
    /// The guest asked the hypervisor to reset the machine (Hyper-V's reset MSR).
    ResetRequest,
    /// The guest asked the hypervisor to power off.
    PowerOffRequest,
    /// The guest told the hypervisor that it crashed (Hyper-V's crash MSRs).
    Crashed,
    /// A debugger asked to be told.
    Debug(DebugExit),
    /// The vCPU cannot go on.
    Failed(Failure),
}

/// Why KVM cannot run a vCPU any further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// KVM had to emulate an instruction that its emulator does not know.
    #[error("KVM cannot emulate the guest's instruction {}", hex(.instruction))]
    Emulation {
        /// The instruction's bytes, where the kernel gives them.
        instruction: Vec<u8>,
    },
    /// Another error inside of KVM.
    #[error("KVM internal error {suberror} ({}), data {data:x?}", suberror_name(*.suberror))]
    Internal {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// What the kernel adds: at most 16 words.
        data: Vec<u64>,
    },
    /// The processor refused to enter the guest (SDM volume 3, 27.8).
    #[error("the processor refused to enter the guest, reason {reason:#x}, on host CPU {host_cpu}")]
    Entry {
        /// The hardware's reason.
        reason: u64,
        /// Where.
        host_cpu: u32,
    },
    /// The guest touched memory that the host cannot provide: a truncated file behind it, a failing DIMM.
    #[error("the host cannot provide guest memory at {address:#x} ({size} bytes)")]
    Memory {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// An exit that this program has not asked for.
    #[error("unexpected exit from the guest, reason {reason}")]
    Unexpected {
        /// `KVM_EXIT_*`.
        reason: u32,
    },
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "(bytes not known)".to_owned();
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

fn suberror_name(suberror: u32) -> &'static str {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "emulation",
        KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "event delivery",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "unexpected hardware exit",
        _ => "unknown",
    }
}

/// The exits whose details `kvm-ioctls` leaves in the shared page.
#[expect(unsafe_code, reason = "kvm_run is a C union; its exit reason says which member is valid")]
pub(super) fn failure(run: &kvm_run) -> Failure {
    match run.exit_reason {
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: the exit reason says that this member was written; it is plain numbers.
            let entry = unsafe { run.__bindgen_anon_1.fail_entry };
            Failure::Entry { reason: entry.hardware_entry_failure_reason, host_cpu: entry.cpu }
        }
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: as above.
            let internal = unsafe { run.__bindgen_anon_1.internal };
            let count = (internal.ndata as usize).min(internal.data.len());
            internal_error(internal.suberror, internal.data.get(..count).unwrap_or(&[]))
        }
        reason => Failure::Unexpected { reason },
    }
}

/// Flag in the first word of an emulation failure: instruction bytes follow (`KVM_INTERNAL_ERROR_EMULATION_FLAG_*`).
const INSTRUCTION_BYTES_VALID: u64 = 1;
/// Longest x86 instruction, in bytes (SDM volume 2, 2.3.11).
const MAX_INSTRUCTION: usize = 15;

pub(super) fn internal_error(suberror: u32, data: &[u64]) -> Failure {
    if suberror != KVM_INTERNAL_ERROR_EMULATION {
        return Failure::Internal { suberror, data: data.to_vec() };
    }
    let instruction = match data {
        [flags, rest @ ..] if flags & INSTRUCTION_BYTES_VALID != 0 => {
            // The kernel packs one length byte and 15 instruction bytes (struct kvm_run, emulation_failure).
            let bytes: Vec<u8> = rest.iter().take(2).flat_map(|word| word.to_le_bytes()).collect();
            let length = bytes.first().map_or(0, |&n| usize::from(n).min(MAX_INSTRUCTION));
            bytes.into_iter().skip(1).take(length).collect()
        }
        _ => Vec::new(),
    };
    Failure::Emulation { instruction }
}

/// Answers a Hyper-V hypercall that the kernel does not serve itself: messages and events go to ports and connections, of
/// which there are none (Hypervisor Top Level Functional Specification 6.0b, 11.10 and appendix B). Changes to the
/// synthetic interrupt controller's pages, told likewise, need no answer.
#[expect(unsafe_code, reason = "kvm_run is a C union; its exit reason says which member is valid")]
pub(super) fn answer_hyperv(run: &mut kvm_run) {
    const INVALID_HYPERCALL_CODE: u64 = 2;
    const INVALID_PORT_ID: u64 = 17;
    const INVALID_CONNECTION_ID: u64 = 18;
    const POST_MESSAGE: u64 = 0x5c;
    const SIGNAL_EVENT: u64 = 0x5d;
    if run.exit_reason != KVM_EXIT_HYPERV {
        return;
    }
    // SAFETY: the exit reason says that this member was written.
    let hyperv = unsafe { &mut run.__bindgen_anon_1.hyperv };
    if hyperv.type_ != KVM_EXIT_HYPERV_HCALL {
        return;
    }
    // SAFETY: the type says so of this one; it is plain numbers.
    let call = unsafe { &mut hyperv.u.hcall };
    call.result = match call.input & 0xffff {
        POST_MESSAGE => INVALID_CONNECTION_ID,
        SIGNAL_EVENT => INVALID_PORT_ID,
        _ => INVALID_HYPERCALL_CODE,
    };
}

/// What a `KVM_EXIT_SYSTEM_EVENT` asks for.
pub(super) fn system_event(kind: u32) -> Exit<'static> {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Exit::PowerOffRequest,
        KVM_SYSTEM_EVENT_RESET => Exit::ResetRequest,
        KVM_SYSTEM_EVENT_CRASH => Exit::Crashed,
        _ => Exit::Failed(Failure::Unexpected { reason: kvm_bindings::KVM_EXIT_SYSTEM_EVENT }),
    }
}

#[cfg(test)]
mod tests;
