//! Parses the body of a registration. Errors come in the order of the claudemesh daemon.
//!
//! Each field is first kept as the raw text of its JSON value. So the first invalid field is named,
//! a duplicate field is refused, and the token and the secret key are decoded directly from the
//! body's buffer into their place, without a copy in between. For the same reason they must have no
//! escapes.

mod ignored;
mod labels;
mod pids;

use std::borrow::Cow;
use std::time::Duration;

use reaper_registry::{
    Attestation, Details, Presence, SecretKey, SessionId, Token, TokenMalformed, Ttl,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::daemon::http::problem::{Code, Problem};
use crate::reaper::Registration;
use crate::sys::secret_arena::SecretArena;
use crate::text::{self, GROUP_MAX, GROUPS_MAX, NAME_MAX, PATH_MAX};

/// Keys and signatures in hex are 64 to 128 bytes long.
const ATTESTATION_TEXT_MAX: usize = 1_024;
/// 136 years. In milliseconds it is exact in every JSON parser.
const TTL_SECONDS_MAX: u32 = u32::MAX;
/// The ttl of a session that lasts as long as its process.
const TTL_OF_PROCESS: &str = "process";

const REQUIRED: &str = "session_id, mesh, display_name, pid all required";

/// The names of the known fields.
const KNOWN: [&str; 14] = [
    "token",
    "session_id",
    "mesh",
    "display_name",
    "pid",
    "pids",
    "cwd",
    "role",
    "groups",
    "labels",
    "ttl",
    "presence",
    "token_file",
    "if_answered",
];

/// The known fields. Others are ignored.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow)]
    session_id: Option<&'a RawValue>,
    #[serde(borrow)]
    mesh: Option<&'a RawValue>,
    #[serde(borrow)]
    display_name: Option<&'a RawValue>,
    #[serde(borrow)]
    pid: Option<&'a RawValue>,
    #[serde(borrow)]
    pids: Option<&'a RawValue>,
    #[serde(borrow)]
    cwd: Option<&'a RawValue>,
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    groups: Option<&'a RawValue>,
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    token_file: Option<&'a RawValue>,
    #[serde(borrow)]
    if_answered: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct PresenceFields<'a> {
    #[serde(borrow)]
    session_pubkey: &'a RawValue,
    #[serde(borrow)]
    session_secret_key: &'a RawValue,
    #[serde(borrow)]
    parent_attestation: &'a RawValue,
}

#[derive(Deserialize)]
struct AttestationFields<'a> {
    #[serde(borrow)]
    session_pubkey: Cow<'a, str>,
    #[serde(borrow)]
    parent_member_pubkey: Cow<'a, str>,
    #[serde(borrow)]
    signature: Cow<'a, str>,
    expires_at: f64,
}

/// What a body contains.
pub(crate) struct Parsed {
    pub(crate) registration: Registration,
    /// Whether the session is stored only if its response reaches the caller.
    pub(crate) if_answered: bool,
    /// The names of fields that are not known.
    pub(crate) ignored: Vec<String>,
}

/// Parses a body into a registration for this owner. The process is not checked here. The secret key is
/// stored in `memory`.
pub(crate) fn parse(body: &[u8], owner: u32, memory: &SecretArena) -> Result<Parsed, Problem> {
    let body = str::from_utf8(body).map_err(|_not_text| invalid_json("the body is not UTF-8"))?;
    let Fields {
        token,
        session_id,
        mesh,
        display_name,
        pid,
        pids,
        cwd,
        role,
        groups,
        labels,
        ttl,
        presence,
        token_file,
        if_answered,
    } = fields(body)?;

    let token = token
        .and_then(|raw| borrowed_text(raw))
        .ok_or(TokenMalformed)
        .and_then(Token::parse)?;
    let id = required_name("session_id", session_id)?;
    let details = Details {
        mesh: required_name("mesh", mesh)?.into(),
        display_name: required_name("display_name", display_name)?.into(),
        ..Details::default()
    };
    let (pid, further) = pids::parse(pid, pids)?;
    let registration = Registration {
        id: SessionId::new(&id),
        token,
        pid,
        further,
        owner,
        details: Details {
            cwd: optional_text("cwd", cwd, PATH_MAX)?,
            role: optional_text("role", role, NAME_MAX)?,
            groups: parse_groups(groups)?,
            labels: labels::parse(labels)?,
            token_file: absolute_path("token_file", token_file)?,
            ..details
        },
        ttl: parse_ttl(ttl)?,
        presence: present(presence).and_then(|raw| parse_presence(raw, memory)),
    };
    Ok(Parsed {
        registration,
        if_answered: optional_flag("if_answered", if_answered)?,
        ignored: ignored::fields(body),
    })
}

