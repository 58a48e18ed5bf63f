//! The host's KVM: is it there, may we, is it enough.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm, VmFd};
use thiserror::Error;

use super::cpuid::CpuidTable;
use super::msrs::{self, MsrValue};

/// Why the host's KVM cannot be used. Each message ends with what would help.
#[derive(Debug, Error)]
pub enum HostError {
    /// There is no such file.
    #[error(
        "{path} does not exist: load the kernel module kvm_intel or kvm_amd, and check that virtualization is \
         enabled in the host's firmware (or, in a virtual machine, that nesting is)"
    )]
    Missing {
        /// The device looked for.
        path: PathBuf,
    },
    /// This user may not open it.
    #[error("no permission to open {path}: add the user to the group that owns it (usually kvm)")]
    NotPermitted {
        /// The device refused.
        path: PathBuf,
    },
    /// Opening failed otherwise.
    #[error("cannot open {path}")]
    Open {
        /// The device.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{path} is not a KVM device: it does not answer KVM_GET_API_VERSION")]
    NotKvm {
        /// The file.
        path: PathBuf,
    },
    /// Another API than the one that has been stable since Linux 2.6.22.
    #[error("{path} speaks KVM API version {found}, and version {KVM_API_VERSION} is needed: use a newer host kernel")]
    ApiVersion {
        /// The device.
        path: PathBuf,
        /// What it speaks.
        found: i32,
    },
    /// A needed capability is not offered.
    #[error("the host's KVM lacks {what}: use a newer host kernel")]
    Lacks {
        /// The capability in words.
        what: &'static str,
    },
    /// An ioctl on the device failed.
    #[error("{what} failed")]
    Ioctl {
        /// The ioctl.
        what: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Capabilities without which nothing here works. All are in Linux since 4.12 (2017).
const NEEDED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "user memory regions (KVM_CAP_USER_MEMORY)"),
    (Cap::Irqchip, "an in-kernel interrupt controller (KVM_CAP_IRQCHIP)"),
    (Cap::Pit2, "an in-kernel interval timer (KVM_CAP_PIT2)"),
    (Cap::SetTssAddr, "a settable TSS address (KVM_CAP_SET_TSS_ADDR)"),
    (Cap::IrqRouting, "interrupt routing (KVM_CAP_IRQ_ROUTING)"),
    (Cap::Irqfd, "interrupts by descriptor (KVM_CAP_IRQFD)"),
    (Cap::Ioeventfd, "doorbells by descriptor (KVM_CAP_IOEVENTFD)"),
    (Cap::SignalMsi, "message-signalled interrupts (KVM_CAP_SIGNAL_MSI)"),
    (Cap::ExtCpuid, "settable CPUID (KVM_CAP_EXT_CPUID)"),
    (Cap::MpState, "settable processor run states (KVM_CAP_MP_STATE)"),
    (Cap::ImmediateExit, "immediate exits (KVM_CAP_IMMEDIATE_EXIT)"),
];

/// Most CPUID entries that KVM hands out (`KVM_MAX_CPUID_ENTRIES`).
const MAX_CPUID_ENTRIES: usize = 256;

/// What runs guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// Intel VT-x or AMD SVM.
    Hardware,
    /// A KVM without either: guest code goes through an instruction emulator, on which a stock operating system
    /// does not boot.
    Software,
}

impl HostKind {
    /// Tells by the text of `/proc/cpuinfo`: a processor with VT-x has the flag `vmx`, one with SVM the flag `svm`.
    #[must_use]
    pub fn from_cpuinfo(text: &str) -> Self {
        let has = |line: &str| line.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm");
        let hardware = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .any(|(key, value)| key.trim_end() == "flags" && has(value));
        if hardware { Self::Hardware } else { Self::Software }
    }
}

/// An open KVM device, checked to be sufficient.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
}

