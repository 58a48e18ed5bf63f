//! libvirt, as Debian has it, drives Rhea where it would drive QEMU.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command;
use crate::kernel::Flavor;
use crate::suite::shell::Shell;
use crate::suite::stage::Stage;

super::scenarios![libvirt_takes_a_domain_through_its_life];

/// The daemon answers, and a domain gets into a state, within this.
const LIMIT: Duration = Duration::from_secs(120);
/// The daemon's own directories get a file system in memory, so that it finds nothing of this machine's and leaves
/// nothing. A loop, because one of the steps ends the daemon and has it come back.
const DAEMON: &str = r#"
    for directory in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run/libvirt; do
        mkdir -p $directory && mount -t tmpfs tmpfs $directory || exit 1
    done
    cp "$1/qemu.conf" /etc/libvirt/
    while ! test -e "$1/stop"; do PATH="$1:$PATH" libvirtd --config "$1/libvirtd.conf" --pid-file "$1/pid"; done
"#;
/// No user, labels and groups of its own: what libvirt does with those is not about the emulator.
const QEMU_CONF: &str = r#"
    user = "root"
    group = "root"
    security_driver = "none"
    namespaces = []
    cgroup_controllers = []
    stdio_handler = "file"
"#;

/// A libvirt daemon; ended when dropped.
struct Libvirt {
    process: Child,
    directory: PathBuf,
}

impl Libvirt {
    /// Starts one that finds the monitor under QEMU's name.
    fn start(stage: &Stage<'_>) -> Result<Self> {
        let directory = stage.scratch().join("libvirt");
        fs::create_dir_all(&directory)?;
        std::os::unix::fs::symlink(fs::canonicalize(stage.monitor())?, directory.join(EMULATOR))?;
        fs::write(directory.join("qemu.conf"), QEMU_CONF)?;
        let sockets = directory.display();
        let settings = format!("unix_sock_dir = \"{sockets}\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n");
        fs::write(directory.join("libvirtd.conf"), settings)?;
        let mut daemon = Command::new("unshare");
        daemon.args(["--mount", "sh", "-c", DAEMON, "sh"]).arg(&directory);
        daemon.stdout(stage.log_file("libvirtd")?).stderr(stage.log_file("libvirtd")?);
        let process = daemon.spawn().context("cannot start libvirtd")?;
        let libvirt = Self { process, directory };
        libvirt.until(|virsh| virsh.virsh(&["version"]).map(|_| true))?;
        Ok(libvirt)
    }

    /// Runs one command of virsh's.
    fn virsh(&self, words: &[&str]) -> Result<String> {
        let uri = format!("qemu+unix:///system?socket={}", self.directory.join("libvirt-sock").display());
        let mut virsh = Command::new("timeout");
        virsh.args([&LIMIT.as_secs().to_string(), "virsh", "--quiet", "--connect", &uri]).args(words);
        command::output(&mut virsh).map(|said| said.trim().to_owned())
    }

