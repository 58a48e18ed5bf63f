//! `rhea nbd` and driver `nbd` beside other people's clients and servers.
//!
//! Needs `qemu-img`, `qemu-io`, `qemu-nbd` (Debian: qemu-utils), `nbdinfo`, `nbdcopy` (libnbd-bin) and `nbdkit`; a test
//! that cannot run them fails and says so.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const RHEA: &str = env!("CARGO_BIN_EXE_rhea");

/// A folder; servers that were started in it end with it.
struct Rig {
    folder: TempDir,
}

fn rig() -> Rig {
    Rig { folder: tempfile::tempdir().unwrap() }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Rig {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program on words that are parted by spaces.
    fn output(&self, program: &str, words: &str) -> Output {
        let mut command = Command::new(program);
        command.args(words.split(' ')).current_dir(self.folder.path());
        command.output().unwrap_or_else(|e| panic!("{program}: {e}"))
    }

    /// The same; it must succeed. Gives what it printed.
    fn run(&self, program: &str, words: &str) -> String {
        let output = self.output(program, words);
        assert!(output.status.success(), "{program} {words}: {}", text(&output));
        text(&output)
    }

    fn json(&self, program: &str, words: &str) -> Value {
        serde_json::from_str(&self.run(program, words)).unwrap()
    }

    /// Starts one of the two `qemu-nbd`s on the socket `s`, in the background once it listens.
    fn serve(&self, program: &[&str], words: &str) {
        let socket = self.path("s");
        let common = format!("--fork --pid-file=pid -t -k {}", socket.display());
        let [program, verb @ ..] = program else { panic!("no program") };
        let words = [verb, &[&common, words]].concat().join(" ");
        self.run(program, &words);
    }

    fn io(&self, file: &str, commands: &[&str]) -> String {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]).current_dir(self.folder.path());
        command.args(commands.iter().flat_map(|one| ["-c", one]));
        let output = command.arg(file).output().expect("qemu-io");
        assert!(output.status.success(), "qemu-io {commands:?}: {}", text(&output));
        text(&output)
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path("s").display())
    }

    /// A qcow2 image with a little in it, and a bitmap that knows of the second half of it.
    fn image(&self) {
        self.run("qemu-img", "create -q -f qcow2 a.qcow2 64M");
        self.write_image(&["write -P 1 0 1M", "write -P 2 10M 64k"]);
        self.run("qemu-img", "bitmap --add a.qcow2 b0");
        self.write_image(&["write -P 3 20M 128k"]);
    }

    fn write_image(&self, commands: &[&str]) {
        let mut command = Command::new("qemu-io");
        command.args(commands.iter().flat_map(|one| ["-c", one]));
        let output = command.arg("a.qcow2").current_dir(self.folder.path()).output().expect("qemu-io");
        assert!(output.status.success(), "{}", text(&output));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for name in ["pid", "kit"] {
            if let Ok(pid) = fs::read_to_string(self.path(name)) {
                let _ = Command::new("kill").arg(pid.trim()).status();
            }
        }
    }
}

/// Start, length and meaning of each run, as `nbdinfo --map` tells them.
fn runs(map: &Value) -> Vec<(u64, u64, String)> {
    let run = |run: &Value| {
        let number = |key: &str| run[key].as_u64().unwrap();
        (number("offset"), number("length"), run["description"].as_str().unwrap().to_owned())
    };
    map.as_array().unwrap().iter().map(run).collect()
}

#[test]
fn libnbd_reads_size_contexts_and_maps_of_our_server() {
    let rig = rig();
    rig.image();
    rig.serve(&[RHEA, "nbd"], "-f qcow2 -x disk -D words -B b0 -A -e 0 a.qcow2");
    let uri = rig.uri("disk");

    let info = rig.json("nbdinfo", &format!("--json {uri}"));
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 64 << 20);
    assert_eq!(export["description"], "words");
    assert_eq!(
        export["contexts"],
        serde_json::json!(["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"])
    );
    assert_eq!((&export["can_multi_conn"], &export["can_zero"]), (&true.into(), &true.into()));

    let map = runs(&rig.json("nbdinfo", &format!("--json --map {uri}")));
    assert_eq!(map[0], (0, 1 << 20, "data".to_owned()));
    assert_eq!(map[1], (1 << 20, 9 << 20, "hole,zero".to_owned()));
    let dirty = runs(&rig.json("nbdinfo", &format!("--json --map=qemu:dirty-bitmap:b0 {uri}")));
    assert_eq!(dirty[1], (20 << 20, 128 << 10, "dirty".to_owned()));
    assert_eq!(dirty.len(), 3);
    let depth = runs(&rig.json("nbdinfo", &format!("--json --map=qemu:allocation-depth {uri}")));
    assert_eq!(depth[0], (0, 1 << 20, "local".to_owned()));
}

