//! iSNS (RFC 4171), the client's side, without I/O: messages, attributes, and what a target registers.
//!
//! A target tells an iSNS server its name and portals, and initiators ask the server instead of every portal. The storage processor
//! connects and sends; here is what it says, and how it understands the server. All of it is foreign text: lengths are checked and
//! everything is bounded. Page: `docs/design/isns.md`.

mod attribute;
mod message;
mod registration;
#[cfg(test)]
mod tests;

pub use attribute::{Attribute, AttributeWriter, Tag, attributes};
pub use message::{Function, IsnsError, Message, MessageReader, Sender, Status};
pub use registration::{Accepted, Notification, Portal, Registration, notification, reply};
