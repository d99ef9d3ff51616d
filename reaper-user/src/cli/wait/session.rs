//! The end of a session: from the daemon's events, or from the kernel if its process ends.
//!
//! One stream has both the present sessions and what happens afterwards, so no end is between the two.

use std::pin::pin;
use std::time::Duration;

use reaper_registry::{ExitStatus, Pid, StartTime, Token};
use serde_json::Value;

use super::super::failure::Failure;
use super::super::lookup::{self, Who};
use super::super::output::{escape, print_message};
use super::Ended;
use super::process::Process;
use crate::client::follow::{Followed, Follower, Start, numbered};
use crate::client::{Client, ClientError, Deregistered, ExitSeen, Frame, percent_encode};

/// The daemon writes what it remembers at once. After this time without an event there is no more, if the
/// last event of all is one that this user does not see.
const QUIET: Duration = Duration::from_secs(1);
/// How long the event of a session is waited for once its process has ended.
const EVENT_WITHIN: Duration = Duration::from_secs(2);

/// Waits for the session with this id, of this user or of the only one that has it.
pub(super) async fn named(client: &Client, id: &str, uid: Option<u32>) -> Result<Ended, Failure> {
    follow(client, id, uid, None).await
}

/// Waits for the session of this token.
pub(super) async fn of_token(client: &Client, token: &Token) -> Result<Ended, Failure> {
    let (is_live, body) = client.session_of(token).await?;
    if is_live {
        let who = who(&body["session"])?;
        let (id, uid) = (who.session_id.clone(), who.uid);
        return follow(client, &id, uid, Some(who)).await;
    }
    if body["code"] != "session_gone" {
        let detail = body["detail"].as_str().unwrap_or_default();
        let message = format!("no session has this token: {}", escape(detail));
        return Err(lookup::no_session(message));
    }
    let exit: Option<ExitSeen> = serde_json::from_value(body["exit"].clone()).unwrap_or_default();
    Ok(Ended {
        cause: body["cause"].as_str().unwrap_or("exited").to_owned(),
        status: exit.as_ref().and_then(ExitSeen::status),
        from: exit.map(|exit| exit.from),
        ..Ended::default()
    })
}

/// Returns the end of this process, if a daemon remembers one as the end of a session or of a part of it.
pub(super) async fn remembered_process(
    client: &Client,
    pid: Pid,
    start_time: Option<StartTime>,
) -> Option<Ended> {
    let (pid, start_time) = (pid.get(), start_time?.0);
    let end = |frame: &Frame| {
        let Some(who) = session_of_end(frame)? else {
            return Ok(None);
        };
        if let Some(member) = who.ended_member(pid, start_time) {
            let exit = member.exit.clone();
            return Ok(Some(Ended {
                pid: Some(pid),
                cause: "exited".to_owned(),
                status: exit.as_ref().and_then(ExitSeen::status),
                from: exit.map(|exit| exit.from),
                session_id: Some(who.session_id),
                ..Ended::default()
            }));
        }
        if !who.is_of(pid, start_time) {
            return Ok(None);
        }
        end_of_session(frame, who).map(Some)
    };
    remembered(client, None, end).await.ok()?
}

async fn follow(
    client: &Client,
    id: &str,
    uid: Option<u32>,
    wanted: Option<Who>,
) -> Result<Ended, Failure> {
    let query = query(id, uid);
    let mut events = Follower::new(client, &query, Start::Snapshot).await?;
    let present = snapshot(&mut events).await?;
    let is_wanted = |who: &Who| wanted.as_ref().is_none_or(|wanted| wanted.is(who));
    let who = match present
        .iter()
        .filter(|who| is_wanted(who))
        .collect::<Vec<_>>()[..]
    {
        [who] => who.clone(),
        [] => {
            let is_it = |who: &Who| who.session_id == id && is_wanted(who);
            let ended = remembered(client, uid, |frame| ended_by(frame, is_it)).await?;
            let missing = || lookup::no_session(format!("no session with id {id:?}"));
            return ended.ok_or_else(missing);
        }
        _ => return Err(lookup::ambiguous("wait", id)),
    };
    let mut process = process_of(&who).await;
    let by_kernel = async {
        match &mut process {
            Some(process) => process.ended().await,
            None => std::future::pending().await,
        }
    };
    let mut by_daemon = pin!(end_of(&mut events, &who));
    let ended = tokio::select! {
        ended = by_daemon.as_mut() => ended?,
        status = by_kernel => {
            if hangs_on_several(client, &query, &who).await {
                // It was renewed meanwhile.
                by_daemon.await?
            } else if status.is_some() {
                of_kernel(&who, status)
            } else {
                // Another source of the daemon may have the status.
                match tokio::time::timeout(EVENT_WITHIN, by_daemon).await {
                    Ok(Ok(ended)) => ended,
                    Ok(Err(_)) | Err(_) => of_kernel(&who, None),
                }
            }
        }
    };
    // The daemon does not wait for the status, and the kernel may have it a moment later.
    if ended.status.is_none()
        && ended.is_of_process()
        && let Some(process) = &mut process
    {
        return Ok(match process.ended().await {
            Some(status) => of_kernel(&who, Some(status)),
            None => ended,
        });
    }
    Ok(ended)
}

