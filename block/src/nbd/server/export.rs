//! What a server shows, and what it tells of it.

use std::sync::{Arc, PoisonError, RwLock};

use crate::error::BlockError;
use crate::format::qcow2::{Bits, Qcow2};
use crate::layer::Layer;
use crate::nbd::proto::{ALLOCATION_DEPTH, BASE_ALLOCATION, DIRTY_BITMAP, STATE_HOLE, STATE_ZERO, flag};

/// One node shown to clients.
pub struct Export {
    /// The name that clients ask for; empty is the default one.
    pub name: String,
    /// For people who list exports.
    pub description: Option<String>,
    /// The content.
    pub layer: Arc<dyn Layer>,
    /// Clients may write.
    pub writable: bool,
    /// One client may use several connections.
    pub several: bool,
    /// Every write is durable before it is answered.
    pub write_through: bool,
    /// Dirty bitmaps, shown as `qemu:dirty-bitmap:NAME`.
    pub bitmaps: Vec<ShownBitmap>,
    /// The layers of the backing chain, the upper ones first, where `qemu:allocation-depth` is shown.
    pub chain: Option<Chain>,
}

/// The layers of a backing chain, which may become another while it is shown.
pub type Chain = Arc<RwLock<Vec<Arc<dyn Layer>>>>;

/// A dirty bitmap of an export: as it is, since it may go on recording.
pub struct ShownBitmap {
    /// Its name.
    pub name: String,
    /// The image that it is of.
    pub image: Arc<dyn Layer>,
    /// Its bits when the export began, which are the file's until the image has it in memory.
    pub bits: Bits,
}

impl ShownBitmap {
    fn run(&self, offset: u64, len: u64) -> (u64, u32) {
        let image = self.image.as_any().downcast_ref::<Qcow2>();
        let live = image.and_then(|image| image.with_bits(&self.name, |bits| run_of_bits(bits, offset, len)));
        live.unwrap_or_else(|| run_of_bits(&self.bits, offset, len))
    }
}

/// A metadata context that an export has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    Allocation,
    Depth,
    Bitmap(usize),
}

impl Export {
    pub(super) fn size(&self) -> u64 {
        self.layer.size()
    }

    pub(super) fn flags(&self) -> u16 {
        // A flush reaches what any connection wrote, as "CAN_MULTI_CONN" demands.
        let several = if self.several { flag::CAN_MULTI_CONN } else { 0 };
        let always = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE | several;
        if self.writable { always | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES } else { always | flag::READ_ONLY }
    }

    /// Every context with its name.
    pub(super) fn contexts(&self) -> Vec<(Context, String)> {
        let mut all = vec![(Context::Allocation, BASE_ALLOCATION.to_owned())];
        if self.chain.is_some() {
            all.push((Context::Depth, ALLOCATION_DEPTH.to_owned()));
        }
        let bitmaps = self.bitmaps.iter().enumerate();
        all.extend(bitmaps.map(|(n, bitmap)| (Context::Bitmap(n), format!("{DIRTY_BITMAP}{}", bitmap.name))));
        all
    }

    /// The run at `offset` in the eyes of `context`: its length, at most `len`, and its state.
    pub(super) fn run(&self, context: Context, offset: u64, len: u64) -> Result<(u64, u32), BlockError> {
        match context {
            Context::Allocation => {
                let status = self.layer.status(offset, len)?;
                let hole = if status.data { 0 } else { STATE_HOLE };
                let zero = if status.zero { STATE_ZERO } else { 0 };
                Ok((status.len.min(len), hole | zero))
            }
            Context::Depth => self.depth(offset, len),
            Context::Bitmap(n) => Ok(self.bitmaps.get(n).map_or((len, 0), |bitmap| bitmap.run(offset, len))),
        }
    }

    /// 1 where the upper layer has the bytes, 2 where the next one has, 0 where none has.
    fn depth(&self, offset: u64, mut len: u64) -> Result<(u64, u32), BlockError> {
        let chain = self.chain.as_ref().map(|chain| chain.read().unwrap_or_else(PoisonError::into_inner).clone());
        for (depth, layer) in (1..).zip(chain.iter().flatten()) {
            if offset >= layer.size() {
                continue;
            }
            let status = layer.status(offset, len.min(layer.size() - offset))?;
            len = len.min(status.len);
            if status.allocated {
                return Ok((len, depth));
            }
        }
        Ok((len, 0))
    }
}

/// The run of equal bits at `offset`.
fn run_of_bits(bits: &Bits, offset: u64, len: u64) -> (u64, u32) {
    let end = offset.saturating_add(len);
    let state = bits.next(offset..end, true) == Some(offset);
    let next = bits.next(offset..end, !state).unwrap_or(end);
    (next - offset, u32::from(state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::qcow2::{BitmapChange, CreateOptions, NewBitmap, create};
    use crate::layer::write_all;
    use crate::nbd::server::tests::export;
    use crate::protocol::memory::Memory;

    #[test]
    fn bitmap_shows_what_is_written_while_it_is_shown() {
        let file: Arc<dyn Layer> = Arc::new(Memory::new(Vec::new()));
        let image = create(&file, None, &CreateOptions { size: 1 << 20, ..CreateOptions::default() }).unwrap();
        image.change_bitmap("p", &BitmapChange::Add(NewBitmap::stored(Some(16)))).unwrap();
        let bits = image.take_bitmap("p", false).unwrap();
        let image: Arc<dyn Layer> = Arc::new(image);
        let shown = ShownBitmap { name: "p".into(), image: image.clone(), bits };
        let export = Export { layer: image.clone(), bitmaps: vec![shown], ..export("", Vec::new()) };
        let run = |offset| export.run(Context::Bitmap(0), offset, 1 << 20).unwrap();

        assert_eq!(run(0), (1 << 20, 0));
        write_all(image.as_ref(), &[1; 512], 1 << 16).unwrap();
        assert_eq!((run(0), run(1 << 16)), ((1 << 16, 0), (1 << 16, 1)));
    }

    #[test]
    fn runs_of_a_bitmap_end_where_bits_change() {
        let mut bytes = vec![0u8; 8];
        bytes[2..5].fill(0xff);
        bytes[5] = 1;
        let bits = Bits { granularity_bits: 9, size: 64 * 512, bytes };

        assert_eq!(run_of_bits(&bits, 100, 1 << 20), (16 * 512 - 100, 0));
        assert_eq!(run_of_bits(&bits, 16 * 512, 1 << 20), (25 * 512, 1));
        assert_eq!(run_of_bits(&bits, 16 * 512, 700), (700, 1));
        assert_eq!(run_of_bits(&bits, 41 * 512, 1 << 20), (1 << 20, 0));
    }
}
