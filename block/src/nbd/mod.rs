//! Network block devices: the client is a node of the graph, the server shows nodes to other machines.
//!
//! Both speak the fixed newstyle handshake of the NBD protocol (`doc/proto.md` of the NBD project), with structured
//! replies and metadata contexts. Section names in comments are of that document. The other end is never trusted:
//! every length is bounded before memory is taken for it, and whatever breaks a rule ends the connection.

mod address;
mod client;
mod proto;
mod server;
mod socket;

pub use address::{Address, NbdName};
pub use client::{ClientOptions, NbdClient, Unawaited};
pub use server::{Chain, Export, Leaving, Server, ShownBitmap};
pub use socket::{Listener, Place};
