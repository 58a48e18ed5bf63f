//! LUKS version 1: the header and its eight key slots (LUKS On-Disk Format Specification 1.2.3).
//!
//! ```text
//!   0     header (592 bytes), rest of 4 KiB
//!   4 KiB key material of slot 0 .. 7: the master key in 4000 stripes, under the slot's password
//!   ...   payload offset: the disk
//! ```
//!
//! Nothing here knows where the payload is kept; in qcow2 the header has clusters of its own and the payload is the
//! guest's clusters.

use std::time::Duration;

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::cipher::{CipherAlg, CipherMode, IvGen, SECTOR, SectorCipher};
use super::hash::Hash;
use super::secret::Secret;
use super::{af, invalid, random};
use crate::error::{BlockError, ErrorKind};
use crate::layer::{Layer, read_vec, write_all};
use crate::sys;

mod effort;
mod header;
mod slots;

pub use effort::MOST_ITER_TIME;
pub use slots::SlotChange;

use effort::Effort;
use header::{HEADER, Slot};

/// Key slots of a header.
const SLOTS: usize = 8;
/// Stripes of a key that is made here; the specification's recommendation.
const STRIPES: u32 = 4000;
/// Alignment of key material and payload in bytes, and where the first key material is.
const ALIGN: u64 = 4096;
/// Fewest iterations of a key derivation.
const FEWEST: u32 = 1000;
/// Most iterations of a key derivation that is made here.
const MOST: u32 = 1 << 28;
/// Least time of a sample of derivations: long enough to be told from noise.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(20);
/// Least time of the sample for a derivation that is to take long.
const LONGEST_SAMPLE: Duration = Duration::from_millis(250);

/// What a new LUKS header is like.
#[derive(Debug, Clone)]
pub struct LuksOptions {
    /// The cipher.
    pub cipher: CipherAlg,
    /// How blocks are chained.
    pub mode: CipherMode,
    /// What initialization vectors are made of.
    pub iv: IvGen,
    /// The hash of key derivation and splitter.
    pub hash: Hash,
    /// How long one key derivation is to take on a processor of its own, at most [`MOST_ITER_TIME`].
    pub iter_time: Duration,
}

impl Default for LuksOptions {
    fn default() -> Self {
        Self {
            cipher: CipherAlg::Aes256,
            mode: CipherMode::Xts,
            iv: IvGen::Plain64,
            hash: Hash::Sha256,
            iter_time: Duration::from_secs(2),
        }
    }
}

impl LuksOptions {
    /// Bytes of the master key.
    fn key_len(&self) -> usize {
        self.cipher.key_len() * self.mode.keys()
    }

    /// Bytes before the payload: header and key material.
    #[must_use]
    pub fn payload_offset(&self) -> u64 {
        ALIGN + SLOTS as u64 * slot_bytes(self.key_len())
    }
}

/// Bytes that a slot's key material takes.
fn slot_bytes(key_len: usize) -> u64 {
    (key_len as u64 * u64::from(STRIPES)).next_multiple_of(ALIGN)
}

/// A key slot, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Iterations and stripes, when it holds a key.
    pub active: Option<(u32, u32)>,
    /// Where its key material is, in bytes from the header's start.
    pub key_offset: u64,
}

/// A header, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LuksInfo {
    /// The cipher.
    pub cipher: CipherAlg,
    /// How blocks are chained.
    pub mode: CipherMode,
    /// What initialization vectors are made of.
    pub iv: IvGen,
    /// The hash.
    pub hash: Hash,
    /// Name of the volume.
    pub uuid: String,
    /// Start of the payload in bytes.
    pub payload_offset: u64,
    /// Iterations of the master key's digest.
    pub master_key_iterations: u32,
    /// All slots.
    pub slots: Vec<SlotInfo>,
}

impl LuksInfo {
    /// As `info` tells it, in QEMU's names and order.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        let slot = |slot: &SlotInfo| match slot.active {
            Some((iterations, stripes)) => {
                json!({ "active": true, "iters": iterations, "key-offset": slot.key_offset, "stripes": stripes })
            }
            None => json!({ "active": false, "key-offset": slot.key_offset }),
        };
        let mut map = Map::new();
        map.insert("ivgen-alg".into(), self.iv.name().into());
        map.insert("hash-alg".into(), self.hash.name().into());
        map.insert("cipher-alg".into(), self.cipher.name().into());
        map.insert("uuid".into(), self.uuid.clone().into());
        if let IvGen::Essiv(hash) = self.iv {
            map.insert("ivgen-hash-alg".into(), hash.name().into());
        }
        map.insert("cipher-mode".into(), self.mode.name().into());
        map.insert("slots".into(), self.slots.iter().map(slot).collect());
        map.insert("payload-offset".into(), self.payload_offset.into());
        map.insert("master-key-iters".into(), self.master_key_iterations.into());
        map
    }
}

