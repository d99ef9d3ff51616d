//! `--filter`: which events are shown. The daemon applies it; mesh and labels are applied here too.

use serde_json::Value;

use super::super::selection::{Part, check_single, has_mesh_and_labels};
use crate::client::Frame;
use crate::daemon::api::sse::NAMES;

/// What `--filter` may contain, for its errors.
const FORMS: &str = "event=NAME,NAME..., uid=USER, session=ID, mesh=MESH and label.KEY=VALUE, divided by commas; \
                     of the last three one, at the end";

/// The parts of one `--filter`, or of several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    events: Vec<String>,
    parts: Vec<Part>,
}

/// Parses one `--filter`. A value that may contain commas goes to the end of the text.
pub(super) fn parse(text: &str) -> Result<Filter, String> {
    let mut filter = Filter::default();
    let mut rest = text;
    let mut is_event = false;
    while !rest.is_empty() {
        let (part, after) = if Part::is_last(rest) {
            (rest, "")
        } else {
            rest.split_once(',').unwrap_or((rest, ""))
        };
        rest = after;
        if let Some(name) = part.strip_prefix("event=") {
            filter.events.push(event(name)?);
            is_event = true;
        } else if let Some(part) = Part::parse(part) {
            filter.parts.push(part?);
            is_event = false;
        } else if is_event && !part.contains('=') {
            filter.events.push(event(part)?);
        } else {
            return Err(format!("{part:?} is unknown; expected {FORMS}"));
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

/// Puts several filters together: events of each are shown, of sessions that all of them select.
pub(super) fn query(filters: &[Filter]) -> Result<String, String> {
    let events: Vec<_> = filters.iter().flat_map(|it| &it.events).cloned().collect();
    let parts: Vec<_> = filters.iter().flat_map(|it| &it.parts).cloned().collect();
    check_single(&parts)?;
    let events = (!events.is_empty()).then(|| format!("event={}", events.join(",")));
    let parts = parts.iter().map(Part::parameter);
    let query: Vec<_> = events.into_iter().chain(parts).collect();
    Ok(query.join("&"))
}

/// Takes the sessions out of a frame that have another mesh or other labels: a former daemon does not know these
/// filters and sends everything. Returns `None` if the frame is about such a session.
pub(super) fn selected(filters: &[Filter], mut frame: Frame) -> Option<Frame> {
    let parts = filters.iter().flat_map(|it| &it.parts);
    let parts = parts.filter(|it| matches!(it, Part::Mesh(_) | Part::Label(..)));
    let parts: Vec<_> = parts.cloned().collect();
    if parts.is_empty() {
        return Some(frame);
    }
    let Ok(mut data) = serde_json::from_str::<Value>(&frame.data) else {
        // Printing it fails with a message.
        return Some(frame);
    };
    if data["session"].is_object() {
        return has_mesh_and_labels(&parts, &data["session"]).then_some(frame);
    }
    if let Some(sessions) = data.get_mut("sessions").and_then(Value::as_array_mut) {
        let count = sessions.len();
        sessions.retain(|session| has_mesh_and_labels(&parts, session));
        if sessions.len() < count {
            frame.data = data.to_string();
        }
    }
    Some(frame)
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
        let several = ["uid=0,label.a=1,2", "label.b=", "mesh=m,n"];
        assert_eq!(
            query_of(&several).unwrap(),
            "uid=0&label=a%3D1%2C2&label=b%3D&mesh=m%2Cn"
        );
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_expected() {
        for (wrong, part) in [
            ("event=died", "session_deregistered"),
            ("meshes=a", "expected event="),
            ("uid=0,gap", "expected event="),
            ("label.a", "expected event="),
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
