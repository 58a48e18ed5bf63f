use crate::cli::table::{self, Action};

use super::{message, words};

/// Each with the whole message, as QEMU words it where programs know the words.
const WRONG: &[(&str, &str)] = &[
    ("-foo", "rhea: -foo: invalid option"),
    (
        "-vnc :1",
        "rhea: -vnc :1: another display than 'none' is not supported; there is no display; use -nographic or -serial",
    ),
    ("-kernl x", "rhea: -kernl: invalid option; did you mean 'kernel'?"),
    ("-m", "rhea: -m: requires an argument"),
    ("-device foo", "rhea: -device foo: 'foo' is not a valid device model name"),
    ("-device virtio-blk-pci,x=1", "rhea: -device virtio-blk-pci,x=1: Property 'virtio-blk-pci.x' not found"),
    (
        "-device virtio-rng-pci,max-bytes=zz",
        "rhea: -device virtio-rng-pci,max-bytes=zz: Parameter 'max-bytes' expects integer",
    ),
    (
        "-blockdev driver=file,filename=x",
        "rhea: -blockdev driver=file,filename=x: 'node-name' must be specified for the root node",
    ),
    (
        r#"-blockdev {"driver":"null-co","node-name":"a","node-name":"b"}"#,
        r#"rhea: -blockdev {"driver":"null-co","node-name":"a","node-name":"b"}: JSON parse error, duplicate key"#,
    ),
    (
        r#"-device {"driver":"isa-serial","driver":"b"}"#,
        r#"rhea: -device {"driver":"isa-serial","driver":"b"}: JSON parse error, duplicate key"#,
    ),
    ("-device {}", "rhea: -device {}: Parameter 'driver' is missing"),
    ("-device id=a", "rhea: -device id=a: Parameter 'driver' is missing"),
    (
        r#"-device {"driver":"virtio-rng-pci","zz":1}"#,
        r#"rhea: -device {"driver":"virtio-rng-pci","zz":1}: Property 'virtio-rng-pci.zz' not found"#,
    ),
    (
        "-device virtio-rng-pci,packed=on",
        "rhea: -device virtio-rng-pci,packed=on: 'packed=on' is not supported; leave it off: split queues are used",
    ),
    (
        "-device scsi-block,drive=d",
        "rhea: -device scsi-block,drive=d: device 'scsi-block' is not supported; commands are not passed through to a \
         host device; use scsi-hd with the device as its file",
    ),
    ("-device scsi-cd,scsi-id=256", "rhea: -device scsi-cd,scsi-id=256: bad scsi device id: 256, the greatest is 255"),
    ("-device scsi-cd,channel=1", "rhea: -device scsi-cd,channel=1: bad scsi channel id: 1, the greatest is 0"),
    (
        "-device virtio-rng-pci,id=1",
        "rhea: -device virtio-rng-pci,id=1: Parameter 'id' expects an identifier: letters, digits, '-', '.' and '_', \
         a letter first, at most 127",
    ),
    (
        "-m foo",
        "rhea: -m foo: Parameter 'size' expects a non-negative number below 2^64, with an optional suffix k, M, G, T, \
         P or E",
    ),
    ("-m 1,foo=1", "rhea: -m 1,foo=1: Invalid parameter 'foo'"),
    ("-m 1,slots=2", "rhea: -m 1,slots=2: invalid -m option, missing 'maxmem' option"),
    (
        "-m 1G,slots=2,maxmem=2G",
        "rhea: -m 1G,slots=2,maxmem=2G: memory added while the guest runs ('slots', 'maxmem') is not supported; give \
         all of it at start with 'size'",
    ),
    ("-smp foo=1", "rhea: -smp foo=1: Parameter 'smp.foo' is unexpected"),
    ("-smp 4,cores=x", "rhea: -smp 4,cores=x: Parameter 'smp.cores' expects integer"),
    ("-m 1G,slots=x", "rhea: -m 1G,slots=x: Parameter 'slots' expects a number"),
    (
        "-smp 3,sockets=2",
        "rhea: Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (2) * dies (1) * cores (1) * \
         threads (1) != maxcpus (3)",
    ),
    (
        "-smp 4,maxcpus=2",
        "rhea: Invalid CPU topology: maxcpus must be equal to or greater than smp: sockets (1) * dies (1) * cores (2) * \
         threads (1) == maxcpus (2) < smp_cpus (4)",
    ),
    ("-smp 300", "rhea: Invalid SMP CPUs 300. The max CPUs supported by machine 'pc-i440fx-7.2' is 255"),
    ("-smp 0", "rhea: Invalid CPU topology: CPU topology parameters must be greater than zero"),
    (
        "-smp 4294967295,sockets=4294967295,cores=4294967295,threads=4294967295",
        "rhea: Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (4294967295) * dies (1) * \
         cores (4294967295) * threads (4294967295) != maxcpus (4294967295)",
    ),
    (
        "-drive file=a,format=raw,bps=1,iops=2,throttling.iops-total=3,throttling.bps-total=4",
        "rhea: -drive file=a,format=raw,bps=1,iops=2,throttling.iops-total=3,throttling.bps-total=4: \
         'throttling.iops-total' and its alias 'iops' can't be used at the same time",
    ),
    (
        "-drive file=a,format=raw,iops=2,group=g,throttling.group=g",
        "rhea: -drive file=a,format=raw,iops=2,group=g,throttling.group=g: 'throttling.group' and its alias 'group' \
         can't be used at the same time",
    ),
    (
        "-machine foo",
        "rhea: -machine foo: unsupported machine type 'foo'; use -machine help to list supported machines",
    ),
    ("-machine q35", "rhea: -machine q35: machine type 'q35' (PCI Express) is not supported; use -machine pc"),
    ("-machine pc,foo=1", "rhea: -machine pc,foo=1: Property 'pc-i440fx-7.2-machine.foo' not found"),
    ("-machine pc,usb=zz", "rhea: -machine pc,usb=zz: Parameter 'usb' expects 'on' or 'off'"),
    ("-accel foo", "rhea: -accel foo: invalid accelerator foo; use kvm"),
    ("-accel tcg", "rhea: accelerator tcg is not supported; use kvm, which needs a /dev/kvm that this user may open"),
    ("-machine accel=kvm -accel kvm", "rhea: The -accel and \"-machine accel=\" options are incompatible"),
    ("-chardev foo", "rhea: -chardev foo: chardev: no id specified"),
    (
        "-chardev foo,id=a",
        "rhea: -chardev foo,id=a: 'foo' is not a valid char driver name; there are null, stdio, pty, file, pipe, socket, \
         ringbuf or mux",
    ),
    ("-chardev null,id=a,zz=1", "rhea: -chardev null,id=a,zz=1: Invalid parameter 'zz'"),
    ("-chardev file,id=a", "rhea: -chardev file,id=a: Parameter 'path' is missing"),
    ("-chardev null,id=a -chardev null,id=a", "rhea: Duplicate ID 'a' for chardev"),
    (
        "-chardev vc,id=a",
        "rhea: -chardev vc,id=a: chardev: 'vc' is not supported; there is no window to show it in; use pty or socket",
    ),
    (
        "-object foo,id=a",
        "rhea: -object foo,id=a: Parameter 'qom-type' does not accept value 'foo'; it takes memory-backend-ram, \
         memory-backend-memfd, memory-backend-file, rng-random, rng-builtin, iothread, secret or throttle-group",
    ),
    ("-object rng-random", "rhea: -object rng-random: Parameter 'id' is missing"),
    (
        r#"-object {"qom-type":"rng-random","id":"a","zz":1}"#,
        r#"rhea: -object {"qom-type":"rng-random","id":"a","zz":1}: Parameter 'zz' is unexpected"#,
    ),
    (
        "-rtc base=foo",
        "rhea: -rtc base=foo: invalid datetime format; valid formats: '2006-06-17T16:01:21' or '2006-06-17'",
    ),
    (
        "-rtc base=2026-02-29",
        "rhea: -rtc base=2026-02-29: invalid datetime format; valid formats: \
     '2006-06-17T16:01:21' or '2006-06-17'",
    ),
    ("-boot foo=1", "rhea: -boot foo=1: Parameter 'boot.foo' is unexpected"),
    ("-boot order=zz", "rhea: -boot order=zz: Invalid boot device 'z'"),
    ("-name foo=1", "rhea: -name foo=1: Invalid parameter 'foo'"),
    ("-mon x", "rhea: chardev \"x\" not found; define it with -chardev"),
    ("-uuid 1", "rhea: -uuid 1: failed to parse UUID string: wrong format; write 12345678-1234-1234-1234-123456789abc"),
    ("-smbios type=1,foo=2", "rhea: -smbios type=1,foo=2: Invalid parameter 'foo'"),
    ("-smbios foo", "rhea: -smbios foo: Must specify type="),
    ("-global foo", "rhea: -global foo: Invalid parameter 'foo'; write DRIVER.PROPERTY=VALUE"),
    ("-global virtio-rng-pci.zz=1", "rhea: -global virtio-rng-pci.zz=1: Property 'virtio-rng-pci.zz' not found"),
    (
        "-global kvm-pit.lost_tick_policy=merge",
        "rhea: -global kvm-pit.lost_tick_policy=merge: Parameter 'lost_tick_policy' does not accept value 'merge'; it takes delay or \
         discard",
    ),
    ("-vga zz", "rhea: -vga zz: unknown vga type: zz"),
    ("-action zz", "rhea: -action zz: Invalid parameter 'zz'"),
    (
        "-action reboot=zz",
        "rhea: -action reboot=zz: Parameter 'reboot' does not accept value 'zz'; it takes reset or shutdown",
    ),
    ("-sandbox zz", "rhea: -sandbox zz: Parameter 'enable' expects 'on' or 'off'"),
    ("-overcommit zz=1", "rhea: -overcommit zz=1: Invalid parameter 'zz'"),
    ("-add-fd fd=1,set=1", "rhea: -add-fd fd=1,set=1: fd cannot be a standard I/O stream"),
    ("-audiodev zz", "rhea: -audiodev zz: Parameter 'id' is missing"),
    ("-blockdev {}", "rhea: -blockdev {}: Parameter 'driver' is missing"),
    (
        "-drive file=x,if=scsi",
        "rhea: -drive file=x,if=scsi: 'if=scsi' is not supported; use if=none,id=ID with -device \
         virtio-scsi-pci and -device scsi-hd,drive=ID",
    ),
    ("-fda x", "rhea: -fda x: not supported; use -drive file=IMAGE"),
    (
        "-drive file=x,if=virtio,aio=native",
        "rhea: -drive file=x,if=virtio,aio=native: aio=native was specified, but it requires cache.direct=on, which was \
         not specified.",
    ),
    ("-append x", "rhea: -append only allowed with -kernel option"),
    ("-initrd x", "rhea: -initrd only allowed with -kernel option"),
    (
        "-serial stdio -monitor stdio",
        "rhea: cannot use stdio by multiple character devices; share one with mux=on, as in -serial mon:stdio",
    ),
    ("-nographic -daemonize", "rhea: -nographic cannot be used with -daemonize; use -display none"),
    (
        "-serial null -serial null -serial null -serial null -serial null",
        "rhea: -serial null: too many serial ports; the machine has 4",
    ),
    (
        "-machine memory-backend=r",
        "rhea: Memory backend 'r' not found; define it with -object memory-backend-ram,id=...",
    ),
    (
        "-m 1G -object memory-backend-ram,id=r,size=2G -machine memory-backend=r",
        "rhea: Machine memory size (1073741824) does not match the size of the memory backend (2147483648)",
    ),
    ("-usb", "rhea: -usb: not supported; there is no USB; leave it out or use -machine usb=off"),
];

