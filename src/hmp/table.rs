//! The commands by name.

use std::fmt::Write;

use crate::qmp::command::args::{Id, RingbufRead, RingbufWrite, SetAction, WatchdogAction};
use crate::qmp::{Command, QmpError};

use super::commands::{Entry, Failure, Printed, Words, help, quiet, run_info};
use super::{Context, block, disk_io, exports, jobs, known_cpu, memory, objects};

/// All commands, by name.
pub(super) const COMMANDS: &[Entry] = &[
    Entry {
        names: "block_job_cancel",
        parameters: "[-f] device",
        words: 2,
        help: "stop an active background block operation (use -f if you want to abort the operation immediately instead of keep running until data is in sync)",
        run: jobs::cancel,
    },
    Entry {
        names: "block_job_complete",
        parameters: "device",
        words: 1,
        help: "stop an active background block operation",
        run: |context, words| jobs::steer(context, words, Command::BlockJobComplete),
    },
    Entry {
        names: "block_job_pause",
        parameters: "device",
        words: 1,
        help: "pause an active background block operation",
        run: |context, words| jobs::steer(context, words, Command::BlockJobPause),
    },
    Entry {
        names: "block_job_resume",
        parameters: "device",
        words: 1,
        help: "resume a paused background block operation",
        run: |context, words| jobs::steer(context, words, Command::BlockJobResume),
    },
    Entry {
        names: "block_job_set_speed",
        parameters: "device speed",
        words: 2,
        help: "set maximum speed for a background block operation",
        run: jobs::set_speed,
    },
    Entry {
        names: "block_resize",
        parameters: "device size",
        words: 2,
        help: "resize a block image",
        run: block::resize,
    },
    Entry {
        names: "block_set_io_throttle",
        parameters: "device bps bps_rd bps_wr iops iops_rd iops_wr",
        words: 7,
        help: "change I/O throttle limits for a block drive",
        run: block::limit,
    },
    Entry {
        names: "block_stream",
        parameters: "device [speed [base]]",
        words: 3,
        help: "copy data from a backing file into a block device",
        run: jobs::stream,
    },
    Entry {
        names: "change",
        parameters: "[-f] device filename [format [read-only-mode]]",
        words: 5,
        help: "change a removable medium, optional format; -f whatever the guest says",
        run: block::change,
    },
    Entry { names: "chardev-add", parameters: "args", words: 1, help: "add chardev", run: objects::add_chardev },
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
        run: block::commit,
    },
    Entry {
        names: "cont|c",
        parameters: "",
        words: 0,
        help: "resume emulation",
        run: |context, _| quiet(context, Command::Cont),
    },
    Entry { names: "cpu", parameters: "index", words: 1, help: "set the default CPU", run: choose_cpu },
    Entry {
        names: "device_add",
        parameters: "driver[,prop=value][,...]",
        words: 1,
        help: "add device, like -device on the command line",
        run: objects::add_device,
    },
    Entry { names: "device_del", parameters: "device", words: 1, help: "remove device", run: objects::remove_device },
    Entry {
        names: "drive_add",
        parameters: "[-n] slot [file=file][,if=none][,format=f][,id=name][,...]",
        words: 3,
        help: "add a drive that waits for device_add (-n: a node, as -blockdev)",
        run: block::add_drive,
    },
    Entry {
        names: "drive_backup",
        parameters: "[-n] [-f] [-c] device target [format]",
        words: 6,
        help: "initiates a point-in-time copy of device to an image file (-n takes the file as it is, -f copies all of the disk, -c stores it compressed)",
        run: block::back_up,
    },
    Entry {
        names: "drive_del",
        parameters: "device",
        words: 1,
        help: "remove a drive that no device has, or a node",
        run: block::remove_drive,
    },
    Entry {
        names: "drive_mirror",
        parameters: "[-n] [-f] device target [format]",
        words: 5,
        help: "initiates live storage migration for a device to an image file (-n takes the file as it is, -f copies all of the disk)",
        run: block::mirror,
    },
    Entry {
        names: "eject",
        parameters: "[-f] device",
        words: 2,
        help: "eject a removable medium (use -f to force it)",
        run: block::eject,
    },
    Entry {
        names: "gva2gpa",
        parameters: "addr",
        words: 1,
        help: "print the guest physical address corresponding to a guest virtual address",
        run: memory::translate,
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
        names: "memsave",
        parameters: "addr size file",
        words: 3,
        help: "save to disk virtual memory dump starting at 'addr' of size 'size'",
        run: memory::save_linear,
    },
    Entry {
        names: "nbd_server_add",
        parameters: "[-w] device [name]",
        words: 3,
        help: "export a block device via NBD",
        run: exports::add,
    },
    Entry {
        names: "nbd_server_remove",
        parameters: "[-f] name",
        words: 2,
        help: "remove an export previously exposed via NBD",
        run: exports::remove,
    },
    Entry {
        names: "nbd_server_start",
        parameters: "[-a] [-w] host:port",
        words: 3,
        help: "serve block devices on the given host and port",
        run: exports::start,
    },
    Entry {
        names: "nbd_server_stop",
        parameters: "",
        words: 0,
        help: "stop serving block devices using the NBD protocol",
        run: |context, _| quiet(context, Command::NbdServerStop),
    },
    Entry {
        names: "nmi",
        parameters: "",
        words: 0,
        help: "inject an NMI on all of the guest's CPUs",
        run: |context, _| quiet(context, Command::InjectNmi),
    },
    Entry { names: "o", parameters: "/fmt addr value", words: 3, help: "I/O port write", run: memory::write_port },
    Entry {
        names: "object_add",
        parameters: "[qom-type=]type,id=str[,prop=value][,...]",
        words: 1,
        help: "create QOM object",
        run: objects::add_object,
    },
    Entry { names: "object_del", parameters: "id", words: 1, help: "destroy QOM object", run: objects::remove_object },
    Entry {
        names: "pmemsave",
        parameters: "addr size file",
        words: 3,
        help: "save to disk physical memory dump starting at 'addr' of size 'size'",
        run: memory::save_physical,
    },
    Entry {
        names: "print|p",
        parameters: "/fmt expr",
        words: usize::MAX,
        help: "print expression value",
        run: memory::print,
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
        names: "snapshot_blkdev",
        parameters: "[-n] device [new-image-file] [format]",
        words: 4,
        help: "initiates a live snapshot of device (-n takes the file as it is)",
        run: block::snapshot,
    },
    Entry {
        names: "snapshot_blkdev_internal",
        parameters: "device name",
        words: 2,
        help: "take an internal snapshot of device",
        run: block::snapshot_inside,
    },
    Entry {
        names: "snapshot_delete_blkdev_internal",
        parameters: "device name [id]",
        words: 3,
        help: "delete an internal snapshot of device",
        run: block::delete_snapshot_inside,
    },
    Entry {
        names: "stop|s",
        parameters: "",
        words: 0,
        help: "stop emulation",
        run: |context, _| quiet(context, Command::Stop),
    },
    Entry {
        names: "sum",
        parameters: "addr size",
        words: 2,
        help: "compute the checksum of a memory region",
        run: memory::sum,
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
        names: "watchdog_action",
        parameters: "[reset|shutdown|poweroff|pause|debug|none|inject-nmi]",
        words: 1,
        help: "change watchdog action",
        run: set_watchdog,
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

/// Commands of QEMU's that people know and that are not here, and what is instead.
pub(super) const ABSENT: &[(&str, &str)] = &[
    ("savevm", SAVING),
    ("loadvm", SAVING),
    ("delvm", SAVING),
    ("migrate", "a running machine goes to no other process; migrate its disks with drive_mirror"),
];

const SAVING: &str = "the state of a machine is not saved; snapshot_blkdev_internal and snapshot_delete_blkdev_internal make and \
                      delete a snapshot inside the image of a disk";

/// `cpu index`: for the rest of the line's session.
fn choose_cpu(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let index = words.number(context, 0)?;
    match known_cpu(context, index) {
        Some(cpu) => {
            context.cpu = cpu;
            Ok(String::new())
        }
        None => Ok("invalid CPU index\n".to_owned()),
    }
}

fn set_watchdog(context: &mut Context<'_>, words: &Words<'_>) -> Printed {
    let action = words.need(0, "action")?;
    let watchdog = serde_json::from_value::<WatchdogAction>(action.into());
    let watchdog = watchdog.map_err(|_| QmpError::generic(format!("invalid parameter value: {action}")))?;
    let (reboot, shutdown, panic) = (None, None, None);
    quiet(context, Command::SetAction(SetAction { reboot, shutdown, panic, watchdog: Some(watchdog) }))
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
