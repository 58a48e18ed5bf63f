//! A folder with images, and both programs in it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub(crate) struct Rig {
    folder: TempDir,
}

impl Rig {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A folder with one image of each kind that the verbs meet.
    pub(crate) fn new() -> Self {
        let rig = Self::empty();
        rig.write("plain.raw", 5 << 20, &[(0, 70_000, 1), (1 << 20, 4096, 2), (5 << 20, 0, 0)]);
        rig.write("short.raw", 1 << 20, &[(0, 65_536, 3)]);
        rig.qemu("create -q -f qcow2 empty.qcow2 20M");
        rig.qemu("create -q -f qcow2 full.qcow2 4M");
        rig.io("full.qcow2", &["write -P 1 0 100k", "write -P 2 1M 64k"]);
        rig.qemu("snapshot -c one full.qcow2");
        rig.io("full.qcow2", &["write -P 3 0 100k", "write -z 2M 64k", "write -P 5 3000k 700k"]);
        rig.qemu("convert -c -O qcow2 full.qcow2 packed.qcow2");
        rig.qemu("convert -c -O qcow2 -o compression_type=zstd,cluster_size=4k full.qcow2 zstd.qcow2");
        rig.qemu("convert -O qcow2 -o extended_l2=on plain.raw extended.qcow2");
        rig.qemu("convert -O qcow2 -o compat=0.10,cluster_size=512 plain.raw old.qcow2");
        rig.qemu("create -q -f qcow2 -b short.raw -F raw middle.qcow2 2M");
        rig.io("middle.qcow2", &["write -P 5 128k 64k"]);
        rig.qemu("create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2 3M");
        rig.io("top.qcow2", &["write -P 6 2900k 70k", "write -z 0 64k"]);
        rig
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A raw image with runs of bytes in it.
    pub(crate) fn write(&self, name: &str, size: u64, runs: &[(u64, usize, u8)]) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, len, byte) in runs {
            file.write_all_at(&vec![*byte; *len], *offset).unwrap();
        }
    }

    /// Runs the real `qemu-img`, which must succeed.
    pub(crate) fn qemu(&self, words: &str) {
        let ran = self.real(words);
        assert_eq!(ran.code, Some(0), "qemu-img {words}: {ran:?}");
    }

    /// Runs the real `qemu-img`, again if it could not tell how fast the processor is, which it asks for a LUKS key.
    pub(crate) fn real(&self, words: &str) -> Ran {
        let once = || -> Ran {
            let run = Command::new("qemu-img").args(split(words)).current_dir(self.folder.path()).output();
            run.expect("qemu-img is compared with: install the package qemu-utils").into()
        };
        let lost = |ran: &Ran| ran.err.contains("Unable to get accurate CPU usage");
        (0..20).map(|_| once()).find(|ran| !lost(ran)).unwrap_or_else(once)
    }

    /// Runs `qemu-io` commands, which must succeed.
    pub(crate) fn io(&self, name: &str, commands: &[&str]) {
        let mut qemu_io = Command::new("qemu-io");
        commands.iter().for_each(|command| {
            qemu_io.args(["-c", command]);
        });
        let run = qemu_io.arg(name).current_dir(self.folder.path()).output();
        let ran = Ran::from(run.expect("qemu-io writes the images: install the package qemu-utils"));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{commands:?}: {ran:?}");
    }

    /// Runs ours, called `qemu-img`.
    pub(crate) fn ours(&self, words: &str) -> Ran {
        let run = self.command(&split(words)).output();
        run.unwrap().into()
    }

    /// Starts ours and does not wait.
    pub(crate) fn start(&self, words: &str) -> std::process::Child {
        self.command(&split(words)).stderr(std::process::Stdio::piped()).spawn().unwrap()
    }

    /// Ours with these words, called `qemu-img`.
    pub(crate) fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rhea"));
        command.arg0("qemu-img").args(words).current_dir(self.folder.path());
        command
    }

    /// Runs ours with 10 seconds and 1 GiB; gives the exit code, `None` after a signal.
    pub(crate) fn bounded(&self, words: &str) -> Option<i32> {
        let program = env!("CARGO_BIN_EXE_rhea");
        let limits = "ulimit -v 1048576; exec timeout -s KILL 10 \"$0\" img \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", limits, program]).args(split(words)).current_dir(self.folder.path());
        let ran = Ran::from(command.output().unwrap());
        // `timeout` tells 137 for what it had to kill.
        ran.code.filter(|code| *code != 137)
    }

    /// Runs ours, which must succeed.
    pub(crate) fn works(&self, words: &str) {
        let ran = self.ours(words);
        assert_eq!(ran.code, Some(0), "{words}: {ran:?}");
    }

    /// Both say and exit the same.
    pub(crate) fn same(&self, words: &str) {
        assert_eq!(self.ours(words), self.real(words), "{words}");
    }

    /// Both print the same JSON, whatever the order of keys, and exit alike.
    pub(crate) fn same_json(&self, words: &str) {
        let (ours, real) = (self.ours(words), self.real(words));
        assert_eq!((ours.code, json(&ours.out)), (real.code, json(&real.out)), "{words}");
    }

    /// `qemu-img check` finds nothing wrong, not even leaks.
    pub(crate) fn sound(&self, name: &str) {
        let ran = self.real(&format!("check {name}"));
        assert_eq!(ran.code, Some(0), "{name}: {ran:?}");
    }

    /// `qemu-img compare` finds both alike.
    pub(crate) fn alike(&self, first: &str, second: &str) {
        let ran = self.real(&format!("compare {first} {second}"));
        assert_eq!(ran.code, Some(0), "{first} {second}: {ran:?}");
    }
}

pub(crate) fn split(words: &str) -> Vec<String> {
    words.split_whitespace().map(|word| word.replace("''", "")).collect()
}

/// The value, without what younger versions of qemu-img tell and the installed one does not.
fn json(text: &str) -> Value {
    let mut value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(object) => {
            for key in ["compressed", "children"] {
                object.remove(key);
            }
            object.values_mut().for_each(strip);
        }
        _ => {}
    }
}
