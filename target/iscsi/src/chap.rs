//! CHAP (RFC 7143 section 12.1.3, RFC 1994): both ends' arithmetic, and the target's half of the exchange.
//!
//! ```text
//! initiator                                target
//! CHAP_A=7,5                    ->
//!                               <-         CHAP_A=7 CHAP_I=.. CHAP_C=0x..
//! CHAP_N=.. CHAP_R=0x.. [CHAP_I=.. CHAP_C=0x..]  ->
//!                               <-         [CHAP_N=.. CHAP_R=0x..]        or a refused login
//! ```

use std::fmt;
use std::rc::Rc;

use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha256;
use sha3::Sha3_256;
use smallvec::SmallVec;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::target::ChapCredentials;
use crate::text::{self, BINARY_LIMIT, Pair, TextBuilder};

/// Fewest bytes of a secret: 96 bits, for want of IPsec (RFC 7143 section 9.2.1).
pub const MIN_SECRET: usize = 12;

/// A CHAP secret. Wiped from memory when the last clone goes; never printed.
#[derive(Clone)]
pub struct Secret(Rc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Takes the bytes of a secret.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Rc::new(Zeroizing::new(bytes)))
    }

    /// The secret's length in bytes. RFC 7143 section 9.2.1 wants [`MIN_SECRET`] at least; Windows takes 16 at most.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both are the same, in constant time. One secret for both directions is forbidden (RFC 7143 section 9.2.1).
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Randomness for challenges. Never printed: who knows it knows the next challenge.
#[derive(Clone, Copy)]
pub(crate) struct Seed(pub(crate) [u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(…)")
    }
}

/// Hash of a CHAP exchange. The numbers are IANA's ("PPP Authentication Algorithms").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// 5: the one that everybody must have.
    Md5 = 5,
    /// 6.
    Sha1 = 6,
    /// 7.
    Sha256 = 7,
    /// 8.
    Sha3 = 8,
}

/// Which algorithms one end takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlgorithmSet(u16);

impl AlgorithmSet {
    /// Whether the algorithm is in it.
    pub const fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & 1 << algorithm as u8 != 0
    }
}

impl Default for AlgorithmSet {
    /// All of them: which one is taken is the initiator's order, and many know only MD5.
    fn default() -> Self {
        Algorithm::ALL.into_iter().collect()
    }
}

impl FromIterator<Algorithm> for AlgorithmSet {
    fn from_iter<T: IntoIterator<Item = Algorithm>>(algorithms: T) -> Self {
        Self(algorithms.into_iter().fold(0, |set, algorithm| set | 1 << algorithm as u8))
    }
}

/// A response: the hash over identifier, secret and challenge.
pub type Response = SmallVec<[u8; 32]>;

impl Algorithm {
    /// All, strongest first: the order in which an initiator should offer them.
    pub const ALL: [Self; 4] = [Self::Sha3, Self::Sha256, Self::Sha1, Self::Md5];

    /// The algorithm of a number in CHAP_A.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|a| *a as u64 == number)
    }

    /// Its name in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha3 => "sha3-256",
        }
    }

    /// Length of a response, and of the challenges made here.
    pub const fn response_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3 => 32,
        }
    }

    /// The response to a challenge (RFC 1994 section 4.1).
    pub fn respond(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Response {
        fn hash<D: md5::Digest>(identifier: u8, secret: &Secret, challenge: &[u8]) -> Response {
            let digest =
                D::new().chain_update([identifier]).chain_update(secret.0.as_slice()).chain_update(challenge);
            SmallVec::from_slice(&digest.finalize())
        }
        match self {
            Self::Md5 => hash::<Md5>(identifier, secret, challenge),
            Self::Sha1 => hash::<Sha1>(identifier, secret, challenge),
            Self::Sha256 => hash::<Sha256>(identifier, secret, challenge),
            Self::Sha3 => hash::<Sha3_256>(identifier, secret, challenge),
        }
    }
}

