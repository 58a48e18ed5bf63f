mod crash;
mod model;
mod qemu;
mod rig;
