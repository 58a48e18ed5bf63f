//! The PIIX4 power management function (82371AB data sheet, chapter 7; ACPI 6.5, 4.8): the ACPI fixed registers, the
//! GPE0 block, the APM control ports and an SMBus host controller with nothing on its bus.
//!
//! ```text
//!   PMBA + 0   PM1a status, enable (2 + 2)     0xafe0  GPE0 status, enable (2 + 2)
//!        + 4   PM1a control (2)                0xb2    APM control: SMI command of the FADT
//!        + 8   PM timer (4)                    0xb3    APM status
//! ```
//!
//! It knows the sleep types that go with its DSDT (S5 is 0, S3 is 1, S4 is 2), and answers a sleep request with
//! [`Effect::Power`]: it never stops anything itself.

mod regs;
mod smbus;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::bus::{BusDevice, BusFault, Effect, PowerRequest};
use crate::clock::{SharedClock, Timer, nanoseconds_of, ticks_of};
use crate::irq::IrqLine;
use crate::lifecycle::{Lifecycle, Saver};

use super::config::{BarInfo, ConfigSpace, Identity, SUBSYSTEM, SUBSYSTEM_VENDOR, command, status};
use super::{Bdf, PciFunction, Region, Space};
use regs::{cfg, event, pm, sleep};
use smbus::SmBus;

pub use regs::{GPE_BASE, GPE_LEN, PM_LEN, TIMER_HERTZ};

/// What the user can choose (`-global PIIX4_PM.disable_s3=…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PmOptions {
    /// The guest cannot suspend to RAM.
    pub disable_s3: bool,
    /// The guest cannot suspend to disk.
    pub disable_s4: bool,
    /// Sleep type of S4, 0 to 7; the DSDT has to say the same.
    pub s4_val: u8,
}

impl Default for PmOptions {
    fn default() -> Self {
        Self { disable_s3: false, disable_s4: false, s4_val: 2 }
    }
}

/// Volatile registers.
struct Regs {
    config: ConfigSpace,
    pm1_status: u16,
    pm1_enable: u16,
    pm1_control: u16,
    /// PM timer tick at which the status bit is set next: when the top bit of the 24 changes.
    overflow_at: u64,
    gpe_status: u16,
    gpe_enable: u16,
    apm_control: u8,
    apm_status: u8,
    smbus: SmBus,
}

impl Regs {
    fn new(config: ConfigSpace) -> Self {
        Self {
            config,
            pm1_status: 0,
            pm1_enable: 0,
            pm1_control: 0,
            overflow_at: regs::TIMER_HALF,
            gpe_status: 0,
            gpe_enable: 0,
            apm_control: 0,
            apm_status: 0,
            smbus: SmBus::default(),
        }
    }
}

/// The function.
pub struct Piix4Pm {
    chip: Arc<Chip>,
}

struct Chip {
    bdf: Bdf,
    options: PmOptions,

    clock: SharedClock,
    sci: Arc<dyn IrqLine>,
    overflow: Box<dyn Timer>,

    regs: Mutex<Regs>,
}

impl Piix4Pm {
    /// The function at `bdf`. `sci` is ISA interrupt 9, active as the FADT says.
    #[must_use]
    pub fn new(bdf: Bdf, options: PmOptions, clock: SharedClock, sci: Arc<dyn IrqLine>) -> Self {
        let chip = Arc::new_cyclic(|weak: &Weak<Chip>| {
            let weak = weak.clone();
            let overflow = clock.timer(Box::new(move || {
                if let Some(chip) = weak.upgrade() {
                    chip.update(&mut chip.lock());
                }
            }));
            Chip { bdf, options, clock, sci, overflow, regs: Mutex::new(Regs::new(config_space())) }
        });
        Self { chip }
    }

    /// Where the PM block decodes now, if firmware has put it anywhere.
    #[must_use]
    pub fn base(&self) -> Option<u64> {
        pm_base(&self.chip.lock().config)
    }

    /// Sets the power button status bit and, where the guest enabled it, interrupts (ACPI 6.5, 4.8.2.2.1.1).
    pub fn press_power_button(&self) {
        self.set_event(event::POWER_BUTTON);
    }

