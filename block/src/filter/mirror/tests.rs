use super::*;
use crate::layer::{read_vec, write_all};
use crate::protocol::memory::Memory;

fn pair() -> (Arc<Memory>, Arc<Memory>, Mirror) {
    let (inner, target) = (Arc::new(Memory::new(vec![1; 1 << 16])), Arc::new(Memory::new(vec![0; 1 << 16])));
    let mirror = Mirror::new(inner.clone(), target.clone(), true, 1);
    (inner, target, mirror)
}

#[test]
fn what_is_written_zeroed_and_discarded_is_the_same_in_both() {
    let (inner, target, mirror) = pair();

    write_all(&mirror, &[7; 4096], 8192).unwrap();
    mirror.write_zeroes(0, 4096, true).unwrap();
    mirror.discard(16384, 4096).unwrap();

    for range in [0..4096_u64, 8192..12288, 16384..20480] {
        let len = (range.end - range.start) as usize;
        assert_eq!(
            read_vec(inner.as_ref(), range.start, len).unwrap(),
            read_vec(target.as_ref(), range.start, len).unwrap(),
            "{range:?}"
        );
    }
    assert!(matches!(mirror.fast(FastOp::Write, 0, 512), Fast::Slow));
}

#[test]
fn write_waits_for_a_step_of_the_copying_in_its_range() {
    let (inner, target, mirror) = pair();
    let mirror = &mirror;

    std::thread::scope(|scope| {
        mirror
            .copy(0, 4096, || {
                let (source, copy) = (inner.as_ref(), target.as_ref());
                let writer = scope.spawn(move || write_all(mirror, &[9; 512], 1024));
                let old = read_vec(source, 0, 4096)?;
                std::thread::sleep(std::time::Duration::from_millis(20));
                assert!(!writer.is_finished());
                write_all(mirror, &[8; 512], 8192)?;
                write_all(copy, &old, 0)
            })
            .unwrap();
    });

    let both = [inner, target].map(|layer| read_vec(layer.as_ref(), 1024, 512).unwrap());
    assert_eq!(both, [vec![9; 512], vec![9; 512]]);
}

#[test]
fn what_a_failing_target_misses_is_told_once_and_remembered_until_it_is_copied() {
    let inner = Arc::new(Memory::new(vec![1; 3 << 16]));
    let mirror = Mirror::new(inner.clone(), Arc::new(Memory::read_only(vec![0; 3 << 16])), true, 1);

    write_all(&mirror, &[7; 512], 65_536).unwrap();
    write_all(&mirror, &[7; 512], 65_536).unwrap();

    assert_eq!(read_vec(inner.as_ref(), 65_536, 1).unwrap(), [7]);
    assert!(mirror.check().is_err());
    assert!(mirror.take_trouble().is_some() && mirror.take_trouble().is_none());
    assert!(mirror.check().is_err());
    assert_eq!(
        (mirror.missed(), mirror.next_missed(0), mirror.next_missed(150_000)),
        (65_536, Some(65_536..131_072), Some(65_536..131_072))
    );
    let failed = mirror.copy_missed(65_536..131_072, || Err::<(), _>(BlockError::new(ErrorKind::Io, "again")));
    assert!(failed.is_err() && mirror.missed() > 0);
    mirror.copy_missed(65_536..131_072, || Ok(())).unwrap();
    assert!(mirror.check().is_ok() && mirror.next_missed(0).is_none());
}

/// A disk that writes half of what it is given, and fails.
struct Halfway(Memory);

impl Halfway {
    fn half<T>(&self, done: Result<T, BlockError>) -> Result<T, BlockError> {
        done.and_then(|_| Err(BlockError::new(ErrorKind::Io, "halfway")))
    }
}

impl Layer for Halfway {
    fn driver(&self) -> &'static str {
        "halfway"
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn limits(&self) -> crate::layer::Limits {
        self.0.limits()
    }

    fn read(&self, into: crate::mem::Sink<'_>, offset: u64) -> Result<(), BlockError> {
        self.0.read(into, offset)
    }

    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.half(self.0.write(from.part(0, from.len() / 2), offset))
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.0.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.half(self.0.discard(offset, len / 2))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.half(self.0.write_zeroes(offset, len / 2, unmap))
    }

    fn status(&self, offset: u64, len: u64) -> Result<crate::layer::Status, BlockError> {
        self.0.status(offset, len)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn change_of_the_disk_that_fails_halfway_is_one_that_the_target_has_missed() {
    type Change = fn(&Mirror) -> Result<(), BlockError>;
    let changes: [Change; 3] = [
        |mirror| write_all(mirror, &[7; 4096], 65_536),
        |mirror| mirror.write_zeroes(65_536, 4096, true),
        |mirror| mirror.discard(65_536, 4096),
    ];
    for change in changes {
        let [inner, target] = [1, 1].map(|byte| Memory::new(vec![byte; 3 << 16]));
        let mirror = Mirror::new(Arc::new(Halfway(inner)), Arc::new(target), true, 1);

        assert_eq!(change(&mirror).unwrap_err().to_string(), "halfway");
        assert!(mirror.take_trouble().is_none(), "the target can be written");
        assert_eq!(mirror.next_missed(0), Some(65_536..131_072));
    }
}
