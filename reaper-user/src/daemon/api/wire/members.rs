//! The processes of a session that hangs on several.

use reaper_registry::Member;
use serde::Serialize;

use super::ExitView;

/// One of several processes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberView {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    ended: bool,
    #[serde(flatten)]
    end: Option<MemberEndView>,
}

/// When and how it ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberEndView {
    ended_at: u64,
    /// Null if it is unknown.
    exit: Option<ExitView>,
}

impl From<&Member> for MemberView {
    fn from(member: &Member) -> Self {
        let Member { process, end } = member;
        Self {
            pid: process.pid.get(),
            start_time: process.start_time().map(|time| time.to_string()),
            ended: end.is_some(),
            end: end.map(|end| MemberEndView {
                ended_at: end.at.wall_ms,
                exit: end.death.exit.map(ExitView::from),
            }),
        }
    }
}
