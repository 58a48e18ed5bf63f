use serde_json::json;

use crate::chardev::config::{Backend, SocketAddress};
use crate::qmp::command::args::{PanicAction, RebootAction};
use crate::spec::chardev::ChardevSpec;
use crate::spec::drive::{CacheMode, DriveInterface, DriveMedia};
use crate::spec::machine::KernelUnpack;
use crate::spec::process::{MonitorMode, RtcBase, RunAs};
use crate::spec::smbios::SmbiosSpec;
use crate::spec::{ByteSize, DeviceSpec, LostTicks, ObjectSpec, SmpSpec};

use super::{config, list, vm};
use crate::cli::Invocation;

#[test]
fn quick_start_line_is_read() {
    let Ok(Invocation::Run(spec)) = list(&[
        "-m",
        "512",
        "-smp",
        "2",
        "-kernel",
        "vmlinuz",
        "-append",
        "console=ttyS0 a,b",
        "-drive",
        "file=root.qcow2,if=virtio",
        "-nographic",
    ]) else {
        panic!()
    };

    assert_eq!(spec.memory.size, ByteSize(512 << 20));
    assert_eq!(spec.smp.cpus, 2);
    assert_eq!(spec.boot.append.as_deref(), Some("console=ttyS0 a,b"));
    assert_eq!(spec.drives[0].interface, DriveInterface::Virtio);
    assert_eq!(spec.drives[0].options.file.as_deref(), Some("root.qcow2"));
    let [chardev] = &spec.chardevs[..] else { panic!("{:?}", spec.chardevs) };
    let ChardevSpec::Stdio(stdio) = chardev else { panic!("{chardev:?}") };
    assert!(stdio.common.mux && !stdio.signal);
    assert_eq!(spec.serials, [Some("serial0".to_owned())]);
    assert_eq!(spec.monitors[0].chardev, "serial0");
    assert_eq!(spec.monitors[0].mode, MonitorMode::Readline);
}

#[test]
fn memory_sizes_are_in_mib_and_rounded_to_8_kib() {
    let table = [
        ("", 128 << 20),
        ("-m 0", 128 << 20),
        ("-m 1", 1 << 20),
        ("-m 1.5G", 3 << 29),
        ("-m size=512M", 512 << 20),
        ("-m 1k", 8192),
        ("-m 2T", 2 << 40),
        ("-m 0x10", 16 << 20),
        ("-m 1G,maxmem=1G", 1 << 30),
        ("-m 1G -m 2G", 2 << 30),
        ("-machine memory.size=300M", 300 << 20),
    ];
    for (line, bytes) in table {
        assert_eq!(vm(line).memory.size.0, bytes, "{line}");
    }
}

#[test]
fn topology_is_completed_as_qemu_does() {
    let smp = |cpus, maxcpus, sockets, dies, cores, threads| SmpSpec { cpus, maxcpus, sockets, dies, cores, threads };
    let table = [
        ("", smp(1, 1, 1, 1, 1, 1)),
        ("-smp 4", smp(4, 4, 1, 1, 4, 1)),
        ("-smp 8,sockets=2", smp(8, 8, 2, 1, 4, 1)),
        ("-smp 8,cores=2", smp(8, 8, 4, 1, 2, 1)),
        ("-smp 8,threads=2", smp(8, 8, 1, 1, 4, 2)),
        ("-smp 8,sockets=2,cores=2", smp(8, 8, 2, 1, 2, 2)),
        ("-smp 8,dies=2", smp(8, 8, 1, 2, 4, 1)),
        ("-smp 2,maxcpus=8", smp(2, 8, 1, 1, 8, 1)),
        ("-smp sockets=2,cores=3", smp(6, 6, 2, 1, 3, 1)),
        ("-smp maxcpus=4", smp(4, 4, 1, 1, 4, 1)),
        ("-smp 255", smp(255, 255, 1, 1, 255, 1)),
        ("-smp 4 -smp cores=2", smp(4, 4, 2, 1, 2, 1)),
        ("-machine pc,smp.cpus=2", smp(2, 2, 1, 1, 2, 1)),
        ("-smp 0x2", smp(2, 2, 1, 1, 2, 1)),
    ];
    for (line, expected) in table {
        assert_eq!(vm(line).smp, expected, "{line}");
    }
}

