//! Of the jobs within a chain, and of what controls any job.

qapi_enum! {
    /// What a job does about an error.
    pub enum JobOnError {
        /// It ends, and says why.
        Report = "report",
        /// It goes on, and comes back to what failed where it can.
        Ignore = "ignore",
        /// It is held where there was no space, and ends otherwise.
        Enospc = "enospc",
        /// It is held until it is resumed.
        Stop = "stop",
        /// The same as `enospc`.
        Auto = "auto",
    }
}

qapi_struct! {
    /// What a command that starts a job on a disk says of it, whatever the job does.
    pub struct JobArgs {
        /// The job's id; that of the device without.
        pub job_id: Option<String>,
        /// The device or node: for `block-stream` the one that takes in what lies beneath, for `block-commit` the top of
        /// the chain.
        pub device: String,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: Option<u64>,
        /// Finalizes by itself; it does without.
        pub auto_finalize: Option<bool>,
        /// Is forgotten by itself; it is without.
        pub auto_dismiss: Option<bool>,
    }
}

qapi_struct! {
    /// `block-stream`.
    pub struct Stream {
        /// What every job is told.
        ..job: JobArgs,
        /// What stays beneath; nothing without.
        pub base_node: Option<String>,
        /// The same by its file.
        pub base: Option<String>,
        /// The last node that is taken in; what lies beneath that stays.
        pub bottom: Option<String>,
        /// What its header calls that; the node's own file without.
        pub backing_file: Option<String>,
        /// What an error does.
        pub on_error: Option<JobOnError>,
        /// The name of the job's own node; one is made up without.
        pub filter_node_name: Option<String>,
    }
}

/// `block-stream`: boxed, because it is larger than other arguments.
pub type BlockStream = Box<Stream>;

/// `block-commit`: boxed, because it is larger than other arguments.
pub type BlockCommit = Box<Commit>;

qapi_struct! {
    /// `block-commit`.
    pub struct Commit {
        /// What every job is told.
        ..job: JobArgs,
        /// Where it is written to; the bottom of the chain without.
        pub base_node: Option<String>,
        /// The same by its file.
        pub base: Option<String>,
        /// What is written; the top of the chain without.
        pub top_node: Option<String>,
        /// The same by its file.
        pub top: Option<String>,
        /// What the header of the image above calls the base; its own file without.
        pub backing_file: Option<String>,
        /// What an error does.
        pub on_error: Option<JobOnError>,
        /// The name of the job's own node; one is made up without.
        pub filter_node_name: Option<String>,
    }
}

qapi_struct! {
    /// `block-job-cancel`.
    pub struct BlockJobCancel {
        /// The job's id.
        pub device: String,
        /// At once, whatever it has done.
        pub force: Option<bool>,
    }
}

qapi_struct! {
    /// `block-job-pause` and `block-job-resume`.
    pub struct JobDevice {
        /// The job's id.
        pub device: String,
    }
}

qapi_struct! {
    /// `block-job-set-speed`.
    pub struct BlockJobSetSpeed {
        /// The job's id.
        pub device: String,
        /// Bytes a second; 0 is as fast as it goes.
        pub speed: u64,
    }
}
