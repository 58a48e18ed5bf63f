//! Command lines as libvirt 9.0 makes them.

use crate::chardev::config::{Backend, SocketAddress};
use crate::qmp::command::args::ShutdownAction;
use crate::spec::machine::{Accel, Board};
use crate::spec::process::MonitorMode;
use crate::spec::{ByteSize, DeviceSpec, ObjectSpec, PciAddr, VmSpec};

use super::{Invocation, config, list, vm};

#[test]
fn probe_of_capabilities_is_an_empty_machine_with_qmp() {
    let spec = vm("-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg \
         -qmp unix:/var/lib/libvirt/qemu/qmp-X/qmp.monitor,server=on,wait=off \
         -pidfile /var/lib/libvirt/qemu/qmp-X/qmp.pid -daemonize");

    assert_eq!(spec.machine.kind.board, Board::None);
    assert_eq!(spec.accel, Accel::Kvm);
    assert!(spec.start_paused && spec.process.daemonize);
    assert_eq!(spec.process.pidfile.as_deref(), Some("/var/lib/libvirt/qemu/qmp-X/qmp.pid".as_ref()));
    let [monitor] = &spec.monitors[..] else { panic!("{:?}", spec.monitors) };
    assert_eq!(monitor.mode, MonitorMode::Control);
    let config = config(&spec.chardevs[0]);
    assert_eq!(config.label, monitor.chardev);
    let Backend::Socket(socket) = config.backend else { panic!("{config:?}") };
    assert!(socket.server && !socket.wait);
    assert!(matches!(socket.address, SocketAddress::Unix { path, .. } if path.ends_with("qmp.monitor")));
    assert!(spec.serials.is_empty());
}

const HEADLESS: &[&str] = &[
    "-name",
    "guest=small,debug-threads=on",
    "-S",
    "-object",
    r#"{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/domain-9-small/k.aes"}"#,
    "-machine",
    "pc-i440fx-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram",
    "-accel",
    "kvm",
    "-cpu",
    "qemu64",
    "-m",
    "256",
    "-object",
    r#"{"qom-type":"memory-backend-ram","id":"pc.ram","size":268435456}"#,
    "-overcommit",
    "mem-lock=off",
    "-smp",
    "1,sockets=1,cores=1,threads=1",
    "-uuid",
    "11111111-2222-3333-4444-666666666666",
    "-display",
    "none",
    "-no-user-config",
    "-nodefaults",
    "-chardev",
    "socket,id=charmonitor,fd=28,server=on,wait=off",
    "-mon",
    "chardev=charmonitor,id=monitor,mode=control",
    "-rtc",
    "base=utc",
    "-no-shutdown",
    "-boot",
    "strict=on",
    "-kernel",
    "/k/vmlinuz",
    "-initrd",
    "/k/initrd",
    "-append",
    "console=ttyS0 root=/dev/vda ro",
    "-blockdev",
    r#"{"driver":"file","filename":"/d","node-name":"libvirt-1-storage","auto-read-only":true,"discard":"unmap"}"#,
    "-blockdev",
    r#"{"node-name":"libvirt-1-format","read-only":false,"driver":"qcow2","file":"libvirt-1-storage","backing":null}"#,
    "-device",
    r#"{"driver":"virtio-blk-pci","bus":"pci.0","addr":"0x2","drive":"libvirt-1-format","id":"virtio-disk0","bootindex":1}"#,
    "-chardev",
    "pty,id=charserial0",
    "-device",
    r#"{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}"#,
    "-audiodev",
    r#"{"id":"audio1","driver":"none"}"#,
    "-msg",
    "timestamp=on",
];

#[test]
fn headless_domain_is_read_in_full() {
    let Ok(Invocation::Run(spec)) = list(HEADLESS) else { panic!("{:?}", list(HEADLESS)) };

    assert_eq!(spec.name.guest.as_deref(), Some("small"));
    assert!(spec.name.debug_threads && spec.start_paused && spec.process.msg.timestamp);
    assert!(!spec.machine.dump_guest_core && spec.machine.no_defaults);
    assert_eq!(spec.machine.memory_backend.as_deref(), Some("pc.ram"));
    assert_eq!(spec.memory.size, ByteSize(256 << 20));
    assert_eq!(spec.boot.append.as_deref(), Some("console=ttyS0 root=/dev/vda ro"));
    assert!(spec.boot.options.strict);
    assert_eq!(spec.actions.shutdown, ShutdownAction::Pause);
    assert_eq!(spec.uuid.map(|uuid| uuid.to_string()).as_deref(), Some("11111111-2222-3333-4444-666666666666"));
    assert_eq!(spec.blockdevs.len(), 2);
    assert!(matches!(&spec.objects[0], ObjectSpec::Secret(secret) if secret.id == "masterKey0"));
    let [DeviceSpec::VirtioBlk(disk), DeviceSpec::IsaSerial(serial)] = &spec.devices[..] else {
        panic!("{:?}", spec.devices)
    };
    assert_eq!((disk.pci.addr, disk.disk.bootindex), (PciAddr::new(2, 0), Some(1)));
    assert_eq!((serial.chardev.as_deref(), serial.index), (Some("charserial0"), Some(0)));
    assert!(spec.serials.is_empty() && spec.warnings.is_empty());
}

