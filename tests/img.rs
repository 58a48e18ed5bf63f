//! `rhea img`, called by the name `qemu-img`, beside the real one on the same images.
//!
//! Needs `qemu-img` and `qemu-io` (Debian: qemu-utils); a test that cannot run them fails and says so.

#[path = "img/amend.rs"]
mod amend;
#[path = "img/bench.rs"]
mod bench;
#[path = "img/bitmap.rs"]
mod bitmap;
#[path = "img/care.rs"]
mod care;
#[path = "img/change.rs"]
mod change;
#[path = "img/copy.rs"]
mod copy;
#[path = "img/device.rs"]
mod device;
#[path = "img/encrypt.rs"]
mod encrypt;
#[path = "img/hostile.rs"]
mod hostile;
#[path = "img/look.rs"]
mod look;
#[path = "img/memory.rs"]
mod memory;
#[path = "img/named.rs"]
mod named;
#[path = "img/rig.rs"]
mod rig;