#[test]
fn short_forms_of_character_devices_are_read() {
    let socket = |address, server, wait, telnet| (address, server, wait, telnet);
    let inet = |host: &str, port: &str| SocketAddress::Inet {
        host: host.into(),
        port: port.into(),
        to: None,
        ipv4: None,
        ipv6: None,
    };
    let unix = |path: &str| SocketAddress::Unix { path: path.into(), is_abstract: false, tight: true };
    let table = [
        ("unix:/a,server=on,wait=off", socket(unix("/a"), true, false, false)),
        ("unix:/a,server,nowait", socket(unix("/a"), true, false, false)),
        ("unix:/a,server", socket(unix("/a"), true, true, false)),
        ("unix:/a", socket(unix("/a"), false, false, false)),
        ("tcp:h:1", socket(inet("h", "1"), false, false, false)),
        ("tcp::1,server=on", socket(inet("", "1"), true, true, false)),
        ("tcp:[::1]:22", socket(inet("::1", "22"), false, false, false)),
        ("telnet:h:1,server,nowait", socket(inet("h", "1"), true, false, true)),
    ];
    for (text, (address, server, wait, telnet)) in table {
        let spec = vm(&format!("-nodefaults -qmp {text}"));
        let config = config(&spec.chardevs[0]);
        let Backend::Socket(found) = config.backend else { panic!("{text}") };
        assert_eq!((found.address, found.server, found.wait, found.telnet), (address, server, wait, telnet), "{text}");
    }
}

#[test]
fn commas_belong_to_a_file_name() {
    let spec = vm("-serial file:/a,b -serial pipe:/c -chardev file,id=x,path=/d,,e");

    let paths: Vec<_> = spec.chardevs.iter().map(|chardev| config(chardev).backend).collect();
    let file = |path: &str| Backend::File { path: path.into(), append: false, input: None };
    assert_eq!(paths, [file("/a,b"), Backend::Pipe { path: "/c".into() }, file("/d,e")]);
}

#[test]
fn serial_none_leaves_a_gap() {
    let spec = vm("-serial none -serial null -serial chardev:c -chardev ringbuf,id=c");

    assert_eq!(spec.serials, [None, Some("serial1".to_owned()), Some("c".to_owned())]);
}

#[test]
fn defaults_give_way_to_what_is_asked_for() {
    let table = [
        ("-nographic", 1, 1),
        ("-nographic -monitor none", 1, 0),
        ("-nographic -serial null", 1, 1),
        ("-nographic -serial none -monitor none", 1, 0),
        ("-nographic -nodefaults", 0, 0),
        ("-nographic -chardev null,id=n -device isa-serial,chardev=n -monitor none", 0, 0),
        ("-nographic -device isa-serial -monitor none", 0, 0),
        ("-display none", 1, 0),
        ("-display none -qmp unix:/a,server=on,wait=off", 1, 1),
        ("-serial mon:stdio -display none", 1, 1),
        ("-machine none", 0, 0),
    ];
    for (line, serials, monitors) in table {
        let spec = vm(line);
        assert_eq!((spec.serials.len(), spec.monitors.len()), (serials, monitors), "{line}");
    }
}

#[test]
fn no_display_option_is_worth_a_word() {
    assert_eq!(vm("").warnings.len(), 1);
    assert!(vm("-display none").warnings.is_empty());
    assert!(vm("-nographic").warnings.is_empty());
}

#[test]
fn several_monitors_have_names_of_their_own() {
    let spec = vm("-monitor unix:/a,server,nowait -qmp unix:/b,server,nowait -qmp-pretty tcp::1,server,nowait \
                   -chardev null,id=c -mon c,mode=control,id=m");

    let found: Vec<_> = spec.monitors.iter().map(|mon| (mon.chardev.as_str(), mon.mode, mon.pretty)).collect();
    assert_eq!(
        found,
        [
            ("compat_monitor0", MonitorMode::Readline, false),
            ("compat_monitor1", MonitorMode::Control, false),
            ("compat_monitor2", MonitorMode::Control, true),
            ("c", MonitorMode::Control, false),
        ]
    );
}

#[test]
fn last_policy_for_lost_ticks_holds() {
    let spec = vm("-global kvm-pit.lost_tick_policy=delay -global kvm-pit.lost_tick_policy=discard");

    assert_eq!((spec.lost_ticks, vm("").lost_ticks), (LostTicks::Discard, LostTicks::Delay));
}