/// Returns whether the session is live and hangs on several processes by now.
async fn hangs_on_several(client: &Client, query: &str, who: &Who) -> bool {
    let sessions = client.sessions::<Value>(query).await.unwrap_or_default();
    let now = sessions.iter().filter_map(|session| Who::of(session).ok());
    now.into_iter().any(|now| now.is(who) && !now.is_alone())
}

fn query(id: &str, uid: Option<u32>) -> String {
    let uid = uid.map(|uid| format!("&uid={uid}")).unwrap_or_default();
    format!(
        "event=session_deregistered&session={}{uid}",
        percent_encode(id)
    )
}

/// Reads up to the first snapshot.
async fn snapshot(events: &mut Follower) -> Result<Vec<Who>, Failure> {
    loop {
        if let Followed::Frame(frame) = events.next().await?
            && let Some(present) = sessions_of(&frame)?
        {
            return Ok(present);
        }
    }
}

/// Returns the sessions of a snapshot; `None` for another event.
fn sessions_of(frame: &Frame) -> Result<Option<Vec<Who>>, Failure> {
    if frame.event != "snapshot" {
        return Ok(None);
    }
    let data: Value = parsed(frame)?;
    let sessions = data["sessions"].as_array();
    let sessions = sessions.into_iter().flatten().map(who);
    Ok(Some(sessions.collect::<Result<_, _>>()?))
}

fn parsed<T: serde::de::DeserializeOwned>(frame: &Frame) -> Result<T, Failure> {
    serde_json::from_str(&frame.data).map_err(|error| {
        let detail = format!("cannot parse a {:?} event: {error}", frame.event);
        ClientError::Protocol { detail }.into()
    })
}

fn who(session: &Value) -> Result<Who, Failure> {
    Who::of(session).map_err(Failure::from)
}

/// Watches the process of a session of one, if it is the process that the daemon means: its pids and start times
/// may be of other namespaces.
async fn process_of(who: &Who) -> Option<Process> {
    let pid = Pid::new(who.pid).ok().filter(|_| who.is_alone())?;
    let process = Process::pin(pid).await.ok()?;
    let start_time = process.start_time()?.0;
    who.is_of(pid.get(), start_time).then_some(process)
}

/// Waits for the event, across restarts of the daemon.
async fn end_of(events: &mut Follower, who: &Who) -> Result<Ended, Failure> {
    loop {
        let frame = match events.next().await? {
            Followed::Frame(frame) => frame,
            Followed::Open => continue,
            Followed::Lost(reason) => {
                print_message(&format!(
                    "reaperd: {reason}; waiting until a daemon runs again"
                ));
                continue;
            }
        };
        if let Some(ended) = ended_by(&frame, |it| it.is(who))? {
            return Ok(ended);
        }
        // Events are missing. What matters is whether the session is still there.
        if let Some(present) = sessions_of(&frame)?
            && !present.iter().any(|it| it.is(who))
        {
            return Ok(Ended {
                cause: "lost".to_owned(),
                ..of_kernel(who, None)
            });
        }
    }
}

/// Returns the session whose end this event is.
fn session_of_end(frame: &Frame) -> Result<Option<Who>, Failure> {
    if frame.event != "session_deregistered" {
        return Ok(None);
    }
    let data: Value = parsed(frame)?;
    who(&data["session"]).map(Some)
}

/// Returns what an event says if it is the end of that session.
fn ended_by(frame: &Frame, is_it: impl Fn(&Who) -> bool) -> Result<Option<Ended>, Failure> {
    let who = session_of_end(frame)?.filter(is_it);
    who.map(|who| end_of_session(frame, who)).transpose()
}

fn end_of_session(frame: &Frame, who: Who) -> Result<Ended, Failure> {
    let removal: Deregistered = parsed(frame)?;
    Ok(Ended {
        is_of_several: !who.is_alone(),
        session_id: Some(who.session_id),
        pid: Some(who.pid),
        cause: removal.cause,
        status: removal.exit.as_ref().and_then(ExitSeen::status),
        from: removal.exit.map(|exit| exit.from),
    })
}

/// Returns the last end of such a session that the daemon remembers. Reads all events up to the last one of
/// now, so that it is known where they end.
async fn remembered(
    client: &Client,
    uid: Option<u32>,
    end: impl Fn(&Frame) -> Result<Option<Ended>, Failure>,
) -> Result<Option<Ended>, Failure> {
    let newest = client.position().await?;
    let newest = numbered(&newest).map_or(0, |(_, seq)| seq);
    let query = uid.map(|uid| format!("uid={uid}")).unwrap_or_default();
    let mut events = Follower::new(client, &query, Start::AfterSeq(0)).await?;
    while !matches!(events.next().await?, Followed::Open) {}
    let mut last = None;
    loop {
        let Ok(next) = tokio::time::timeout(QUIET, events.next()).await else {
            return Ok(last);
        };
        if let Followed::Frame(frame) = next? {
            last = end(&frame)?.or(last);
            if numbered(&frame.id).is_some_and(|(_, seq)| seq >= newest) {
                return Ok(last);
            }
        }
    }
}

fn of_kernel(who: &Who, status: Option<ExitStatus>) -> Ended {
    Ended {
        session_id: Some(who.session_id.clone()),
        pid: Some(who.pid),
        cause: "exited".to_owned(),
        status,
        from: status.map(|_| "kernel".to_owned()),
        is_of_several: false,
    }
}
