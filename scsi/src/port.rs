//! SCSI ports and how reservations name them (SPC-5, 7.6.4; RFC 7143, section 4.2.7).

use crate::wire::{Fields, Put};

/// An initiator port: the initiator's name and, for iSCSI, the session's ISID. Stable over relogins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorPort {
    /// iSCSI name.
    pub name: String,
    /// Initiator session identifier.
    pub isid: [u8; 6],
}

/// A target port: a portal group of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPort {
    /// Relative target port identifier, 1 and up, unique in the target device.
    pub relative_id: u16,
    /// Portal group tag.
    pub portal_group_tag: u16,
}

/// Longest iSCSI name (RFC 7143, section 4.2.7.1).
pub(crate) const MAX_NAME: usize = 223;

/// PROTOCOL IDENTIFIER of iSCSI.
pub(crate) const PROTOCOL_ISCSI: u8 = 0x05;

impl InitiatorPort {
    /// The TransportID in the format that names the port (format code 01b).
    pub(crate) fn put_transport_id(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put8(0x40 | PROTOCOL_ISCSI);
        out.put8(0);
        out.put16(0);
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(b",i,0x");
        for byte in self.isid {
            out.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        out.put8(0);
        // Null padded to a multiple of four, twenty at least (SPC-5, table 507).
        let body = out.len() - start - 4;
        let padded = body.next_multiple_of(4).max(20);
        out.zeros(padded - body);
        out.set16(start + 2, padded);
    }
}

/// A TransportID of a parameter list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransportId {
    pub(crate) name: String,
    /// `None` names the initiator device: every port of that name.
    pub(crate) isid: Option<[u8; 6]>,
}

impl TransportId {
    /// Takes one TransportID from the front of a parameter list; answers with its length.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        if bytes.len() < 4 || bytes.u8_at(0) & 0x0F != PROTOCOL_ISCSI {
            return None;
        }
        let len = usize::from(bytes.u16_at(2));
        let text = bytes.get(4..4usize.checked_add(len)?)?;
        if !len.is_multiple_of(4) || len < 20 {
            return None;
        }
        let end = text.iter().position(|b| *b == 0)?;
        let text = std::str::from_utf8(&text[..end]).ok()?;
        let (name, isid) = match bytes.u8_at(0) >> 6 {
            0 => (text, None),
            1 => {
                let (name, hex) = text.split_once(",i,0x")?;
                (name, Some(parse_isid(hex)?))
            }
            _ => return None,
        };
        if name.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        Some((Self { name: name.to_owned(), isid }, 4 + len))
    }

    /// Whether it names this port.
    pub(crate) fn names(&self, port: &InitiatorPort) -> bool {
        self.name == port.name && self.isid.is_none_or(|isid| isid == port.isid)
    }
}

fn parse_isid(hex: &str) -> Option<[u8; 6]> {
    if hex.is_empty() || hex.len() > 12 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(hex, 16).ok()?;
    let [_, _, isid @ ..] = value.to_be_bytes();
    Some(isid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_id_round_trips_and_is_padded() {
        let port = InitiatorPort { name: "iqn.2026-11.io.host:one".into(), isid: [0x40, 1, 2, 3, 4, 5] };
        let mut bytes = Vec::new();
        port.put_transport_id(&mut bytes);
        assert!(bytes.len().is_multiple_of(4));
        let (id, len) = TransportId::parse(&bytes).expect("our own TransportID");
        assert_eq!(len, bytes.len());
        assert!(id.names(&port));
        assert!(!id.names(&InitiatorPort { isid: [0; 6], ..port }));
    }

    #[test]
    fn transport_id_of_foreign_bytes_never_panics() {
        for len in 0..40 {
            let bytes: Vec<u8> = (0..len).map(|i| if i == 0 { 0x45 } else { 0x30 + i }).collect();
            let _ = TransportId::parse(&bytes);
        }
        assert_eq!(TransportId::parse(&[0x05, 0, 0, 200, b'i']), None);
    }
}
