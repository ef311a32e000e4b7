//! Codes of the protocol as open newtypes.

/// Declares newtypes over an integer whose known values have names and whose unknown values survive and print.
macro_rules! open_codes {
    ($($(#[$doc:meta])* $name:ident($int:ty) { $($(#[$value_doc:meta])* $value:ident = $code:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$value_doc])* pub const $value: Self = Self($code);)*

            /// The name of a value that the standard defines.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($value)),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}({:#04x})", stringify!($name), self.0),
                }
            }
        }
    )*};
}

open_codes! {
    /// Operation code (RFC 7143, 11.2.1.2), six bits.
    Opcode(u8) {
        /// NOP-Out.
        NOP_OUT = 0x00,
        /// SCSI Command.
        SCSI_COMMAND = 0x01,
        /// SCSI Task Management Function Request.
        TASK_REQUEST = 0x02,
        /// Login Request.
        LOGIN_REQUEST = 0x03,
        /// Text Request.
        TEXT_REQUEST = 0x04,
        /// SCSI Data-Out.
        DATA_OUT = 0x05,
        /// Logout Request.
        LOGOUT_REQUEST = 0x06,
        /// SNACK Request.
        SNACK_REQUEST = 0x10,
        /// NOP-In.
        NOP_IN = 0x20,
        /// SCSI Response.
        SCSI_RESPONSE = 0x21,
        /// SCSI Task Management Function Response.
        TASK_RESPONSE = 0x22,
        /// Login Response.
        LOGIN_RESPONSE = 0x23,
        /// Text Response.
        TEXT_RESPONSE = 0x24,
        /// SCSI Data-In.
        DATA_IN = 0x25,
        /// Logout Response.
        LOGOUT_RESPONSE = 0x26,
        /// Ready To Transfer.
        R2T = 0x31,
        /// Asynchronous Message.
        ASYNC_MESSAGE = 0x32,
        /// Reject.
        REJECT = 0x3f,
    }

    /// Task attribute of a SCSI command (RFC 7143, 11.3.1), three bits.
    TaskAttribute(u8) {
        /// Untagged.
        UNTAGGED = 0,
        /// SIMPLE.
        SIMPLE = 1,
        /// ORDERED.
        ORDERED = 2,
        /// HEAD OF QUEUE.
        HEAD_OF_QUEUE = 3,
        /// ACA.
        ACA = 4,
    }

    /// SCSI status (SAM-5, 5.3.1).
    ScsiStatus(u8) {
        /// GOOD.
        GOOD = 0x00,
        /// CHECK CONDITION.
        CHECK_CONDITION = 0x02,
        /// CONDITION MET.
        CONDITION_MET = 0x04,
        /// BUSY.
        BUSY = 0x08,
        /// RESERVATION CONFLICT.
        RESERVATION_CONFLICT = 0x18,
        /// TASK SET FULL.
        TASK_SET_FULL = 0x28,
        /// ACA ACTIVE.
        ACA_ACTIVE = 0x30,
        /// TASK ABORTED.
        TASK_ABORTED = 0x40,
    }

    /// iSCSI service response of a SCSI Response (RFC 7143, 11.4.3).
    ResponseCode(u8) {
        /// Command completed at target; the status counts.
        COMPLETED = 0x00,
        /// Target failure; the status does not count.
        TARGET_FAILURE = 0x01,
    }

    /// Task management function (RFC 7143, 11.5.1; RFC 7144, 6.3), seven bits.
    TaskFunction(u8) {
        /// ABORT TASK.
        ABORT_TASK = 1,
        /// ABORT TASK SET.
        ABORT_TASK_SET = 2,
        /// CLEAR ACA.
        CLEAR_ACA = 3,
        /// CLEAR TASK SET.
        CLEAR_TASK_SET = 4,
        /// LOGICAL UNIT RESET.
        LOGICAL_UNIT_RESET = 5,
        /// TARGET WARM RESET.
        TARGET_WARM_RESET = 6,
        /// TARGET COLD RESET.
        TARGET_COLD_RESET = 7,
        /// TASK REASSIGN.
        TASK_REASSIGN = 8,
        /// QUERY TASK.
        QUERY_TASK = 9,
        /// QUERY TASK SET.
        QUERY_TASK_SET = 10,
        /// I_T NEXUS RESET.
        I_T_NEXUS_RESET = 11,
        /// QUERY ASYNCHRONOUS EVENT.
        QUERY_ASYNCHRONOUS_EVENT = 12,
    }

    /// Answer to a task management function (RFC 7143, 11.6.1; RFC 7144, 6.4).
    TaskResponseCode(u8) {
        /// Function complete.
        COMPLETE = 0,
        /// Task does not exist.
        NO_SUCH_TASK = 1,
        /// LUN does not exist.
        NO_SUCH_LUN = 2,
        /// Task still allegiant.
        STILL_ALLEGIANT = 3,
        /// Task allegiance reassignment not supported.
        REASSIGN_NOT_SUPPORTED = 4,
        /// Task management function not supported.
        NOT_SUPPORTED = 5,
        /// Function authorization failed.
        NOT_AUTHORIZED = 6,
        /// Function succeeded.
        SUCCEEDED = 7,
        /// Function rejected.
        REJECTED = 255,
    }

    /// Stage of login (RFC 7143, 11.12.3), two bits.
    Stage(u8) {
        /// SecurityNegotiation.
        SECURITY = 0,
        /// LoginOperationalNegotiation.
        OPERATIONAL = 1,
        /// FullFeaturePhase.
        FULL_FEATURE = 3,
    }

    /// Status-Class (high byte) and Status-Detail (low byte) of a Login Response (RFC 7143, 11.13.5).
    LoginStatus(u16) {
        /// Login is proceeding.
        SUCCESS = 0x0000,
        /// Target moved temporarily.
        MOVED_TEMPORARILY = 0x0101,
        /// Target moved permanently.
        MOVED_PERMANENTLY = 0x0102,
        /// Initiator error.
        INITIATOR_ERROR = 0x0200,
        /// Authentication failure.
        AUTHENTICATION_FAILURE = 0x0201,
        /// Authorization failure.
        AUTHORIZATION_FAILURE = 0x0202,
        /// Not found.
        NOT_FOUND = 0x0203,
        /// Target removed.
        TARGET_REMOVED = 0x0204,
        /// Unsupported version.
        UNSUPPORTED_VERSION = 0x0205,
        /// Too many connections.
        TOO_MANY_CONNECTIONS = 0x0206,
        /// Missing parameter.
        MISSING_PARAMETER = 0x0207,
        /// Can't include in session.
        CANNOT_INCLUDE = 0x0208,
        /// Session type not supported.
        SESSION_TYPE_NOT_SUPPORTED = 0x0209,
        /// Session does not exist.
        NO_SUCH_SESSION = 0x020a,
        /// Invalid request type during login.
        INVALID_DURING_LOGIN = 0x020b,
        /// Target error.
        TARGET_ERROR = 0x0300,
        /// Service unavailable.
        SERVICE_UNAVAILABLE = 0x0301,
        /// Out of resources.
        OUT_OF_RESOURCES = 0x0302,
    }

    /// Reason of a Logout Request (RFC 7143, 11.14.1), seven bits.
    LogoutReason(u8) {
        /// Close the session.
        CLOSE_SESSION = 0,
        /// Close the connection.
        CLOSE_CONNECTION = 1,
        /// Remove the connection for recovery.
        RECOVERY = 2,
    }

    /// Answer to a Logout Request (RFC 7143, 11.15.1).
    LogoutResponseCode(u8) {
        /// Connection or session closed successfully.
        CLOSED = 0,
        /// CID not found.
        NO_SUCH_CID = 1,
        /// Connection recovery is not supported.
        RECOVERY_NOT_SUPPORTED = 2,
        /// Cleanup failed.
        CLEANUP_FAILED = 3,
    }

    /// What a SNACK asks for (RFC 7143, 11.16.1), four bits.
    SnackType(u8) {
        /// Data-In or R2T PDUs again.
        DATA_OR_R2T = 0,
        /// Responses again.
        STATUS = 1,
        /// Acknowledges Data-In PDUs.
        DATA_ACK = 2,
        /// Data-In PDUs again, possibly cut anew.
        R_DATA = 3,
    }

    /// Reason of a Reject (RFC 7143, 11.17.1).
    RejectReason(u8) {
        /// Data digest error.
        DATA_DIGEST_ERROR = 0x02,
        /// SNACK reject.
        SNACK_REJECT = 0x03,
        /// Protocol error.
        PROTOCOL_ERROR = 0x04,
        /// Command not supported.
        COMMAND_NOT_SUPPORTED = 0x05,
        /// Too many immediate commands.
        TOO_MANY_IMMEDIATE_COMMANDS = 0x06,
        /// Task in progress.
        TASK_IN_PROGRESS = 0x07,
        /// Invalid data acknowledgment.
        INVALID_DATA_ACK = 0x08,
        /// Invalid PDU field.
        INVALID_PDU_FIELD = 0x09,
        /// Out of resources for a target transfer tag.
        LONG_OPERATION_REJECT = 0x0a,
        /// Deprecated; ends the login when received.
        NEGOTIATION_RESET = 0x0b,
        /// Waiting for logout.
        WAITING_FOR_LOGOUT = 0x0c,
    }

    /// Event of an Asynchronous Message (RFC 7143, 11.9.1).
    AsyncEvent(u8) {
        /// A SCSI event, described by sense data.
        SCSI = 0,
        /// The target asks for a logout within Parameter3 seconds.
        LOGOUT_REQUEST = 1,
        /// The target will drop the connection whose CID is Parameter1.
        CONNECTION_DROP = 2,
        /// The target will drop all connections of the session.
        SESSION_DROP = 3,
        /// The target asks for a negotiation within Parameter3 seconds.
        NEGOTIATION_REQUEST = 4,
        /// All tasks of the LU are being terminated.
        TASK_TERMINATION = 5,
        /// Vendor-specific; AsyncVCode counts.
        VENDOR = 255,
    }
}

impl LoginStatus {
    /// Status-Class: 0 success, 1 redirection, 2 initiator error, 3 target error.
    pub const fn class(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Whether login goes on.
    pub const fn is_success(self) -> bool {
        self.class() == 0
    }
}
