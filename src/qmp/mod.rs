//! QMP, the machine protocol: what a client may say, what it hears, and the way from its socket to the main thread.
//!
//! ```text
//!  client ──bytes── chardev ──> session ──Request──> RequestQueue ──> main thread: Request::serve ──> Target
//!                                  ^                                                                  │
//!                                  └────────── one ordered outbox <── Reply, EventBus <───────────────┘
//! ```
//!
//! Parsing makes a typed [`Command`] and never touches the machine. Replies and events leave through one queue, so
//! an event emitted before a reply is seen before it.
//!
//! What this module refuses to know: how anything in the machine works. It hands commands to a [`Target`].

#[macro_use]
pub mod qapi;

pub mod channel;
pub mod command;
pub mod error;
pub mod event;
pub mod framing;
pub(crate) mod json;
mod message;
mod monitors;
pub mod reply;
mod services;
mod session;
pub mod state;
mod types;
mod wire;

pub use channel::{
    Answer, DiskWork, HoldOrder, Inspect, Inspection, Reply, Request, RequestQueue, RequestSender, Target,
    request_channel,
};
pub use command::Command;
pub use error::{ErrorClass, QmpError};
pub use event::{Event, EventBus};
pub(crate) use monitors::Ticket;
pub use monitors::{Mode, Monitors};
pub use qapi::{At, Qapi, Schema};
pub use services::Services;
pub(crate) use session::Session;
pub use state::{Decision, RunState, accept};
pub use types::CpuTypes;
pub(crate) use wire::Wire;
