mod crash;
mod hostile;
mod model;
mod packed;
mod qemu;
mod rig;
