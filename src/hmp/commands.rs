//! The commands by name, and what is said about a line that is none.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::qmp::command::args::{
    BlockResize, BlockdevChangeReadOnlyMode, ChangeMedium, Eject, Id, RingbufRead, RingbufWrite,
};
use crate::qmp::{Command, Inspect, QmpError};

use super::{Context, disk_io, info, memory, objects};

/// The words of a line after the command's name.
pub(crate) struct Words<'a>(&'a [String]);

impl<'a> Words<'a> {
    /// The `index`th word.
    pub(crate) fn get(&self, index: usize) -> Option<&'a str> {
        self.0.get(index).map(String::as_str)
    }

    /// The `index`th word, which has to be there.
    pub(crate) fn need(&self, index: usize, what: &str) -> Result<&'a str, Failure> {
        self.get(index).ok_or_else(|| Failure::Usage(format!("{what} is missing")))
    }

    /// All words as they were, with a space between.
    pub(crate) fn rest(&self, from: usize) -> String {
        self.0.get(from..).unwrap_or_default().join(" ")
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Why a command printed no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The words are wrong; a hint to `help` follows.
    Usage(String),
    /// The machine said so.
    Error(QmpError),
}

impl From<QmpError> for Failure {
    fn from(error: QmpError) -> Self {
        Self::Error(error)
    }
}

/// What a command prints.
pub(crate) type Printed = Result<String, Failure>;

/// A command of the monitor.
pub(crate) struct Entry {
    /// The name and short forms: `stop|s`.
    pub(crate) names: &'static str,
    /// What follows it.
    pub(crate) parameters: &'static str,
    /// The most words that follow it.
    pub(crate) words: usize,
    /// One line.
    pub(crate) help: &'static str,
    /// Does it.
    pub(crate) run: fn(&mut Context<'_>, &Words<'_>) -> Printed,
}

impl Entry {
    fn answers_to(&self, name: &str) -> bool {
        self.names.split('|').any(|one| one == name)
    }

    fn describe(&self, before: &str) -> String {
        format!("{before}{} {} -- {}\n", self.names, self.parameters, self.help)
    }
}

