//! A daemon of your own with sessions: a hook that runs when a session ends, and a stream of events.
//!
//! The example has no clients. It starts three processes itself, registers a session for each, kills
//! them, and ends when all three sessions are gone.
#![expect(clippy::print_stdout, reason = "an example prints what happens")]

use std::process::Command;

use reaperd::{
    Details, EventItem, EventKind, Pid, Random as _, Reaper, Registration, Registry, SessionId,
    Token, TokenKey,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Hooks are for cleaning up: they run once for each session, in order, on their own threads.
    let registry = Registry::builder(TokenKey::random()?).on_deregister(|session, removal| {
        println!("hook:  {} is gone: {}", session.id, removal.cause());
    });
    let reaper = Reaper::builder(registry).start().await;
    let mut events = reaper.events();

    let mut clients = Vec::new();
    for name in ["api", "worker", "shell"] {
        let client = Command::new("sleep").arg("600").spawn()?;
        let token = Token::random()?;
        let details = Details {
            mesh: "example".into(),
            display_name: name.into(),
            ..Details::default()
        };
        let pid = Pid::try_from(client.id())?;
        let registration = Registration::new(SessionId::new(name), token.clone(), pid);
        let registered = reaper.register(registration.details(details))?;
        println!("pid {pid} is identified by {}", registered.identity);
        clients.push((client, token));
    }
    // Later requests present their token.
    let session = reaper.resolve(&clients[0].1).ok_or("the session is live")?;
    println!("the first token belongs to {}", session.id);

    for (client, _) in &mut clients {
        client.kill()?;
    }
    let mut live = clients.len();
    while live > 0 {
        match events.next().await {
            Some(EventItem::Event(event)) => match &event.kind {
                EventKind::Registered(session) => println!("event: {} registered", session.id),
                EventKind::Deregistered(session, removal) => {
                    println!("event: {} removed: {}", session.id, removal.cause());
                    live -= 1;
                }
                _ => {}
            },
            Some(EventItem::Gap { .. }) => {
                println!("event: some were missed");
                live = reaper.len();
            }
            _ => break,
        }
    }
    for (mut client, token) in clients {
        client.wait()?;
        assert!(reaper.resolve(&token).is_none(), "its session is gone");
    }
    Ok(())
}
