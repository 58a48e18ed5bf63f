//! The monitor itself, descriptors and character devices.

qapi_struct! {
    /// A version of QEMU.
    pub struct VersionTriple {
        /// First number.
        pub major: i64,
        /// Second number.
        pub minor: i64,
        /// Third number.
        pub micro: i64,
    }
}

qapi_struct! {
    /// `query-version` and the greeting.
    pub struct VersionInfo {
        /// The QEMU whose protocol this is.
        pub qemu: VersionTriple,
        /// What this really is.
        pub package: String,
    }
}

qapi_struct! {
    /// An entry of `query-commands`.
    pub struct CommandInfo {
        /// The name.
        pub name: String,
    }
}

qapi_enum! {
    /// What an option's parameter holds.
    pub enum CommandLineParameterType {
        /// Text.
        String = "string",
        /// `on` or `off`.
        Boolean = "boolean",
        /// A number.
        Number = "number",
        /// A number that may have a suffix such as `M`.
        Size = "size",
    }
}

qapi_struct! {
    /// A parameter of a command line option.
    pub struct CommandLineParameterInfo {
        /// The name.
        pub name: String,
        /// What it holds.
        pub r#type: CommandLineParameterType,
        /// For people.
        pub help: Option<String>,
        /// What it is when it is not given.
        pub default: Option<String>,
    }
}

qapi_struct! {
    /// An entry of `query-command-line-options`.
    pub struct CommandLineOptionInfo {
        /// The option without its `-`.
        pub option: String,
        /// What can be given to it.
        pub parameters: Vec<CommandLineParameterInfo>,
    }
}

qapi_struct! {
    /// `add-fd`.
    pub struct AddfdInfo {
        /// The set.
        pub fdset_id: i64,
        /// The descriptor's number in this process.
        pub fd: i64,
    }
}

qapi_struct! {
    /// A descriptor of a set.
    pub struct FdsetFdInfo {
        /// Its number in this process.
        pub fd: i64,
        /// What was said when it was added.
        pub opaque: Option<String>,
    }
}

qapi_struct! {
    /// An entry of `query-fdsets`.
    pub struct FdsetInfo {
        /// The set.
        pub fdset_id: i64,
        /// What is in it.
        pub fds: Vec<FdsetFdInfo>,
    }
}

qapi_struct! {
    /// An entry of `query-chardev`.
    pub struct ChardevInfo {
        /// The `id=`.
        pub label: String,
        /// What is at the host's end: `pty:/dev/pts/3`, `unix:/run/x,server=on`.
        pub filename: String,
        /// The guest has its end open.
        pub frontend_open: bool,
    }
}

qapi_struct! {
    /// An entry of `query-chardev-backends`.
    pub struct ChardevBackendInfo {
        /// The name.
        pub name: String,
    }
}

qapi_struct! {
    /// `chardev-add`, `chardev-change`.
    pub struct ChardevReturn {
        /// The terminal's path, for `pty`.
        pub pty: Option<String>,
    }
}