    /// Tells the guest that it woke from S3 by the power button (ACPI 6.5, 4.8.3.1.1).
    pub fn wake(&self) {
        self.set_event(event::WAKE | event::POWER_BUTTON);
    }

    /// Sets GPE0 status bit `bit` (0 to 15), as hot-plug controllers do; others do nothing.
    pub fn raise_gpe(&self, bit: u8) {
        let mut regs = self.chip.lock();
        regs.gpe_status |= 1u16.checked_shl(u32::from(bit)).unwrap_or(0);
        self.chip.update(&mut regs);
    }

    /// Whether the guest listens to the power button: without, pressing it does nothing.
    #[must_use]
    pub fn power_button_enabled(&self) -> bool {
        self.chip.lock().pm1_enable & event::POWER_BUTTON != 0
    }

    fn set_event(&self, bits: u16) {
        let mut regs = self.chip.lock();
        regs.pm1_status |= bits;
        self.chip.update(&mut regs);
    }
}

fn config_space() -> ConfigSpace {
    let identity = Identity {
        vendor: 0x8086,
        device: 0x7113,
        revision: 3,
        class: 0x06_80_00,
        subsystem_vendor: SUBSYSTEM_VENDOR,
        subsystem: SUBSYSTEM,
    };
    ConfigSpace::type0(&identity)
        .with_interrupt_pin(1)
        .with_command(0, command::IO | command::MEMORY | command::MASTER)
        .with_status(status::FAST_BACK | status::DEVSEL_MEDIUM)
        // The base registers read bit 0 as one: they are for I/O (82371AB, 7.2.1, 7.2.11).
        .with_field(cfg::PM_BASE, &[1, 0], &[0xc0, 0xff])
        .with_field(cfg::DEVICE_ACTIVITY, &[0; 4], &[0xff; 4])
        // Writes to APM control already lead to system management mode, firmware finds: there is none to set up.
        .with_field(cfg::DEVICE_ACTIVITY_B, &cfg::APM_CONTROL_ENABLE.to_le_bytes(), &[0xff; 4])
        .with_field(cfg::PM_ENABLE, &[0], &[1])
        .with_field(cfg::SMBUS_BASE, &[1, 0], &[0xf0, 0xff])
        .with_field(cfg::SMBUS_CONFIG, &[0], &[0x0f])
}

impl Chip {
    fn lock(&self) -> MutexGuard<'_, Regs> {
        self.regs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ticks(&self) -> u64 {
        ticks_of(self.clock.now(), TIMER_HERTZ)
    }

    /// Brings the timer status, the SCI level and the armed overflow in line with the registers and the time.
    fn update(&self, regs: &mut Regs) {
        if self.ticks() >= regs.overflow_at {
            regs.pm1_status |= event::TIMER;
        }
        let fixed = regs.pm1_status & regs.pm1_enable & event::INTERRUPTING != 0;
        self.sci.set(fixed || regs.gpe_status & regs.gpe_enable != 0);
        if regs.pm1_enable & event::TIMER != 0 && regs.pm1_status & event::TIMER == 0 {
            self.overflow.arm(nanoseconds_of(regs.overflow_at, TIMER_HERTZ));
        } else {
            self.overflow.disarm();
        }
    }

    /// Status bits clear where ones are written (ACPI 6.5, 4.8.3.1.1).
    fn clear_events(&self, regs: &mut Regs, ones: u16) {
        if regs.pm1_status & ones & event::TIMER != 0 {
            regs.overflow_at = (self.ticks() / regs::TIMER_HALF + 1) * regs::TIMER_HALF;
        }
        regs.pm1_status &= !ones;
    }

    fn read_pm(&self, at: u64, regs: &mut Regs) -> u8 {
        self.update(regs);
        let ticks = u32::try_from(self.ticks() & regs::TIMER_MASK).unwrap_or(0).to_le_bytes();
        let word = |value: u16| value.to_le_bytes();
        let [status, enable, control] = [regs.pm1_status, regs.pm1_enable, regs.pm1_control].map(word);
        let bytes = [status, enable, control, [0; 2]].into_iter().flatten().chain(ticks);
        usize::try_from(at).ok().and_then(|at| bytes.into_iter().nth(at)).unwrap_or(0)
    }

