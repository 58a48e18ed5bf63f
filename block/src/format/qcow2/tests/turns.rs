//! One image that QEMU's tools and ours change in turn: every kind of change, on every mix of options.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::qemu::run_in;
use super::rig::{Dice, rounds, wide_mixes};
use crate::crypto::{LuksOptions, Secret};
use crate::format::qcow2::{CreateOptions, EncryptOptions, OpenOptions, Qcow2, check, create};
use crate::layer::{Layer, Preallocation, read_vec, write_all};
use crate::protocol::file::{FileOptions, HostFile};

const SIZE: u64 = 1 << 20;
const PASSWORD: &str = "one";

/// The image, and how both programs open it.
struct Turns {
    folder: tempfile::TempDir,
    options: CreateOptions,
    /// What the disk holds.
    model: Vec<u8>,
    /// What it held at each snapshot.
    kept: Vec<Vec<u8>>,
}

impl Turns {
    fn new(options: CreateOptions) -> Self {
        let turns =
            Self { folder: tempfile::tempdir().unwrap(), options, model: vec![0; SIZE as usize], kept: Vec::new() };
        let data = turns.options.data_file.is_some().then(|| turns.file("data"));
        drop(create(&turns.file("disk"), data, &turns.options).unwrap());
        turns
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> Arc<dyn Layer> {
        let path = self.path(name);
        std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        Arc::new(HostFile::open(&path, FileOptions::default()).unwrap())
    }

    fn open(&self) -> Qcow2 {
        let options = OpenOptions {
            discard: true,
            data_file: self.options.data_file.is_some().then(|| self.file("data")),
            password: self.options.encrypt.is_some().then(|| Secret::new(PASSWORD.as_bytes().to_vec())),
            ..OpenOptions::default()
        };
        Qcow2::open(self.file("disk"), &options).unwrap()
    }

    /// Runs one of QEMU's programs on the image: `words`, how it is opened, `last`.
    fn qemu(&self, program: &str, words: &[&str], last: &[&str]) {
        let name = self.path("disk").display().to_string();
        let secret = format!("secret,id=key,data={PASSWORD}");
        let options = format!("driver=qcow2,file.filename={name},encrypt.key-secret=key");
        let mut args = words.to_vec();
        if self.options.encrypt.is_some() {
            args.extend(["--object", &secret, "--image-opts", &options]);
        } else {
            args.push(&name);
        }
        args.extend(last);
        // The name of a data file is one for the working directory.
        run_in(self.folder.path(), program, &args);
    }

    fn qemu_io(&self, command: &str) {
        self.qemu("qemu-io", &["-d", "unmap", "-c", command], &[]);
    }

    /// Snapshots that the counts have room for; with an external data file there are none.
    fn most_snapshots(&self) -> usize {
        match (self.options.data_file.is_some(), self.options.refcount_bits) {
            (true, _) | (_, 1) => 0,
            (_, 2) => 2,
            _ => 3,
        }
    }

    /// One change of the disk by QEMU's tools or by ours; the model follows.
    fn change(&mut self, dice: &mut Dice) {
        let at = dice.roll(self.model.len() as u64 / 512) * 512;
        let len = (512 * (1 + dice.roll(160))).min(self.model.len() as u64 - at);
        let range = at as usize..(at + len) as usize;
        let by_qemu = dice.roll(2) == 0;
        match dice.roll(9) {
            0..=2 => {
                let byte = 1 + dice.roll(255) as u8;
                if by_qemu {
                    self.qemu_io(&format!("write -P {byte} {at} {len}"));
                } else {
                    write_all(&self.open(), &vec![byte; len as usize], at).unwrap();
                }
                self.model[range].fill(byte);
            }
            3 | 4 => {
                let unmap = dice.roll(2) == 0;
                if by_qemu {
                    self.qemu_io(&format!("write -z {} {at} {len}", if unmap { "-u" } else { "" }));
                } else {
                    self.open().write_zeroes(at, len, unmap).unwrap();
                }
                self.model[range].fill(0);
            }
            5 => {
                // Without a backing file, what is discarded whole reads as zeroes, the rest as before.
                if by_qemu {
                    self.qemu_io(&format!("discard {at} {len}"));
                } else {
                    self.open().discard(at, len).unwrap();
                }
                let now = read_vec(&self.open(), at, len as usize).unwrap();
                let right = now.iter().zip(&self.model[range.clone()]).all(|(now, old)| now == old || *now == 0);
                assert!(right, "a discard changed bytes to others");
                self.model[range].copy_from_slice(&now);
            }
            6 | 7 => self.change_snapshots(by_qemu, dice.roll(3)),
            _ if self.kept.is_empty() => {
                let size = (64 + dice.roll(4000)) * 512;
                if by_qemu {
                    self.qemu("qemu-img", &["resize", "-q", "--shrink"], &[&size.to_string()]);
                } else {
                    self.open().resize(size, Preallocation::Off).unwrap();
                }
                self.model.resize(size as usize, 0);
            }
            _ => {}
        }
    }

    /// Makes, applies or deletes a snapshot.
    fn change_snapshots(&mut self, by_qemu: bool, what: u64) {
        let newest = self.kept.len().saturating_sub(1);
        let by_img = |kind: &str, n: usize| self.qemu("qemu-img", &["snapshot", kind, &format!("s{n}")], &[]);
        match what {
            0 if self.kept.len() < self.most_snapshots() => {
                let n = self.kept.len();
                if by_qemu {
                    by_img("-c", n);
                } else {
                    self.open().snapshot_create(&format!("s{n}"), (0, 0)).unwrap();
                }
                self.kept.push(self.model.clone());
            }
            1 if !self.kept.is_empty() => {
                if by_qemu {
                    by_img("-a", newest);
                } else {
                    self.open().snapshot_apply(&format!("s{newest}")).unwrap();
                }
                self.model.clone_from(&self.kept[newest]);
            }
            2 if !self.kept.is_empty() => {
                if by_qemu {
                    by_img("-d", newest);
                } else {
                    self.open().snapshot_delete(&format!("s{newest}")).unwrap();
                }
                self.kept.pop();
            }
            _ => {}
        }
    }

    /// Both checks find nothing, and the disk is what the model says; so is a data file that can be used as it is.
    fn assert_right(&self, what: &str) {
        self.qemu("qemu-img", &["check"], &[]);
        let report = check(&self.file("disk")).unwrap();
        assert_eq!((report.leaks, report.corruptions), (0, 0), "{what}: {:?}", report.messages);
        let disk = self.open();
        assert_eq!(disk.size(), self.model.len() as u64, "{what}");
        assert!(read_vec(&disk, 0, self.model.len()).unwrap() == self.model, "{what}");
        if self.options.data_file.as_ref().is_some_and(|(_, raw)| *raw) {
            let mut plain = std::fs::read(self.path("data")).unwrap();
            plain.resize(self.model.len(), 0);
            assert!(plain == self.model, "{what}: the data file as a raw image");
        }
    }
}

/// Every mix, also with an external data file and encrypted.
fn all_mixes() -> Vec<CreateOptions> {
    let base = CreateOptions { size: SIZE, cluster_size: 4096, ..CreateOptions::default() };
    let external = |raw| CreateOptions { data_file: Some(("data".to_owned(), raw)), ..base.clone() };
    let password = || Secret::new(PASSWORD.as_bytes().to_vec());
    let luks = || {
        let options = LuksOptions { iter_time: Duration::from_micros(1), ..LuksOptions::default() };
        CreateOptions { encrypt: Some(EncryptOptions::Luks { password: password(), options }), ..base.clone() }
    };
    let mut all = wide_mixes(SIZE);
    all.extend([
        external(false),
        external(true),
        CreateOptions { cluster_size: 65536, extended_l2: true, ..external(false) },
        CreateOptions { cluster_size: 16384, extended_l2: true, ..external(true) },
        luks(),
        CreateOptions { cluster_size: 65536, extended_l2: true, ..luks() },
    ]);
    all
}

#[test]
fn every_kind_of_change_by_both_in_turn_keeps_to_the_model_and_checks_clean() {
    for (seed, options) in all_mixes().into_iter().enumerate() {
        let mut turns = Turns::new(options);
        let mut dice = Dice::new(seed as u64 + 77);
        for n in 0..rounds(6) {
            turns.change(&mut dice);
            turns.assert_right(&format!("seed {seed}, change {n}, {:?}", turns.options));
        }
    }
}