/// `map` of both programs where the client asks for a context of the server's in place of `base:allocation`.
#[test]
fn bitmap_of_a_server_is_mapped_as_qemu_img_maps_it() {
    for server in [&[RHEA, "nbd"][..], &["qemu-nbd"]] {
        let rig = rig();
        rig.image();
        rig.serve(server, "-f qcow2 -x disk -B b0 -A -e 0 a.qcow2");
        let socket = rig.path("s");
        let socket = socket.display();
        let map = |program: &str, verb: &str, context: &str| {
            let words = format!(
                "{verb}map --output=json --image-opts \
                 driver=nbd,export=disk,server.type=unix,server.path={socket},x-dirty-bitmap={context}"
            );
            rig.output(program, &words)
        };
        for context in ["qemu:dirty-bitmap:b0", "qemu:allocation-depth", "base:allocation"] {
            let theirs = map("qemu-img", "", context);
            let ours = map(RHEA, "img ", context);
            assert!(theirs.status.success() && ours.status.success(), "{}{}", text(&theirs), text(&ours));
            let mut ours: Value = serde_json::from_slice(&ours.stdout).unwrap();
            for run in ours.as_array_mut().unwrap() {
                // Which 7.2 does not tell.
                run.as_object_mut().unwrap().remove("compressed");
            }
            let theirs: Value = serde_json::from_slice(&theirs.stdout).unwrap();
            assert_eq!(ours, theirs, "{context} of {server:?}");
        }
        let refusals = [("qemu:dirty-bitmap:other".to_owned(), "not found"), ("b".repeat(1024), "too long")];
        for (missing, why) in refusals {
            let [theirs, ours] = [map("qemu-img", "", &missing), map(RHEA, "img ", &missing)];
            assert_eq!((theirs.status.code(), ours.status.code()), (Some(1), Some(1)));
            assert!(text(&ours).contains(why), "{}", text(&ours));
        }
    }
}

#[test]
fn public_clients_write_and_copy_through_our_server() {
    let rig = rig();
    rig.run("qemu-img", "create -q -f qcow2 a.qcow2 64M");
    rig.serve(&[RHEA, "nbd"], "-f qcow2 -e 0 --discard=unmap a.qcow2");
    let uri = rig.uri("");

    rig.io(&uri, &["write -P 9 5000k 1M", "write -z 5500k 64k", "write -P 4 0 256k", "discard 0 64k", "flush"]);
    rig.io(&uri, &["read -P 9 5000k 500k", "read -P 0 5500k 64k", "read -P 0 0 64k", "read -P 4 64k 192k"]);
    rig.run("nbdcopy", &format!("{uri} copy.raw"));
    rig.run("qemu-img", &format!("compare -f raw -F raw copy.raw {uri}"));
    rig.run("nbdcopy", &format!("--requests=64 --connections=4 copy.raw {uri}"));
    rig.run("qemu-img", &format!("compare -f raw -F raw copy.raw {uri}"));
    rig.run("kill", fs::read_to_string(rig.path("pid")).unwrap().trim());
    while rig.path("pid").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }

    rig.run("qemu-img", "compare -f raw -F qcow2 copy.raw a.qcow2");
    let check = rig.run("qemu-img", "check a.qcow2");
    assert!(check.contains("No errors were found"), "{check}");
}

#[test]
fn server_ends_with_its_last_client_unless_told_to_stay() {
    let rig = rig();
    rig.image();
    let mut server = Command::new(RHEA)
        .args(["nbd", "-r", "-f", "qcow2", "-k"])
        .arg(rig.path("s"))
        .arg("a.qcow2")
        .current_dir(rig.folder.path())
        .spawn()
        .unwrap();
    while !rig.path("s").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let refused = rig.output("qemu-io", &format!("-f raw -c write_0_512 {}", rig.uri("")).replace('_', " "));
    assert!(!refused.status.success() || text(&refused).contains("read-only"), "{}", text(&refused));
    let _ = rig.output("nbdinfo", &rig.uri(""));
    assert!(server.wait().unwrap().success());
    assert!(!rig.path("s").exists());
}

/// What our tool makes of an export and back again, with every kind of server there is.
fn our_client_copies(rig: &Rig, image: &str) {
    let uri = rig.uri("");
    rig.run(RHEA, &format!("img convert -f raw -O qcow2 {uri} got.qcow2"));
    rig.run("qemu-img", &format!("compare -F qcow2 {image} got.qcow2"));
    rig.run("qemu-img", "create -q -f raw new.raw 64M");
    rig.io("new.raw", &["write -P 7 3M 70000", "write -P 8 60M 4M"]);
    rig.run(RHEA, &format!("img convert -n -f raw -O raw new.raw {uri}"));
    rig.run(RHEA, &format!("img compare -f raw -F raw new.raw {uri}"));
}

#[test]
fn our_client_reads_and_writes_through_qemu_nbd() {
    let rig = rig();
    rig.image();
    rig.serve(&["qemu-nbd"], "-f qcow2 -e 8 a.qcow2");

    let ours = rig.json(RHEA, &format!("img map --output json -f raw {}", rig.uri("")));
    let theirs = rig.json("qemu-img", &format!("map --output json -f raw {}", rig.uri("")));
    for (ours, theirs) in ours.as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
        for key in ["start", "length", "zero", "data"] {
            assert_eq!(ours[key], theirs[key], "{ours} {theirs}");
        }
    }
    our_client_copies(&rig, "-U -f qcow2 a.qcow2");
}