impl Host {
    /// Opens `path` (usually `/dev/kvm`) and checks API version and capabilities.
    ///
    /// # Errors
    /// [`HostError`], with what to do in its message.
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => HostError::Missing { path: path.to_owned() },
            io::ErrorKind::PermissionDenied => HostError::NotPermitted { path: path.to_owned() },
            // The node is there, and no driver stands behind it.
            _ if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
                HostError::Missing { path: path.to_owned() }
            }
            _ => HostError::Open { path: path.to_owned(), source },
        })?;
        let kvm = wrap(file);
        match kvm.get_api_version() {
            found if found < 0 => Err(HostError::NotKvm { path: path.to_owned() }),
            found if u32::try_from(found) == Ok(KVM_API_VERSION) => Ok(()),
            found => Err(HostError::ApiVersion { path: path.to_owned(), found }),
        }?;
        match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            Some((_, what)) => Err(HostError::Lacks { what }),
            None => {
                permit_tiles();
                Ok(Self { kvm })
            }
        }
    }

    /// Whether hardware runs guest code, by `/proc/cpuinfo`. Where that cannot be read, hardware is assumed.
    #[must_use]
    pub fn kind(&self) -> HostKind {
        std::fs::read_to_string("/proc/cpuinfo").map_or(HostKind::Hardware, |text| HostKind::from_cpuinfo(&text))
    }

    /// Most vCPUs that one machine can have.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// One more than the highest vCPU id, and so APIC id, that KVM takes.
    #[must_use]
    pub fn max_vcpu_id(&self) -> usize {
        self.kvm.get_max_vcpu_id()
    }

    /// vCPUs per machine that the kernel recommends not to exceed.
    #[must_use]
    pub fn recommended_vcpus(&self) -> usize {
        self.kvm.get_nr_vcpus()
    }

    /// Whether the kernel offers `cap`.
    #[must_use]
    pub fn offers(&self, cap: Cap) -> bool {
        self.kvm.check_extension(cap)
    }

    /// Whether the kernel can present another TSC frequency than the host's.
    #[must_use]
    pub fn scales_tsc(&self) -> bool {
        self.offers(Cap::TscControl)
    }

    /// The CPUID leaves that the host's processor and KVM can give a guest (`KVM_GET_SUPPORTED_CPUID`).
    ///
    /// # Errors
    /// When the ioctl fails.
    pub fn supported_cpuid(&self) -> Result<CpuidTable, HostError> {
        let found = self.kvm.get_supported_cpuid(MAX_CPUID_ENTRIES);
        let mut table = CpuidTable::from(&found.map_err(ioctl("KVM_GET_SUPPORTED_CPUID"))?);
        // The TSC deadline timer comes from the in-kernel APIC and is reported by a capability of its own.
        table.set_bits(1, 0, |leaf| {
            leaf.ecx = if self.offers(Cap::TscDeadlineTimer) { leaf.ecx | TSC_DEADLINE } else { leaf.ecx };
            // So is the x2APIC mode, which the in-kernel APIC always has.
            leaf.ecx |= X2APIC;
        });
        Ok(table)
    }

    /// The Hyper-V leaves that KVM can give a guest, `None` where the kernel gives none.
    #[must_use]
    pub fn hyperv_cpuid(&self) -> Option<CpuidTable> {
        super::cpuid::hyperv_leaves(&self.kvm)
    }

    /// Indices of the MSRs that hold guest state (`KVM_GET_MSR_INDEX_LIST`). Empty where the kernel does not say.
    #[must_use]
    pub fn msr_indices(&self) -> Vec<u32> {
        match self.kvm.get_msr_index_list() {
            Ok(list) => list.as_slice().to_vec(),
            Err(e) => {
                log::warn!("KVM does not list its MSRs: {e}");
                Vec::new()
            }
        }
    }

    /// The host's values of feature MSRs (`KVM_GET_MSRS` on the device): those of `wanted` that exist.
    #[must_use]
    pub fn feature_msrs(&self, wanted: &[u32]) -> Vec<MsrValue> {
        msrs::read_some(wanted, |msrs| self.kvm.get_msrs(msrs))
    }

    /// Bytes that `KVM_GET_XSAVE2` may return; 4096 where there is no such ioctl.
    #[must_use]
    pub fn xsave_size(&self) -> usize {
        let size = self.kvm.check_extension_int(Cap::Xsave2);
        usize::try_from(size).unwrap_or(0).max(XSAVE_LEGACY)
    }

    /// Creates the machine's descriptor. A signal that interrupts creation makes the kernel fail with EINTR: tried
    /// again.
    pub(crate) fn create_vm(&self) -> Result<VmFd, HostError> {
        loop {
            match self.kvm.create_vm() {
                Err(e) if e.errno() == libc::EINTR => {}
                other => return other.map_err(ioctl("KVM_CREATE_VM")),
            }
        }
    }
}

/// CPUID.1:ECX bits 24 and 21 (SDM volume 2, CPUID).
const TSC_DEADLINE: u32 = 1 << 24;
const X2APIC: u32 = 1 << 21;

/// Size of `struct kvm_xsave` without its extension.
const XSAVE_LEGACY: usize = 4096;

/// Lets this process's guests have AMX tiles, which KVM then lists among its features and counts in the size of the
/// XSAVE area (kernel, Documentation/arch/x86/xstate.rst). Hosts without them refuse: nothing is lost then.
#[expect(unsafe_code, reason = "arch_prctl has no safe wrapper")]
fn permit_tiles() {
    const ARCH_REQ_XCOMP_GUEST_PERM: libc::c_int = 0x1025;
    /// The state component with the tiles (SDM volume 1, 13.1).
    const TILE_DATA: libc::c_ulong = 18;
    static ASKED: Once = Once::new();
    // SAFETY: the call takes two numbers and changes only what guests of this process may use.
    ASKED.call_once(|| unsafe {
        libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_GUEST_PERM, TILE_DATA);
    });
}

fn ioctl(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> HostError {
    move |source| HostError::Ioctl { what, source }
}

#[expect(unsafe_code, reason = "kvm-ioctls takes a raw descriptor over only by an unsafe call")]
fn wrap(file: std::fs::File) -> Kvm {
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor was just taken out of its only owner and is handed to a new one.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}

#[cfg(test)]
mod tests;