    fn write_pm(&self, at: u64, value: u8, regs: &mut Regs) -> Effect {
        self.update(regs);
        let high = at % 2 == 1;
        match at & !1 {
            pm::STATUS => self.clear_events(regs, widen(value, high)),
            pm::ENABLE => regs.pm1_enable = merge(regs.pm1_enable, value, high),
            pm::CONTROL => {
                let control = merge(regs.pm1_control, value, high);
                // SLP_EN is write-only (ACPI 6.5, 4.8.3.2.1); it lies in the high byte, as SLP_TYP does.
                regs.pm1_control = control & !sleep::ENABLE;
                if high && control & sleep::ENABLE != 0 {
                    return self.sleep(regs, (control >> sleep::TYPE_SHIFT) & 7);
                }
            }
            _ => {}
        }
        self.update(regs);
        Effect::None
    }

    fn sleep(&self, regs: &mut Regs, kind: u16) -> Effect {
        self.update(regs);
        match kind {
            sleep::S5 => Effect::Power(PowerRequest::PowerOff),
            sleep::S3 if !self.options.disable_s3 => Effect::Power(PowerRequest::Suspend),
            // S4 keeps its image on the guest's disk: for the machine it is power off.
            kind if kind == u16::from(self.options.s4_val) && !self.options.disable_s4 => {
                Effect::Power(PowerRequest::PowerOff)
            }
            _ => Effect::None,
        }
    }

    /// The SMI handler that firmware would have: ACPI on and off (FADT `ACPI_ENABLE`, `ACPI_DISABLE`).
    fn write_apm(at: u64, value: u8, regs: &mut Regs) {
        match (at, value) {
            (0, regs::ACPI_ENABLE) => regs.pm1_control |= sleep::SCI_ENABLE,
            (0, regs::ACPI_DISABLE) => regs.pm1_control &= !sleep::SCI_ENABLE,
            _ => {}
        }
        match at {
            0 => regs.apm_control = value,
            _ => regs.apm_status = value,
        }
    }

    fn read_byte(&self, part: Part, at: u64, regs: &mut Regs) -> u8 {
        let [status_low, status_high] = regs.gpe_status.to_le_bytes();
        let [enable_low, enable_high] = regs.gpe_enable.to_le_bytes();
        match (part, at) {
            (Part::Pm, _) => self.read_pm(at, regs),
            (Part::Gpe, 0) => status_low,
            (Part::Gpe, 1) => status_high,
            (Part::Gpe, 2) => enable_low,
            (Part::Gpe, _) => enable_high,
            (Part::Apm, 0) => regs.apm_control,
            (Part::Apm, _) => regs.apm_status,
            (Part::SmBus, _) => regs.smbus.read(at),
        }
    }

    fn write_byte(&self, part: Part, at: u64, value: u8, regs: &mut Regs) -> Effect {
        match (part, at) {
            (Part::Pm, _) => return self.write_pm(at, value, regs),
            (Part::Gpe, 0 | 1) => regs.gpe_status &= !widen(value, at == 1),
            (Part::Gpe, _) => regs.gpe_enable = merge(regs.gpe_enable, value, at == 3),
            (Part::Apm, _) => Self::write_apm(at, value, regs),
            (Part::SmBus, _) => regs.smbus.write(at, value),
        }
        self.update(regs);
        Effect::None
    }
}

fn widen(value: u8, high: bool) -> u16 {
    u16::from(value) << if high { 8 } else { 0 }
}

fn merge(old: u16, value: u8, high: bool) -> u16 {
    (old & widen(0xff, !high)) | widen(value, high)
}

/// One of the blocks of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Pm,
    Gpe,
    Apm,
    SmBus,
}

impl Part {
    const fn len(self) -> u64 {
        match self {
            Self::Pm => PM_LEN,
            Self::Gpe => GPE_LEN,
            Self::Apm => 2,
            Self::SmBus => regs::SMBUS_LEN,
        }
    }
}