/// All commands, by name.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry {
        names: "block_resize",
        parameters: "device size",
        words: 2,
        help: "resize a block image",
        run: block_resize,
    },
    Entry {
        names: "block_set_io_throttle",
        parameters: "device bps bps_rd bps_wr iops iops_rd iops_wr",
        words: 7,
        help: "change I/O throttle limits for a block drive",
        run: limit_disk,
    },
    Entry {
        names: "change",
        parameters: "[-f] device filename [format [read-only-mode]]",
        words: 5,
        help: "change a removable medium, optional format; -f whatever the guest says",
        run: change,
    },
    Entry {
        names: "chardev-remove",
        parameters: "id",
        words: 1,
        help: "remove chardev",
        run: |context, words| {
            let id = words.need(0, "id")?.to_owned();
            quiet(context, Command::ChardevRemove(Id { id }))
        },
    },
    Entry {
        names: "chardev-send-break",
        parameters: "id",
        words: 1,
        help: "send a break on chardev",
        run: |context, words| {
            let id = words.need(0, "id")?.to_owned();
            quiet(context, Command::ChardevSendBreak(Id { id }))
        },
    },
    Entry {
        names: "commit",
        parameters: "device|all",
        words: 1,
        help: "commit changes to the disk images (if -snapshot is used) or backing files",
        run: commit,
    },
    Entry {
        names: "cont|c",
        parameters: "",
        words: 0,
        help: "resume emulation",
        run: |context, _| quiet(context, Command::Cont),
    },
    Entry {
        names: "device_add",
        parameters: "driver[,prop=value][,...]",
        words: 1,
        help: "add device, like -device on the command line",
        run: objects::add_device,
    },
    Entry { names: "device_del", parameters: "device", words: 1, help: "remove device", run: objects::remove_device },
    Entry {
        names: "drive_backup",
        parameters: "[-n] [-f] [-c] device target [format]",
        words: 6,
        help: "initiates a point-in-time copy of device to an image file (-n takes the file as it is, -f copies all of the disk, -c stores it compressed)",
        run: drive_backup,
    },
    Entry {
        names: "drive_mirror",
        parameters: "[-n] [-f] device target [format]",
        words: 5,
        help: "initiates live storage migration for a device to an image file (-n takes the file as it is, -f copies all of the disk)",
        run: drive_mirror,
    },
    Entry {
        names: "eject",
        parameters: "[-f] device",
        words: 2,
        help: "eject a removable medium (use -f to force it)",
        run: eject,
    },
    Entry { names: "help|?", parameters: "[cmd]", words: 2, help: "show the help", run: help },
    Entry { names: "i", parameters: "/fmt addr", words: usize::MAX, help: "I/O port read", run: memory::read_port },
    Entry {
        names: "info",
        parameters: "[subcommand]",
        words: usize::MAX,
        help: "show various information about the system state",
        run: run_info,
    },
    Entry {
        names: "nmi",
        parameters: "",
        words: 0,
        help: "inject an NMI on all of the guest's CPUs",
        run: |context, _| quiet(context, Command::InjectNmi),
    },
    Entry {
        names: "object_add",
        parameters: "[qom-type=]type,id=str[,prop=value][,...]",
        words: 1,
        help: "create QOM object",
        run: objects::add_object,
    },
    Entry { names: "object_del", parameters: "id", words: 1, help: "destroy QOM object", run: objects::remove_object },
    Entry {
        names: "print|p",
        parameters: "/fmt expr",
        words: usize::MAX,
        help: "print expression value",
        run: |_, words| memory::print(words),
    },
    Entry { names: "qemu-io", parameters: "[-d] device \"command\"", words: 3, help: disk_io::HELP, run: disk_io::run },
    Entry { names: "qom-get", parameters: "path property", words: 2, help: "print QOM property", run: objects::get },
    Entry { names: "qom-list", parameters: "[path]", words: 1, help: "list QOM properties", run: objects::list },
    Entry {
        names: "qom-set",
        parameters: "[-j] path property value",
        words: 4,
        help: "set QOM property; -j: the value is JSON",
        run: objects::set,
    },
    Entry {
        names: "quit|q",
        parameters: "",
        words: 0,
        help: "quit the emulator",
        run: |context, _| quiet(context, Command::Quit),
    },
    Entry {
        names: "ringbuf_read",
        parameters: "device size",
        words: 2,
        help: "Read from a ring buffer character device",
        run: ringbuf_read,
    },
    Entry {
        names: "ringbuf_write",
        parameters: "device data",
        words: 2,
        help: "Write to a ring buffer character device",
        run: |context, words| {
            let (device, data) = (words.need(0, "device")?.to_owned(), words.need(1, "data")?.to_owned());
            quiet(context, Command::RingbufWrite(RingbufWrite { device, data, format: None }))
        },
    },
    Entry {
        names: "stop|s",
        parameters: "",
        words: 0,
        help: "stop emulation",
        run: |context, _| quiet(context, Command::Stop),
    },
    Entry {
        names: "system_powerdown",
        parameters: "",
        words: 0,
        help: "send system power down event",
        run: |context, _| quiet(context, Command::SystemPowerdown),
    },
    Entry {
        names: "system_reset",
        parameters: "",
        words: 0,
        help: "reset the system",
        run: |context, _| quiet(context, Command::SystemReset),
    },
    Entry {
        names: "system_wakeup",
        parameters: "",
        words: 0,
        help: "wakeup guest from suspend",
        run: |context, _| quiet(context, Command::SystemWakeup),
    },
    Entry {
        names: "x",
        parameters: "/fmt addr",
        words: usize::MAX,
        help: "virtual memory dump starting at 'addr'",
        run: |context, words| memory::examine(context, words, memory::Space::Virtual),
    },
    Entry {
        names: "xp",
        parameters: "/fmt addr",
        words: usize::MAX,
        help: "physical memory dump starting at 'addr'",
        run: |context, words| memory::examine(context, words, memory::Space::Physical),
    },
];

