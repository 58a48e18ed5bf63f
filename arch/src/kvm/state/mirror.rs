//! KVM's structures, field by field, without their padding.

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_fpu, kvm_pit_channel_state, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
    kvm_vcpu_events__bindgen_ty_1, kvm_vcpu_events__bindgen_ty_2, kvm_vcpu_events__bindgen_ty_3,
    kvm_vcpu_events__bindgen_ty_4, kvm_vcpu_events__bindgen_ty_5,
};
use serde::{Deserialize, Serialize};

/// A type with the given fields, each with the conversion that leads to KVM's type and back.
macro_rules! mirror {
    ($($name:ident of $kvm:ident { $($field:ident: $type:ty),* $(,)? })*) => { $(
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name { $($field: $type),* }

        impl From<$kvm> for $name {
            fn from(from: $kvm) -> Self {
                Self { $($field: from.$field.into()),* }
            }
        }

        impl From<$name> for $kvm {
            #[allow(clippy::needless_update, reason = "some of KVM's structures have padding, some have none")]
            fn from(from: $name) -> Self {
                Self { $($field: from.$field.into(),)* ..Default::default() }
            }
        }
    )* };
}

mirror! {
    RegsState of kvm_regs {
        rax: u64, rbx: u64, rcx: u64, rdx: u64, rsi: u64, rdi: u64, rsp: u64, rbp: u64, r8: u64, r9: u64, r10: u64,
        r11: u64, r12: u64, r13: u64, r14: u64, r15: u64, rip: u64, rflags: u64,
    }
    SregsState of kvm_sregs {
        cs: SegmentState, ds: SegmentState, es: SegmentState, fs: SegmentState, gs: SegmentState, ss: SegmentState,
        tr: SegmentState, ldt: SegmentState, gdt: TableState, idt: TableState, cr0: u64, cr2: u64, cr3: u64, cr4: u64,
        cr8: u64, efer: u64, apic_base: u64, interrupt_bitmap: [u64; 4],
    }
    SegmentState of kvm_segment {
        base: u64, limit: u32, selector: u16, type_: u8, present: u8, dpl: u8, db: u8, s: u8, l: u8, g: u8, avl: u8,
        unusable: u8,
    }
    TableState of kvm_dtable { base: u64, limit: u16 }
    FpuState of kvm_fpu {
        fpr: [[u8; 16]; 8], fcw: u16, fsw: u16, ftwx: u8, last_opcode: u16, last_ip: u64, last_dp: u64,
        xmm: [[u8; 16]; 16], mxcsr: u32,
    }
    DebugState of kvm_debugregs { db: [u64; 4], dr6: u64, dr7: u64, flags: u64 }
    EventsState of kvm_vcpu_events {
        exception: ExceptionState, interrupt: InterruptState, nmi: NmiState, sipi_vector: u32, flags: u32,
        smi: SmiState, triple_fault: TripleFaultState, exception_has_payload: u8, exception_payload: u64,
    }
    ExceptionState of kvm_vcpu_events__bindgen_ty_1 {
        injected: u8, nr: u8, has_error_code: u8, pending: u8, error_code: u32,
    }
    InterruptState of kvm_vcpu_events__bindgen_ty_2 { injected: u8, nr: u8, soft: u8, shadow: u8 }
    NmiState of kvm_vcpu_events__bindgen_ty_3 { injected: u8, pending: u8, masked: u8 }
    SmiState of kvm_vcpu_events__bindgen_ty_4 { smm: u8, pending: u8, smm_inside_nmi: u8, latched_init: u8 }
    TripleFaultState of kvm_vcpu_events__bindgen_ty_5 { pending: u8 }
    PitChannelState of kvm_pit_channel_state {
        count: u32, latched_count: u16, count_latched: u8, status_latched: u8, status: u8, read_state: u8,
        write_state: u8, write_latch: u8, rw_mode: u8, mode: u8, bcd: u8, gate: u8,
    }
}
