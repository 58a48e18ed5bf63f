use super::*;
use crate::scsi::sense;

const WRITE_EXCLUSIVE: u8 = 1;
const WRITE_EXCLUSIVE_ALL: u8 = 7;

fn pair() -> (Arc<LogicalUnit>, Arc<LogicalUnit>) {
    let (image, shared) = (MemImage::new(MIB), Reservations::new());
    let unit = || {
        let unit = LogicalUnit::new(UnitConfig::disk("d"), Some(Arc::clone(&image) as _), &shared).unwrap();
        ready(&unit);
        unit
    };
    (unit(), unit())
}

fn out(unit: &LogicalUnit, action: u8, kind: u8, key: u64, about: u64) -> Reply {
    let mut list = key.to_be_bytes().to_vec();
    list.extend(about.to_be_bytes());
    list.extend([0; 8]);
    run(unit, &[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list)
}

fn ok(reply: &Reply) {
    assert_eq!(reply.status, status::GOOD, "{reply:?}");
}

fn conflicts(reply: &Reply) {
    assert_eq!(reply.status, status::RESERVATION_CONFLICT, "{reply:?}");
}

#[test]
fn write_exclusive_lets_others_read_only() {
    let (a, b) = pair();
    ok(&out(&a, 0, 0, 0, 0x11));
    ok(&out(&a, 1, WRITE_EXCLUSIVE, 0x11, 0));
    ok(&run(&b, &read10(0, 1), &[]));
    conflicts(&run(&b, &write10(0, 1), &[0; 512]));
    conflicts(&run(&b, &[0x16, 0, 0, 0, 0, 0], &[]));
    ok(&run(&a, &write10(0, 1), &[0; 512]));
    assert_eq!(good(&b, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], &[]), [0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0x11]);
    assert_eq!(
        good(&b, &[0x5e, 1, 0, 0, 0, 0, 0, 0, 64, 0], &[])[7..],
        [16, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 1, 0, 0]
    );
    ok(&out(&a, 2, WRITE_EXCLUSIVE, 0x11, 0));
    ok(&run(&b, &write10(0, 1), &[0; 512]));
}

#[test]
fn wrong_keys_and_strangers_conflict() {
    let (a, b) = pair();
    conflicts(&out(&a, 1, WRITE_EXCLUSIVE, 0, 0));
    ok(&out(&a, 0, 0, 0, 0x11));
    conflicts(&out(&a, 0, 0, 0x12, 0x13));
    conflicts(&out(&a, 1, WRITE_EXCLUSIVE, 0x12, 0));
    ok(&out(&a, 1, WRITE_EXCLUSIVE, 0x11, 0));
    ok(&out(&b, 6, 0, 0, 0x22));
    conflicts(&out(&b, 1, WRITE_EXCLUSIVE, 0x22, 0));
    assert_eq!(out(&a, 2, 3, 0x11, 0).sense, Some(sense::INVALID_RELEASE));
    assert_eq!(out(&a, 1, 2, 0x11, 0).sense, Some(sense::INVALID_FIELD));
}

#[test]
fn preempt_takes_over_and_tells_the_loser() {
    let (a, b) = pair();
    ok(&out(&a, 0, 0, 0, 0x11));
    ok(&out(&a, 1, WRITE_EXCLUSIVE, 0x11, 0));
    ok(&out(&b, 0, 0, 0, 0x22));
    ok(&out(&b, 4, WRITE_EXCLUSIVE, 0x22, 0x11));
    assert_eq!(bad(&a, &read10(0, 1), &[]), sense::ATTENTION_REGISTRATIONS_PREEMPTED);
    conflicts(&run(&a, &write10(0, 1), &[0; 512]));
    ok(&run(&b, &write10(0, 1), &[0; 512]));
    conflicts(&out(&b, 4, WRITE_EXCLUSIVE, 0x22, 0x99));
}

#[test]
fn all_registrants_hold_until_the_last_goes() {
    let (a, b) = pair();
    ok(&out(&a, 0, 0, 0, 0x11));
    ok(&out(&b, 0, 0, 0, 0x22));
    ok(&out(&a, 1, WRITE_EXCLUSIVE_ALL, 0x11, 0));
    ok(&run(&b, &write10(0, 1), &[0; 512]));
    ok(&out(&a, 0, 0, 0x11, 0));
    conflicts(&run(&a, &write10(0, 1), &[0; 512]));
    ok(&run(&b, &write10(0, 1), &[0; 512]));
    ok(&out(&b, 3, 0, 0x22, 0));
    ok(&run(&a, &write10(0, 1), &[0; 512]));
}

#[test]
fn reservation_of_the_old_kind_goes_with_a_reset() {
    let (a, b) = pair();
    ok(&run(&a, &[0x16, 0, 0, 0, 0, 0], &[]));
    conflicts(&run(&b, &read10(0, 1), &[]));
    ok(&run(&b, &[0x12, 0, 0, 0, 36, 0], &[]));
    ok(&run(&b, &[0x17, 0, 0, 0, 0, 0], &[]));
    conflicts(&run(&b, &read10(0, 1), &[]));
    a.reset();
    ok(&run(&b, &read10(0, 1), &[]));
}