/// Runs a line; what goes wrong is printed like what goes right.
pub(crate) fn run(context: &mut Context<'_>, line: &str) -> String {
    let words = match split(line) {
        Ok(words) => words,
        Err(why) => return format!("{why}\n"),
    };
    let Some((name, rest)) = words.split_first() else { return String::new() };
    // `x/4xw 0` is as good as `x /4xw 0`.
    let (name, joined) = match name.split_once('/') {
        Some((name, format)) => (name, [vec![format!("/{format}")], rest.to_vec()].concat()),
        None => (name.as_str(), rest.to_vec()),
    };
    run_in(COMMANDS, context, name, &joined, "")
}

fn run_in(table: &[Entry], context: &mut Context<'_>, name: &str, words: &[String], before: &str) -> String {
    let Some(entry) = table.iter().find(|entry| entry.answers_to(name)) else {
        return format!("unknown command: '{before}{name}'\n");
    };
    let usage = |why: &str| format!("{why}\nTry \"help {before}{name}\" for more information\n");
    if words.len() > entry.words {
        return usage(&format!("{}: extraneous characters at the end of line", entry.names));
    }
    match (entry.run)(context, &Words(words)) {
        Ok(text) => text,
        Err(Failure::Usage(why)) => usage(&why),
        Err(Failure::Error(error)) => format!("Error: {error}\n"),
    }
}

/// Words are parted by blanks; in double quotes a blank is part of a word.
fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut letters = line.trim().chars().peekable();
    while let Some(first) = letters.peek().copied() {
        if first.is_whitespace() {
            letters.next();
            continue;
        }
        words.push(if first == '"' { quoted(&mut letters)? } else { plain(&mut letters) });
    }
    Ok(words)
}

type Letters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn plain(letters: &mut Letters<'_>) -> String {
    std::iter::from_fn(|| letters.next_if(|letter| !letter.is_whitespace())).collect()
}

fn quoted(letters: &mut Letters<'_>) -> Result<String, &'static str> {
    letters.next();
    let mut word = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Ok(word),
            '\\' => word.push(match letters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => break,
            }),
            other => word.push(other),
        }
    }
    Err("unterminated string")
}

/// For commands that print nothing when all is well.
pub(crate) fn quiet(context: &mut Context<'_>, command: Command) -> Printed {
    context.run(command)?;
    Ok(String::new())
}

fn help(_: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let describe = |table: &[Entry], before: &str, name: Option<&str>| -> String {
        let chosen = table.iter().filter(|entry| name.is_none_or(|name| entry.answers_to(name)));
        chosen.map(|entry| entry.describe(before)).collect()
    };
    Ok(match (words.get(0), words.get(1)) {
        (Some("info"), name) => describe(info::TOPICS, "info ", name),
        (name, _) => describe(COMMANDS, "", name),
    })
}

fn run_info(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    Ok(match words.0.split_first() {
        None => info::TOPICS.iter().map(|entry| entry.describe("info ")).collect(),
        Some((topic, rest)) => run_in(info::TOPICS, context, topic, rest, "info "),
    })
}

/// Whether the words begin with `-f`, and where those after it begin.
fn forced(words: &Words<'_>) -> (Option<bool>, usize) {
    if words.get(0) == Some("-f") { (Some(true), 1) } else { (None, 0) }
}

/// The flags among `known` with which a line begins, and where they end.
fn flags(words: &Words<'_>, known: &[&'static str]) -> (Vec<&'static str>, usize) {
    let given = (0..).map_while(|index| known.iter().copied().find(|flag| words.get(index) == Some(flag)));
    let given: Vec<_> = given.collect();
    let end = given.len();
    (given, end)
}

/// What both ways of copying into a file take: device, target, format, how the target comes to be.
fn copy_words(words: &Words<'_>, first: usize, reuse: bool) -> Result<Value, Failure> {
    let mut args = json!({
        "device": words.need(first, "device")?,
        "target": words.need(first + 1, "target")?,
        "mode": if reuse { "existing" } else { "absolute-paths" },
    });
    if let Some(format) = words.get(first + 2) {
        args["format"] = format.into();
    }
    Ok(args)
}

