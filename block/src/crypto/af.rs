//! The anti-forensic splitter (LUKS On-Disk Format Specification 1.2.3, section 2.4): a key becomes many stripes of
//! which every single one is needed, so that a disk that keeps some old sectors does not keep the key.

use zeroize::Zeroizing;

use super::fill_random;
use super::hash::Hash;
use crate::error::BlockError;

/// The key out of its stripes; `split` holds a whole number of keys of `key_len` bytes.
pub(super) fn merge(hash: Hash, split: &[u8], key_len: usize) -> Zeroizing<Vec<u8>> {
    let last = split.len() / key_len - 1;
    let mut key = gather(hash, split, key_len, last);
    xor(&mut key, &split[last * key_len..][..key_len]);
    key
}

/// The key in `stripes` stripes.
///
/// # Errors
/// When the host gives no random bytes.
pub(super) fn split(hash: Hash, key: &[u8], stripes: usize) -> Result<Zeroizing<Vec<u8>>, BlockError> {
    let last = stripes - 1;
    let mut split = Zeroizing::new(vec![0; key.len() * stripes]);
    fill_random(&mut split[..last * key.len()])?;
    let mut rest = gather(hash, &split, key.len(), last);
    xor(&mut rest, key);
    split[last * key.len()..].copy_from_slice(&rest);
    Ok(split)
}

/// The first `count` stripes, mixed.
fn gather(hash: Hash, split: &[u8], key_len: usize, count: usize) -> Zeroizing<Vec<u8>> {
    let mut mixed = Zeroizing::new(vec![0; key_len]);
    for stripe in split.chunks_exact(key_len).take(count) {
        xor(&mut mixed, stripe);
        diffuse(hash, &mut mixed);
    }
    mixed
}

fn xor(into: &mut [u8], with: &[u8]) {
    into.iter_mut().zip(with).for_each(|(a, b)| *a ^= b);
}

/// H2 of the specification: each piece as long as a digest is replaced by the hash of its number and itself.
fn diffuse(hash: Hash, block: &mut [u8]) {
    let len = hash.digest(&[]).len();
    for (n, piece) in (0u32..).zip(block.chunks_mut(len)) {
        let digest = hash.digest(&[&n.to_be_bytes(), piece]);
        piece.copy_from_slice(&digest[..piece.len()]);
    }
}
