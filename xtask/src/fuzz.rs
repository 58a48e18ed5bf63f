//! `cargo xtask fuzz`: the targets of the folder `fuzz`, with something to start from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::packages::{self, Package};
use crate::{command, host, paths};

const PACKAGES: &[Package] =
    &[Package { name: "qemu-utils", program: "qemu-img", why: "makes the images that fuzzing starts from" }];

/// The targets, and what each is given.
const TARGETS: &[(&str, &str)] = &[
    ("qcow2", "a qcow2 image: open, read, check, write, snapshot, resize, repair"),
    ("formats", "an image of another program's format: open and read"),
    ("luks", "an encrypted image: open without and with its password, read, write"),
    ("options", "a command line"),
    ("qmp", "what a QMP client sends"),
    ("chains", "rings and descriptors of a virtio driver"),
    ("ide", "registers, commands, packets and PRD tables of an IDE driver"),
    ("scsi", "command blocks and parameters of a SCSI driver"),
    ("chips", "registers of clock, fw_cfg, flash and configuration space"),
];

/// A small image that is then damaged.
pub(crate) struct Image {
    pub(crate) name: &'static str,
    format: &'static str,
    /// What `-o` says.
    options: &'static str,
}

const fn of(name: &'static str, format: &'static str, options: &'static str) -> Image {
    Image { name, format, options }
}

/// Small images of every kind. Those with a key have the password "one".
pub(crate) const IMAGES: &[Image] = &[
    of("tiny-clusters", "qcow2", "cluster_size=512"),
    of("version-2", "qcow2", "cluster_size=4096,compat=0.10"),
    of("narrow-counts", "qcow2", "cluster_size=4096,refcount_bits=1"),
    of("wide-counts", "qcow2", "cluster_size=4096,refcount_bits=64"),
    of("extended", "qcow2", "cluster_size=16384,extended_l2=on"),
    of("lazy-zstd", "qcow2", "cluster_size=4096,lazy_refcounts=on,compression_type=zstd"),
    of("preallocated", "qcow2", "cluster_size=4096,preallocation=metadata"),
    of("encrypted", "qcow2", "cluster_size=4096,encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=1"),
    of("luks", "luks", "key-secret=key,iter-time=1"),
    of("vmdk", "vmdk", ""),
    of("vdi", "vdi", ""),
    of("vhdx", "vhdx", ""),
    of("vpc", "vpc", ""),
    of("qed", "qed", ""),
    of("parallels", "parallels", ""),
];

impl Image {
    fn has_key(&self) -> bool {
        self.options.contains("key-secret")
    }

    /// For images with a key: the driver that opens them, and what stands before `key-secret` and its like there.
    pub(crate) fn key(&self) -> Option<(&'static str, &'static str)> {
        let prefix = if self.format == "qcow2" { "encrypt." } else { "" };
        self.has_key().then_some((self.format, prefix))
    }

    /// The fuzz target that begins with it.
    fn target(&self) -> &'static str {
        match (self.has_key(), self.format) {
            (true, _) => "luks",
            (_, "qcow2") => "qcow2",
            _ => "formats",
        }
    }

    /// Makes it, with some data where no key is needed; a qcow2 one also with a snapshot and a bitmap, where it can have
    /// them. QEMU may lack a format, or the image a feature: what is there then does.
    pub(crate) fn make(&self, path: &Path) -> Result<()> {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "--object", "secret,id=key,data=one", "-f", self.format]);
        if !self.options.is_empty() {
            create.args(["-o", self.options]);
        }
        create.arg(path).arg("128K");
        // On a busy machine QEMU often cannot tell how fast the processor is, which it asks for a key.
        let tries = if self.has_key() { 20 } else { 1 };
        let mut made = false;
        for _ in 0..tries {
            made = made || create.output()?.status.success();
        }
        if !made || self.has_key() {
            return Ok(());
        }
        for write in ["write -q -P 7 3000 9000", "write -q -P 9 65536 4096"] {
            let _ = Command::new("qemu-io").args(["-f", self.format, "-c", write]).arg(path).output()?;
        }
        if self.format == "qcow2" {
            let _ = Command::new("qemu-img").args(["snapshot", "-c", "s"]).arg(path).output()?;
            let _ = Command::new("qemu-img").args(["bitmap", "--add"]).arg(path).arg("b").output()?;
        }
        Ok(())
    }
}

