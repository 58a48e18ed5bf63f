//! The vCPUs and the places for them.

use crate::machine::Machine;
use crate::machine::facts::CpuPlace;
use crate::qmp::QmpError;
use crate::qmp::channel::{Answer, answer};
use crate::qmp::reply::cpu::{CpuInfoFast, CpuInstanceProperties, HotpluggableCpu};

/// Where QEMU's object tree has unnamed devices of a `pc`: the vCPUs come first, and here the clock next.
pub(in crate::machine) fn path(index: usize) -> String {
    format!("/machine/unattached/device[{index}]")
}

impl Machine {
    /// The vCPUs, with the ids of their threads.
    pub(in crate::machine) fn cpus(&self) -> Vec<CpuInfoFast> {
        let present = self.facts.cpus.iter().filter(|place| place.present);
        let describe = |((index, vcpu), place): ((usize, &crate::vcpu::VcpuHandle), &CpuPlace)| CpuInfoFast {
            cpu_index: i64::from(vcpu.index()),
            qom_path: path(index),
            thread_id: i64::from(vcpu.thread_id()),
            props: Some(properties(place)),
            target: "x86_64".into(),
        };
        self.vcpus().iter().enumerate().zip(present).map(describe).collect()
    }

    /// The places, the last first, as QEMU lists them.
    ///
    /// # Errors
    /// A machine for probing has none.
    pub(in crate::machine) fn cpu_places(&self) -> Answer {
        if self.facts.cpus.is_empty() && self.guest.is_none() {
            return Err(QmpError::generic("The machine does not support hot-plugging CPUs"));
        }
        let describe = |(index, place): (usize, &CpuPlace)| HotpluggableCpu {
            r#type: self.facts.cpu_type.clone(),
            vcpus_count: 1,
            props: properties(place),
            qom_path: place.present.then(|| path(index)),
        };
        answer(&self.facts.cpus.iter().enumerate().rev().map(describe).collect::<Vec<_>>())
    }
}

fn properties(place: &CpuPlace) -> CpuInstanceProperties {
    CpuInstanceProperties {
        node_id: place.node.map(i64::from),
        socket_id: Some(i64::from(place.socket)),
        die_id: place.die.map(i64::from),
        core_id: Some(i64::from(place.core)),
        thread_id: Some(i64::from(place.thread)),
    }
}
