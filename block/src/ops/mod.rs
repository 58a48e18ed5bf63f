//! Work on whole disks, for the image tool and for jobs: what needs more than one request and no guest.

pub mod copy;
