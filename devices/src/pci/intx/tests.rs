use super::*;
use crate::testing::RecordingLine;

fn bench() -> (Arc<PirqRouter>, Vec<Arc<RecordingLine>>) {
    let lines: Vec<_> = (0..16).map(|_| RecordingLine::new()).collect();
    let isa = std::array::from_fn(|i| Some(Arc::clone(&lines[i]) as Arc<dyn IrqLine>));
    (PirqRouter::new(isa), lines)
}

#[test]
fn pins_swizzle_by_slot() {
    let of = |slot| [1, 2, 3, 4].map(|pin| pirq_of(slot, pin));

    assert_eq!(of(0), [3, 0, 1, 2]);
    assert_eq!(of(1), [0, 1, 2, 3]);
    assert_eq!(of(2), [1, 2, 3, 0]);
    assert_eq!(of(5), [0, 1, 2, 3]);
    assert_eq!(of(31), [2, 3, 0, 1]);
}

#[test]
fn wire_reaches_the_routed_interrupt_only() {
    let (router, lines) = bench();
    router.set_route(2, 11);

    router.line(3, 1).set(true);
    assert_eq!(lines[11].rises(), 1);

    let line = router.line(3, 1);
    line.set(true);
    assert!(lines.iter().enumerate().all(|(i, l)| l.high() == (i == 11)));
}

#[test]
fn interrupt_stays_high_until_all_sources_of_all_wires_let_go() {
    let (router, lines) = bench();
    router.set_route(0, 10);
    router.set_route(1, 10);
    let (a, b, c) = (router.line(1, 1), router.line(1, 1), router.line(2, 1));
    for line in [&a, &b, &c] {
        line.set(true);
    }

    a.set(false);
    assert!(lines[10].high());
    b.set(false);
    assert!(lines[10].high());
    c.set(false);
    assert!(!lines[10].high());
    assert_eq!(lines[10].rises(), 1);
}

#[test]
fn rerouting_moves_an_asserted_level() {
    let (router, lines) = bench();
    let line = router.line(1, 1);
    line.set(true);
    assert!(lines.iter().all(|l| !l.high()));

    router.set_route(0, 5);
    assert!(lines[5].high());

    router.set_route(0, 11);
    assert_eq!((lines[5].high(), lines[11].high()), (false, true));

    router.set_route(0, ROUTE_OFF | 11);
    assert!(!lines[11].high());
}

#[test]
fn reserved_interrupts_lead_nowhere() {
    let (router, lines) = bench();
    let line = router.line(1, 1);
    line.set(true);

    for irq in [0, 1, 2, 8, 13] {
        router.set_route(0, irq);
        assert_eq!(router.routed_to(0), None);
    }

    assert!(lines.iter().all(|l| l.rises() == 0));
}