fn drive_backup(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (flags, first) = flags(words, &["-n", "-f", "-c"]);
    let mut args = copy_words(words, first, flags.contains(&"-n"))?;
    args["sync"] = if flags.contains(&"-f") { "full" } else { "top" }.into();
    args["compress"] = flags.contains(&"-c").into();
    quiet(context, command("drive-backup", args)?)
}

fn drive_mirror(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (flags, first) = flags(words, &["-n", "-f"]);
    let mut args = copy_words(words, first, flags.contains(&"-n"))?;
    args["sync"] = if flags.contains(&"-f") { "full" } else { "top" }.into();
    quiet(context, command("drive-mirror", args)?)
}

/// The command of this name with these arguments.
fn command(name: &str, arguments: Value) -> Result<Command, Failure> {
    let Value::Object(arguments) = arguments else { return Err(Failure::Usage("no arguments".to_owned())) };
    Ok(Command::parse(name, arguments)?)
}

fn eject(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (force, first) = forced(words);
    let device = Some(words.need(first, "device")?.to_owned());
    quiet(context, Command::Eject(Eject { device, id: None, force }))
}

fn change(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let (force, first) = forced(words);
    let device = Some(words.need(first, "device")?.to_owned());
    let filename = words.need(first + 1, "filename")?.to_owned();
    let format = words.get(first + 2).map(str::to_owned);
    let read_only_mode = match words.get(first + 3) {
        None => None,
        Some("retain") => Some(BlockdevChangeReadOnlyMode::Retain),
        Some("read-only") => Some(BlockdevChangeReadOnlyMode::ReadOnly),
        Some("read-write") => Some(BlockdevChangeReadOnlyMode::ReadWrite),
        Some(other) => return Err(Failure::Usage(format!("read-only-mode: '{other}' is none"))),
    };
    quiet(
        context,
        Command::BlockdevChangeMedium(ChangeMedium { device, id: None, filename, format, force, read_only_mode }),
    )
}

fn commit(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let disk = Some(words.need(0, "device")?.to_owned()).filter(|disk| disk != "all");
    // What went wrong is told without a word before it.
    Ok(context.inspect(Inspect::Commit { disk }).map_or_else(|error| format!("{error}\n"), |_| String::new()))
}

fn limit_disk(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let mut args = json!({"device": words.need(0, "device")?});
    for (index, name) in (1..).zip(["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"]) {
        let number = words.need(index, name)?.parse::<i64>();
        args[name] = number.map_err(|_| Failure::Usage(format!("invalid {name}")))?.into();
    }
    quiet(context, command("block_set_io_throttle", args)?)
}

fn block_resize(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let device = words.need(0, "device")?.to_owned();
    let size = words.get(1).and_then(size_in_mebibytes).ok_or_else(|| Failure::Usage("invalid size".into()))?;
    quiet(context, Command::BlockResize(BlockResize { device: Some(device), node_name: None, size }))
}

/// A number with a suffix; mebibytes without one.
fn size_in_mebibytes(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let shift = match text.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "B" => 0,
        "K" => 10,
        "" | "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

fn ringbuf_read(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let device = words.need(0, "device")?.to_owned();
    let size = words.need(1, "size")?.parse().map_err(|_| Failure::Usage("invalid size".into()))?;
    let text: String = context.ask(Command::RingbufRead(RingbufRead { device, size, format: None }))?;
    let mut printed = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => printed.push_str("\\\\"),
            '\n' | '\t' => printed.push(letter),
            control if control < ' ' || control == '\x7f' => {
                let _ = write!(printed, "\\u{:04X}", u32::from(control));
            }
            other => printed.push(other),
        }
    }
    printed.push('\n');
    Ok(printed)
}

/// What the words typed so far may go on as: for the Tab key.
pub(crate) fn complete(line: &str) -> Vec<&'static str> {
    let (table, start) = match line.trim_start().strip_prefix("info ").or(line.trim_start().strip_prefix("help ")) {
        Some(rest) if line.trim_start().starts_with("info") => (info::TOPICS, rest),
        Some(rest) => (COMMANDS, rest),
        None => (COMMANDS, line.trim_start()),
    };
    let names = table.iter().filter_map(|entry| entry.names.split('|').next());
    names.filter(|name| name.starts_with(start)).collect()
}