/// Feed what strangers may write to the code that reads it, until it fails or the time is over
///
/// Needs cargo-fuzz, which is installed from crates.io if it is not there, and the compiler's unstable instrumentation,
/// which RUSTC_BOOTSTRAP=1 allows. The inputs lie in fuzz/corpus; the first are made here. One that fails is kept in
/// fuzz/artifacts, and the same command with its path after the target runs it again. Without a target, all take turns.
#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// qcow2, formats, luks, options, qmp, chains, ide, scsi or chips
    target: Option<String>,
    /// Inputs to run once instead
    inputs: Vec<PathBuf>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs one target, or all.
pub(crate) fn run(args: &FuzzArgs) -> Result<u8> {
    let chosen: Vec<_> =
        TARGETS.iter().filter(|(name, _)| args.target.as_ref().is_none_or(|target| target == name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|(name, what)| format!("  {name}: {what}")).collect();
        bail!("there is no such target; there are\n{}", names.join("\n"));
    }
    packages::ensure(PACKAGES)?;
    if !host::has_program("cargo-fuzz") {
        println!("installing cargo-fuzz from crates.io: builds and runs the fuzz targets");
        command::run(Command::new("cargo").args(["install", "--locked", "cargo-fuzz"]))?;
    }
    for (name, what) in chosen {
        println!("{name}: {what}");
        let corpus = paths::root().join("fuzz/corpus").join(name);
        seed(name, &corpus)?;
        let mut fuzz = Command::new("cargo");
        fuzz.args(["fuzz", "run", "--sanitizer", "none"]);
        if matches!(*name, "options" | "qmp") {
            fuzz.args(["--features", "monitor"]);
        }
        fuzz.arg(name);
        if args.inputs.is_empty() {
            // As for the tests of hostile images: 10 s and 1 GiB are too much.
            let time = format!("-max_total_time={}", args.seconds);
            fuzz.args(["--", &time, "-timeout=10", "-rss_limit_mb=1024", "-max_len=1048576", "-print_final_stats=1"]);
        } else {
            fuzz.args(&args.inputs);
        }
        command::run(fuzz.current_dir(paths::root()).env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(0)
}

/// Makes the first inputs of a target.
fn seed(name: &str, corpus: &Path) -> Result<()> {
    if corpus.exists() {
        return Ok(());
    }
    fs::create_dir_all(corpus)?;
    match name {
        "qcow2" | "formats" | "luks" => {
            let mut images = IMAGES.iter().filter(|image| image.target() == name);
            images.try_for_each(|image| image.make(&corpus.join(image.name)))
        }
        "options" => {
            let lines = "-m\n512\n-smp\n2,maxcpus=4\n-drive\nfile=a.qcow2,if=virtio,cache=none\n-device\n\
                         {\"driver\":\"virtio-blk-pci\",\"drive\":\"x\"}\n-nographic\n-qmp\nunix:a,server=on,wait=off\n";
            Ok(fs::write(corpus.join("line"), lines)?)
        }
        "qmp" => {
            let lines = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"blockdev-add\",\"arguments\":{\"driver\":\
                         \"file\",\"node-name\":\"a\",\"filename\":\"b\"},\"id\":1}\n";
            Ok(fs::write(corpus.join("lines"), lines)?)
        }
        _ => Ok(fs::write(corpus.join("zeroes"), [0; 256])?),
    }
}
