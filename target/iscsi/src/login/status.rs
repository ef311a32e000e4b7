//! How a login ended (RFC 7143 section 11.13.5).

/// Status-Class and Status-Detail of a Login Response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum LoginStatus {
    /// Going on, or done.
    Success = 0x0000,
    /// The target serves elsewhere for now.
    MovedTemporarily = 0x0101,
    /// The target serves elsewhere for good.
    MovedPermanently = 0x0102,
    /// Some other error of the initiator, negotiation failures among them.
    InitiatorError = 0x0200,
    /// The initiator did not prove who it is, or wants a proof that the target cannot give.
    AuthenticationFailure = 0x0201,
    /// The initiator may not use this target.
    AuthorizationFailure = 0x0202,
    /// No such target here.
    NotFound = 0x0203,
    /// The target is gone.
    TargetRemoved = 0x0204,
    /// No version in the offered range is spoken here.
    UnsupportedVersion = 0x0205,
    /// The session has its connections already (one is the limit here).
    TooManyConnections = 0x0206,
    /// InitiatorName or TargetName is missing in the first request.
    MissingParameter = 0x0207,
    /// The session cannot span to this address.
    CannotIncludeInSession = 0x0208,
    /// This SessionType is not offered.
    SessionTypeNotSupported = 0x0209,
    /// The TSIH names no session.
    SessionDoesNotExist = 0x020a,
    /// A request other than Login came during login.
    InvalidDuringLogin = 0x020b,
    /// Hardware or software failed.
    TargetError = 0x0300,
    /// Not operational now.
    ServiceUnavailable = 0x0301,
    /// No session or connection to spare.
    OutOfResources = 0x0302,
}

impl LoginStatus {
    /// Status-Class: 0 success, 1 redirection, 2 initiator error, 3 target error.
    pub const fn class(self) -> u8 {
        (self as u16 >> 8) as u8
    }

    /// Status-Detail.
    pub const fn detail(self) -> u8 {
        (self as u16 & 0xff) as u8
    }
}
