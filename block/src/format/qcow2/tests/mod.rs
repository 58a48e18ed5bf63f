mod crash;
mod crowd;
mod hostile;
mod model;
mod packed;
mod qemu;
mod regress;
mod rig;
