//! Options about the board, its processors and its memory.

use serde_json::{Map, Value};

use crate::spec::error::{SpecError, Words};
use crate::spec::machine::{AccelOptions, MachineOptions, MachineType};
use crate::spec::memory::MemoryOptions;
use crate::spec::numa::NumaOptions;
use crate::spec::number::parse_size;
use crate::spec::process::{NameSpec, RtcOptions};
use crate::spec::read::{self, SIZE, Source};
use crate::spec::smbios::SmbiosSpec;
use crate::spec::topology::SmpOptions;
use crate::spec::{CpuSpec, Uuid};

use super::arg::{Arg, Help};
use super::draft::Draft;
use super::error::Stop;
use super::globals::Global;
use super::help;
use super::table::{OptionDef, flag, takes};
use super::text;

pub(super) const OPTIONS: &[OptionDef] = &[
    takes("machine", "[type=]NAME[,PROP=VALUE...]", "the board; -machine help lists them", machine),
    takes("M", "[type=]NAME[,PROP=VALUE...]", "short for -machine", machine),
    takes("accel", "[accel=]kvm[,PROP=VALUE...]", "what runs the processors; kvm is the default", accel),
    flag("enable-kvm", "short for -accel kvm", enable_kvm),
    takes("cpu", "MODEL[,+FEATURE][,-FEATURE][,FEATURE=VALUE...]", "processor model; -cpu help lists them", cpu),
    takes(
        "smp",
        "[cpus=]N[,maxcpus=N][,sockets=N][,dies=N][,cores=N][,threads=N]",
        "number of processors and how they sit on sockets; 1 by default",
        smp,
    ),
    takes("m", "[size=]SIZE", "memory, in MiB without a suffix; 128 MiB by default", memory),
    takes(
        "numa",
        "node[,nodeid=N][,cpus=FIRST[-LAST]][,memdev=ID] or dist,src=N,dst=N,val=N",
        "a node of memory and processors, or how far two are from each other",
        numa,
    ),
    takes("mem-path", "PATH", "take the memory from a file, or from an unnamed file in a directory", mem_path),
    flag("mem-prealloc", "touch all memory at start", mem_prealloc),
    takes("overcommit", "[mem-lock=on|off]", "keep the guest's memory from being swapped", overcommit),
    takes("name", "[guest=]NAME[,process=NAME][,debug-threads=on|off]", "name of the guest, process, threads", name),
    takes("uuid", "UUID", "UUID of the machine, which the guest reads in SMBIOS", uuid),
    takes("smbios", "type=N[,FIELD=VALUE...] or file=PATH", "fields of an SMBIOS structure, or whole ones", smbios),
    takes(
        "rtc",
        "[base=utc|localtime|DATE][,clock=host|rt|vm][,driftfix=none|slew]",
        "what the machine's clock shows at start and what it follows",
        rtc,
    ),
    takes("global", "DRIVER.PROPERTY=VALUE", "default for a property of all devices of a type", global),
    flag("no-acpi", "short for -machine acpi=off", no_acpi),
];

/// Properties of `-machine` may be written with `_` for `-`.
fn machine(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    match arg.help("type") {
        Some(Help::Of(name)) if MachineType::find(&name).is_ok() => {
            return Err(Stop::Print(help::properties::<MachineOptions>()));
        }
        Some(_) => return Err(Stop::Print(help::machines())),
        None => {}
    }
    let mut pairs = arg.pairs(Some("type"))?;
    for pair in &mut pairs {
        pair.key = pair.key.replace('_', "-");
    }
    let mut object = text::nested(pairs)?;
    let kind = object.shift_remove("type");
    if let Some(name) = kind.as_ref().and_then(Value::as_str) {
        MachineType::find(name)?;
    }
    let words = Words::Properties("pc-i440fx-7.2-machine");
    let options: MachineOptions = read::read(object.clone(), Source::Text, words)?;
    options.check()?;
    draft.machine.extend(kind.map(|kind| ("type".to_owned(), kind)));
    merge(&mut draft.machine, object);
    Ok(())
}

/// What comes later counts; objects are put together.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The group `prefix` of the machine's properties from an option that is short for it.
fn merge_below(draft: &mut Draft, prefix: &str, object: Map<String, Value>) {
    merge(&mut draft.machine, Map::from_iter([(prefix.to_owned(), Value::Object(object))]));
}