/// A LUKS header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks {
    cipher: CipherAlg,
    mode: CipherMode,
    iv: IvGen,
    hash: Hash,
    /// In sectors.
    payload: u32,
    digest: [u8; 20],
    salt: [u8; 32],
    iterations: u32,
    uuid: String,
    slots: [Slot; SLOTS],
}

impl Luks {
    /// Reads and checks the header at `base` of `file`, with key material inside the next `room` bytes.
    ///
    /// # Errors
    /// When it is none, breaks the format's rules or names what is not known here.
    pub fn read(file: &dyn Layer, base: u64, room: u64) -> Result<Self, BlockError> {
        if room < HEADER as u64 {
            return Err(BlockError::new(ErrorKind::Corrupt, "the LUKS header is cut short"));
        }
        let luks = Self::decode(&read_vec(file, base, HEADER)?)?;
        luks.check(room)?;
        Ok(luks)
    }

    /// A new header with `password` in slot 0, and its master key.
    ///
    /// # Errors
    /// When the options contradict each other, or the host gives no random bytes. Nothing is written yet.
    fn generate(options: &LuksOptions) -> Result<(Self, Zeroizing<Vec<u8>>), BlockError> {
        effort::check_iter_time(options.iter_time)?;
        let mut key = Zeroizing::new(vec![0; options.key_len()]);
        super::fill_random(&mut key)?;
        // Refuses what does not fit together before a byte is written.
        SectorCipher::new(options.cipher, options.mode, options.iv, &key)?;
        let stride = (slot_bytes(key.len()) / SECTOR as u64) as u32;
        let first = (ALIGN / SECTOR as u64) as u32;
        let slots = std::array::from_fn(|n| Slot::empty(first + n as u32 * stride));
        let payload = (options.payload_offset() / SECTOR as u64) as u32;
        let mut luks = Self {
            cipher: options.cipher,
            mode: options.mode,
            iv: options.iv,
            hash: options.hash,
            payload,
            digest: [0; 20],
            salt: random()?,
            iterations: 0,
            uuid: new_uuid()?,
            slots,
        };
        // The digest is checked once for each slot that is tried.
        luks.iterations = (luks.iterations_for(options.iter_time) / SLOTS as u32).max(FEWEST);
        luks.digest = luks.digest_of(&key);
        Ok((luks, key))
    }

    /// Writes a new header at `base` of `file`, opened by `password`; gives it with the cipher of its payload.
    ///
    /// # Errors
    /// When the options contradict each other, or the host does not take the bytes.
    pub fn create(
        file: &dyn Layer,
        base: u64,
        options: &LuksOptions,
        password: &Secret,
    ) -> Result<(Self, SectorCipher), BlockError> {
        let (mut luks, key) = Self::generate(options)?;
        // Key material that no slot uses yet is there as zeroes: the file reaches as far as the header says.
        file.write_zeroes(base, luks.payload_offset(), false)?;
        luks.set_slot(file, base, 0, &key, password, options.iter_time)?;
        let cipher = luks.sector_cipher(&key)?;
        Ok((luks, cipher))
    }

    /// The cipher of the payload, unlocked by `password`.
    ///
    /// # Errors
    /// When no slot opens with it, its key material cannot be read, or trying would take longer than a header may ask for.
    pub fn unlock(&self, file: &dyn Layer, base: u64, password: &Secret) -> Result<SectorCipher, BlockError> {
        let key = self.master_key(file, base, password)?;
        self.sector_cipher(&key)
    }

