//! Addresses of LUs: `iscsi://host[:port]/target[/lun]`, as libiscsi and QEMU write them, without secrets.

use std::str::FromStr;

use twinlun_iscsi::names::{IscsiName, NameError};
use twinlun_iscsi::pdu::Lun;

/// Where a LU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiUrl {
    /// Name or address of the portal.
    pub host: String,
    /// TCP port, 3260 when not given.
    pub port: u16,
    /// Target name, checked. A text, because a name is bound to its shard and arguments are not.
    pub target: String,
    /// LUN, 0 when not given.
    pub lun: Lun,
}

/// Why a text is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not of the form.
    #[error("an iSCSI address is iscsi://host[:port]/target[/lun]")]
    Form,
    /// Secrets do not belong on a command line.
    #[error("give the CHAP user and the file of the secret as options, not in the address")]
    Secret,
    /// The port.
    #[error("the port is a number below 65536")]
    Port,
    /// The target's name.
    #[error("target: {0}")]
    Target(#[from] NameError),
    /// The LUN.
    #[error("the LUN is a number below 16384")]
    Lun,
}

impl FromStr for IscsiUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("iscsi://").ok_or(UrlError::Form)?;
        let (portal, path) = rest.split_once('/').ok_or(UrlError::Form)?;
        if portal.contains('@') {
            return Err(UrlError::Secret);
        }
        // An IPv6 address stands in brackets.
        let (host, port) = match portal.strip_prefix('[') {
            Some(inner) => inner.split_once(']').ok_or(UrlError::Form)?,
            None => portal.split_at(portal.find(':').unwrap_or(portal.len())),
        };
        if host.is_empty() {
            return Err(UrlError::Form);
        }
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| UrlError::Port)?,
            None if port.is_empty() => 3260,
            None => return Err(UrlError::Form),
        };
        let (target, lun) = path.split_once('/').unwrap_or((path, "0"));
        let lun = lun.parse().ok().and_then(Lun::from_number).ok_or(UrlError::Lun)?;
        let target = IscsiName::parse(target.as_bytes())?.as_str().to_owned();
        Ok(Self { host: host.into(), port, target, lun })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_read() {
        let url: IscsiUrl = "iscsi://10.0.0.1:3261/iqn.2026-11.io.twinlun:east/7".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.lun.number()), ("10.0.0.1", 3261, Some(7)));
        assert_eq!(url.target, "iqn.2026-11.io.twinlun:east");
        let url: IscsiUrl = "iscsi://[::1]/iqn.2026-11.io.twinlun:east".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.lun), ("::1", 3260, Lun::ZERO));
        let url: IscsiUrl = "iscsi://[fe80::1]:99/iqn.2026-11.io.twinlun:east/0".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port), ("fe80::1", 99));
    }

    #[test]
    fn other_texts_are_refused() {
        let target = "iqn.2026-11.io.twinlun:east";
        let parse = |text: String| text.parse::<IscsiUrl>().unwrap_err();
        assert_eq!(parse(format!("http://h/{target}/0")), UrlError::Form);
        assert_eq!(parse(format!("iscsi:///{target}/0")), UrlError::Form);
        assert_eq!(parse("iscsi://h".into()), UrlError::Form);
        assert_eq!(parse(format!("iscsi://[::1/{target}/0")), UrlError::Form);
        assert_eq!(parse(format!("iscsi://[::1]x/{target}/0")), UrlError::Form);
        assert_eq!(parse(format!("iscsi://u%p@h/{target}/0")), UrlError::Secret);
        assert_eq!(parse(format!("iscsi://h:65536/{target}/0")), UrlError::Port);
        assert_eq!(parse(format!("iscsi://h/{target}/16384")), UrlError::Lun);
        assert_eq!(parse(format!("iscsi://h/{target}/1/2")), UrlError::Lun);
        assert_eq!(parse("iscsi://h/disk/0".into()), UrlError::Target(NameError::Form));
    }
}
