//! The answer to SendTargets (RFC 7143, appendix C).

use crate::names::IscsiName;

/// Most text that an answer may have.
const ANSWER_LIMIT: usize = 1 << 20;

/// A target and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredTarget {
    /// TargetName, a checked name.
    pub name: IscsiName,
    /// TargetAddress values: `host[:port][,group]`. Text of the network, printable ASCII only.
    pub addresses: Vec<String>,
}

/// Text that arrives over several responses.
#[derive(Debug, Default)]
pub(super) struct Answer {
    text: Vec<u8>,
}

impl Answer {
    /// Appends the text of one response; `None` when it is too much.
    pub(super) fn push(&mut self, text: &[u8]) -> Option<()> {
        if self.text.len() + text.len() > ANSWER_LIMIT {
            return None;
        }
        self.text.extend_from_slice(text);
        Some(())
    }

    /// The targets of the whole answer; `None` when it is malformed.
    pub(super) fn targets(&self) -> Option<Vec<DiscoveredTarget>> {
        let mut targets: Vec<DiscoveredTarget> = Vec::new();
        if !self.text.is_empty() && !self.text.ends_with(&[0]) {
            return None;
        }
        for item in self.text.split(|byte| *byte == 0).filter(|item| !item.is_empty()) {
            if let Some(name) = item.strip_prefix(b"TargetName=") {
                targets.push(DiscoveredTarget { name: IscsiName::parse(name).ok()?, addresses: Vec::new() });
            } else if let Some(address) = item.strip_prefix(b"TargetAddress=") {
                let address = str::from_utf8(address).ok()?;
                if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return None;
                }
                targets.last_mut()?.addresses.push(address.to_owned());
            }
        }
        Some(targets)
    }
}
