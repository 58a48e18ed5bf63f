//! `query-cpu-model-expansion`: what a model with some properties comes to, feature by feature. What the host lacks of a
//! named model is not taken away, as under QEMU: `query-cpu-definitions` tells that.

use rhea_arch::x86_64::cpu::{CpuConfig, CpuError, CpuPlan, HostCpu, Topology, hyperv};
use serde_json::{Map, Value, json};

use super::{HOST_MODELS, ModelProperty, described, type_name};
use crate::qmp::QmpError;
use crate::qmp::command::args::CpuModelExpansionType;
use crate::qmp::reply::cpu::{CpuModelExpansionInfo, CpuModelInfo};

/// The model with nothing of its own, on which a static expansion stands.
const STATIC: &str = super::BARE_MODEL;

/// Answers the command.
///
/// # Errors
/// There is no KVM to ask, no such model or property, or a property does not take its value.
pub fn expand(
    kind: CpuModelExpansionType,
    model: &CpuModelInfo,
    host: Option<&HostCpu>,
) -> Result<CpuModelExpansionInfo, QmpError> {
    let host =
        host.ok_or_else(|| QmpError::generic("CPU models are expanded with the help of KVM, which is not there"))?;
    let given = texts(model.props.as_ref())?;
    let properties = given.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let config = CpuConfig::parse(&model.name, properties).map_err(|error| told(&model.name, &error))?;
    let told = |error: CpuError| told(&model.name, &error);
    let one = Topology::new(1, 1, 1, 1).map_err(|error| QmpError::from_error(&error))?;
    // Nothing is refused because the host lacks it.
    let plan = CpuPlan::new(&CpuConfig { enforce: false, ..config.clone() }, host, one).map_err(told)?;
    let mut props: Map<String, Value> = Map::new();
    for (name, _, value) in described(&plan, plan.asked()) {
        match (kind, name) {
            (CpuModelExpansionType::Static, "level") => drop(props.insert("min-level".into(), value)),
            (CpuModelExpansionType::Static, "xlevel") => drop(props.insert("min-xlevel".into(), value)),
            _ => drop(props.insert(name.into(), value)),
        }
    }
    let name = match kind {
        CpuModelExpansionType::Static => STATIC,
        CpuModelExpansionType::Full => {
            let further = further(&config).into_iter().map(|(name, _, value)| (name.to_owned(), value));
            props.extend(further);
            &model.name
        }
    };
    Ok(CpuModelExpansionInfo { model: CpuModelInfo { name: name.to_owned(), props: Some(Value::Object(props)) } })
}

/// Properties that are no features of a processor.
fn further(config: &CpuConfig) -> Vec<ModelProperty> {
    let mut further = vec![
        ("check", "bool", json!(config.check)),
        ("enforce", "bool", json!(config.enforce)),
        ("host-cache-info", "bool", json!(config.host_cache_info)),
        ("host-phys-bits-limit", "uint8", json!(config.host_phys_bits_limit)),
        ("kvm", "bool", json!(config.kvm)),
        ("l3-cache", "bool", json!(config.l3_cache)),
        ("phys-bits", "uint32", json!(config.phys_bits)),
        ("pmu", "bool", json!(config.pmu)),
        ("tsc-frequency", "int", json!(config.tsc_frequency.unwrap_or(0))),
    ];
    let follows = config.host_phys_bits.unwrap_or(HOST_MODELS.contains(&config.model.as_str()));
    further.push(("host-phys-bits", "bool", json!(follows)));
    if HOST_MODELS.contains(&config.model.as_str()) {
        further.push(("migratable", "bool", json!(config.migratable)));
    }
    further.extend(hyperv::names().filter(|name| hyperv::find(name).is_some()).map(|name| {
        let on = config.hyperv.has(name);
        (name, "bool", json!(on))
    }));
    further
}

/// The properties of a client as `-cpu` writes them.
fn texts(props: Option<&Value>) -> Result<Vec<(String, String)>, QmpError> {
    let Some(props) = props else { return Ok(Vec::new()) };
    let Value::Object(props) = props else { return Err(QmpError::expects("model.props", "an object")) };
    let text = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            _ => return Err(QmpError::expects(name, "a boolean, a number or a text")),
        };
        // A sign before a name is for people.
        if name.starts_with(['+', '-']) {
            Err(QmpError::generic(format!("Property '{name}' not found")))
        } else {
            Ok((name.clone(), text))
        }
    };
    props.iter().map(text).collect()
}