struct Ports {
    chip: Arc<Chip>,
    part: Part,
}

impl Ports {
    fn check(&self, offset: u64, len: usize) -> Result<(), BusFault> {
        let fits =
            u64::try_from(len).ok().and_then(|len| offset.checked_add(len)).is_some_and(|e| e <= self.part.len());
        fits.then_some(()).ok_or(BusFault { offset, len })
    }
}

/// Registers are bytes side by side: wider accesses take several, the lowest first.
impl BusDevice for Ports {
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BusFault> {
        self.check(offset, data.len())?;
        let regs = &mut *self.chip.lock();
        if self.part == Part::Pm && offset == pm::TIMER && data.len() == 4 {
            let ticks = u32::try_from(self.chip.ticks() & regs::TIMER_MASK).unwrap_or(0);
            data.copy_from_slice(&ticks.to_le_bytes());
            return Ok(());
        }
        for (at, byte) in (offset..).zip(data) {
            *byte = self.chip.read_byte(self.part, at, regs);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<Effect, BusFault> {
        self.check(offset, data.len())?;
        let regs = &mut *self.chip.lock();
        let mut effect = Effect::None;
        for (at, value) in (offset..).zip(data) {
            let next = self.chip.write_byte(self.part, at, *value, regs);
            if next != Effect::None {
                effect = next;
            }
        }
        Ok(effect)
    }
}

impl PciFunction for Piix4Pm {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        self.chip.lock().config.read(offset, data);
    }

    fn config_write(&self, offset: u8, data: &[u8]) -> Effect {
        let mut regs = self.chip.lock();
        let before = (pm_base(&regs.config), smbus_base(&regs.config));
        let _ = regs.config.write(offset, data);
        let moved = (pm_base(&regs.config), smbus_base(&regs.config)) != before;
        if moved { Effect::Remap(self.chip.bdf) } else { Effect::None }
    }

    /// The blocks at the base registers, where enabled, and those at fixed ports.
    fn regions(&self) -> Vec<Region> {
        let regs = self.chip.lock();
        let bases = [
            (Part::Pm, pm_base(&regs.config)),
            (Part::Gpe, Some(GPE_BASE)),
            (Part::Apm, Some(regs::APM_BASE)),
            (Part::SmBus, smbus_base(&regs.config)),
        ];
        let region = |(part, base): (Part, Option<u64>)| {
            let device = Arc::new(Ports { chip: Arc::clone(&self.chip), part });
            Some(Region { space: Space::Io, base: base?, len: part.len(), device, doorbells: Vec::new() })
        };
        bases.into_iter().filter_map(region).collect()
    }

    fn bars(&self) -> Vec<BarInfo> {
        self.chip.lock().config.bars()
    }
}

/// Where the PM block decodes: PMREGMISC bit 0 enables it, whatever the command register says (82371AB, 7.2.8).
fn pm_base(config: &ConfigSpace) -> Option<u64> {
    let base = config.get16(cfg::PM_BASE) & 0xffc0;
    (config.get8(cfg::PM_ENABLE) & 1 != 0 && base != 0).then_some(u64::from(base))
}

/// Where the SMBus controller decodes: its configuration register's bit 0 enables it (82371AB, 7.2.12).
fn smbus_base(config: &ConfigSpace) -> Option<u64> {
    let base = config.get16(cfg::SMBUS_BASE) & 0xfff0;
    (config.get8(cfg::SMBUS_CONFIG) & 1 != 0 && base != 0).then_some(u64::from(base))
}

impl Lifecycle for Piix4Pm {
    fn name(&self) -> &str {
        "PIIX4_PM"
    }

    fn reset(&self) {
        let mut regs = self.chip.lock();
        let mut config = regs.config.clone();
        let _ = config.reset();
        // The PM timer does not stop for a reset: only its next overflow is computed anew.
        *regs = Regs::new(config);
        regs.overflow_at = (self.chip.ticks() / regs::TIMER_HALF + 1) * regs::TIMER_HALF;
        self.chip.update(&mut regs);
    }

    fn saver(&self) -> Saver<'_> {
        Saver::Saves(self)
    }
}

#[cfg(test)]
mod tests;
