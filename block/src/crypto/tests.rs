use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::layer::{Layer, read_vec, write_all};
use crate::mem::{Sink, Source};
use crate::protocol::memory::Memory;

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn quick(cipher: CipherAlg, mode: CipherMode, iv: IvGen, hash: Hash) -> LuksOptions {
    LuksOptions { cipher, mode, iv, hash, iter_time: Duration::from_micros(1) }
}

fn store(size: u64) -> Arc<dyn Layer> {
    Arc::new(Memory::new(vec![0; size as usize]))
}

#[test]
fn every_mix_opens_with_its_password_only() {
    let mixes = [
        quick(CipherAlg::Aes256, CipherMode::Xts, IvGen::Plain64, Hash::Sha256),
        quick(CipherAlg::Aes128, CipherMode::Cbc, IvGen::Essiv(Hash::Sha256), Hash::Sha1),
        quick(CipherAlg::Aes192, CipherMode::Cbc, IvGen::Plain, Hash::Sha512),
        quick(CipherAlg::Serpent256, CipherMode::Xts, IvGen::Plain64, Hash::Ripemd160),
        quick(CipherAlg::Twofish128, CipherMode::Ecb, IvGen::Plain64, Hash::Sha384),
    ];
    for options in mixes {
        let file = store(8 << 20);
        let (luks, made) = Luks::create(file.as_ref(), 4096, &options, &secret("one")).unwrap();
        let read = Luks::read(file.as_ref(), 4096, 4 << 20).unwrap();
        assert_eq!(read, luks);
        let opened = read.unlock(file.as_ref(), 4096, &secret("one")).unwrap();
        let mut bytes = vec![7; 1024];
        made.encrypt(&mut bytes, 99);
        assert_ne!(bytes, vec![7; 1024]);
        opened.decrypt(&mut bytes, 99);
        assert_eq!(bytes, vec![7; 1024], "{options:?}");
        assert!(read.unlock(file.as_ref(), 4096, &secret("two")).is_err());
    }
}

#[test]
fn slots_are_added_and_erased_but_never_the_last() {
    let file = store(8 << 20);
    let options = quick(CipherAlg::Aes128, CipherMode::Xts, IvGen::Plain64, Hash::Sha256);
    let (mut luks, _) = Luks::create(file.as_ref(), 0, &options, &secret("one")).unwrap();
    let add = SlotChange::Activate { new: secret("two"), slot: None, iter_time: options.iter_time, force: false };
    let erase = |old: &str| SlotChange::Erase { slot: None, old: Some(secret(old)), force: false };

    luks.change_slots(file.as_ref(), 0, &secret("one"), &add).unwrap();
    luks.change_slots(file.as_ref(), 0, &secret("two"), &erase("one")).unwrap();
    let refused = luks.change_slots(file.as_ref(), 0, &secret("two"), &erase("two")).unwrap_err();

    let again = Luks::read(file.as_ref(), 0, 4 << 20).unwrap();
    let active: Vec<_> = again.info().slots.iter().map(|slot| slot.active.is_some()).collect();
    assert_eq!(active, [false, true, false, false, false, false, false, false]);
    assert!(again.unlock(file.as_ref(), 0, &secret("two")).is_ok());
    assert!(again.unlock(file.as_ref(), 0, &secret("one")).is_err());
    assert!(refused.to_string().contains("refusing operation"), "{refused}");
}

#[test]
fn broken_headers_are_refused() {
    let file = store(8 << 20);
    let options = quick(CipherAlg::Aes256, CipherMode::Xts, IvGen::Plain64, Hash::Sha256);
    Luks::create(file.as_ref(), 0, &options, &secret("one")).unwrap();
    let sound = read_vec(file.as_ref(), 0, 592).unwrap();
    let patches: [(usize, &[u8]); 9] = [
        (0, b"L"),
        (7, &[2]),
        (8, b"des"),
        (40, b"zzz"),
        (72, b"md4"),
        (108, &[0, 0, 0, 63]),
        (164, &[0, 0, 0, 0]),
        (208, &[1, 2, 3, 4]),
        (248, &[0, 0, 0, 0]),
    ];
    for (at, patch) in patches {
        let mut broken = sound.clone();
        broken[at..at + patch.len()].copy_from_slice(patch);
        if at == 0 {
            broken[0] = b'l';
        }
        write_all(file.as_ref(), &broken, 0).unwrap();
        assert!(Luks::read(file.as_ref(), 0, 4 << 20).is_err(), "byte {at}");
    }
    write_all(file.as_ref(), &sound, 0).unwrap();
    assert!(Luks::read(file.as_ref(), 0, 1 << 20).is_err(), "key material past the room it has");
}

