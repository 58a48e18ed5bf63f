use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::testing::{RecordingLine, assert_device_battery, hammer, peek, poke};

const PM_BASE: u64 = 0x600;

struct Bench {
    chip: Arc<Piix4Pm>,
    clock: Arc<ManualClock>,
    sci: Arc<RecordingLine>,
}

impl Bench {
    fn with(options: PmOptions) -> Self {
        let (clock, sci) = (Arc::new(ManualClock::new(Duration::ZERO)), RecordingLine::new());
        let line = Arc::clone(&sci) as Arc<dyn IrqLine>;
        let chip = Piix4Pm::new(Bdf::new(0, 1, 3), options, Arc::clone(&clock) as SharedClock, line);
        Self { chip: Arc::new(chip), clock, sci }
    }

    fn new() -> Self {
        let bench = Self::with(PmOptions::default());
        enable(&bench.chip);
        bench
    }

    fn ports(&self, base: u64) -> Arc<dyn BusDevice> {
        self.chip.regions().into_iter().find(|r| r.base == base).unwrap().device
    }
}

fn enable(chip: &Piix4Pm) {
    let _ = chip.config_write(cfg::PM_BASE, &[0x01, 0x06, 0, 0]);
    let _ = chip.config_write(cfg::PM_ENABLE, &[1]);
}