/// Returns the known fields of the object. Other values get the errors of the claudemesh daemon.
fn fields(body: &str) -> Result<Fields<'_>, Problem> {
    if body.trim_ascii().is_empty() {
        return Err(missing_body());
    }
    let whole: &RawValue =
        serde_json::from_str(body).map_err(|error| invalid_json(&error.to_string()))?;
    if let Some(fields) = object(whole) {
        return fields.map_err(|error| {
            // The values are valid JSON, so the error is a duplicate field.
            Problem::field(
                duplicate_field(&error.to_string()),
                Code::DuplicateField,
                "Error: invalid_json",
                error.to_string(),
            )
        });
    }
    let is_zero = whole.get().parse::<f64>().is_ok_and(|number| number == 0.0);
    if is_zero || matches!(whole.get(), "null" | "false" | "\"\"") {
        return Err(missing_body());
    }
    // Arrays and other values: the error for the first required field.
    Err(TokenMalformed.into())
}

/// Deserialises a struct from a JSON object only. A derived `Deserialize` also accepts arrays.
fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<serde_json::Result<T>> {
    raw.get()
        .starts_with('{')
        .then(|| serde_json::from_str(raw.get()))
}

/// Returns the field that is named in an error text of serde.
fn duplicate_field(message: &str) -> &'static str {
    KNOWN
        .into_iter()
        .find(|name| message.contains(&format!("`{name}`")))
        .unwrap_or("body")
}

/// Returns a string without escapes, borrowed from the body. It is not parsed once more: serde copies
/// strings with escapes, and writes them into its errors.
fn borrowed_text(raw: &RawValue) -> Option<&str> {
    let text = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    (!text.contains('\\')).then_some(text)
}

/// Treats `null` as absent.
fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

fn required_name(field: &'static str, raw: Option<&RawValue>) -> Result<String, Problem> {
    let raw = present(raw).ok_or_else(|| required(field))?;
    let text = text(field, raw, NAME_MAX)?;
    if text.is_empty() {
        return Err(required(field));
    }
    Ok(text)
}

fn optional_text(
    field: &'static str,
    raw: Option<&RawValue>,
    max: usize,
) -> Result<Option<Box<str>>, Problem> {
    present(raw)
        .map(|raw| text(field, raw, max).map(Into::into))
        .transpose()
}

fn text(field: &'static str, raw: &RawValue, max: usize) -> Result<String, Problem> {
    let text: String = serde_json::from_str(raw.get())
        .map_err(|_other_type| invalid(field, "must be a string"))?;
    check_text(field, &text, max)?;
    Ok(text)
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), Problem> {
    text::check(text, max).map_err(|unusable| invalid(field, &unusable.to_string()))
}

fn absolute_path(field: &'static str, raw: Option<&RawValue>) -> Result<Option<Box<str>>, Problem> {
    let path = optional_text(field, raw, PATH_MAX)?;
    if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
        return Err(invalid(field, "must be an absolute path"));
    }
    Ok(path)
}

fn optional_flag(field: &'static str, raw: Option<&RawValue>) -> Result<bool, Problem> {
    present(raw).map_or(Ok(false), |raw| {
        serde_json::from_str(raw.get()).map_err(|_other_type| invalid(field, "must be a boolean"))
    })
}