/// In QEMU's words, where it has some.
fn told(model: &str, error: &CpuError) -> QmpError {
    match error {
        CpuError::UnknownModel { .. } => QmpError::generic(format!("CPU model '{model}' not found")),
        CpuError::UnknownProperty { name, .. } => {
            QmpError::generic(format!("Property '{}.{name}' not found", type_name(model)))
        }
        other => QmpError::from_error(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhea_arch::kvm::CpuidTable;

    /// Has nothing but a name and 64-bit mode.
    fn host() -> HostCpu {
        let mut supported = CpuidTable::new();
        let word = |letters: &[u8; 4]| u32::from_le_bytes(*letters);
        supported.set(0, None, [13, word(b"Genu"), word(b"ntel"), word(b"ineI")]);
        supported.set(0x8000_0001, None, [0, 0, 0, 1 << 29]);
        HostCpu { supported, ..HostCpu::default() }
    }

    fn model(name: &str, props: Value) -> CpuModelInfo {
        CpuModelInfo { name: name.into(), props: Some(props) }
    }

    fn expanded(kind: CpuModelExpansionType, model: &CpuModelInfo) -> (String, Map<String, Value>) {
        let model = expand(kind, model, Some(&host())).unwrap().model;
        (model.name, model.props.and_then(|props| props.as_object().cloned()).unwrap())
    }

    #[test]
    fn static_expansion_says_every_feature_on_a_model_without_any() {
        let wish = model("Haswell", json!({"aes": false, "pdpe1gb": true}));

        let (name, props) = expanded(CpuModelExpansionType::Static, &wish);

        assert_eq!(name, "base");
        for (name, value) in [
            ("avx2", json!(true)),
            ("aes", json!(false)),
            ("pdpe1gb", json!(true)),
            ("svm", json!(false)),
            ("family", json!(6)),
            ("model", json!(60)),
            ("stepping", json!(4)),
            ("min-level", json!(13)),
            ("min-xlevel", json!(0x8000_0008u32)),
            ("vendor", json!("GenuineIntel")),
            ("model-id", json!("Intel Core Processor (Haswell)")),
        ] {
            assert_eq!(props.get(name), Some(&value), "{name}");
        }
        assert!(!props.contains_key("kvm") && !props.contains_key("level"));
    }

    /// As libvirt asks.
    #[test]
    fn full_expansion_of_a_static_one_has_its_features() {
        for name in ["host", "max", "qemu64", "EPYC-Milan"] {
            let (base, first) = expanded(CpuModelExpansionType::Static, &model(name, json!({})));
            let (again, second) = expanded(CpuModelExpansionType::Full, &model(&base, Value::Object(first.clone())));

            assert_eq!(again, "base");
            let same = |(name, value): (&String, &Value)| name.starts_with("min-") || second.get(name) == Some(value);
            assert!(first.iter().all(same), "{name}");
            assert_eq!(second.get("level"), first.get("min-level"));
            assert!(!second.contains_key("migratable") && second.contains_key("hv-relaxed"));
        }
        let (_, host) = expanded(CpuModelExpansionType::Full, &model("host", json!({"migratable": false})));
        assert_eq!(host.get("migratable"), Some(&json!(false)));
    }

    #[test]
    fn what_cannot_be_is_said_in_the_words_of_qemu() {
        let said = |name: &str, props: Value| {
            expand(CpuModelExpansionType::Full, &model(name, props), Some(&host())).unwrap_err().desc
        };

        assert_eq!(said("nosuch", json!({})), "CPU model 'nosuch' not found");
        assert_eq!(said("Haswell", json!({"nosuch": true})), "Property 'Haswell-x86_64-cpu.nosuch' not found");
        assert!(said("Haswell", json!({"aes": "x"})).contains("takes on or off"));
        assert!(said("Haswell", json!({"+aes": true})).contains("not found"));
        assert!(said("Haswell", json!({"aes": [true]})).contains("aes"));
        assert!(said("Haswell", json!(3)).contains("model.props"));
        assert!(expand(CpuModelExpansionType::Full, &model("host", json!({})), None).is_err());
    }
}