#[test]
fn long_and_short_forms_reserve_and_release_alike() {
    let (a, b) = pair();
    let (reserve, release) = ([0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ok(&run(&a, &reserve, &[]));
    conflicts(&run(&b, &[0x16, 0, 0, 0, 0, 0], &[]));
    conflicts(&run(&b, &reserve, &[]));
    ok(&run(&a, &[0x17, 0, 0, 0, 0, 0], &[]));
    ok(&run(&b, &[0x16, 0, 0, 0, 0, 0], &[]));
    conflicts(&run(&a, &read10(0, 1), &[]));
    ok(&run(&b, &release, &[]));
    ok(&run(&a, &read10(0, 1), &[]));
}

#[test]
fn extents_and_third_parties_cannot_reserve() {
    let (a, b) = pair();
    for refused in [1u8, 2, 0x10] {
        assert_eq!(bad(&a, &[0x56, refused, 0, 0, 0, 0, 0, 0, 0, 0], &[]), sense::INVALID_FIELD, "{refused:#x}");
        assert_eq!(bad(&a, &[0x57, refused, 0, 0, 0, 0, 0, 0, 0, 0], &[]), sense::INVALID_FIELD, "{refused:#x}");
    }
    assert_eq!(bad(&a, &[0x16, 0x11, 0, 0, 0, 0], &[]), sense::INVALID_FIELD);
    ok(&run(&b, &read10(0, 1), &[]));
}

#[test]
fn unit_that_goes_takes_its_reservation_along() {
    let (a, b) = pair();
    ok(&out(&a, 0, 0, 0, 0x11));
    ok(&out(&a, 1, 3, 0x11, 0));
    conflicts(&run(&b, &read10(0, 1), &[]));
    drop(a);
    ok(&run(&b, &read10(0, 1), &[]));
}

#[test]
fn registration_survives_save_and_restore() {
    let (a, _) = pair();
    ok(&out(&a, 0, 0, 0, 0x11));
    ok(&out(&a, 1, 3, 0x11, 0));
    let saved = a.save();
    let (c, d) = pair();
    c.restore(&saved).unwrap();
    assert_eq!(c.save(), saved);
    conflicts(&run(&d, &read10(0, 1), &[]));
}

#[test]
fn restored_units_hold_what_they_held_then_whoever_holds_it_now() {
    let (a, b) = pair();
    ok(&out(&a, 0, 0, 0, 0x11));
    ok(&out(&b, 0, 0, 0, 0x22));
    ok(&out(&a, 1, 3, 0x11, 0));
    let then = (a.save(), b.save());
    ok(&out(&b, 4, 3, 0x22, 0x11));
    assert_eq!(bad(&a, &read10(0, 1), &[]), sense::ATTENTION_REGISTRATIONS_PREEMPTED);
    conflicts(&run(&a, &read10(0, 1), &[]));
    a.restore(&then.0).unwrap();
    b.restore(&then.1).unwrap();
    assert_eq!((a.save(), b.save()), then);
    ok(&run(&a, &read10(0, 1), &[]));
    conflicts(&run(&b, &read10(0, 1), &[]));
}

#[test]
fn loss_that_was_not_told_yet_is_told_after_a_restore() {
    let (a, b) = pair();
    ok(&out(&a, 0, 0, 0, 0x11));
    ok(&out(&a, 1, WRITE_EXCLUSIVE, 0x11, 0));
    ok(&out(&b, 0, 0, 0, 0x22));
    ok(&out(&b, 4, WRITE_EXCLUSIVE, 0x22, 0x11));
    let saved = a.save();
    let (c, _d) = pair();
    c.restore(&saved).unwrap();
    assert_eq!(bad(&c, &read10(0, 1), &[]), sense::ATTENTION_REGISTRATIONS_PREEMPTED);
    ok(&run(&c, &read10(0, 1), &[]));
}

#[test]
fn reset_of_the_logical_unit_frees_what_another_reserved_and_tells_it() {
    let (a, b) = pair();
    ok(&run(&a, &[0x16, 0, 0, 0, 0, 0], &[]));
    conflicts(&run(&b, &read10(0, 1), &[]));
    let _nobody = b.reset_for_all();
    assert_eq!(bad(&b, &read10(0, 1), &[]), sense::ATTENTION_RESET);
    ok(&run(&b, &read10(0, 1), &[]));
    assert_eq!(bad(&a, &read10(0, 1), &[]), sense::ATTENTION_RESET);
    ok(&run(&a, &read10(0, 1), &[]));
}

#[test]
fn registration_outlives_a_reset_which_takes_the_place_of_what_was_not_told() {
    let (a, b) = pair();
    ok(&out(&b, 0, 0, 0, 0x22));
    ok(&out(&b, 1, WRITE_EXCLUSIVE, 0x22, 0));
    let preempt = || {
        ok(&out(&a, 0, 0, 0, 0x11));
        ok(&out(&b, 4, WRITE_EXCLUSIVE, 0x22, 0x11));
    };
    let told = |unit: &LogicalUnit| {
        assert_eq!(bad(unit, &[0; 6], &[]), sense::ATTENTION_RESET);
        ok(&run(unit, &[0; 6], &[]));
    };
    preempt();
    a.reset();
    b.reset();
    told(&a);
    told(&b);
    conflicts(&run(&a, &write10(0, 1), &[0; 512]));
    ok(&run(&b, &write10(0, 1), &[0; 512]));
    preempt();
    let _nobody = b.reset_for_all();
    told(&a);
}
