//! What the guest's operating system is told of its machine through SMBIOS: QEMU's words, which guests and their tools
//! know, and the user's (`-smbios`, `-uuid`).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rhea_arch::x86_64::layout::MemoryLayout;
use rhea_arch::x86_64::smbios::{self, SmbiosSpec, Sockets};

use super::PlanError;
use crate::spec::VmSpec;
use crate::spec::smbios::SmbiosSpec as Fields;
use crate::spec::topology::SmpSpec;

/// The maker that QEMU names; `systemd-detect-virt`, cloud-init and others match it.
const MAKER: &str = "QEMU";
/// Bytes of a string that are read from a file; all the tables together have less room.
const LONGEST: u64 = 64 << 10;

pub(super) fn smbios(spec: &VmSpec, layout: &MemoryLayout) -> Result<SmbiosSpec, PlanError> {
    let mut identity = SmbiosSpec::new(layout.clone(), sockets(&spec.smp), spec.machine.kind.name);
    identity.manufacturer = MAKER.into();
    identity.uuid = spec.uuid.map(|uuid| uuid.0).unwrap_or_default();
    for fields in &spec.smbios.fields {
        apply(&mut identity, fields)?;
    }
    for path in &spec.smbios.files {
        identity.binary.push(read_file(path)?);
    }
    Ok(identity)
}

/// Cores and threads are counted by socket (SMBIOS 3.6, 7.5).
fn sockets(smp: &SmpSpec) -> Sockets {
    let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let cores = smp.dies.saturating_mul(smp.cores);
    Sockets { count: narrow(smp.sockets), cores: narrow(cores), threads: narrow(cores.saturating_mul(smp.threads)) }
}

/// What is given replaces what is there; what is not, stays, so that a type may be given in several options.
fn apply(identity: &mut SmbiosSpec, fields: &Fields) -> Result<(), PlanError> {
    match fields {
        Fields::Bios(bios) => {
            let firmware = &mut identity.firmware;
            put(&mut firmware.vendor, &bios.vendor);
            put(&mut firmware.version, &bios.version);
            put(&mut firmware.date, &bios.date);
            put(&mut firmware.release, &bios.release.map(|release| (release.0, release.1)));
            firmware.uefi |= bios.uefi;
        }
        Fields::System(system) => {
            let smbios::System { manufacturer, product, version, serial, sku, family } = &mut identity.system;
            put(manufacturer, &system.manufacturer);
            put(product, &system.product);
            put(version, &system.version);
            put(serial, &system.serial);
            put(sku, &system.sku);
            put(family, &system.family);
            identity.uuid = system.uuid.map_or(identity.uuid, |uuid| uuid.0);
        }
        Fields::Board(board) => {
            let smbios::Board { manufacturer, product, version, serial, asset, location } = &mut identity.board;
            put(manufacturer, &board.manufacturer);
            put(product, &board.product);
            put(version, &board.version);
            put(serial, &board.serial);
            put(asset, &board.asset);
            put(location, &board.location);
        }
        Fields::Chassis(chassis) => {
            let smbios::Chassis { manufacturer, version, serial, asset, sku } = &mut identity.chassis;
            put(manufacturer, &chassis.manufacturer);
            put(version, &chassis.version);
            put(serial, &chassis.serial);
            put(asset, &chassis.asset);
            put(sku, &chassis.sku);
        }
        Fields::Processor(processor) => {
            let socket = &mut identity.socket;
            put(&mut socket.prefix, &processor.sock_pfx);
            put(&mut socket.manufacturer, &processor.manufacturer);
            put(&mut socket.version, &processor.version);
            put(&mut socket.serial, &processor.serial);
            put(&mut socket.asset, &processor.asset);
            put(&mut socket.part, &processor.part);
            put(&mut socket.max_speed, &processor.max_speed);
            put(&mut socket.current_speed, &processor.current_speed);
            if processor.processor_id != 0 {
                socket.processor_id = processor.processor_id;
            }
        }
        Fields::OemStrings(strings) => {
            identity.oem_strings.extend(strings.value.iter().cloned());
            for path in &strings.path {
                identity.oem_strings.push(read_string(path)?);
            }
        }
        Fields::Memory(memory) => {
            let module = &mut identity.memory_module;
            put(&mut module.prefix, &memory.loc_pfx);
            put(&mut module.bank, &memory.bank);
            put(&mut module.manufacturer, &memory.manufacturer);
            put(&mut module.serial, &memory.serial);
            put(&mut module.asset, &memory.asset);
            put(&mut module.part, &memory.part);
            put(&mut module.speed, &memory.speed);
        }
    }
    Ok(())
}

/// A string from a file, which is how long ones and secret ones are given.
fn read_string(path: &Path) -> Result<String, PlanError> {
    let text = String::from_utf8(read_file(path)?);
    text.map_err(|error| unreadable(path, io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn read_file(path: &Path) -> Result<Vec<u8>, PlanError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> PlanError {
    PlanError::SmbiosFile { path: path.to_owned(), source }
}

fn put<T: Clone>(place: &mut Option<T>, given: &Option<T>) {
    if given.is_some() {
        place.clone_from(given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_count_the_cores_of_all_dies_and_the_threads_of_all_cores() {
        let smp = SmpSpec { cpus: 8, maxcpus: 16, sockets: 2, dies: 2, cores: 2, threads: 2 };
        assert_eq!(sockets(&smp), Sockets { count: 2, cores: 4, threads: 8 });
    }
}
