//! `--filter`: which events are shown. The daemon applies it.

use crate::client::percent_encode;
use crate::daemon::api::sse::NAMES;
use crate::daemon::config::values;

/// What `--filter` may contain, for its errors.
const FORMS: &str =
    "event=NAME,NAME..., uid=USER and session=ID, divided by commas; session= comes last";

/// The parts of one `--filter`, or of several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    events: Vec<String>,
    session: Option<String>,
    uid: Option<u32>,
}

/// Parses one `--filter`. The id of a session may contain commas, so it goes to the end of the text.
pub(super) fn parse(text: &str) -> Result<Filter, String> {
    let mut filter = Filter::default();
    let mut rest = text;
    let mut is_event = false;
    while !rest.is_empty() {
        if let Some(id) = rest.strip_prefix("session=") {
            if id.is_empty() {
                return Err("session= needs the id of a session".to_owned());
            }
            filter.session = Some(id.to_owned());
            return Ok(filter);
        }
        let (part, after) = rest.split_once(',').unwrap_or((rest, ""));
        rest = after;
        match part.split_once('=') {
            Some(("event", name)) => {
                filter.events.push(event(name)?);
                is_event = true;
            }
            Some(("uid", user)) => {
                filter.uid = Some(values::user(user).map_err(|error| format!("uid: {error}"))?);
                is_event = false;
            }
            None if is_event => filter.events.push(event(part)?),
            _ => return Err(format!("{part:?} is unknown; expected {FORMS}")),
        }
    }
    if filter == Filter::default() {
        return Err(format!("expected {FORMS}"));
    }
    Ok(filter)
}

fn event(name: &str) -> Result<String, String> {
    if NAMES.contains(&name) {
        return Ok(name.to_owned());
    }
    let names = NAMES.join(", ");
    Err(format!("there is no event {name:?}; expected {names}"))
}

/// Puts several filters together: events of each are shown, of one session and one user.
pub(super) fn query(filters: &[Filter]) -> Result<String, String> {
    let events: Vec<_> = filters.iter().flat_map(|it| &it.events).cloned().collect();
    let session = one("session", filters.iter().map(|it| it.session.as_deref()))?;
    let uid = one("uid", filters.iter().map(|it| it.uid))?;
    let parts = [
        (!events.is_empty()).then(|| format!("event={}", events.join(","))),
        session.map(|id| format!("session={}", percent_encode(id))),
        uid.map(|uid| format!("uid={uid}")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    Ok(parts.join("&"))
}

/// Returns the only value, if there is one.
fn one<T>(key: &str, values: impl Iterator<Item = Option<T>>) -> Result<Option<T>, String> {
    let mut values = values.flatten();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(format!("--filter {key}= may be given once")),
        (one, None) => Ok(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query_of(texts: &[&str]) -> Result<String, String> {
        let filters = texts.iter().map(|text| parse(text));
        query(&filters.collect::<Result<Vec<_>, _>>()?)
    }

    #[test]
    fn parts_are_divided_by_commas_and_an_id_may_have_some() {
        assert_eq!(query_of(&[]).unwrap(), "");
        let both = "event=session_registered,session_deregistered,session=a,b=c";
        assert_eq!(
            query_of(&[both]).unwrap(),
            "event=session_registered,session_deregistered&session=a%2Cb%3Dc"
        );
        assert_eq!(
            query_of(&["event=gap", "uid=0,event=shutdown"]).unwrap(),
            "event=gap,shutdown&uid=0"
        );
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_expected() {
        for (wrong, part) in [
            ("event=died", "session_deregistered"),
            ("mesh=a", "expected event="),
            ("", "expected event="),
            ("session=", "needs the id"),
            ("gap", "expected event="),
            ("uid=no-such-user", "uid: "),
        ] {
            let error = query_of(&[wrong]).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
        assert!(query_of(&["session=a", "session=b"]).is_err());
    }
}
