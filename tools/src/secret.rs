//! CHAP secrets: read from files, or made and written to files.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use twinlun_api::{Problem, ProblemKind};

/// Letters and digits: whatever asks for a secret takes them.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Characters of a secret that is made: 131 random bits. RFC 7143, 9.2.1, wants the means to make 128.
const LENGTH: usize = 22;

/// The secret files of one order.
pub(crate) struct Secrets {
    generate: bool,
    dry_run: bool,
    made: Vec<PathBuf>,
}

impl Secrets {
    /// With `generate` the files are made, unless it is a dry run.
    pub(crate) const fn new(generate: bool, dry_run: bool) -> Self {
        Self { generate, dry_run, made: Vec::new() }
    }

    /// CHAP name and secret as an order has them; nothing when none are named.
    pub(crate) fn credentials(
        &mut self,
        user: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Option<Value>, Problem> {
        let (Some(user), Some(file)) = (user, file) else { return Ok(None) };
        let secret = if self.generate { self.make(file)? } else { read(file)? };
        Ok(Some(json!({"user": user, "secret": secret})))
    }

    fn make(&mut self, file: &Path) -> Result<String, Problem> {
        let secret = random().and_then(|secret| {
            if !self.dry_run {
                write(file, &secret)?;
                self.made.push(file.to_owned());
            }
            Ok(secret)
        });
        secret.map_err(|error| {
            self.remove();
            let detail = format!("secret file {} cannot be made: {error}", file.display());
            problem(detail, "name a file that does not exist yet, in a folder that can be written to")
        })
    }

    /// Removes what was made when the order was certainly not carried out.
    pub(crate) fn settle(mut self, answer: Result<Value, Problem>) -> Result<Value, Problem> {
        let not_done = [ProblemKind::Usage, ProblemKind::NotFound, ProblemKind::Refused];
        if answer.as_ref().is_err_and(|problem| not_done.contains(&problem.kind)) {
            self.remove();
        }
        answer
    }

    fn remove(&mut self) {
        for file in self.made.drain(..) {
            if let Err(error) = std::fs::remove_file(&file) {
                eprintln!(
                    "twinlun: secret file {} is not in use and cannot be removed: {error}",
                    file.display()
                );
            }
        }
    }
}

fn read(file: &Path) -> Result<String, Problem> {
    let secret = std::fs::read_to_string(file).map_err(|error| {
        let detail = format!("secret file {} cannot be read: {error}", file.display());
        problem(detail, "name a readable file that holds only the secret")
    })?;
    Ok(secret.trim_end_matches(['\n', '\r']).to_owned())
}

fn write(file: &Path, secret: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    writeln!(file, "{secret}")
}

fn problem(detail: String, remedy: &str) -> Problem {
    Problem::new(ProblemKind::Usage, "E-CLIENT-SECRET", detail, remedy)
}

/// A new secret from the system's generator.
fn random() -> io::Result<String> {
    let mut secret = String::with_capacity(LENGTH);
    // All characters are equally likely: bytes beyond the last multiple of their number are passed over.
    let fair = u8::MAX - u8::MAX % ALPHABET.len() as u8;
    while secret.len() < LENGTH {
        let mut bytes = [0; 2 * LENGTH];
        getrandom::fill(&mut bytes)?;
        let fitting = bytes.iter().filter(|byte| **byte < fair).take(LENGTH - secret.len());
        secret.extend(fitting.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused() -> Problem {
        Problem::new(ProblemKind::Refused, "E-HOST-EXISTS", "there is one", "remove it")
    }

    #[test]
    fn a_made_secret_has_128_random_bits_and_is_for_its_owner_alone() {
        assert!((ALPHABET.len() as f64).log2() * LENGTH as f64 >= 128.0);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        let mut secrets = Secrets::new(true, false);
        let order = secrets.credentials(Some("host"), Some(&file)).expect("made").expect("an order");
        secrets.settle(Ok(Value::Null)).expect("done");
        let text = std::fs::read_to_string(&file).expect("it is there");
        assert_eq!(order, json!({"user": "host", "secret": text.trim_end()}));
        assert_eq!(text.trim_end().len(), LENGTH);
        assert_eq!(std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&file).expect("readable"), text.trim_end(), "it can be given again");
        assert_ne!(random().expect("random"), random().expect("random"));
        assert!(random().expect("random").bytes().all(|byte| ALPHABET.contains(&byte)));
        let again = Secrets::new(true, false).credentials(Some("host"), Some(&file));
        assert!(again.is_err(), "a secret that is there is never overwritten");
        assert_eq!(std::fs::read_to_string(&file).expect("it is there"), text);
    }

    #[test]
    fn secrets_of_orders_that_failed_are_not_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let mut secrets = Secrets::new(true, false);
        secrets.credentials(Some("host"), Some(&one)).expect("made");
        assert!(secrets.settle(Err(refused())).is_err() && !one.exists());
        let mut secrets = Secrets::new(true, false);
        secrets.credentials(Some("host"), Some(&one)).expect("made");
        let unreachable = Problem::new(ProblemKind::Unreachable, "E-CLIENT", "no answer", "try again");
        assert!(secrets.settle(Err(unreachable)).is_err() && one.exists(), "it may be in use");
        let mut secrets = Secrets::new(true, false);
        secrets.credentials(Some("host"), Some(&two)).expect("made");
        assert!(secrets.credentials(Some("unit"), Some(&one)).is_err() && !two.exists());
        let mut dry = Secrets::new(true, true);
        assert!(dry.credentials(Some("host"), Some(&two)).expect("made").is_some() && !two.exists());
    }
}