#[test]
fn scsi_disks_of_a_domain_are_read() {
    let arguments = [
        "-device",
        r#"{"driver":"virtio-scsi-pci","id":"scsi0","num_queues":2,"bus":"pci.0","addr":"0x3"}"#,
        "-device",
        r#"{"driver":"scsi-hd","bus":"scsi0.0","channel":0,"scsi-id":1,"lun":2,"device_id":"drive-scsi0-0-1-2","drive":"f","id":"scsi0-0-1-2","bootindex":1,"write-cache":"on"}"#,
        "-device",
        r#"{"driver":"scsi-cd","bus":"scsi0.0","channel":0,"scsi-id":0,"lun":3,"device_id":"drive-scsi0-0-0-3","id":"c"}"#,
    ];

    let Ok(Invocation::Run(spec)) = list(&arguments) else { panic!("{:?}", list(&arguments)) };

    let [DeviceSpec::VirtioScsi(adapter), DeviceSpec::ScsiHd(disk), DeviceSpec::ScsiCd(cd)] = &spec.devices[..] else {
        panic!("{:?}", spec.devices)
    };
    assert_eq!((adapter.num_queues, adapter.pci.addr), (Some(2), PciAddr::new(3, 0)));
    assert_eq!((disk.scsi.scsi_id, disk.scsi.lun, disk.disk.bootindex), (Some(1), Some(2), Some(1)));
    assert_eq!((cd.scsi.lun, cd.drive.as_deref()), (Some(3), None));
}

#[test]
fn domain_with_text_arguments_is_the_same_as_with_json() {
    let text: Vec<&str> = HEADLESS
        .iter()
        .map(|argument| match *argument {
            json if json.contains("virtio-blk-pci") => {
                "virtio-blk-pci,bus=pci.0,addr=0x2,drive=libvirt-1-format,id=virtio-disk0,bootindex=1"
            }
            json if json.contains("isa-serial") => "isa-serial,chardev=charserial0,id=serial0,index=0",
            json if json.contains("secret") => {
                "secret,id=masterKey0,format=raw,file=/var/lib/libvirt/qemu/domain-9-small/k.aes"
            }
            json if json.contains("memory-backend-ram") => "memory-backend-ram,id=pc.ram,size=268435456",
            other => other,
        })
        .collect();

    let spec = |args: &[&str]| match list(args) {
        Ok(Invocation::Run(spec)) => *spec,
        other => panic!("{other:?}"),
    };
    let (text, json) = (spec(&text), spec(HEADLESS));
    // The order in which devices are plugged follows from how they were written; see `VmSpec::devices`.
    assert_eq!((text.json_devices, json.json_devices), (0, 2));
    assert_eq!(text, VmSpec { json_devices: 0, ..json });
}

#[test]
fn options_of_other_domains_are_read() {
    let lines = [
        "-global kvm-pit.lost_tick_policy=delay -global PIIX4_PM.disable_s3=1 -global PIIX4_PM.disable_s4=1",
        "-no-hpet -no-acpi -no-reboot -watchdog-action reset",
        "-smp 1,maxcpus=2,sockets=2,cores=1,threads=1",
        "-smp 4,sockets=1,dies=1,cores=2,threads=2",
        "-cpu host,migratable=on,hv-relaxed=on,hv-vapic=on,hv-spinlocks=0x1fff,kvm=off",
        "-rtc base=localtime",
        "-rtc base=utc,driftfix=slew",
        "-rtc base=2026-11-23T07:20:54",
        "-boot menu=on,splash-time=3000,strict=on",
        "-add-fd set=0,fd=30,opaque=serial0-source -chardev file,id=c,path=/dev/fdset/0,append=on",
        "-chardev pty,id=c,logfile=/dev/fdset/1,logappend=on",
        "-chardev socket,id=c,host=127.0.0.1,port=4555,telnet=on,server=on,wait=off",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-smbios type=1,manufacturer=ACME,serial=s1",
        "-object memory-backend-memfd,id=ram-node0,share=yes,size=1073741824,x-use-canonical-path-for-ramblock-id=off",
        "-object rng-random,id=objrng0,filename=/dev/urandom \
         -device virtio-rng-pci,rng=objrng0,id=rng0,max-bytes=1234,period=2000,bus=pci.0,addr=0x6",
        "-object iothread,id=iothread1",
    ];

    for line in lines {
        vm(line);
    }
}
