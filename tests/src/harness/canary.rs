//! Secrets that are known to a test, and the search for them in what a daemon shows or keeps.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::fs::File;
use std::io::Read as _;

use serde_json::{Value, json};

/// A token and a secret key that occur nowhere else.
pub struct Canary {
    token: [u8; 32],
    key: [u8; 64],
}

/// A part of a secret in one of its forms.
#[derive(Clone)]
pub struct Form {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Canary {
    /// A new one, from the system's random source.
    #[expect(clippy::new_without_default, reason = "each one is different")]
    pub fn new() -> Self {
        let mut random = File::open("/dev/urandom").unwrap();
        let mut canary = Self {
            token: [0; 32],
            key: [0; 64],
        };
        random.read_exact(&mut canary.token).unwrap();
        random.read_exact(&mut canary.key).unwrap();
        canary
    }

    pub fn token(&self) -> String {
        hex(&self.token)
    }

    /// The body of a registration with both secrets.
    pub fn registration(&self, session: &str, pid: u32) -> Value {
        json!({
            "token": self.token(),
            "session_id": session,
            "mesh": "test",
            "display_name": session,
            "pid": pid,
            "presence": {
                "session_pubkey": "ab".repeat(32),
                "session_secret_key": hex(&self.key),
                "parent_attestation": {
                    "session_pubkey": "any",
                    "parent_member_pubkey": "any",
                    "expires_at": 1,
                    "signature": "any",
                },
            },
        })
    }

    /// Every form in which the token can be found.
    pub fn token_forms(&self) -> Vec<Form> {
        // Without the public prefix.
        forms("token", &self.token[4..])
    }

    /// Every form in which the key can be found, without [`Self::raw_key`].
    pub fn key_forms(&self) -> Vec<Form> {
        let mut forms = forms("key", &self.key);
        forms.retain(|form| !form.name.ends_with("raw"));
        forms
    }

    /// The first bytes of the key as it is stored.
    pub fn raw_key(&self) -> Form {
        Form {
            name: "key, raw".to_owned(),
            bytes: self.key[..PART].to_vec(),
        }
    }

    /// Every form of both secrets.
    pub fn all_forms(&self) -> Vec<Form> {
        let mut forms = self.token_forms();
        forms.extend(self.key_forms());
        forms.push(self.raw_key());
        forms
    }

    /// The names of the forms that occur in this text.
    pub fn found_in(&self, text: &str) -> Vec<String> {
        let forms = self.all_forms().into_iter();
        forms
            .filter(|form| {
                String::from_utf8(form.bytes.clone()).is_ok_and(|form| text.contains(&form))
            })
            .map(|form| form.name)
            .collect()
    }
}

/// The length of the parts that are searched for, in bytes of the secret. A part is found where the
/// whole is, and also where the rest was overwritten. A multiple of three, for base64.
const PART: usize = 12;

/// Two parts of a secret in each form: from the start and from the middle.
fn forms(name: &str, secret: &[u8]) -> Vec<Form> {
    let middle = secret.len() / 2;
    let mut forms = Vec::new();
    for (place, from) in [("start", 0), ("middle", middle)] {
        let part = &secret[from..from + PART];
        let lower = hex(part);
        let mut escaped = String::new();
        for digit in lower.bytes() {
            escaped.push_str("\\u00");
            escaped.push_str(&hex(&[digit]));
        }
        let mut add = |form: &str, bytes: &[u8]| {
            forms.push(Form {
                name: format!("{name}, {place}, {form}"),
                bytes: bytes.to_vec(),
            });
        };
        add("raw", part);
        add("lower-case hex", lower.as_bytes());
        add("upper-case hex", lower.to_uppercase().as_bytes());
        add("hex with JSON escapes", escaped.as_bytes());
        // The position of a part within a longer text decides its base64 digits.
        for skipped in 0..3 {
            let text = &base64(&part[skipped..])[..12];
            add(&format!("base64 from {skipped}"), text.as_bytes());
            let text = &base64(&lower.as_bytes()[skipped..])[..28];
            add(&format!("base64 of hex from {skipped}"), text.as_bytes());
        }
        let decimal: Vec<_> = part.iter().map(u8::to_string).collect();
        add("list of bytes", decimal.join(", ").as_bytes());
    }
    forms
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
        text
    })
}

/// Without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut bits = 0_u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(three.get(at).copied().unwrap_or(0));
        }
        for digit in 0..=three.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS[index as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn each_form_is_found_wherever_it_begins() {
        let canary = Canary::new();
        for before in ["", "x", "xy"] {
            let whole = [before.as_bytes(), &canary.key].concat();
            let found = canary.found_in(&base64(&whole));
            assert!(!found.is_empty(), "{before}");
            let found =
                canary.found_in(&base64(&[before, &hex(&canary.key)].concat().into_bytes()));
            assert!(
                found.iter().any(|form| form.contains("base64 of hex")),
                "{found:?}"
            );
        }
        assert!(
            !canary
                .found_in(&hex(&canary.token).to_uppercase())
                .is_empty()
        );
        assert!(!canary.found_in(&format!("{:?}", canary.key)).is_empty());
        assert!(canary.found_in(&hex(&canary.token)[..8]).is_empty());
    }
}