#[test]
fn globals_are_defaults_of_devices_wherever_they_stand() {
    let spec = vm("-device virtio-rng-pci,period=5 -device virtio-rng-pci -global virtio-rng-pci.period=7 \
                   -global driver=virtio-rng,property=event_idx,value=off");

    let rngs: Vec<_> = spec
        .devices
        .iter()
        .map(|device| match device {
            DeviceSpec::VirtioRng(rng) => (rng.period, rng.virtio.event_idx),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(rngs, [(5, false), (7, false)]);
}

#[test]
fn global_of_no_type_is_a_warning() {
    let spec = vm("-display none -global foo.bar=1");

    assert_eq!(spec.warnings, ["global foo.bar has invalid class name"]);
}

#[test]
fn drive_keeps_the_block_drivers_options_apart() {
    let spec = vm("-drive file=/a,,b,file.locking=off,if=none,id=d,cache=none,cache.no-flush=on,iops_rd=5,\
                   l2-cache-size=1M,throttling.bps-total=100,throttling.group=g,read-only=on");

    let drive = &spec.drives[0];
    assert_eq!(drive.interface, DriveInterface::None);
    assert_eq!(drive.options.cache, Some(CacheMode::None));
    assert_eq!((drive.options.throttling.bps_total, drive.options.throttling.iops_read), (100, 5));
    assert_eq!(drive.options.throttling_group.as_deref(), Some("g"));
    assert_eq!(vm("-drive file=a,iops=5,group=g").drives[0].options.throttling_group.as_deref(), Some("g"));
    assert!(drive.read_only());
    assert_eq!(drive.options.file.as_deref(), Some("/a,b"));
    let block = json!({"file": {"locking": "off"}, "cache": {"no-flush": "on"}, "l2-cache-size": "1M"});
    assert_eq!(serde_json::Value::Object(drive.block.clone()), block);
}

#[test]
fn smbios_fields_of_one_type_come_together() {
    let spec = vm("-smbios type=1,serial=a,product=p -smbios type=1,serial=b -smbios type=11,value=x,value=y \
                   -smbios type=0,release=1.2 -smbios file=/t");

    let mut tables = None;
    let mut strings = None;
    for fields in &spec.smbios.fields {
        match fields {
            SmbiosSpec::System(system) => tables = Some((system.serial.clone(), system.product.clone())),
            SmbiosSpec::OemStrings(oem) => strings = Some(oem.value.clone()),
            _ => {}
        }
    }
    assert_eq!(tables, Some((Some("b".into()), Some("p".into()))));
    assert_eq!(strings, Some(vec!["x".to_owned(), "y".to_owned()]));
    assert_eq!(spec.smbios.files, [std::path::PathBuf::from("/t")]);
}

#[test]
fn clock_bases_are_read() {
    let table = [
        ("-rtc base=utc", RtcBase::Utc),
        ("-rtc base=localtime", RtcBase::LocalTime),
        ("-rtc base=1970-01-01", RtcBase::At(0)),
        ("-rtc base=2026-11-23T07:20:54", RtcBase::At(1_795_418_454)),
        ("-rtc base=2024-02-29T23:59:59", RtcBase::At(1_709_251_199)),
    ];
    for (line, base) in table {
        assert_eq!(vm(line).rtc.base, base, "{line}");
    }
}

#[test]
fn actions_have_long_and_short_forms() {
    let spec = vm("-action reboot=shutdown,panic=none");

    assert_eq!((spec.actions.reboot, spec.actions.panic), (RebootAction::Shutdown, PanicAction::None));
    assert_eq!(vm("-no-reboot").actions.reboot, RebootAction::Shutdown);
}

#[test]
fn memory_without_an_object_gets_one_when_a_path_is_given() {
    let spec = vm("-m 1G -mem-path /dev/shm -mem-prealloc");

    let [ObjectSpec::MemoryFile(file)] = &spec.objects[..] else { panic!("{:?}", spec.objects) };
    assert!(file.common.prealloc);
    assert_eq!((file.common.size, spec.machine.memory_backend.as_deref()), (ByteSize(1 << 30), Some("pc.ram")));
}

#[test]
fn size_of_the_memory_object_counts_where_m_is_silent() {
    let spec = vm("-object memory-backend-ram,id=r,size=1G -machine memory-backend=r");

    assert_eq!(spec.memory.size, ByteSize(1 << 30));
}

#[test]
fn machine_properties_come_together_from_many_options() {
    let spec = vm("-machine pc-i440fx-6.2,mem_merge=off -M dump-guest-core=off -no-acpi -enable-kvm");

    assert_eq!(spec.machine.kind.name, "pc-i440fx-6.2");
    assert!(!spec.machine.mem_merge && !spec.machine.dump_guest_core && !spec.machine.acpi);
}

#[test]
fn kvm_is_taken_from_a_list() {
    for line in ["-accel tcg -accel kvm", "-machine accel=kvm:tcg", "-accel kvm", "-enable-kvm -accel tcg"] {
        vm(line);
    }
}

#[test]
fn features_of_the_processor_keep_their_order() {
    let cpu = vm("-cpu host,+avx,sse=off,-mmx,hv-spinlocks=0x1fff,pmu").cpu.expect("given");

    let features: Vec<_> = cpu.features.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(cpu.model, "host");
    assert_eq!(features, [("sse", "off"), ("hv-spinlocks", "0x1fff"), ("pmu", "on"), ("avx", "on"), ("mmx", "off")]);
}

#[test]
fn user_to_become_is_a_name_or_numbers() {
    assert_eq!(vm("-runas nobody").process.runas, Some(RunAs::User("nobody".into())));
    assert_eq!(vm("-runas 5:6").process.runas, Some(RunAs::Ids { uid: 5, gid: 6 }));
}

#[test]
fn debug_console_is_a_device() {
    let spec = vm("-display none -debugcon file:/log -global isa-debugcon.iobase=0x402");

    let [DeviceSpec::IsaDebugcon(console)] = &spec.devices[..] else { panic!("{:?}", spec.devices) };
    assert_eq!((console.chardev.as_str(), console.iobase), ("debugcon", 0x402));
}

#[test]
fn two_dashes_are_as_good_as_one() {
    assert_eq!(vm("--m 1G --smp 2"), vm("-m 1G -smp 2"));
}

#[test]
fn short_forms_of_ide_drives_name_their_places() {
    let spec = vm("first.img -hdb second.img -cdrom disc.iso -hdd fourth.img -drive file=any.img");

    let places: Vec<_> = spec.drives.iter().map(|d| (d.interface, d.options.index, d.options.media)).collect();
    let (ide, disk) = (DriveInterface::Ide, DriveMedia::Disk);
    let expected = [(Some(0), disk), (Some(1), disk), (Some(2), DriveMedia::Cdrom), (Some(3), disk), (None, disk)];
    assert_eq!(places, expected.map(|(index, media)| (ide, index, media)));
}

#[test]
fn firmware_and_its_files_are_read() {
    let spec = vm("-bios fw.bin -L /a -L /b -fw_cfg name=opt/x,string=y -fw_cfg opt/z,file=/z");

    assert_eq!(spec.boot.firmware.as_deref(), Some(std::path::Path::new("fw.bin")));
    assert_eq!(spec.boot.data_dirs.len(), 2);
    assert_eq!((spec.boot.files[0].string.as_deref(), spec.boot.files[1].file.as_deref()), (Some("y"), Some("/z")));
}

#[test]
fn flash_is_named_as_a_drive_as_a_node_and_in_short() {
    let spec = vm("-drive if=pflash,unit=1,format=raw,file=vars.fd -pflash code.fd -machine pc,pflash0=code");

    let drives: Vec<_> = spec.drives.iter().map(|drive| (drive.interface, drive.options.unit)).collect();
    assert_eq!(drives, [(DriveInterface::Pflash, Some(1)), (DriveInterface::Pflash, None)]);
    assert_eq!(spec.machine.pflash, [Some("code".to_owned()), None]);
}

#[test]
fn firmware_of_the_machine_is_that_of_bios() {
    let spec = vm("-machine pc,firmware=fw.bin");

    assert_eq!(spec.boot.firmware.as_deref(), Some(std::path::Path::new("fw.bin")));
}

#[test]
fn who_unpacks_the_kernel_can_be_said() {
    let spec = vm("-machine pc,x-kernel-unpack=guest -kernel k");

    assert_eq!(spec.machine.kernel_unpack, KernelUnpack::Guest);
}