    /// Start of the payload in bytes.
    #[must_use]
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.payload) * SECTOR as u64
    }

    /// What it says, for people.
    #[must_use]
    pub fn info(&self) -> LuksInfo {
        let slot = |slot: &Slot| SlotInfo {
            active: slot.active.then_some((slot.iterations, slot.stripes)),
            key_offset: slot.offset(),
        };
        LuksInfo {
            cipher: self.cipher,
            mode: self.mode,
            iv: self.iv,
            hash: self.hash,
            uuid: self.uuid.clone(),
            payload_offset: self.payload_offset(),
            master_key_iterations: self.iterations,
            slots: self.slots.iter().map(slot).collect(),
        }
    }

    fn key_len(&self) -> usize {
        self.cipher.key_len() * self.mode.keys()
    }

    fn sector_cipher(&self, key: &[u8]) -> Result<SectorCipher, BlockError> {
        SectorCipher::new(self.cipher, self.mode, self.iv, key)
    }

    fn digest_of(&self, key: &[u8]) -> [u8; 20] {
        let mut digest = [0; 20];
        self.hash.derive(key, &self.salt, self.iterations, &mut digest);
        digest
    }

    fn master_key(&self, file: &dyn Layer, base: u64, password: &Secret) -> Result<Zeroizing<Vec<u8>>, BlockError> {
        let mut effort = Effort::new();
        for (n, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.active) {
            self.take_upon(&mut effort, n, slot)?;
            if let Some(key) = self.try_slot(file, base, slot, password)? {
                return Ok(key);
            }
        }
        Err(BlockError::new(ErrorKind::Permission, "Invalid password, cannot unlock any keyslot"))
    }

    /// Whether a password is worth the work of trying it on slot `n`.
    fn take_upon(&self, effort: &mut Effort, n: usize, slot: &Slot) -> Result<(), BlockError> {
        // RFC 8018 section 5.2: each part of the key of a hash's length is derived by itself; the digest has 20 bytes.
        let passes = |iterations: u32, bytes: usize| u64::from(iterations) * self.hash.parts(bytes) as u64;
        let all = passes(slot.iterations, self.key_len()) + passes(self.iterations, self.digest.len());
        effort.take(all, &format!("Keyslot {n}"), || passes(self.sample(SHORTEST_SAMPLE).0, self.key_len()))
    }

    /// The master key, if `password` opens this slot.
    fn try_slot(
        &self,
        file: &dyn Layer,
        base: u64,
        slot: &Slot,
        password: &Secret,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, BlockError> {
        let mut derived = Zeroizing::new(vec![0; self.key_len()]);
        self.hash.derive(password.bytes(), &slot.salt, slot.iterations, &mut derived);
        let len = self.key_len() * slot.stripes as usize;
        let mut split = Zeroizing::new(read_vec(file, base + slot.offset(), len)?);
        self.sector_cipher(&derived)?.decrypt(&mut split, 0);
        let key = af::merge(self.hash, &split, self.key_len());
        Ok((self.digest_of(&key) == self.digest).then_some(key))
    }

    /// Puts the master key into slot `n`, under `password`: the material first, then the header that says so.
    fn set_slot(
        &mut self,
        file: &dyn Layer,
        base: u64,
        n: usize,
        key: &[u8],
        password: &Secret,
        iter_time: Duration,
    ) -> Result<(), BlockError> {
        let mut slot = self.slots[n].clone();
        slot.salt = random()?;
        slot.iterations = self.iterations_for(iter_time);
        slot.stripes = STRIPES;
        slot.active = true;
        let mut derived = Zeroizing::new(vec![0; key.len()]);
        self.hash.derive(password.bytes(), &slot.salt, slot.iterations, &mut derived);
        let mut split = af::split(self.hash, key, STRIPES as usize)?;
        self.sector_cipher(&derived)?.encrypt(&mut split, 0);
        write_all(file, &split, base + slot.offset())?;
        file.flush()?;
        self.slots[n] = slot;
        write_all(file, &self.encode(), base)?;
        file.flush()
    }

    /// Iterations that take about `time` of a processor of this host by itself, whatever else it is doing.
    fn iterations_for(&self, time: Duration) -> u32 {
        let (count, took) = self.sample((time / 8).clamp(SHORTEST_SAMPLE, LONGEST_SAMPLE));
        let wanted = f64::from(count) * time.as_secs_f64() / took.as_secs_f64().max(1e-6);
        (wanted as u32).clamp(FEWEST, MOST)
    }

    /// Some iterations that took this thread at least `least` of a processor's time, and how much that was.
    fn sample(&self, least: Duration) -> (u32, Duration) {
        let mut count = FEWEST;
        let mut derived = Zeroizing::new(vec![0; self.key_len()]);
        loop {
            // Not the time on the wall: where others have the processor, too, that would make for a weak key.
            let start = sys::thread_time();
            self.hash.derive(b"password", &self.salt, count, &mut derived);
            let took = sys::thread_time().saturating_sub(start);
            if took >= least || count >= MOST / 2 {
                return (count, took);
            }
            count *= 2;
        }
    }
}

/// A random name of RFC 9562, version 4.
fn new_uuid() -> Result<String, BlockError> {
    let mut b: [u8; 16] = random()?;
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn busy_host_makes_no_weaker_keys() {
        let options = LuksOptions { iter_time: Duration::from_millis(160), ..LuksOptions::default() };
        let (luks, _) = Luks::generate(&options).unwrap();
        let quiet = luks.iterations_for(options.iter_time);
        let done = AtomicBool::new(false);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);

        let busy = std::thread::scope(|scope| {
            for _ in 0..cores * 12 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let busy = luks.iterations_for(options.iter_time);
            done.store(true, Ordering::Relaxed);
            busy
        });

        assert!(busy > quiet / 4, "{busy} iterations beside others, {quiet} without");
    }

    #[test]
    fn sample_takes_the_processor_for_as_long_as_it_says() {
        let (luks, _) = Luks::generate(&LuksOptions { iter_time: SHORTEST_SAMPLE, ..LuksOptions::default() }).unwrap();
        let begun = sys::thread_time();

        let (count, took) = luks.sample(Duration::from_millis(60));

        assert!(count >= FEWEST && took >= Duration::from_millis(60), "{count} in {took:?}");
        assert!(took <= sys::thread_time() - begun);
    }
}