/// Why an exchange failed. For the log; the initiator learns "authentication failure" whatever it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChapError {
    /// None of the offered algorithms is known and wanted.
    #[error("no common CHAP algorithm")]
    NoAlgorithm,
    /// A key of the present step is missing, or one of another step came.
    #[error("CHAP keys out of order")]
    Sequence,
    /// A value is malformed.
    #[error("malformed CHAP value")]
    Value,
    /// The name is not the expected one.
    #[error("wrong CHAP name")]
    Name,
    /// The response does not match.
    #[error("wrong CHAP response")]
    Response,
    /// The initiator sent our own challenge back, or one that our secret answers alike.
    #[error("reflected CHAP challenge")]
    Reflected,
    /// A secret has fewer than [`MIN_SECRET`] bytes.
    #[error("a CHAP secret of fewer than 12 bytes")]
    ShortSecret,
    /// Both directions have one secret.
    #[error("the same CHAP secret in both directions")]
    SameSecret,
    /// The initiator wants a proof that this target has no secret for.
    #[error("target authentication is not configured")]
    NoMutual,
}

/// The target's half of an exchange.
#[derive(Debug)]
pub struct Exchange {
    credentials: ChapCredentials,
    random: Seed,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Algorithm,
    Response { algorithm: Algorithm, identifier: u8, challenge: SmallVec<[u8; 32]> },
    Done,
}

/// The CHAP keys of one request.
#[derive(Default)]
struct Keys<'a> {
    algorithms: Option<&'a [u8]>,
    identifier: Option<&'a [u8]>,
    challenge: Option<&'a [u8]>,
    name: Option<&'a [u8]>,
    response: Option<&'a [u8]>,
}

impl Exchange {
    /// Begins. `random` comes from the system's generator and serves one exchange only.
    pub fn new(credentials: ChapCredentials, random: [u8; 32]) -> Self {
        Self { credentials, random: Seed(random), step: Step::Algorithm }
    }

    /// Whether the initiator has proven itself.
    pub fn is_done(&self) -> bool {
        matches!(self.step, Step::Done)
    }

    /// The proven name.
    pub fn user(&self) -> Rc<str> {
        self.credentials.user.clone()
    }

    /// Takes the CHAP keys of one request and writes the answer. Without any of them nothing happens.
    pub fn advance<'a>(
        &mut self,
        pairs: impl IntoIterator<Item = Pair<'a>>,
        answer: &mut TextBuilder,
    ) -> Result<(), ChapError> {
        let mut keys = Keys::default();
        let mut any = false;
        for pair in pairs {
            let slot = match pair.key {
                "CHAP_A" => &mut keys.algorithms,
                "CHAP_I" => &mut keys.identifier,
                "CHAP_C" => &mut keys.challenge,
                "CHAP_N" => &mut keys.name,
                "CHAP_R" => &mut keys.response,
                _ => continue,
            };
            any = true;
            if slot.replace(pair.value).is_some() {
                return Err(ChapError::Sequence);
            }
        }
        if !any {
            return Ok(());
        }
        match std::mem::replace(&mut self.step, Step::Algorithm) {
            Step::Algorithm => self.challenge(&keys, answer),
            Step::Response { algorithm, identifier, challenge } => {
                self.verify(&keys, algorithm, identifier, &challenge, answer)
            }
            Step::Done => Err(ChapError::Sequence),
        }
    }

    fn challenge(&mut self, keys: &Keys<'_>, answer: &mut TextBuilder) -> Result<(), ChapError> {
        let (Some(offered), None, None, None, None) =
            (keys.algorithms, keys.identifier, keys.challenge, keys.name, keys.response)
        else {
            return Err(ChapError::Sequence);
        };
        // CHAP_A is a list in the initiator's order of preference; what is unknown or not wanted in it is passed over.
        let algorithm = text::list(offered)
            .filter_map(|item| Algorithm::from_number(text::number(item).ok()?))
            .find(|algorithm| self.credentials.algorithms.contains(*algorithm))
            .ok_or(ChapError::NoAlgorithm)?;
        let material =
            Sha256::new().chain_update(b"twinlun CHAP challenge").chain_update(self.random.0).finalize();
        let challenge: SmallVec<[u8; 32]> = SmallVec::from_slice(&material[..algorithm.response_len()]);
        let identifier = self.random.0[0];
        put(answer, "CHAP_A", (algorithm as u8).to_string())?;
        put(answer, "CHAP_I", identifier.to_string())?;
        put(answer, "CHAP_C", text::hex(&challenge))?;
        self.step = Step::Response { algorithm, identifier, challenge };
        Ok(())
    }

    fn verify(
        &mut self,
        keys: &Keys<'_>,
        algorithm: Algorithm,
        identifier: u8,
        challenge: &[u8],
        answer: &mut TextBuilder,
    ) -> Result<(), ChapError> {
        let (None, Some(name), Some(response)) = (keys.algorithms, keys.name, keys.response) else {
            return Err(ChapError::Sequence);
        };
        let response = text::binary(response, algorithm.response_len()).map_err(|_| ChapError::Value)?;
        let expected = algorithm.respond(identifier, &self.credentials.secret, challenge);
        // Name and response are both computed and compared whatever the other gave: the time tells neither.
        let right_name = name.ct_eq(self.credentials.user.as_bytes());
        let right_response = response.ct_eq(&expected);
        if !bool::from(right_name) {
            return Err(ChapError::Name);
        }
        if !bool::from(right_response) {
            return Err(ChapError::Response);
        }
        match (keys.identifier, keys.challenge) {
            (None, None) => {}
            (Some(theirs), Some(reverse)) => {
                self.prove(algorithm, theirs, reverse, challenge, &response, answer)?;
            }
            _ => return Err(ChapError::Sequence),
        }
        self.step = Step::Done;
        Ok(())
    }

    /// The target's own proof.
    fn prove(
        &self,
        algorithm: Algorithm,
        identifier: &[u8],
        challenge: &[u8],
        ours: &[u8],
        received: &[u8],
        answer: &mut TextBuilder,
    ) -> Result<(), ChapError> {
        let (name, secret) = self.credentials.mutual.as_ref().ok_or(ChapError::NoMutual)?;
        let identifier =
            text::number(identifier).ok().and_then(|i| u8::try_from(i).ok()).ok_or(ChapError::Value)?;
        let challenge = text::binary(challenge, BINARY_LIMIT).map_err(|_| ChapError::Value)?;
        if challenge.is_empty() {
            return Err(ChapError::Value);
        }
        if challenge == ours {
            return Err(ChapError::Reflected);
        }
        let proof = algorithm.respond(identifier, secret, &challenge);
        // RFC 7143 section 9.2.1: a response equal to the one that this end would give is a failure.
        if secret.same_as(&self.credentials.secret) || proof.ct_eq(received).into() {
            return Err(ChapError::SameSecret);
        }
        put(answer, "CHAP_N", name.as_bytes())?;
        put(answer, "CHAP_R", text::hex(&proof))
    }
}