/// Parses digits only: JSON parsers disagree about whether `1.0` and `1e3` are integers.
fn plain_integer(raw: &str) -> Option<u32> {
    let all_digits = raw.bytes().all(|byte| byte.is_ascii_digit());
    raw.parse().ok().filter(|_| all_digits)
}

fn parse_ttl(raw: Option<&RawValue>) -> Result<Ttl, Problem> {
    let Some(raw) = present(raw) else {
        return Ok(Ttl::Default);
    };
    if borrowed_text(raw) == Some(TTL_OF_PROCESS) {
        return Ok(Ttl::Process);
    }
    plain_integer(raw.get())
        .filter(|seconds| *seconds > 0)
        .map(|seconds| Ttl::For(Duration::from_secs(seconds.into())))
        .ok_or_else(|| {
            let seconds = format!("a whole number of seconds in 1..={TTL_SECONDS_MAX}");
            invalid(
                "ttl",
                &format!("must be {seconds}, or \"{TTL_OF_PROCESS}\""),
            )
        })
}

fn parse_groups(raw: Option<&RawValue>) -> Result<Box<[Box<str>]>, Problem> {
    let Some(raw) = present(raw) else {
        return Ok(Box::default());
    };
    let groups: Vec<Box<str>> = serde_json::from_str(raw.get())
        .map_err(|_other_type| invalid("groups", "must be an array of strings"))?;
    if groups.len() > GROUPS_MAX {
        return Err(invalid(
            "groups",
            &format!("must not have more than {GROUPS_MAX} entries"),
        ));
    }
    for group in &groups {
        check_text("groups", group, GROUP_MAX)?;
    }
    Ok(groups.into())
}

/// Returns `None` if any part is invalid. The session is then registered without presence.
fn parse_presence(raw: &RawValue, memory: &SecretArena) -> Option<Presence> {
    let presence: PresenceFields<'_> = object(raw)?.ok()?;
    let attestation: AttestationFields<'_> = object(presence.parent_attestation)?.ok()?;
    let texts = [
        &attestation.session_pubkey,
        &attestation.parent_member_pubkey,
        &attestation.signature,
    ];
    if !texts.into_iter().all(|text| is_encoded(text)) {
        return None;
    }
    let pubkey = borrowed_text(presence.session_pubkey)
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_hexdigit()))?;
    let secret_key = borrowed_text(presence.session_secret_key)?;
    Some(Presence {
        session_pubkey: pubkey.to_ascii_lowercase().into(),
        secret_key: SecretKey::parse_into(memory.take(), secret_key)?,
        attestation: Attestation {
            session_pubkey: attestation.session_pubkey.into(),
            parent_member_pubkey: attestation.parent_member_pubkey.into(),
            expires_at: attestation.expires_at,
            signature: attestation.signature.into(),
        },
    })
}

/// Returns whether a text is hex or base64url, with or without padding, and not too long. Nothing else of
/// it is checked.
fn is_encoded(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let of_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !digits.is_empty()
        && text.len() - digits.len() <= 2
        && text.len() <= ATTESTATION_TEXT_MAX
        && digits.bytes().all(of_base64url)
}

fn invalid_json(detail: &str) -> Problem {
    Problem::new(Code::InvalidJson, "Error: invalid_json", detail)
}

fn missing_body() -> Problem {
    Problem::new(
        Code::MissingBody,
        "missing body",
        "a registration is a JSON object",
    )
}

fn required(field: &'static str) -> Problem {
    Problem::field(
        field,
        Code::FieldRequired,
        REQUIRED,
        format!("{field} is required"),
    )
}

fn invalid(field: &'static str, rule: &str) -> Problem {
    let detail = format!("{field} {rule}");
    Problem::field(field, Code::InvalidField, detail.clone(), detail)
}

#[cfg(test)]
mod tests;
