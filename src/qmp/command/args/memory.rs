//! Of guest memory.

qapi_struct! {
    /// `memsave`: guest memory as a vCPU sees it.
    pub struct Memsave {
        /// The first linear address.
        pub val: i64,
        /// How many bytes.
        pub size: i64,
        /// The file that they are written to.
        pub filename: String,
        /// The vCPU whose page tables translate; the first without.
        pub cpu_index: Option<i64>,
    }
}

qapi_struct! {
    /// `pmemsave`: guest memory as the machine has it.
    pub struct Pmemsave {
        /// The first address.
        pub val: i64,
        /// How many bytes.
        pub size: i64,
        /// The file that they are written to.
        pub filename: String,
    }
}
