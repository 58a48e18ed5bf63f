use super::*;
use crate::testing::RecordingLine;

#[test]
fn shared_wire_is_high_while_any_source_is() {
    let line = RecordingLine::new();
    let wire = WiredOr::new(Arc::clone(&line) as Arc<dyn IrqLine>);
    let (a, b) = (wire.tap(), wire.tap());

    a.set(true);
    a.set(true);
    b.set(true);
    a.set(false);
    assert!(line.high());

    b.set(false);
    assert!(!line.high());
    assert_eq!(line.rises(), 1);
}

#[test]
fn dropped_source_lets_go_of_the_wire() {
    let line = RecordingLine::new();
    let wire = WiredOr::new(Arc::clone(&line) as Arc<dyn IrqLine>);
    let a = wire.tap();
    a.set(true);

    drop(a);

    assert!(!line.high());
}
