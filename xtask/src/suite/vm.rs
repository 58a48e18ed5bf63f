//! A virtual machine under test: a monitor's process, the guest's console, QMP.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::qmp::Qmp;
use super::shell::Shell;
use super::stage::Stage;
use crate::command;
use crate::kernel::Flavor;

/// A monitor that was asked to end does so within this.
const END: Duration = Duration::from_secs(30);
/// One that is asked what it does answers within this, unless another session has its QMP socket.
const ANSWER: Duration = Duration::from_secs(5);

/// What a machine is to be like.
pub(crate) struct Recipe<'a> {
    stage: &'a Stage<'a>,
    flavor: Flavor,
    elf: bool,
    starts_itself: bool,
    memory: u32,
    processors: String,
    append: String,
    arguments: Vec<String>,
    has_init: bool,
}

impl<'a> Recipe<'a> {
    pub(super) fn new(stage: &'a Stage<'a>) -> Self {
        Self {
            stage,
            flavor: Flavor::Cloud,
            elf: false,
            starts_itself: false,
            memory: 256,
            processors: "1".into(),
            append: "console=ttyS0 quiet panic=-1".into(),
            arguments: Vec::new(),
            has_init: false,
        }
    }

    /// Boots another of Debian's kernels.
    pub(crate) fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// Boots the ELF file out of the bzImage.
    pub(crate) fn elf(mut self) -> Self {
        self.elf = true;
        self
    }

    /// Leaves it to the other arguments what the guest starts from: firmware on its own, or a kernel that is not ours.
    pub(crate) fn starts_itself(mut self) -> Self {
        self.starts_itself = true;
        self
    }

    /// Gives it this many MiB of memory.
    pub(crate) fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Gives it this many processors.
    pub(crate) fn processors(self, count: u32) -> Self {
        self.smp(&count.to_string())
    }

    /// Gives it processors as `-smp` takes them.
    pub(crate) fn smp(mut self, processors: &str) -> Self {
        processors.clone_into(&mut self.processors);
        self
    }

    /// Mounts this as the root file system and runs its init.
    pub(crate) fn root_on(mut self, device: &str) -> Self {
        self.has_init = true;
        self.append(&format!("root={device}"))
    }

    /// Adds to the kernel's command line.
    pub(crate) fn append(mut self, words: &str) -> Self {
        self.append += &format!(" {words}");
        self
    }

    /// Adds to the monitor's command line.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Adds a virtio disk.
    pub(crate) fn disk(self, image: &Path, format: &str) -> Self {
        let drive = format!("file={},format={format},if=virtio", image.display());
        self.with(&["-drive", &drive])
    }

    /// Adds the disk with tools as the first virtio disk.
    pub(crate) fn tools(self) -> Result<Self> {
        let drive = format!("file={},format=raw,if=virtio,readonly=on", self.stage.tools()?.display());
        Ok(self.with(&["-drive", &drive]))
    }

    /// Boots from the first virtio disk.
    pub(crate) fn root(self, image: &Path, format: &str) -> Self {
        self.disk(image, format).root_on("/dev/vda")
    }

    /// Starts the monitor.
    pub(crate) fn launch(self) -> Result<Vm> {
        let qmp = self.stage.scratch().join("qmp");
        self.launch_at(qmp)
    }

    /// Starts a second monitor of the same scenario, with a QMP socket of its own.
    pub(crate) fn launch_beside(self) -> Result<Vm> {
        let qmp = self.stage.scratch().join("qmp-beside");
        self.launch_at(qmp)
    }

    fn launch_at(self, qmp: PathBuf) -> Result<Vm> {
        // A socket that an earlier machine of the same scenario left would be taken for this one's.
        let _ = fs::remove_file(&qmp);
        let mut monitor = self.command(&qmp)?;
        self.stage.note(&command::line(&monitor));
        let mut process = monitor.spawn().with_context(|| format!("cannot start {}", command::line(&monitor)))?;
        let input = process.stdin.take().context("the monitor has no standard input")?;
        let output = process.stdout.take().context("the monitor has no standard output")?;
        let shell = Shell::start(output, input, &self.stage.log("console"))?;
        Ok(Vm { process, shell, qmp, has_init: self.has_init })
    }

    /// Starts the monitor and waits for the guest's shell.
    pub(crate) fn boot(self) -> Result<Vm> {
        let mut vm = self.launch()?;
        vm.ready()?;
        Ok(vm)
    }

    fn command(&self, qmp: &Path) -> Result<Command> {
        let mut monitor = Command::new(self.stage.monitor());
        // Without graphics, firmware talks on the serial port.
        monitor.args([
            "-machine",
            "pc,graphics=off",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-nodefaults",
            "-display",
            "none",
        ]);
        monitor.args(["-m", &self.memory.to_string(), "-smp", &self.processors]);
        if !self.starts_itself {
            let boot = self.stage.boot(self.flavor);
            monitor.arg("-kernel").arg(if self.elf { &boot.kernel.vmlinux } else { &boot.kernel.vmlinuz });
            monitor.arg("-initrd").arg(&boot.initramfs).args(["-append", &self.append]);
        }
        monitor.args(["-serial", "stdio", "-qmp", &format!("unix:{},server=on,wait=off", qmp.display())]);
        monitor.args(&self.arguments);
        monitor.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(self.stage.log_file("stderr")?);
        Ok(monitor)
    }
}

