use super::*;

fn values(pairs: &[(u32, u64)]) -> Vec<MsrValue> {
    pairs.iter().map(|&(index, value)| MsrValue { index, value }).collect()
}

const SAVED: [(u32, u64); 5] = [(MSR_TSC_ADJUST, 1), (MSR_TSC, 1000), (0x174, 2), (MSR_TSC_DEADLINE, 3), (0x175, 4)];

#[test]
fn reset_starts_the_time_stamp_counter_again() {
    let order = in_order(&values(&SAVED), Tsc::Restart);

    assert_eq!(order, values(&[(0x174, 2), (0x175, 4), (MSR_TSC, 0), (MSR_TSC_ADJUST, 1)]));
}

#[test]
fn restore_lets_the_time_stamp_counter_go_on() {
    let order = in_order(&values(&SAVED), Tsc::Continue);

    assert_eq!(order, values(&[(0x174, 2), (0x175, 4), (MSR_TSC, 1000), (MSR_TSC_ADJUST, 1)]));
}

#[test]
fn counter_that_was_not_saved_is_left_alone() {
    assert_eq!(in_order(&values(&[(0x174, 2)]), Tsc::Restart), values(&[(0x174, 2)]));
}
