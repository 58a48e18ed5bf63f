//! `-global`: defaults for all devices of a type.

use crate::spec::describe::DescribeUnion;
use crate::spec::error::Shown;
use crate::spec::read;
use crate::spec::{DeviceSpec, GlobalSpec, LostTicks, SpecError, VmSpec};

use super::arg::Arg;
use super::error::CliError;
use super::text::Pair;

/// A `-global` as written.
pub(super) struct Global {
    arg: Arg,
    driver: String,
    property: String,
    value: String,
}

impl Global {
    /// Reads `DRIVER.PROPERTY=VALUE` or `driver=D,property=P,value=V`.
    pub(super) fn parse(arg: &Arg) -> Result<Self, SpecError> {
        let text = arg.text()?;
        if let Some((name, value)) = text.split_once('=')
            && let Some((driver, property)) = name.split_once('.')
        {
            return Ok(Self::new(arg, driver, property, value));
        }
        let (mut driver, mut property, mut given) = (None, None, None);
        for Pair { key, value, .. } in arg.pairs(None)? {
            match key.as_str() {
                "driver" => driver = Some(value),
                "property" => property = Some(value),
                "value" => given = Some(value),
                _ => {
                    let sentence = format!("Invalid parameter '{}'; write DRIVER.PROPERTY=VALUE", Shown(&key));
                    return Err(SpecError::new(sentence));
                }
            }
        }
        match (driver, property, given) {
            (Some(driver), Some(property), Some(value)) => Ok(Self::new(arg, &driver, &property, &value)),
            (None, ..) => Err(SpecError::missing("driver")),
            (_, None, _) => Err(SpecError::missing("property")),
            _ => Err(SpecError::missing("value")),
        }
    }

    fn new(arg: &Arg, driver: &str, property: &str, value: &str) -> Self {
        Self { arg: arg.clone(), driver: driver.into(), property: property.into(), value: value.into() }
    }
}

/// Sorts them into defaults of devices, properties of chips, and those of nothing that there is.
pub(super) fn resolve(globals: Vec<Global>, spec: &mut VmSpec) -> Result<(), CliError> {
    for global in globals {
        apply(&global, spec).map_err(|error| global.arg.wrong(error))?;
    }
    Ok(())
}

fn apply(global: &Global, spec: &mut VmSpec) -> Result<(), SpecError> {
    let Global { driver, property, value, .. } = global;
    if let Some(variant) = DeviceSpec::UNION.find(driver) {
        // The text is read now, so that a mistake is told even if no such device is there.
        read::typed(variant.description, property, value)?;
        let known = variant.description.find(property).map_or("", |prop| prop.name);
        spec.globals.push(GlobalSpec { driver: variant.name, property: known, value: value.clone() });
        return Ok(());
    }
    match (driver.as_str(), property.as_str()) {
        ("kvm-pit", "lost_tick_policy") => {
            let policies = [LostTicks::Delay, LostTicks::Discard];
            let chosen = policies.into_iter().find(|policy| policy.as_str() == value);
            spec.lost_ticks = chosen.ok_or_else(|| SpecError::not_one_of(property, value, LostTicks::WORDS))?;
        }
        // Sleep states are never offered: there is nothing to switch off.
        ("PIIX4_PM", "disable_s3" | "disable_s4") if matches!(value.as_str(), "1" | "on" | "true" | "yes") => {}
        ("PIIX4_PM", "disable_s3" | "disable_s4") => {
            return Err(SpecError::refused(
                format_args!("'{property}={}'", Shown(value)),
                "only 1 works: there is no sleep",
            ));
        }
        ("kvm-pit" | "PIIX4_PM", _) => {
            return Err(SpecError::new(format!("Property '{driver}.{}' not found", Shown(property))));
        }
        _ => spec.warnings.push(format!("global {}.{} has invalid class name", Shown(driver), Shown(property))),
    }
    Ok(())
}
