//! PCI functions and the tree of objects.

use serde_json::Value;

qapi_struct! {
    /// Where in an address space a window begins and ends.
    pub struct PciMemoryRange {
        /// First address.
        pub base: i64,
        /// Last address.
        pub limit: i64,
    }
}

qapi_struct! {
    /// A base address register.
    pub struct PciMemoryRegion {
        /// Its number.
        pub bar: i64,
        /// `io` or `memory`.
        pub r#type: String,
        /// Where the guest put it; -1 while nowhere.
        pub address: i64,
        /// Bytes.
        pub size: i64,
        /// For memory: reads have no effects.
        pub prefetch: Option<bool>,
        /// For memory: 64 bits wide.
        pub mem_type_64: Option<bool> = "mem_type_64",
    }
}

qapi_struct! {
    /// The numbers of a bridge's buses.
    pub struct PciBusInfo {
        /// The bus it sits on.
        pub number: i64,
        /// The bus behind it.
        pub secondary: i64,
        /// The last bus behind that.
        pub subordinate: i64,
        /// Its I/O window.
        pub io_range: PciMemoryRange = "io_range",
        /// Its memory window.
        pub memory_range: PciMemoryRange = "memory_range",
        /// Its window for prefetchable memory.
        pub prefetchable_range: PciMemoryRange = "prefetchable_range",
    }
}

qapi_struct! {
    /// What makes a function a bridge.
    pub struct PciBridgeInfo {
        /// Its buses.
        pub bus: PciBusInfo,
        /// What is behind it.
        pub devices: Option<Vec<PciDeviceInfo>>,
    }
}

qapi_struct! {
    /// The class of a function.
    pub struct PciDeviceClass {
        /// For people.
        pub desc: Option<String>,
        /// Class and subclass.
        pub class: i64,
    }
}

qapi_struct! {
    /// Who made a function.
    pub struct PciDeviceId {
        /// Device.
        pub device: i64,
        /// Vendor.
        pub vendor: i64,
        /// Subsystem.
        pub subsystem: Option<i64>,
        /// The subsystem's vendor.
        pub subsystem_vendor: Option<i64>,
    }
}

qapi_struct! {
    /// A PCI function.
    pub struct PciDeviceInfo {
        /// Its bus.
        pub bus: i64,
        /// Its slot.
        pub slot: i64,
        /// Its function.
        pub function: i64,
        /// Its class.
        pub class_info: PciDeviceClass = "class_info",
        /// Who made it.
        pub id: PciDeviceId,
        /// The interrupt line that the firmware noted.
        pub irq: Option<i64>,
        /// 0 for none, 1 for INTA and so on.
        pub irq_pin: i64 = "irq_pin",
        /// The `id=` of the device, or empty.
        pub qdev_id: String = "qdev_id",
        /// For bridges.
        pub pci_bridge: Option<Box<PciBridgeInfo>> = "pci_bridge",
        /// Its registers' windows.
        pub regions: Vec<PciMemoryRegion>,
    }
}

qapi_struct! {
    /// An entry of `query-pci`: a root bus.
    pub struct PciInfo {
        /// Its number.
        pub bus: i64,
        /// What is on it.
        pub devices: Vec<PciDeviceInfo>,
    }
}

qapi_struct! {
    /// A property of an object or of a type.
    pub struct ObjectPropertyInfo {
        /// The name.
        pub name: String,
        /// `bool`, `uint32`, `str`, `child<TYPE>`, `link<TYPE>` and so on.
        pub r#type: String,
        /// For people.
        pub description: Option<String>,
        /// What it is when nobody set it.
        pub default_value: Option<Value>,
    }
}

qapi_struct! {
    /// An entry of `qom-list-types`.
    pub struct ObjectTypeInfo {
        /// The name.
        pub name: String,
        /// No object can be made of it.
        pub r#abstract: Option<bool>,
        /// What it is a kind of.
        pub parent: Option<String>,
    }
}