    /// Waits until this holds; an error counts as not yet.
    fn until(&self, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        loop {
            match holds(self) {
                Ok(true) => return Ok(()),
                Err(error) if start.elapsed() > LIMIT => return Err(error),
                Ok(false) if start.elapsed() > LIMIT => bail!("it did not come to that within {} s", LIMIT.as_secs()),
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn until_state(&self, state: &str) -> Result<()> {
        let is_it = |virsh: &Self| Ok(virsh.virsh(&["domstate", "small", "--reason"])? == state);
        self.until(is_it).with_context(|| format!("{state}: {:?}", self.virsh(&["domstate", "small", "--reason"])))
    }

    /// Has the daemon end and come back, as an upgrade of its package would.
    fn restart(&self) -> Result<()> {
        let before = self.pid()?;
        command::run(Command::new("kill").arg(&before))?;
        self.until(|virsh| Ok(virsh.pid()? != before && virsh.virsh(&["version"]).is_ok()))
    }

    fn pid(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.join("pid"))?.trim().to_owned())
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let stopped = File::create(self.directory.join("stop")).map_err(anyhow::Error::from);
        let killed = stopped.and_then(|_| command::run(Command::new("kill").arg(self.pid()?)));
        // Without its daemon the loop would wait for ever.
        if killed.is_err() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// The name by which libvirt looks for emulators.
const EMULATOR: &str = "qemu-system-x86_64";

/// A domain without graphics that boots the small root file system.
fn domain(stage: &Stage<'_>, emulator: &Path, disk: &Path) -> String {
    let boot = stage.boot(Flavor::Cloud);
    format!(
        "<domain type='kvm'>
          <name>small</name>
          <memory unit='MiB'>256</memory>
          <vcpu>2</vcpu>
          <os>
            <type arch='x86_64' machine='pc'>hvm</type>
            <kernel>{}</kernel><initrd>{}</initrd>
            <cmdline>console=ttyS0 quiet panic=-1 root=/dev/vda</cmdline>
          </os>
          <features><acpi/></features>
          <cpu mode='host-passthrough'/>
          <devices>
            <emulator>{}</emulator>
            <disk type='file'>
              <driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/>
            </disk>
            <serial type='pty'/>
            <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
            <controller type='usb' model='none'/>
            <memballoon model='none'/>
          </devices>
        </domain>",
        boot.kernel.vmlinuz.display(),
        boot.initramfs.display(),
        emulator.display(),
        disk.display()
    )
}

fn console(stage: &Stage<'_>, libvirt: &Libvirt) -> Result<Shell> {
    let tty = libvirt.virsh(&["ttyconsole", "small"])?;
    let file = OpenOptions::new().read(true).write(true).open(&tty).with_context(|| format!("cannot open {tty}"))?;
    Shell::start(file.try_clone()?, file, &stage.log("console"))
}

fn libvirt_takes_a_domain_through_its_life(stage: &Stage<'_>) -> Result<()> {
    let disk = stage.root("qcow2")?;
    let libvirt = Libvirt::start(stage)?;
    let emulator = libvirt.directory.join(EMULATOR);
    let xml = stage.scratch().join("domain.xml");
    fs::write(&xml, domain(stage, &emulator, &disk))?;

    let capabilities = libvirt.virsh(&["capabilities"])?;
    ensure!(capabilities.contains(&format!("<emulator>{}", emulator.display())), "not found: {capabilities}");
    libvirt.virsh(&["domcapabilities", "--machine", "pc"])?;
    libvirt.virsh(&["define", &xml.display().to_string()])?;
    // Paused, so that nothing is said before someone listens.
    libvirt.virsh(&["start", "small", "--paused"])?;
    let mut guest = console(stage, &libvirt)?;
    libvirt.virsh(&["resume", "small"])?;
    guest.ready()?;

    looks(&libvirt)?;
    disks(stage, &libvirt, &mut guest)?;
    snapshots(&libvirt, &mut guest)?;
    backups(stage, &libvirt, &mut guest)?;

    libvirt.virsh(&["suspend", "small"])?;
    libvirt.until_state("paused (user)")?;
    libvirt.restart()?;
    libvirt.until_state("paused (user)")?;
    libvirt.virsh(&["resume", "small"])?;
    guest.run("true")?;

    libvirt.virsh(&["reset", "small"])?;
    guest.ready()?;
    libvirt.virsh(&["reboot", "small", "--mode", "acpi"])?;
    guest.ready()?;
    libvirt.virsh(&["shutdown", "small", "--mode", "acpi"])?;
    libvirt.until_state("shut off (shutdown)")?;
    ensure!(stage.faults(&disk)? == 0, "the image is damaged");

    libvirt.virsh(&["start", "small"])?;
    libvirt.virsh(&["destroy", "small"])?;
    libvirt.until_state("shut off (destroyed)")?;
    libvirt.virsh(&["undefine", "small"]).map(drop)
}

/// What only looks.
fn looks(libvirt: &Libvirt) -> Result<()> {
    let info = libvirt.virsh(&["dominfo", "small"])?;
    ensure!(info.contains("running"), "dominfo says {info}");
    let vcpus = libvirt.virsh(&["vcpuinfo", "small"])?;
    ensure!(vcpus.matches("CPU Affinity:").count() == 2, "vcpuinfo says {vcpus}");
    let numbers = libvirt.virsh(&["domstats", "small"])?;
    let read = numbers.lines().find_map(|line| line.trim().strip_prefix("block.0.rd.reqs="));
    ensure!(read.is_some_and(|count| count != "0"), "domstats says {numbers}");
    let status = libvirt.virsh(&["qemu-monitor-command", "small", r#"{"execute":"query-status"}"#])?;
    ensure!(status.contains(r#""status":"running""#), "query-status says {status}");
    let block = libvirt.virsh(&["qemu-monitor-command", "small", "--hmp", "info", "block"])?;
    ensure!(block.contains("libvirt-1-format: "), "info block says {block}");
    libvirt.virsh(&["iothreadadd", "small", "7"])?;
    let threads = libvirt.virsh(&["iothreadinfo", "small"])?;
    ensure!(threads.trim_start().starts_with('7'), "iothreadinfo says {threads}");
    libvirt.virsh(&["iothreaddel", "small", "7"]).map(drop)
}

/// Disks grow, come and go.
fn disks(stage: &Stage<'_>, libvirt: &Libvirt, guest: &mut Shell) -> Result<()> {
    libvirt.virsh(&["blockresize", "small", "vda", "96M"])?;
    let size = libvirt.virsh(&["domblkinfo", "small", "vda"])?;
    ensure!(size.contains("100663296"), "domblkinfo says {size}");
    let extra = stage.image("extra", "qcow2", "32M")?;
    let path = extra.display().to_string();
    libvirt.virsh(&["attach-disk", "small", &path, "vdb", "--driver", "qemu", "--subdriver", "qcow2"])?;
    guest.run("for i in $(seq 100); do test -b /dev/vdb && break; sleep 0.1; done; test -b /dev/vdb")?;
    guest.run("echo attached >/tmp/x && dd if=/tmp/x of=/dev/vdb conv=fsync")?;
    libvirt.virsh(&["detach-disk", "small", "vdb"])?;
    libvirt.until(|virsh| Ok(!virsh.virsh(&["domblklist", "small"])?.contains("vdb")))?;
    guest.run("! test -b /dev/vdb")?;
    ensure!(stage.content(&extra, "qcow2")?.starts_with(b"attached\n"), "what was written is lost");
    Ok(())
}

/// An overlay takes the writes of a guest that writes all the time, and is committed back under it.
fn snapshots(libvirt: &Libvirt, guest: &mut Shell) -> Result<()> {
    guest.run(
        "while :; do dd if=/dev/zero of=/root/busy bs=64k count=16 conv=fsync; done 2>/dev/null & echo $! >/tmp/busy",
    )?;
    libvirt.virsh(&["snapshot-create-as", "small", "over", "--disk-only", "--atomic", "--no-metadata"])?;
    let disks = libvirt.virsh(&["domblklist", "small"])?;
    ensure!(disks.contains(".over"), "domblklist says {disks}");
    guest.run("echo after >/root/after && sync")?;
    libvirt.virsh(&["blockcommit", "small", "vda", "--active", "--pivot", "--wait"])?;
    let disks = libvirt.virsh(&["domblklist", "small"])?;
    ensure!(!disks.contains(".over"), "domblklist says {disks}");
    guest.run("kill $(cat /tmp/busy); echo 3 >/proc/sys/vm/drop_caches; grep after /root/after").map(drop)
}

/// What the guest writes between a full backup and an incremental one is in the second, and not in the first.
fn backups(stage: &Stage<'_>, libvirt: &Libvirt, guest: &mut Shell) -> Result<()> {
    const MARK: &str = "written since the backup";
    let [full, changes] = ["full", "changes"].map(|name| stage.scratch().join(format!("{name}.qcow2")));
    guest.run(
        "while :; do dd if=/dev/zero of=/root/busy bs=64k count=16 conv=fsync; done 2>/dev/null & echo $! >/tmp/b",
    )?;
    backup(stage, libvirt, &full, None, "one")?;
    guest.run(&format!("echo {MARK} >/root/since && sync"))?;
    backup(stage, libvirt, &changes, Some("one"), "two")?;
    guest.run("kill $(cat /tmp/b)")?;
    for checkpoint in ["one", "two"] {
        libvirt.virsh(&["checkpoint-delete", "small", checkpoint])?;
    }
    // libvirt puts it on the disk that the guest has: what it holds itself is what counts.
    stage.img(&["rebase", "-u", "-f", "qcow2", "-b", "", &changes.display().to_string()])?;
    let has_mark = |image: &Path| {
        ensure!(stage.faults(image)? == 0, "the backup {} is damaged", image.display());
        Ok(stage.content(image, "qcow2")?.windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes()))
    };
    ensure!(!has_mark(&full)?, "the full backup has what was written after it");
    ensure!(has_mark(&changes)?, "the incremental backup lacks what was written before it");
    Ok(())
}

/// Has libvirt copy the disk, or what has changed since the checkpoint `since`, and begin the checkpoint `next`.
fn backup(stage: &Stage<'_>, libvirt: &Libvirt, target: &Path, since: Option<&str>, next: &str) -> Result<()> {
    let since = since.map(|name| format!("<incremental>{name}</incremental>")).unwrap_or_default();
    let target = target.display();
    let disk = format!("<disk name='vda' type='file'><driver type='qcow2'/><target file='{target}'/></disk>");
    let order = format!("<domainbackup>{since}<disks>{disk}</disks></domainbackup>");
    let checkpoint = format!("<domaincheckpoint><name>{next}</name></domaincheckpoint>");
    let [order_file, checkpoint_file] =
        ["backup", "checkpoint"].map(|name| stage.scratch().join(format!("{name}.xml")));
    fs::write(&order_file, order)?;
    fs::write(&checkpoint_file, checkpoint)?;
    let files = [&order_file, &checkpoint_file].map(|file| file.display().to_string());
    libvirt.virsh(&["backup-begin", "small", &files[0], &files[1]])?;
    libvirt.until(|virsh| Ok(virsh.virsh(&["domjobinfo", "small"])?.contains("None")))
}