fn put(answer: &mut TextBuilder, key: &str, value: impl AsRef<[u8]>) -> Result<(), ChapError> {
    answer.push(key, value).map_err(|_| ChapError::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(bytes: &[u8]) -> Secret {
        Secret::new(bytes.to_vec())
    }

    fn credentials(mutual: bool) -> ChapCredentials {
        ChapCredentials {
            user: "host".into(),
            secret: secret(b"correct horse battery"),
            mutual: mutual.then(|| ("array".into(), secret(b"another staple 12"))),
            algorithms: AlgorithmSet::default(),
        }
    }

    fn run(exchange: &mut Exchange, request: &[u8]) -> Result<Vec<(String, String)>, ChapError> {
        let mut answer = TextBuilder::new(8192);
        exchange.advance(text::pairs(request).unwrap(), &mut answer)?;
        let answer = answer.finish();
        let own = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok(text::pairs(&answer).unwrap().iter().map(|p| (p.key.to_owned(), own(p.value))).collect())
    }

    fn value(answer: &[(String, String)], key: &str) -> String {
        answer.iter().find(|(k, _)| k == key).unwrap_or_else(|| panic!("no {key} in {answer:?}")).1.clone()
    }

    /// Plays an initiator up to its response.
    fn response(exchange: &mut Exchange, offer: &str, secret: &Secret) -> (Algorithm, Vec<u8>, Response) {
        let answer = run(exchange, format!("CHAP_A={offer}\0").as_bytes()).unwrap();
        let algorithm = Algorithm::from_number(value(&answer, "CHAP_A").parse().unwrap()).unwrap();
        let identifier: u8 = value(&answer, "CHAP_I").parse().unwrap();
        let challenge = text::binary(value(&answer, "CHAP_C").as_bytes(), 32).unwrap();
        assert_eq!(challenge.len(), algorithm.response_len());
        let response = algorithm.respond(identifier, secret, &challenge);
        (algorithm, challenge, response)
    }

    #[test]
    fn hashes_match_known_answers() {
        // Computed with another tool: printf '\x01secret\xaa\xbb' | openssl dgst -md5, -sha1, -sha256, -sha3-256.
        for (algorithm, hex) in [
            (Algorithm::Md5, "52b84dd1a7253536d2f969cd661a25de"),
            (Algorithm::Sha1, "a71b07f33bbbe3cec7d153e052bd8e9167cb19d5"),
            (Algorithm::Sha256, "c779f2085cfc26ecbce7b258493f9eaae5c948256dc87839664bbfa69e08f43c"),
            (Algorithm::Sha3, "1660fd124190cfd97424ae3fcaba39ee56ac1bec04a7d56220a7a0b2940271f9"),
        ] {
            let digest = algorithm.respond(1, &secret(b"secret"), &[0xaa, 0xbb]);
            assert_eq!(text::hex(&digest), format!("0x{hex}"), "{algorithm:?}");
        }
    }

    #[test]
    fn each_algorithm_has_its_iana_number() {
        let numbers =
            [(5, Algorithm::Md5), (6, Algorithm::Sha1), (7, Algorithm::Sha256), (8, Algorithm::Sha3)];
        for (number, algorithm) in numbers {
            let mut exchange = Exchange::new(credentials(false), [number; 32]);
            let (chosen, _, response) =
                response(&mut exchange, &number.to_string(), &credentials(false).secret);
            assert_eq!(chosen, algorithm);
            assert!(
                run(&mut exchange, format!("CHAP_N=host\0CHAP_R={}\0", text::hex(&response)).as_bytes())
                    .is_ok()
            );
            assert!(exchange.is_done());
        }
    }

    #[test]
    fn the_first_known_algorithm_of_the_list_is_taken() {
        let mut exchange = Exchange::new(credentials(false), [1; 32]);
        let answer = run(&mut exchange, b"CHAP_A=99,0x7,5\0").unwrap();
        assert_eq!(value(&answer, "CHAP_A"), "7");
        let mut exchange = Exchange::new(credentials(false), [1; 32]);
        assert_eq!(run(&mut exchange, b"CHAP_A=1,2,foo\0"), Err(ChapError::NoAlgorithm));
    }

    #[test]
    fn what_is_not_wanted_is_passed_over() {
        let algorithms = [Algorithm::Sha256, Algorithm::Sha3].into_iter().collect();
        let strong = || ChapCredentials { algorithms, ..credentials(false) };
        let answer = run(&mut Exchange::new(strong(), [1; 32]), b"CHAP_A=5,6,7,8\0").unwrap();
        assert_eq!(value(&answer, "CHAP_A"), "7", "the first of the initiator's list that is allowed");
        assert_eq!(run(&mut Exchange::new(strong(), [1; 32]), b"CHAP_A=5,6\0"), Err(ChapError::NoAlgorithm));
    }

    #[test]
    fn a_response_in_base64_is_as_good() {
        let mut exchange = Exchange::new(credentials(false), [4; 32]);
        let (_, _, response) = response(&mut exchange, "8", &credentials(false).secret);
        let request = format!("CHAP_N=host\0CHAP_R=0b{}\0", data_encoding::BASE64.encode(&response));
        assert!(run(&mut exchange, request.as_bytes()).is_ok() && exchange.is_done());
    }

    #[test]
    fn a_name_that_looks_like_a_binary_value_is_a_name() {
        let named = || ChapCredentials { user: "0bAQID".into(), ..credentials(false) };
        let mut exchange = Exchange::new(named(), [4; 32]);
        let (_, _, response) = response(&mut exchange, "5", &named().secret);
        let request = format!("CHAP_N=0bAQID\0CHAP_R={}\0", text::hex(&response));
        assert!(run(&mut exchange, request.as_bytes()).is_ok() && exchange.is_done());
    }

    #[test]
    fn wrong_name_response_or_order_fails() {
        let start = || {
            let mut exchange = Exchange::new(credentials(false), [2; 32]);
            let (_, _, response) = response(&mut exchange, "7", &credentials(false).secret);
            (exchange, text::hex(&response))
        };
        let (mut exchange, good) = start();
        assert_eq!(
            run(&mut exchange, format!("CHAP_N=root\0CHAP_R={good}\0").as_bytes()),
            Err(ChapError::Name)
        );
        let (mut exchange, good) = start();
        let flipped = if good.ends_with('0') { "1" } else { "0" };
        let bad = format!("{}{flipped}", &good[..good.len() - 1]);
        assert_eq!(
            run(&mut exchange, format!("CHAP_N=host\0CHAP_R={bad}\0").as_bytes()),
            Err(ChapError::Response)
        );
        let (mut exchange, good) = start();
        let short = &good[..good.len() - 2];
        assert_eq!(
            run(&mut exchange, format!("CHAP_N=host\0CHAP_R={short}\0").as_bytes()),
            Err(ChapError::Response)
        );
        let (mut exchange, good) = start();
        let long = format!("CHAP_N=host\0CHAP_R={good}00\0");
        assert_eq!(run(&mut exchange, long.as_bytes()), Err(ChapError::Value));
        let (mut exchange, good) = start();
        assert_eq!(run(&mut exchange, format!("CHAP_R={good}\0").as_bytes()), Err(ChapError::Sequence));
        let (mut exchange, good) = start();
        let again = format!("CHAP_A=5\0CHAP_N=host\0CHAP_R={good}\0");
        assert_eq!(run(&mut exchange, again.as_bytes()), Err(ChapError::Sequence));
        let mut exchange = Exchange::new(credentials(false), [2; 32]);
        assert_eq!(run(&mut exchange, b"CHAP_N=host\0CHAP_R=0x00\0"), Err(ChapError::Sequence));
    }

    #[test]
    fn the_target_proves_itself_when_asked() {
        let mut exchange = Exchange::new(credentials(true), [3; 32]);
        let (algorithm, _, response) = response(&mut exchange, "7", &credentials(true).secret);
        let request = format!("CHAP_N=host\0CHAP_R={}\0CHAP_I=7\0CHAP_C=0bAQIDBA==\0", text::hex(&response));
        let answer = run(&mut exchange, request.as_bytes()).unwrap();
        assert_eq!(value(&answer, "CHAP_N"), "array");
        let expected = algorithm.respond(7, &secret(b"another staple 12"), &[1, 2, 3, 4]);
        assert_eq!(value(&answer, "CHAP_R"), text::hex(&expected));
        assert!(exchange.is_done());
    }

    #[test]
    fn a_reflected_challenge_is_refused() {
        let mut exchange = Exchange::new(credentials(true), [3; 32]);
        let (_, challenge, response) = response(&mut exchange, "5", &credentials(true).secret);
        let (response, challenge) = (text::hex(&response), text::hex(&challenge));
        let request = format!("CHAP_N=host\0CHAP_R={response}\0CHAP_I=7\0CHAP_C={challenge}\0");
        assert_eq!(run(&mut exchange, request.as_bytes()), Err(ChapError::Reflected));
        assert!(!exchange.is_done());
    }

    #[test]
    fn one_secret_for_both_directions_is_refused() {
        let mut same = credentials(true);
        same.mutual = Some(("array".into(), same.secret.clone()));
        let mut exchange = Exchange::new(same.clone(), [3; 32]);
        let (_, _, response) = response(&mut exchange, "5", &same.secret);
        let request = format!("CHAP_N=host\0CHAP_R={}\0CHAP_I=7\0CHAP_C=0x01020304\0", text::hex(&response));
        assert_eq!(run(&mut exchange, request.as_bytes()), Err(ChapError::SameSecret));
    }

    #[test]
    fn a_proof_without_a_secret_is_refused() {
        let mut exchange = Exchange::new(credentials(false), [3; 32]);
        let (_, _, response) = response(&mut exchange, "5", &credentials(false).secret);
        let request = format!("CHAP_N=host\0CHAP_R={}\0CHAP_I=7\0CHAP_C=0x01020304\0", text::hex(&response));
        assert_eq!(run(&mut exchange, request.as_bytes()), Err(ChapError::NoMutual));
    }

    #[test]
    fn challenges_follow_the_randomness() {
        let challenge = |seed| {
            value(&run(&mut Exchange::new(credentials(false), seed), b"CHAP_A=7\0").unwrap(), "CHAP_C")
        };
        assert_ne!(challenge([1; 32]), challenge([2; 32]));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", credentials(true)).contains("horse"));
    }
}
