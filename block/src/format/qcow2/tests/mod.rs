mod crash;
mod hostile;
mod model;
mod qemu;
mod rig;
