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
pub mod reply;
pub mod state;

pub use channel::{Answer, Inspect, Inspection, Reply, Request, RequestQueue, RequestSender, Target, request_channel};
pub use command::Command;
pub use error::{ErrorClass, QmpError};
pub use event::{Event, EventBus};
pub use qapi::{At, Qapi, Schema};
pub use state::{Decision, RunState, accept};