/// A running machine; killed when dropped.
pub(crate) struct Vm {
    process: Child,
    shell: Shell,
    qmp: PathBuf,
    has_init: bool,
}

impl Vm {
    /// Waits for the guest's shell to come up.
    pub(crate) fn ready(&mut self) -> Result<()> {
        let ready = self.shell.ready();
        ready.with_context(|| self.state())
    }

    /// Waits until the console shows this, and gives what came before.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let found = self.shell.wait_for(text, limit);
        found.with_context(|| self.state())
    }

    /// What the monitor and its guest are doing, for whoever has to explain a hang.
    fn state(&self) -> String {
        format!("the monitor's threads:\n{}\nits guest:\n{}", self.threads(), self.guest())
    }

    /// The processor, the interrupt controllers and the console's registers (enabled interrupts, line status, then the
    /// pending interrupt, which reading takes back), as far as the monitor answers.
    fn guest(&self) -> String {
        const WORDS: [&str; 8] = [
            "info status",
            "info registers",
            "info lapic",
            "info pic",
            "info irq",
            "i /1xb 0x3f9",
            "i /1xb 0x3fd",
            "i /1xb 0x3fa",
        ];
        let answers = Qmp::connect(&self.qmp, ANSWER).and_then(|mut qmp| {
            let ask = |word: &&str| {
                let answer = qmp.command("human-monitor-command", &json!({ "command-line": word }))?;
                Ok(format!("({word})\n{}", answer.as_str().unwrap_or_default()))
            };
            WORDS.iter().map(ask).collect::<Result<Vec<_>>>()
        });
        answers.map_or_else(|error| format!("{error:#}"), |answers| answers.join("\n"))
    }

    /// What each thread of the monitor is waiting for in the kernel.
    fn threads(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let line = |task: fs::DirEntry| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default().trim().to_owned();
            format!("  {} in {} ({})", read("comm"), read("wchan"), read("syscall"))
        };
        tasks.map(line).collect::<Vec<_>>().join("\n")
    }

    /// Makes the disk with tools usable by `chroot /mnt`.
    pub(crate) fn enter_tools(&mut self) -> Result<()> {
        let mounts = [("devtmpfs", "dev"), ("tmpfs", "tmp"), ("sysfs", "sys"), ("proc", "proc")];
        self.run("mount -o ro /dev/vda /mnt")?;
        mounts.iter().try_for_each(|(kind, at)| self.run(&format!("mount -t {kind} {kind} /mnt/{at}")).map(drop))
    }

    /// Runs a command in the guest and gives what it printed; its failure is ours.
    pub(crate) fn run(&mut self, line: &str) -> Result<String> {
        self.shell.run(line).with_context(|| self.state())
    }

    /// The same for a command that takes its time.
    pub(crate) fn run_within(&mut self, line: &str, limit: Duration) -> Result<String> {
        let ran = self.shell.run_within(line, limit);
        ran.with_context(|| self.state())
    }

    /// Types a line on the console.
    pub(crate) fn type_line(&mut self, line: &str) -> Result<()> {
        self.shell.type_line(line)
    }

    /// How many bytes the console has shown; they count as looked at.
    pub(crate) fn console_length(&mut self) -> usize {
        self.shell.length()
    }

    /// Opens a QMP session.
    pub(crate) fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.qmp, END)
    }

    /// The monitor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Asks the guest to power off and expects the monitor to end well.
    pub(crate) fn power_off(mut self) -> Result<()> {
        self.ask_init("poweroff")?;
        self.ends_well()
    }

    /// Has the guest reboot, and waits for its shell to come up again.
    pub(crate) fn reboot(&mut self) -> Result<()> {
        self.ask_init("reboot")?;
        self.ready()
    }

    /// Without an init program, the kernel is asked directly.
    fn ask_init(&mut self, action: &str) -> Result<()> {
        let force = if self.has_init { "" } else { " -f" };
        self.type_line(&format!("{action}{force}"))
    }

    /// Expects the monitor to end with status 0.
    pub(crate) fn ends_well(mut self) -> Result<()> {
        let status = self.wait()?;
        ensure!(status.success(), "the monitor ended with {status}");
        Ok(())
    }

    /// Ends the monitor as a power failure of its host would: at once.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Asks the monitor to end as an administrator would, and expects it to do so well.
    pub(crate) fn terminate(self) -> Result<()> {
        command::run(Command::new("kill").arg("-TERM").arg(self.pid().to_string()))?;
        self.ends_well()
    }

    /// Waits for the monitor to end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > END {
                bail!("the monitor has not ended after {} s", END.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended long since, and then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