#[test]
fn wrong_lines_end_in_the_sentence_of_the_table() {
    for (line, expected) in WRONG {
        assert_eq!(message(line), *expected);
    }
}

#[test]
fn every_message_is_one_line() {
    let nasty = ["-device a\nb", "-chardev \u{7}\r\n,id=a", "-foo\n", "-machine \u{1b}[31m", "-object {\n"];

    for argument in nasty {
        let (option, rest) = argument.split_once(' ').unwrap_or((argument, ""));
        let error = super::line(&super::list(&[option, rest]).expect_err(argument));
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn refused_options_say_what_would_work() {
    for option in table::all() {
        let Action::Refuse(instead) = option.action else { continue };
        let line = if option.argument.is_some() { format!("-{} x", option.name) } else { format!("-{}", option.name) };

        let message = message(&line);

        assert!(message.contains(&format!("-{}", option.name)), "{message}");
        assert!(message.ends_with(instead) && instead.len() >= 6, "{message}");
    }
}

#[test]
fn meaningless_options_change_nothing() {
    for option in table::all() {
        let Action::Meaningless(reason) = option.action else { continue };
        let line = if option.argument.is_some() { format!("-{} x", option.name) } else { format!("-{}", option.name) };

        assert_eq!(words(&line).ok(), words("").ok(), "{line}");
        assert!(!reason.is_empty());
    }
}

#[test]
fn option_names_are_unique() {
    let mut names: Vec<_> = table::all().map(|option| option.name).collect();
    names.sort_unstable();

    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
}
