//! Attributes: tag, length, value (RFC 4171 sections 5.3 and 6).

use std::net::{IpAddr, Ipv6Addr};

use super::IsnsError;

/// Most attributes of one message.
const ATTRIBUTES_LIMIT: usize = 4096;

/// What an attribute is (section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub u32);

impl Tag {
    /// Delimiter between keys and operating attributes.
    pub const DELIMITER: Self = Self(0);
    /// Entity Identifier, text.
    pub const ENTITY: Self = Self(1);
    /// Entity Protocol, a number: 2 is iSCSI.
    pub const ENTITY_PROTOCOL: Self = Self(2);
    /// Timestamp in seconds, 8 bytes.
    pub const TIMESTAMP: Self = Self(4);
    /// Registration Period in seconds.
    pub const REGISTRATION_PERIOD: Self = Self(6);
    /// Portal IP Address, IPv6 or IPv4 mapped into it.
    pub const PORTAL_ADDRESS: Self = Self(16);
    /// Portal TCP Port.
    pub const PORTAL_PORT: Self = Self(17);
    /// Entity Status Inquiry interval in seconds.
    pub const INQUIRY_INTERVAL: Self = Self(19);
    /// Port for inquiries.
    pub const INQUIRY_PORT: Self = Self(20);
    /// Port for State Change Notifications.
    pub const NOTIFICATION_PORT: Self = Self(23);
    /// iSCSI Name, text.
    pub const NAME: Self = Self(32);
    /// iSCSI Node Type, a bitmap.
    pub const NODE_TYPE: Self = Self(33);
    /// iSCSI Alias, text.
    pub const ALIAS: Self = Self(34);
    /// SCN bitmap.
    pub const NOTIFICATIONS: Self = Self(35);
    /// Portal Group: IP address of the portal.
    pub const GROUP_ADDRESS: Self = Self(49);
    /// Portal Group: port of the portal.
    pub const GROUP_PORT: Self = Self(50);
    /// Portal Group Tag.
    pub const GROUP: Self = Self(51);
}

/// One attribute; `value` with its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What it is.
    pub tag: Tag,
    /// Its value; a multiple of 4 bytes.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as a number of 4 bytes.
    pub fn number(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    /// The value as text, without the zero bytes at its end.
    pub fn text(&self) -> Option<&'a str> {
        let end = self.value.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&self.value[..end]).ok()
    }

    /// The value as an address.
    pub fn address(&self) -> Option<IpAddr> {
        let bytes: [u8; 16] = self.value.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).to_canonical())
    }
}

/// The attributes of a payload, in order.
pub fn attributes(mut payload: &[u8]) -> Result<Vec<Attribute<'_>>, IsnsError> {
    let mut found = Vec::new();
    while !payload.is_empty() {
        let (tag, rest) = payload.split_first_chunk().ok_or(IsnsError::Attribute)?;
        let (len, rest) = rest.split_first_chunk().ok_or(IsnsError::Attribute)?;
        let len = u32::from_be_bytes(*len) as usize;
        if !len.is_multiple_of(4) || len > rest.len() || found.len() == ATTRIBUTES_LIMIT {
            return Err(IsnsError::Attribute);
        }
        let (value, rest) = rest.split_at(len);
        found.push(Attribute { tag: Tag(u32::from_be_bytes(*tag)), value });
        payload = rest;
    }
    Ok(found)
}

/// Writes attributes.
#[derive(Clone, Debug, Default)]
pub struct AttributeWriter {
    payload: Vec<u8>,
}

impl AttributeWriter {
    /// Begins an answer.
    pub fn with_status(status: super::Status) -> Self {
        Self { payload: status.0.to_be_bytes().to_vec() }
    }

    /// Bytes; zero bytes fill them up to a multiple of 4.
    #[must_use]
    pub fn bytes(mut self, tag: Tag, value: &[u8]) -> Self {
        let len = value.len().next_multiple_of(4);
        self.payload.extend_from_slice(&tag.0.to_be_bytes());
        self.payload.extend_from_slice(&(len as u32).to_be_bytes());
        self.payload.extend_from_slice(value);
        self.payload.extend(std::iter::repeat_n(0, len - value.len()));
        self
    }

    /// Text, ended by a zero byte.
    #[must_use]
    pub fn text(self, tag: Tag, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(tag, &bytes)
    }

    /// A number of 4 bytes.
    #[must_use]
    pub fn number(self, tag: Tag, value: u32) -> Self {
        self.bytes(tag, &value.to_be_bytes())
    }

    /// An address; IPv4 is mapped into IPv6 (section 6.3.1).
    #[must_use]
    pub fn address(self, tag: Tag, value: IpAddr) -> Self {
        let v6 = match value {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        self.bytes(tag, &v6.octets())
    }

    /// The delimiter.
    #[must_use]
    pub fn delimiter(self) -> Self {
        self.bytes(Tag::DELIMITER, &[])
    }

    /// The payload.
    pub fn finish(self) -> Vec<u8> {
        self.payload
    }
}