#[test]
fn our_client_reads_and_writes_through_nbdkit_with_large_blocks_only() {
    let rig = rig();
    rig.run("qemu-img", "create -q -f raw a.raw 64M");
    rig.io("a.raw", &["write -P 1 1M 3000"]);
    rig.run("cp", "a.raw before.raw");
    let words = "-U s -P kit --filter=blocksize-policy file a.raw blocksize-minimum=4k blocksize-error-policy=error";
    rig.run("nbdkit", words);
    our_client_copies(&rig, "-f raw before.raw");
}

fn rig_with_old_server() -> Rig {
    let rig = rig();
    rig.run("nbdkit", "-U s -P kit --oldstyle memory 1M");
    rig
}

#[test]
fn our_client_reads_through_a_server_without_chunks_and_refuses_an_old_one() {
    let rig = rig();
    rig.run("nbdkit", "-U s -P kit --no-sr memory 64M");
    rig.run("qemu-img", "create -q -f raw zero.raw 64M");
    our_client_copies(&rig, "-f raw zero.raw");

    let old = rig_with_old_server();
    let refused = old.output(RHEA, &format!("img info {}", old.uri("")));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("only knows the old handshake"), "{}", text(&refused));
}

#[test]
fn what_is_not_here_is_refused_in_one_sentence() {
    let rig = rig();
    rig.image();
    let refused = [
        ("nbd -c /dev/nbd0 a.qcow2", "rhea nbd: --connect is not supported: "),
        ("nbd --tls-creds=x a.qcow2", "rhea nbd: --tls-creds is not supported: "),
        ("nbd -k DIR/s -p 1 a.qcow2", "rhea nbd: --socket and --port or --bind are mutually exclusive"),
        ("nbd -k DIR/s -B none a.qcow2", "rhea nbd: Bitmap 'none' is not found"),
        ("nbd -k s a.qcow2", "rhea nbd: socket path must be absolute\n"),
        ("nbd -k DIR/s -n --cache=none a.qcow2", "rhea nbd: -n and --cache can only be specified once\n"),
        ("nbd -k DIR/s --cache=none --cache=none a.qcow2", "rhea nbd: -n and --cache can only be specified once\n"),
        ("nbd -k DIR/s --discard=unmap --discard=unmap a.qcow2", "rhea nbd: --discard can only be specified once\n"),
        ("nbd -k DIR/s --object iothread,id=a a.qcow2", "rhea nbd: --object iothread,id=a: "),
        (
            "nbd -k DIR/s --detect-zeroes=unmap a.qcow2",
            "rhea nbd: setting detect-zeroes to unmap is not allowed without setting discard operation to unmap\n",
        ),
        (
            "nbd -k DIR/s gone.qcow2",
            "rhea nbd: Failed to blk_new_open 'gone.qcow2': Could not open 'gone.qcow2': No such file or directory\n",
        ),
        ("nbd -k DIR/no/s a.qcow2", "rhea nbd: Failed to listen on 'DIR/no/s': No such file or directory"),
        ("img info nbds://host/x", "rhea img: Could not open 'nbds://host/x': "),
        (
            "img info nbd+unix:///x?socket=gone",
            "rhea img: Could not open 'nbd+unix:///x?socket=gone': Failed to connect",
        ),
    ];
    let folder = rig.path("").display().to_string();
    let placed = |text: &str| text.replace("DIR", folder.trim_end_matches('/'));
    for (words, sentence) in refused {
        let (words, sentence) = (&placed(words), &placed(sentence));
        let output = rig.output(RHEA, words);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(text(&output).starts_with(sentence), "{words}: {}", text(&output));
    }
    assert!(!rig.path("s").exists());
}

#[test]
fn socket_that_was_passed_is_served() {
    let rig = rig();
    rig.image();
    let output = rig.run("nbdinfo", &format!("--size -- [ {RHEA} nbd -r -f qcow2 a.qcow2 ]"));
    assert_eq!(output.trim(), (64 << 20).to_string());
}

#[test]
fn encrypted_image_is_served_to_who_has_no_key() {
    let rig = rig();
    let key = "--object secret,id=key,data=word";
    rig.run(RHEA, &format!("img create -q -f luks {key} -o key-secret=key,iter-time=10 a.luks 4M"));
    rig.serve(&[RHEA, "nbd"], &format!("{key} -e 0 --image-opts driver=luks,file.filename=a.luks,key-secret=key"));

    rig.io(&rig.uri(""), &["write -P 5 1M 64k", "read -P 5 1M 64k"]);

    assert!(!fs::read(rig.path("a.luks")).unwrap().windows(64).any(|bytes| bytes == [5; 64]));
}
