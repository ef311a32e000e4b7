//! What a target answered, in words that tests compare and print.

use twinlun::initiator::sense_codes;
use twinlun_iscsi::initiator::Completion;
use twinlun_iscsi::pdu::{ResponseCode, ScsiStatus};

/// Status and sense codes of a command: `GOOD`, `CHECK 5/24/00`, `RESERVATION CONFLICT`.
pub fn outcome(completion: &Completion) -> String {
    if completion.response != ResponseCode::COMPLETED {
        return format!("SERVICE RESPONSE {}", completion.response.0);
    }
    match completion.status {
        ScsiStatus::CHECK_CONDITION => match sense_codes(&completion.sense) {
            Some((key, asc, ascq)) => format!("CHECK {key:X}/{asc:02X}/{ascq:02X}"),
            None => "CHECK WITHOUT SENSE".into(),
        },
        status => match status.name() {
            Some(name) => name.replace('_', " ").to_ascii_uppercase(),
            None => format!("STATUS {:02X}", status.0),
        },
    }
}

/// INFORMATION of fixed or descriptor sense data, when VALID is set (SPC-5, 4.4).
pub fn information(sense: &[u8]) -> Option<u64> {
    match *sense.first()? {
        0xF0 | 0xF1 => Some(u64::from(u32::from_be_bytes(*sense.get(3..)?.first_chunk()?))),
        0x72 | 0x73 => {
            let mut rest = sense.get(8..)?;
            while let [kind, len, ..] = *rest {
                if kind == 0 && rest.get(2)? & 0x80 != 0 {
                    return Some(u64::from_be_bytes(*rest.get(4..)?.first_chunk()?));
                }
                rest = rest.get(2 + usize::from(len)..)?;
            }
            None
        }
        _ => None,
    }
}