#[test]
fn headers_that_ask_for_hours_are_read_but_no_password_is_tried_on_them() {
    /// Where the iterations of the digest, of slot 0 and of slot 1 are, and the mark of slot 1.
    const PLACES: [usize; 3] = [164, 212, 260];
    const SECOND: usize = 256;
    let options = quick(CipherAlg::Aes256, CipherMode::Xts, IvGen::Plain64, Hash::Sha256);
    for at in PLACES {
        let file = store(8 << 20);
        Luks::create(file.as_ref(), 0, &options, &secret("one")).unwrap();
        write_all(file.as_ref(), &0x00ac_71f3_u32.to_be_bytes(), SECOND as u64).unwrap();
        write_all(file.as_ref(), &1000u32.to_be_bytes(), PLACES[2] as u64).unwrap();
        write_all(file.as_ref(), &u32::MAX.to_be_bytes(), at as u64).unwrap();
        let mut luks = Luks::read(file.as_ref(), 0, 4 << 20).unwrap();

        // The wrong password comes to both slots.
        let refused = luks.unlock(file.as_ref(), 0, &secret("two")).map(drop).unwrap_err();
        let erase = SlotChange::Erase { slot: None, old: Some(secret("two")), force: false };
        let erased = luks.change_slots(file.as_ref(), 0, &secret("one"), &erase).unwrap_err();

        assert!(refused.to_string().contains("would take more than 8 s"), "{refused}");
        assert!(erased.to_string().contains("would take more than 8 s"), "{erased}");
    }
}

#[test]
fn slots_that_would_take_too_long_to_open_are_not_made() {
    let file = store(8 << 20);
    let options = quick(CipherAlg::Aes256, CipherMode::Xts, IvGen::Plain64, Hash::Sha256);
    let long = MOST_ITER_TIME + Duration::from_millis(1);
    let too_long = LuksOptions { iter_time: long, ..options.clone() };

    assert!(Luks::create(file.as_ref(), 0, &too_long, &secret("one")).is_err());
    let (mut luks, _) = Luks::create(file.as_ref(), 0, &options, &secret("one")).unwrap();
    let add = SlotChange::Activate { new: secret("two"), slot: None, iter_time: long, force: false };
    assert!(luks.change_slots(file.as_ref(), 0, &secret("one"), &add).is_err());
}

#[test]
fn volume_writes_any_part_of_a_sector() {
    let file = store(1 << 16);
    let cipher = SectorCipher::new(CipherAlg::Aes256, CipherMode::Xts, IvGen::Plain64, &[5; 64]).unwrap();
    let volume = Volume::new(Some(cipher));
    let mut model = vec![0u8; 1 << 16];
    volume.write(file.as_ref(), Source::of(&model), 0, 1 << 20).unwrap();
    for (at, len, byte) in [(1, 1, 1), (511, 2, 2), (512, 512, 3), (700, 5000, 4), (65535, 1, 5)] {
        model[at..at + len].fill(byte);
        volume.write(file.as_ref(), Source::of(&vec![byte; len]), at as u64, (1 << 20) + at as u64).unwrap();
    }
    let mut read = vec![0; model.len() - 3];
    volume.read(file.as_ref(), Sink::of(&mut read), 3, (1 << 20) + 3).unwrap();
    assert!(read == model[3..]);
}

#[test]
fn secret_under_a_key_is_unwrapped() {
    // openssl enc -aes-256-cbc -K 00..1f -iv 00..0f of "letmein".
    let key = Secret::new((0..32).collect());
    let iv: Vec<u8> = (0..16).collect();
    let kept = 0x488e_09b9_6aa6_245f_1b8c_3f48_27ae_b67a_u128.to_be_bytes();
    assert_eq!(unwrap_secret(&key, &iv, &kept).unwrap(), secret("letmein"));
    assert!(unwrap_secret(&key, &iv, &[0; 16]).is_err());
    assert!(unwrap_secret(&key, &iv[..15], &[0; 16]).is_err());
    assert!(unwrap_secret(&Secret::new(vec![0; 31]), &iv, &[0; 16]).is_err());
}
