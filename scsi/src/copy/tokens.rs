//! ROD tokens: what they stand for, how long, and why they no longer do (SPC-4, 5.17.6).
//!
//! A token here is of type "point in time copy – change vulnerable": it stands for the bytes that its ranges held when it was made, and is revoked
//! as soon as any of them may change. There is no copy behind it, so there is no other honest type, and no token ever gives other data than
//! that which it was made for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use twinlun_block::ByteRange;

use crate::LuId;
use crate::sense::{Asc, Sense};
use crate::wire::Fields;

/// Length of a ROD token.
pub(crate) const LENGTH: usize = 512;
/// ROD TYPE: point in time copy – change vulnerable.
pub(crate) const CHANGE_VULNERABLE: u32 = 0x0080_0001;
/// ROD TYPE: any point in time copy; the copy manager chooses.
pub(crate) const ANY_POINT_IN_TIME: u32 = 0x0080_FFFF;
/// ROD TYPE of the token that everybody knows: zeros without end (SBC-3, 4.28.4).
pub(crate) const ZERO: u32 = 0xFFFF_0001;
/// Inactivity timeout of a token whose maker names none.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest inactivity timeout that may be asked for.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// A token ends this long after it was made, however often it is used.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(4 * 3600);

/// Tokens in all.
const MAX_TOKENS: usize = 1024;
/// Tokens that one initiator has made.
const MAX_OF_INITIATOR: usize = 256;
/// Tokens that are no more and of which it is still known why.
const REMEMBERED: usize = 256;

/// What a token stands for.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// All of it, as the host has it.
    pub(crate) bytes: Box<[u8]>,
    /// The LU with the data.
    pub(crate) lu: LuId,
    /// Block size of that LU when the token was made.
    pub(crate) block: u32,
    /// Where the data is, in order.
    pub(crate) ranges: Vec<ByteRange>,
    /// Who made it.
    pub(crate) initiator: String,
    pub(crate) timeout: Duration,
    pub(crate) made: Duration,
    pub(crate) used: Duration,
}

impl Token {
    /// Bytes that it stands for.
    pub(crate) fn len(&self) -> u64 {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.used) > self.timeout || now.saturating_sub(self.made) > MAX_LIFETIME
    }
}

/// Why a token is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    Revoked,
    Expired,
    Deleted,
}

impl Gone {
    fn sense(self) -> Sense {
        Sense::illegal(match self {
            Self::Revoked => Asc::TOKEN_REVOKED,
            Self::Expired => Asc::TOKEN_EXPIRED,
            Self::Deleted => Asc::TOKEN_DELETED,
        })
    }
}

/// All tokens, by the number that each of them carries.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    last: u64,
    all: BTreeMap<u64, Token>,
    /// Number, secret and reason of tokens that are no more.
    gone: VecDeque<(u64, [u8; 32], Gone)>,
}

/// The random part, the last of a token.
fn secret(bytes: &[u8]) -> [u8; 32] {
    bytes.get(LENGTH - 32..LENGTH).and_then(|part| part.try_into().ok()).unwrap_or([0; 32])
}

impl Tokens {
    /// Whether there is any: if not, writes need not be looked at.
    pub(crate) fn any(&self) -> bool {
        !self.all.is_empty()
    }

    /// The number of the next token.
    pub(crate) fn next_number(&self) -> u64 {
        self.last + 1
    }

    /// Takes a new token in, under the number that [`Tokens::next_number`] has said. `false` when there are too many.
    pub(crate) fn add(&mut self, token: Token) -> bool {
        let own = self.all.values().filter(|other| other.initiator == token.initiator).count();
        if self.all.len() >= MAX_TOKENS || own >= MAX_OF_INITIATOR {
            return false;
        }
        self.last += 1;
        self.all.insert(self.last, token);
        true
    }

    /// The token that a host presents, with its number.
    pub(crate) fn present(&mut self, bytes: &[u8], now: Duration) -> Result<(u64, &Token), Sense> {
        let number = bytes.u64_at(8);
        match self.all.get_mut(&number) {
            Some(token) if *token.bytes == *bytes => {
                token.used = now;
                Ok((number, token))
            }
            _ => {
                let known = self.gone.iter().find(|(n, s, _)| *n == number && *s == secret(bytes));
                Err(known.map_or(Sense::illegal(Asc::TOKEN_UNKNOWN), |(_, _, gone)| gone.sense()))
            }
        }
    }

    /// Whether a token still stands for its data.
    pub(crate) fn alive(&self, number: u64) -> Result<(), Sense> {
        if self.all.contains_key(&number) {
            return Ok(());
        }
        let known = self.gone.iter().find(|(n, ..)| *n == number);
        Err(known.map_or(Sense::illegal(Asc::TOKEN_UNKNOWN), |(_, _, gone)| gone.sense()))
    }

    /// Those that stand for data of LUs that `which` picks.
    pub(crate) fn of(&self, which: impl Fn(LuId) -> bool) -> impl Iterator<Item = &Token> {
        self.all.values().filter(move |token| which(token.lu))
    }

    /// Bytes of a LU may change from now on, all of them when no range is named: revokes what stands for them.
    pub(crate) fn changed(&mut self, lu: LuId, range: Option<ByteRange>) {
        let stale = |token: &Token| {
            token.lu == lu && range.is_none_or(|range| token.ranges.iter().any(|own| own.overlaps(range)))
        };
        self.end(stale, Gone::Revoked);
    }

    /// Ends those whose time is up, unless `used` says that they are in use.
    pub(crate) fn expire(&mut self, now: Duration, used: impl Fn(u64) -> bool) {
        for (number, token) in &mut self.all {
            if used(*number) {
                token.used = now;
            }
        }
        self.end(|token| token.is_over(now) && token.used < now, Gone::Expired);
    }

    /// A host has no more use for it.
    pub(crate) fn delete(&mut self, number: u64) {
        if let Some(token) = self.all.remove(&number) {
            self.remember(number, &token, Gone::Deleted);
        }
    }

    fn end(&mut self, which: impl Fn(&Token) -> bool, why: Gone) {
        while let Some(number) = self.all.iter().find(|(_, token)| which(token)).map(|(number, _)| *number) {
            if let Some(token) = self.all.remove(&number) {
                self.remember(number, &token, why);
            }
        }
    }

    fn remember(&mut self, number: u64, token: &Token, why: Gone) {
        if self.gone.len() == REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back((number, secret(&token.bytes), why));
    }
}
