//! What a target tells an iSNS server, and what it understands of its answers (RFC 4171 sections 5.6.5 and 5.7.5).

use std::net::SocketAddr;

use super::attribute::{AttributeWriter, Tag, attributes};
use super::{Function, IsnsError, Message, Status};
use crate::names::IscsiName;

/// Entity Protocol: iSCSI (section 6.2.2).
const ISCSI: u32 = 2;
/// iSCSI Node Type: target (section 6.4.2).
const TARGET: u32 = 1;

/// SCN bitmap (section 6.4.4).
mod event {
    pub(super) const INITIATORS_AND_SELF: u32 = 0x80;
    pub(super) const REMOVED: u32 = 0x10;
    pub(super) const ADDED: u32 = 0x08;
    pub(super) const UPDATED: u32 = 0x04;
}

/// A portal of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Where initiators connect.
    pub address: SocketAddr,
    /// Target portal group tag.
    pub group: u16,
    /// TCP port on the same address for the server's inquiries and notifications.
    pub notify_port: Option<u16>,
}

/// Everything that a server keeps of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Entity Identifier: the storage processor.
    pub entity: String,
    /// The target.
    pub target: IscsiName,
    /// What people call it; not sent when it is empty.
    pub alias: String,
    /// Its portals. At least one, or there is nothing to register.
    pub portals: Vec<Portal>,
    /// Seconds that the server shall keep it without hearing of it.
    pub period: u32,
    /// Seconds between inquiries; 0: none.
    pub inquiry: u32,
    /// Whether portal groups are named. A server may not understand that.
    pub groups: bool,
}

/// A registration that the server has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Seconds that it keeps it; the server's choice, when it made one.
    pub period: u32,
}

/// What a State Change Notification says about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The node.
    pub node: String,
    /// It is not registered any more, or out of sight.
    pub removed: bool,
    /// It was added or changed.
    pub changed: bool,
}

fn request(function: Function, transaction: u16, payload: AttributeWriter) -> Message {
    Message { function, transaction, replace: false, payload: payload.finish() }
}

impl Registration {
    /// The request that registers everything. With `replace` the server forgets first what it knew of the entity.
    pub fn register(&self, transaction: u16, replace: bool) -> Message {
        let mut out = AttributeWriter::default()
            .text(Tag::NAME, self.target.as_str())
            .text(Tag::ENTITY, &self.entity)
            .delimiter()
            .text(Tag::ENTITY, &self.entity)
            .number(Tag::ENTITY_PROTOCOL, ISCSI)
            .number(Tag::REGISTRATION_PERIOD, self.period);
        for portal in &self.portals {
            out = out
                .address(Tag::PORTAL_ADDRESS, portal.address.ip())
                .number(Tag::PORTAL_PORT, portal.address.port().into());
            if let Some(port) = portal.notify_port {
                if self.inquiry > 0 {
                    out = out
                        .number(Tag::INQUIRY_INTERVAL, self.inquiry)
                        .number(Tag::INQUIRY_PORT, port.into());
                }
                out = out.number(Tag::NOTIFICATION_PORT, port.into());
            }
        }
        out = out.text(Tag::NAME, self.target.as_str()).number(Tag::NODE_TYPE, TARGET);
        if !self.alias.is_empty() {
            out = out.text(Tag::ALIAS, &self.alias);
        }
        let groups: std::collections::BTreeSet<u16> =
            self.portals.iter().map(|portal| portal.group).collect();
        for group in groups.into_iter().filter(|_| self.groups) {
            // The tag, then the portals that have it (section 5.6.5.1).
            out = out.number(Tag::GROUP, group.into());
            for portal in self.portals.iter().filter(|portal| portal.group == group) {
                out = out
                    .address(Tag::GROUP_ADDRESS, portal.address.ip())
                    .number(Tag::GROUP_PORT, portal.address.port().into());
            }
        }
        Message { replace, ..request(Function::REGISTER, transaction, out) }
    }

