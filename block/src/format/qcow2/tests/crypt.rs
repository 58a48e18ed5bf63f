//! Encrypted images: random operations beside a plain byte array, and that nothing plain is in the file.

use std::sync::Arc;
use std::time::Duration;

use super::model::{compare, step};
use super::rig::{Dice, Recorder, rounds};
use crate::crypto::{LuksOptions, Secret, SlotChange};
use crate::format::qcow2::{CreateOptions, EncryptOptions, OpenOptions, Qcow2, check, create};
use crate::layer::{Layer, Preallocation, read_vec, write_all};

const SIZE: u64 = 1 << 20;

fn password(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn luks() -> EncryptOptions {
    let options = LuksOptions { iter_time: Duration::from_micros(1), ..LuksOptions::default() };
    EncryptOptions::Luks { password: password("one"), options }
}

fn aes() -> EncryptOptions {
    EncryptOptions::Aes { password: password("one") }
}

fn open(file: Arc<dyn Layer>, key: &str) -> Result<Qcow2, crate::BlockError> {
    Qcow2::open(file, &OpenOptions { discard: true, password: Some(password(key)), ..OpenOptions::default() })
}

fn mixes() -> Vec<CreateOptions> {
    let base = CreateOptions { size: SIZE, cluster_size: 4096, ..CreateOptions::default() };
    let with = |encrypt| CreateOptions { encrypt: Some(encrypt), ..base.clone() };
    vec![
        with(luks()),
        CreateOptions { version: 2, ..with(luks()) },
        CreateOptions { cluster_size: 65536, extended_l2: true, ..with(luks()) },
        CreateOptions { preallocation: Preallocation::Metadata, ..with(luks()) },
        CreateOptions { preallocation: Preallocation::Full, version: 2, ..with(luks()) },
        CreateOptions { cluster_size: 512, ..with(aes()) },
    ]
}

#[test]
fn random_operations_on_encrypted_images_read_back() {
    for (n, options) in mixes().into_iter().enumerate() {
        let recorder = Recorder::new(Vec::new());
        let file: Arc<dyn Layer> = recorder.clone();
        let mut disk = create(&file, None, &options).unwrap();
        let mut dice = Dice::new(n as u64 + 3);
        let mut model = vec![0u8; SIZE as usize];
        let mut unsure = vec![false; SIZE as usize];
        for _ in 0..rounds(2) {
            for _ in 0..60 {
                step(&mut dice, &disk, &mut model, &mut unsure);
            }
            drop(disk);
            let report = check(&file).unwrap();
            assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0), "{options:?}");
            disk = open(file.clone(), "one").unwrap();
        }
        let read = read_vec(&disk, 0, SIZE as usize).unwrap();
        compare(&read, &model, &unsure, 0);
    }
}

#[test]
fn what_the_guest_writes_is_nowhere_in_the_file() {
    for options in mixes() {
        let recorder = Recorder::new(Vec::new());
        let file: Arc<dyn Layer> = recorder.clone();
        let disk = create(&file, None, &options).unwrap();
        let text = b"a sentence that the host must not read from the file";
        write_all(&disk, text, 70_001).unwrap();
        drop(disk);
        let bytes = recorder.memory.bytes();
        assert!(!bytes.windows(text.len()).any(|window| window == text), "{options:?}");
    }
}

#[test]
fn image_opens_with_its_key_only_and_without_one_for_a_look() {
    let file: Arc<dyn Layer> = Recorder::new(Vec::new());
    create(&file, None, &mixes()[0]).unwrap();
    let told = |options: &OpenOptions| Qcow2::open(file.clone(), options).err().map(|e| e.to_string());

    let none = told(&OpenOptions::default()).unwrap();
    let wrong = told(&OpenOptions { password: Some(password("two")), ..OpenOptions::default() }).unwrap();
    let look =
        Qcow2::open(file.clone(), &OpenOptions { no_data: true, read_only: true, ..OpenOptions::default() }).unwrap();

    assert_eq!(none, "Parameter 'encrypt.key-secret' is required for cipher");
    assert_eq!(wrong, "Invalid password, cannot unlock any keyslot");
    assert!(look.encryption().is_some_and(|(_, luks)| luks.is_some()));
}

#[test]
fn other_password_opens_it_once_it_is_added() {
    let file: Arc<dyn Layer> = Recorder::new(Vec::new());
    let disk = create(&file, None, &mixes()[0]).unwrap();
    write_all(&disk, &[9; 5000], 1000).unwrap();
    let change =
        SlotChange::Activate { new: password("two"), slot: None, iter_time: Duration::from_micros(1), force: false };
    disk.change_slots(&password("one"), &change).unwrap();
    drop(disk);

    let disk = open(file, "two").unwrap();
    assert_eq!(read_vec(&disk, 1000, 5000).unwrap(), [9; 5000]);
}

#[test]
fn encrypted_images_take_no_compressed_clusters() {
    let file: Arc<dyn Layer> = Recorder::new(Vec::new());
    let disk = create(&file, None, &mixes()[0]).unwrap();
    let packed = disk.pack_cluster(&[1; 4096]).unwrap().unwrap();
    let refused = disk.write_packed(0, &packed).unwrap_err();
    assert_eq!(refused.to_string(), "Compression and encryption not supported at the same time");
}