fn accel(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(String::from("Accelerators supported in this program:\nkvm\n")));
    }
    let mut pairs = arg.pairs(Some("accel"))?;
    for pair in &mut pairs {
        pair.key = pair.key.replace('_', "-");
    }
    let options: AccelOptions = read::read(text::flat(pairs, &[]), Source::Text, Words::Properties("kvm-accel"))?;
    // One that cannot be had may be followed by one that can: the choice is made at the end.
    let kvm = AccelOptions { accel: String::from("kvm"), ..options.clone() };
    kvm.check()?;
    crate::spec::machine::choose_accel(&format!("{}:kvm", options.accel))?;
    draft.accels.push(options.accel);
    Ok(())
}

fn enable_kvm(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.accels.push(String::from("kvm"));
    Ok(())
}

fn cpu(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(help::cpus()));
    }
    draft.spec.cpu = Some(CpuSpec::parse(arg.text()?)?);
    Ok(())
}

fn smp(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(help::properties::<SmpOptions>()));
    }
    let object = text::flat(arg.pairs(Some("cpus"))?, &[]);
    read::read_below::<SmpOptions>("smp", object.clone(), Source::Text)?;
    merge_below(draft, "smp", object);
    Ok(())
}

fn memory(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let mut object = text::flat(arg.pairs(Some("size"))?, &[]);
    if let Some(Value::String(size)) = object.get("size") {
        let bytes = parse_size(size, 1 << 20).ok_or_else(|| SpecError::expects("size", SIZE))?;
        object.insert("size".into(), Value::from(bytes.to_string()));
    }
    if object.contains_key("max-size") {
        return Err(SpecError::unknown(Words::Options, "max-size", ["maxmem"]).into());
    }
    if let Some(most) = object.shift_remove("maxmem") {
        object.insert("max-size".into(), most);
    }
    let options: Result<MemoryOptions, _> = read::read(object.clone(), Source::Text, Words::Options);
    // Named as it was written.
    options.map_err(|error| SpecError::new(error.to_string().replace("'max-size'", "'maxmem'")))?.resolve()?;
    merge_below(draft, "memory", object);
    Ok(())
}

fn numa(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let mut object = text::flat(arg.pairs(Some("type"))?, &["cpus"]);
    if let Some(Value::String(size)) = object.get("mem") {
        let bytes = parse_size(size, 1 << 20).ok_or_else(|| SpecError::expects("mem", SIZE))?;
        object.insert("mem".into(), Value::from(bytes.to_string()));
    }
    draft.numa.push(NumaOptions::read(object, Source::Text)?);
    Ok(())
}

fn mem_path(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.mem_path = Some(arg.text()?.to_owned());
    Ok(())
}

fn mem_prealloc(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.mem_prealloc = true;
    Ok(())
}

fn overcommit(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let spec: crate::spec::OvercommitSpec = arg.options(None)?;
    spec.check()?;
    draft.spec.overcommit = spec;
    Ok(())
}

fn name(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.spec.name = arg.options::<NameSpec>(Some("guest"))?;
    Ok(())
}

fn uuid(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let wrong =
        |_| SpecError::new("failed to parse UUID string: wrong format; write 12345678-1234-1234-1234-123456789abc");
    draft.spec.uuid = Some(arg.text()?.parse::<Uuid>().map_err(wrong)?);
    Ok(())
}

fn smbios(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    let mut object = text::flat(arg.pairs(None)?, &["value", "path"]);
    if let Some(file) = object.shift_remove("file") {
        if let Some(other) = object.keys().next() {
            return Err(SpecError::unknown(Words::Options, other, []).into());
        }
        draft.spec.smbios.files.extend(file.as_str().map(Into::into));
        return Ok(());
    }
    SmbiosSpec::read(object.clone(), Source::Text)?;
    let kind = object.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let fields = draft.smbios.entry(kind).or_default();
    for (key, value) in object {
        match (fields.get_mut(&key), value) {
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (_, value) => {
                fields.insert(key, value);
            }
        }
    }
    Ok(())
}

fn rtc(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    if arg.wants_help() {
        return Err(Stop::Print(help::properties::<RtcOptions>()));
    }
    draft.spec.rtc = arg.options::<RtcOptions>(None)?.resolve()?;
    Ok(())
}

fn global(draft: &mut Draft, arg: &Arg) -> Result<(), Stop> {
    draft.globals.push(Global::parse(arg)?);
    Ok(())
}

fn no_acpi(draft: &mut Draft, _: &Arg) -> Result<(), Stop> {
    draft.machine.insert("acpi".into(), Value::from("off"));
    Ok(())
}