    /// The request for notifications about initiators in the target's discovery domains, and about the target itself.
    pub fn notify(&self, transaction: u16) -> Message {
        let wanted = event::INITIATORS_AND_SELF | event::REMOVED | event::ADDED | event::UPDATED;
        let out = AttributeWriter::default()
            .text(Tag::NAME, self.target.as_str())
            .text(Tag::NAME, self.target.as_str())
            .delimiter()
            .number(Tag::NOTIFICATIONS, wanted);
        request(Function::NOTIFY_REGISTER, transaction, out)
    }

    /// Whether the server could reach any portal with notifications.
    pub fn can_be_notified(&self) -> bool {
        self.portals.iter().any(|portal| portal.notify_port.is_some())
    }

    /// The request that removes the entity with all that belongs to it.
    pub fn deregister(&self, transaction: u16) -> Message {
        let out = AttributeWriter::default()
            .text(Tag::NAME, self.target.as_str())
            .delimiter()
            .text(Tag::ENTITY, &self.entity);
        request(Function::DEREGISTER, transaction, out)
    }

    /// Understands the answer to [`Registration::register`].
    pub fn accepted(&self, request: &Message, answer: &Message) -> Result<Accepted, IsnsError> {
        let rest = success(request, answer)?;
        let found = attributes(rest)?;
        let period = found.iter().rev().find(|attribute| attribute.tag == Tag::REGISTRATION_PERIOD);
        let period = period.and_then(super::Attribute::number).filter(|period| *period > 0);
        Ok(Accepted { period: period.unwrap_or(self.period) })
    }
}

/// Understands an answer of which only the status matters; the rest of it is returned.
pub(super) fn success<'a>(request: &Message, answer: &'a Message) -> Result<&'a [u8], IsnsError> {
    if answer.function != request.function.response() || answer.transaction != request.transaction {
        return Err(IsnsError::Answer);
    }
    match answer.status()? {
        (Status::SUCCESS, rest) => Ok(rest),
        (status, _) => Err(IsnsError::Refused(status)),
    }
}

impl Message {
    /// Whether this is a successful answer to `request`.
    pub fn confirms(&self, request: &Self) -> Result<(), IsnsError> {
        success(request, self).map(|_| ())
    }
}

/// The answer to a server's request; `None` for what asks for none.
///
/// An inquiry is answered with its own attributes, a notification with the attribute of the node that it is sent to (sections
/// 5.7.5.8 and 5.7.5.13).
pub fn reply(request: &Message) -> Option<Message> {
    let echo = match request.function {
        Function::INQUIRY => usize::MAX,
        Function::NOTIFICATION => 1,
        _ => return None,
    };
    let answer = match attributes(&request.payload) {
        Ok(found) => found
            .iter()
            .take(echo)
            .fold(AttributeWriter::with_status(Status::SUCCESS), |out, a| out.bytes(a.tag, a.value)),
        Err(_) => AttributeWriter::with_status(Status::FORMAT),
    };
    Some(Message {
        function: request.function.response(),
        transaction: request.transaction,
        replace: false,
        payload: answer.finish(),
    })
}

/// What a State Change Notification says: bitmaps, each with the nodes that it is about (section 5.6.5.8).
pub fn notification(message: &Message) -> Result<Vec<Notification>, IsnsError> {
    let mut bitmap = 0;
    let mut said = Vec::new();
    // The first attribute names whom it is sent to.
    for attribute in attributes(&message.payload)?.iter().skip(1) {
        match attribute.tag {
            Tag::NOTIFICATIONS => bitmap = attribute.number().ok_or(IsnsError::Attribute)?,
            Tag::NAME => said.push(Notification {
                node: attribute.text().ok_or(IsnsError::Attribute)?.to_owned(),
                removed: bitmap & event::REMOVED != 0,
                changed: bitmap & (event::ADDED | event::UPDATED) != 0,
            }),
            _ => {}
        }
    }
    Ok(said)
}
