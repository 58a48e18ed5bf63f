use std::any::Any;
use std::sync::{Arc, Mutex};

use super::{CopyOptions, Unreadable, Watcher, copy};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, Limits, Status};
use crate::mem::{Sink, Source};
use crate::protocol::memory::Memory;

/// Memory with a range that cannot be read.
struct Scratched {
    memory: Memory,
    bad: std::ops::Range<u64>,
    /// Nor can be told what is there.
    unknown: bool,
}

impl Layer for Scratched {
    fn driver(&self) -> &'static str {
        "scratched"
    }
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn limits(&self) -> Limits {
        self.memory.limits()
    }
    fn read(&self, into: Sink<'_>, offset: u64) -> Result<(), BlockError> {
        if offset < self.bad.end && self.bad.start < offset + into.len() as u64 {
            return Err(BlockError::new(ErrorKind::Io, "scratched"));
        }
        self.memory.read(into, offset)
    }
    fn write(&self, from: Source<'_>, offset: u64) -> Result<(), BlockError> {
        self.memory.write(from, offset)
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
    fn discard(&self, _offset: u64, _len: u64) -> Result<(), BlockError> {
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.memory.write_zeroes(offset, len, unmap)
    }
    fn status(&self, offset: u64, len: u64) -> Result<Status, BlockError> {
        if self.unknown && offset < self.bad.end && self.bad.start < offset + len {
            return Err(BlockError::new(ErrorKind::Io, "scratched"));
        }
        Ok(Status::data(len, None))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Default)]
struct Heard {
    last: Mutex<(u64, u64)>,
    unreadable: Mutex<Vec<(Unreadable, u64)>>,
}

impl Watcher for Heard {
    fn progress(&self, done: u64, all: u64) {
        let mut last = self.last.lock().unwrap();
        *last = (last.0.max(done), all);
    }
    fn unreadable(&self, what: Unreadable, offset: u64, _error: &BlockError) {
        self.unreadable.lock().unwrap().push((what, offset));
    }
}

fn scratched() -> (Vec<u8>, Arc<dyn Layer>) {
    let bytes: Vec<u8> = (0..5 << 20).map(|n: u32| (n / 4096 % 5) as u8).collect();
    let source = Scratched { memory: Memory::new(bytes.clone()), bad: 3_000_000..3_000_001, unknown: false };
    (bytes, Arc::new(source))
}

#[test]
fn unreadable_source_fails_the_copy() {
    let (_, source) = scratched();
    let target: Arc<dyn Layer> = Arc::new(Memory::new(vec![7; 5 << 20]));

    let result = copy(&[source], &target, &CopyOptions::default(), Arc::new(Heard::default()));

    let told = result.unwrap_err().to_string();
    assert!(told.starts_with("error while reading at byte "), "{told}");
}

#[test]
fn salvage_loses_one_sector_alone_and_tells_it() {
    let (mut bytes, source) = scratched();
    let memory = Arc::new(Memory::new(vec![7; 5 << 20]));
    let target: Arc<dyn Layer> = memory.clone();
    let heard = Arc::new(Heard::default());
    let options = CopyOptions { salvage: true, ..CopyOptions::default() };

    copy(&[source], &target, &options, heard.clone()).unwrap();

    let lost = 3_000_000 / 512 * 512;
    bytes[lost..lost + 512].fill(0);
    assert!(memory.bytes() == bytes);
    assert_eq!(*heard.unreadable.lock().unwrap(), [(Unreadable::Data, lost as u64)]);
    assert_eq!(*heard.last.lock().unwrap(), (5 << 20, 5 << 20));
}

#[test]
fn salvage_tells_once_where_it_cannot_tell_what_there_is_and_reads_it() {
    let (mut bytes, _) = scratched();
    let source = Scratched { memory: Memory::new(bytes.clone()), bad: 3_000_000..3_000_001, unknown: true };
    let memory = Arc::new(Memory::new(vec![7; 5 << 20]));
    let target: Arc<dyn Layer> = memory.clone();
    let heard = Arc::new(Heard::default());
    let options = CopyOptions { salvage: true, workers: 1, ..CopyOptions::default() };

    copy(&[Arc::new(source)], &target, &options, heard.clone()).unwrap();

    let lost = 3_000_000 / 512 * 512;
    bytes[lost..lost + 512].fill(0);
    assert!(memory.bytes() == bytes);
    let at = lost as u64;
    assert_eq!(*heard.unreadable.lock().unwrap(), [(Unreadable::Status, at), (Unreadable::Data, at)]);
}

#[test]
fn copy_is_as_long_as_its_sources_in_any_order_of_pieces() {
    let parts: Vec<Arc<dyn Layer>> =
        [vec![1; 1000], vec![], vec![0; 3000], vec![2; 70_001]].map(|b| Arc::new(Memory::new(b)) as _).into();
    let memory = Arc::new(Memory::new(vec![9; 74_001]));
    let target: Arc<dyn Layer> = memory.clone();
    let options = CopyOptions { any_order: true, workers: 4, sparse: 512, ..CopyOptions::default() };

    copy(&parts, &target, &options, Arc::new(Heard::default())).unwrap();

    assert!(memory.bytes() == [vec![1; 1000], vec![0; 3000], vec![2; 70_001]].concat());
}