fn read32(chip: &Piix4Pm, offset: u8) -> u32 {
    let mut bytes = [0; 4];
    chip.config_read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn guest_sees_a_piix4_power_function() {
    let chip = Bench::with(PmOptions::default()).chip;

    assert_eq!(read32(&chip, 0), 0x7113_8086);
    assert_eq!(read32(&chip, 8), 0x0680_0003);
    assert_eq!(read32(&chip, 0x3c), 0x0000_0100);
    assert_eq!(read32(&chip, 0x40), 1);
}

#[test]
fn pm_block_decodes_only_when_enabled_and_follows_its_base() {
    let chip = Bench::with(PmOptions::default()).chip;
    let bases = || chip.regions().iter().map(|r| (r.base, r.len)).collect::<Vec<_>>();
    assert_eq!(bases(), [(0xafe0, 4), (0xb2, 2)]);

    assert_eq!(chip.config_write(cfg::PM_BASE, &[0x01, 0x06]), Effect::None);
    assert_eq!(chip.config_write(cfg::PM_ENABLE, &[1]), Effect::Remap(Bdf::new(0, 1, 3)));
    assert_eq!(bases(), [(0x600, 64), (0xafe0, 4), (0xb2, 2)]);

    assert_eq!(chip.config_write(cfg::PM_BASE, &[0x01, 0xb0]), Effect::Remap(Bdf::new(0, 1, 3)));
    assert_eq!(bases(), [(0xb000, 64), (0xafe0, 4), (0xb2, 2)]);
}

#[test]
fn power_button_interrupts_where_enabled_until_cleared() {
    let b = Bench::new();
    let pm = b.ports(PM_BASE);
    b.chip.press_power_button();
    assert!(!b.sci.high());

    poke(&*pm, 2, 2, 0x100).unwrap();
    assert!(b.sci.high());
    assert_eq!(peek(&*pm, 0, 2), Some(0x100));

    poke(&*pm, 0, 2, 0x100).unwrap();
    assert!(!b.sci.high());
    assert_eq!(peek(&*pm, 0, 2), Some(0));
}

#[test]
fn sleep_types_ask_for_what_the_dsdt_means() {
    let b = Bench::new();
    let pm = b.ports(PM_BASE);
    let sleep = |kind: u64| poke(&*pm, 4, 2, (kind << 10) | 0x2000);

    assert_eq!(sleep(0), Some(Effect::Power(PowerRequest::PowerOff)));
    assert_eq!(sleep(1), Some(Effect::Power(PowerRequest::Suspend)));
    assert_eq!(sleep(2), Some(Effect::Power(PowerRequest::PowerOff)));
    assert_eq!(sleep(3), Some(Effect::None));
    assert_eq!(peek(&*pm, 4, 2), Some(3 << 10), "SLP_EN reads as zero");
}

#[test]
fn sleep_type_alone_asks_for_nothing() {
    let b = Bench::new();
    let pm = b.ports(PM_BASE);

    assert_eq!(poke(&*pm, 4, 2, 0x0001), Some(Effect::None));
    assert_eq!(poke(&*pm, 4, 1, 0x00), Some(Effect::None));
    assert_eq!(poke(&*pm, 5, 1, 0x20), Some(Effect::Power(PowerRequest::PowerOff)));
}

#[test]
fn disabled_sleep_states_are_ignored() {
    let b = Bench::with(PmOptions { disable_s3: true, disable_s4: true, s4_val: 2 });
    enable(&b.chip);
    let pm = b.ports(PM_BASE);

    assert_eq!(poke(&*pm, 4, 2, (1 << 10) | 0x2000), Some(Effect::None));
    assert_eq!(poke(&*pm, 4, 2, (2 << 10) | 0x2000), Some(Effect::None));
}

#[test]
fn timer_counts_at_its_frequency_in_24_bits() {
    let b = Bench::new();
    let pm = b.ports(PM_BASE);

    b.clock.advance(1_000_000_000);
    assert_eq!(peek(&*pm, 8, 4), Some(3_579_545));
    assert_eq!(peek(&*pm, 10, 1), Some(0x36));

    b.clock.advance(4_000_000_000);
    assert_eq!(peek(&*pm, 8, 4), Some(17_897_725 - (1 << 24)));
}

#[test]
fn timer_overflow_sets_status_and_interrupts_again_and_again() {
    let b = Bench::new();
    let pm = b.ports(PM_BASE);
    poke(&*pm, 2, 2, 1).unwrap();

    for round in 1..=3 {
        assert!(!b.sci.high());
        assert!(b.clock.step());
        assert!(b.sci.high(), "round {round}");
        assert_eq!(peek(&*pm, 8, 4), Some((round * 0x80_0000) & 0xff_ffff));
        poke(&*pm, 0, 2, 1).unwrap();
    }
}

#[test]
fn timer_overflow_shows_in_status_without_interrupts() {
    let b = Bench::new();
    let pm = b.ports(PM_BASE);
    assert_eq!(b.clock.next_deadline(), None);

    b.clock.advance(2_343_500_000);

    assert_eq!(peek(&*pm, 0, 2), Some(1));
    assert!(!b.sci.high());
}

#[test]
fn smi_command_hands_acpi_over_and_back() {
    let b = Bench::new();
    let (pm, apm) = (b.ports(PM_BASE), b.ports(0xb2));

    poke(&*apm, 0, 1, 0xf1).unwrap();
    assert_eq!(peek(&*pm, 4, 2), Some(1));
    assert_eq!(peek(&*apm, 0, 1), Some(0xf1));

    poke(&*apm, 0, 1, 0xf0).unwrap();
    assert_eq!(peek(&*pm, 4, 2), Some(0));
}

#[test]
fn general_purpose_event_interrupts_where_enabled() {
    let b = Bench::new();
    let gpe = b.ports(GPE_BASE);
    poke(&*gpe, 2, 2, 0x2).unwrap();

    b.chip.raise_gpe(1);
    assert!(b.sci.high());
    b.chip.raise_gpe(200);
    assert_eq!(peek(&*gpe, 0, 4), Some(0x0002_0002));

    poke(&*gpe, 0, 1, 0x2).unwrap();
    assert!(!b.sci.high());
}

#[test]
fn empty_smbus_answers_with_a_device_error() {
    let b = Bench::new();
    let _ = b.chip.config_write(cfg::SMBUS_BASE, &[0x01, 0xb1]);
    assert_eq!(b.chip.config_write(cfg::SMBUS_CONFIG, &[1]), Effect::Remap(Bdf::new(0, 1, 3)));
    let smbus = b.ports(0xb100);
    poke(&*smbus, 4, 1, 0xa1).unwrap();

    poke(&*smbus, 2, 1, 0x48).unwrap();
    assert_eq!(peek(&*smbus, 0, 1), Some(4));
    assert_eq!(peek(&*smbus, 2, 1), Some(8));

    poke(&*smbus, 0, 1, 0x1e).unwrap();
    assert_eq!(peek(&*smbus, 0, 1), Some(0));
}

#[test]
fn passes_the_battery() {
    assert_device_battery(
        || Bench::with(PmOptions::default()).chip,
        |chip| {
            enable(chip);
            chip.press_power_button();
            chip.raise_gpe(3);
            let pm = chip.regions().into_iter().find(|r| r.base == PM_BASE).unwrap().device;
            poke(&*pm, 2, 2, 0x101).unwrap();
        },
    );
}

#[test]
fn no_access_panics() {
    for (base, span) in [(PM_BASE, 64), (GPE_BASE, 4), (0xb2, 2), (0xb100, 16)] {
        let fresh = || {
            let b = Bench::new();
            let _ = b.chip.config_write(cfg::SMBUS_BASE, &[0x01, 0xb1]);
            let _ = b.chip.config_write(cfg::SMBUS_CONFIG, &[1]);
            b.ports(base)
        };
        hammer(fresh, span);
    }
}
