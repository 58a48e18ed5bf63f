use super::*;
use crate::pci::config::Identity;
use crate::testing::{RecordingSink, hammer, peek, poke};

struct Bench {
    msix: Msix,
    sink: Arc<RecordingSink>,
    config: ConfigSpace,
    capability: u8,
}

impl Bench {
    fn new(vectors: u16) -> Self {
        let sink = RecordingSink::new();
        let layout = MsixLayout::exclusive(1, vectors).unwrap();
        let msix = Msix::new(layout, Arc::clone(&sink) as Arc<dyn MsiSink>, Bdf::new(0, 3, 0));
        let mut config = ConfigSpace::type0(&Identity::default());
        let capability = msix.add_capability(&mut config).unwrap();
        Self { msix, sink, config, capability }
    }

    fn control(&mut self, high: u8) {
        let _ = self.config.write(self.capability + 3, &[high]);
        self.msix.sync(&self.config, self.capability);
    }

    fn program(&self, vector: u64, data: u64, mask: u64) {
        for (at, value) in [(0, 0xfee0_1000), (4, 0), (8, data), (12, mask)] {
            poke(&self.msix, vector * 16 + at, 4, value).unwrap();
        }
    }

    fn data(&self) -> Vec<u32> {
        self.sink.take().iter().map(|m| m.data).collect()
    }
}

#[test]
fn capability_names_table_and_pending_bits() {
    let b = Bench::new(5);

    assert_eq!(b.config.get32(b.capability), 0x0004_0011);
    assert_eq!(b.config.get32(b.capability + 4), 1);
    assert_eq!(b.config.get32(b.capability + 8), 0x801);
}

#[test]
fn layout_grows_with_vectors() {
    assert_eq!(MsixLayout::exclusive(1, 128).unwrap().bar_size, 4096);
    let large = MsixLayout::exclusive(1, 2048).unwrap();
    assert_eq!((large.pba, large.bar_size), (0x8000, 0x1_0000));
    assert_eq!(MsixLayout::exclusive(1, 0), Err(MsixError::Vectors(0)));
    assert_eq!(MsixLayout::exclusive(1, 2049), Err(MsixError::Vectors(2049)));
}

#[test]
fn signal_while_disabled_leaves_the_caller_with_intx() {
    let b = Bench::new(2);
    b.program(0, 7, 0);

    assert!(!b.msix.signal(0));
    assert!(b.data().is_empty());
}

#[test]
fn signal_delivers_address_data_and_requester() {
    let mut b = Bench::new(2);
    b.program(1, 0x41, 0);
    b.control(ENABLE);

    assert!(b.msix.signal(1));

    let message = MsiMessage { address: 0xfee0_1000, data: 0x41, requester: 0x18 };
    assert_eq!(b.sink.take(), [message]);
    assert_eq!(b.sink.direct(), 0);
}

#[test]
fn masked_vector_is_pending_until_unmasked() {
    let mut b = Bench::new(2);
    b.program(1, 0x41, 1);
    b.control(ENABLE);

    assert!(b.msix.signal(1));
    assert!(b.data().is_empty());
    assert_eq!(peek(&b.msix, 0x800, 8), Some(2));

    poke(&b.msix, 16 + 12, 4, 0).unwrap();
    assert_eq!(b.data(), [0x41]);
    assert_eq!(peek(&b.msix, 0x800, 8), Some(0));
}

#[test]
fn function_mask_holds_all_vectors_back() {
    let mut b = Bench::new(3);
    for v in 0..3 {
        b.program(v, v + 1, 0);
    }
    b.control(ENABLE | FUNCTION_MASK);
    assert!((0..3).all(|v| b.msix.signal(v)));
    assert!(b.data().is_empty());

    b.control(ENABLE);

    assert_eq!(b.data(), [1, 2, 3]);
}

#[test]
fn message_changed_while_live_takes_the_new_route() {
    let mut b = Bench::new(1);
    b.program(0, 0x41, 0);
    b.control(ENABLE);

    poke(&b.msix, 8, 4, 0x55).unwrap();
    b.msix.signal(0);

    assert_eq!(b.data(), [0x55]);
}

#[test]
fn refused_vector_still_delivers() {
    let mut b = Bench::new(1);
    b.sink.refuse_vectors();
    b.program(0, 0x41, 0);
    b.control(ENABLE);

    b.msix.signal(0);

    assert_eq!(b.data(), [0x41]);
    assert_eq!(b.sink.direct(), 1);
}

#[test]
fn unknown_vector_is_dropped() {
    let mut b = Bench::new(1);
    b.control(ENABLE);

    assert!(b.msix.signal(0xffff));
    assert!(b.data().is_empty());
}

#[test]
fn table_refuses_narrow_and_crooked_accesses() {
    let b = Bench::new(2);

    for (offset, len) in [(0, 1), (0, 2), (2, 4), (4, 8), (1, 8)] {
        assert_eq!(peek(&b.msix, offset, len), None);
        assert_eq!(poke(&b.msix, offset, len, 0), None);
    }
}

#[test]
fn pending_bits_and_reserved_control_bits_ignore_writes() {
    let b = Bench::new(2);

    poke(&b.msix, 0x800, 8, u64::MAX).unwrap();
    poke(&b.msix, 12, 4, u64::MAX).unwrap();

    assert_eq!(peek(&b.msix, 0x800, 8), Some(0));
    assert_eq!(peek(&b.msix, 12, 4), Some(1));
}

#[test]
fn restored_table_delivers_pending_after_sync() {
    let mut b = Bench::new(2);
    b.program(1, 0x41, 0);
    b.control(ENABLE | FUNCTION_MASK);
    b.msix.signal(1);
    let mut other = Bench::new(2);

    other.msix.restore(&b.msix.save()).unwrap();
    assert_eq!(other.msix.save(), b.msix.save());
    other.control(ENABLE);

    assert_eq!(other.data(), [0x41]);
}

#[test]
fn reset_masks_everything() {
    let mut b = Bench::new(2);
    let new = b.msix.save();
    b.program(0, 0x41, 0);
    b.control(ENABLE);

    b.msix.reset();

    assert_eq!(b.msix.save(), new);
    assert!(!b.msix.signal(0));
}

#[test]
fn state_of_another_size_is_refused() {
    let (two, three) = (Bench::new(2), Bench::new(3));

    assert!(two.msix.restore(&three.msix.save()).is_err());
}

#[test]
fn no_access_panics() {
    let fresh = || {
        let mut b = Bench::new(70);
        b.control(ENABLE);
        Arc::new(b.msix) as Arc<dyn BusDevice>
    };

    hammer(fresh, 4096);
}

#[test]
fn no_signal_is_lost_while_another_thread_masks_and_unmasks() {
    let mut b = Bench::new(1);
    b.program(0, 0x41, 0);
    b.control(ENABLE);

    for round in 0..500 {
        std::thread::scope(|scope| {
            scope.spawn(|| b.msix.signal(0));
            for mask in [1, 0, 1, 0] {
                poke(&b.msix, 12, 4, mask).unwrap();
            }
        });
        assert_eq!(b.data(), [0x41], "round {round}");
    }
}
