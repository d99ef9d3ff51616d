//! What may be printed, kept and sent to another thread.

use std::fmt::Debug;

use super::support::*;
use crate::token::decode_hex;
use crate::*;

fn with_presence(registry: &Registry) -> std::sync::Arc<Session> {
    let mut new = session("a", 1);
    new.presence = Some(presence());
    let stored = registry.register(new, Authority::Owner, at(1));
    stored.unwrap().session
}

/// The text that `Debug` makes of it, plain and pretty.
fn printed(value: &dyn Debug) -> String {
    format!("{value:?}\n{value:#?}").to_lowercase()
}

/// Bytes as the ways in which a derived `Debug` or a careless hand would print them.
fn spellings(bytes: &[u8]) -> Vec<String> {
    let hex = |byte: &u8| format!("{byte:02x}");
    let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
    vec![
        bytes.iter().map(hex).collect(),
        decimal.join(", "),
        decimal.join(",\n"),
    ]
}

fn assert_silent(what: &str, value: &dyn Debug) {
    let text = printed(value);
    let mut token_bytes = [0; 32];
    decode_hex(&token(1).reveal(), &mut token_bytes).unwrap();
    let mut key_bytes = [0; 64];
    decode_hex(SECRET_HEX, &mut key_bytes).unwrap();
    // Of a token, all but the prefix that may be shown; of a key, any eight bytes.
    for secret in [&token_bytes[4..12], &token_bytes[24..], &key_bytes[..8]] {
        for spelling in spellings(secret) {
            assert!(!text.contains(&spelling), "{what} shows {spelling}: {text}");
        }
    }
}

#[test]
fn a_token_is_that_of_its_session_alone_whether_it_lives_or_not() {
    let registry = registry();
    let [one, other] = [1, 2].map(|number| put(&registry, "a", number, at(number)));
    assert!(registry.is_token_of(&token(1), &one), "replaced");
    assert!(registry.is_token_of(&token(2), &other));
    assert!(!registry.is_token_of(&token(2), &one));
}

#[test]
fn nothing_that_can_be_printed_shows_a_token_or_a_key() {
    let registry = registry();
    let (_, mut reader) = registry.subscribe();
    assert_silent("a presence", &presence());
    assert_silent("a secret key", &presence().secret_key);
    let stored = with_presence(&registry);
    assert_silent("a live session", &stored);
    stored.with_secret_key(|key| assert_silent("a lent key", &key));
    registry.deregister(&token(1), at(2));
    assert_silent("a removed session", &stored);
    let events = drain(&mut reader);
    assert_eq!(events.len(), 2);
    assert_silent("events", &events);
    let tombstone = registry.recently_gone(&token(1), at(2)).unwrap();
    assert_silent("a grave", &Next::Event(tombstone));
    let digest = TokenKey::new([7; 16]).digest(&token(1));
    assert!(!printed(&stored).contains(&digest.0.to_string()));
}

#[test]
fn a_printed_session_still_says_which_one_it_is() {
    let stored = with_presence(&registry());
    let text = printed(&stored);
    assert!(text.contains(&stored.token_prefix.to_string()));
    assert!(text.contains("secretkey(hidden)"));
}

#[test]
fn a_key_is_lent_while_its_session_lives_and_never_after() {
    let mut expected = [0; 64];
    decode_hex(SECRET_HEX, &mut expected).unwrap();
    for removal in [
        Removal::Requested,
        Removal::Expired,
        Removal::Replaced,
        Removal::Died(DEATH),
    ] {
        let registry = registry();
        let (_, mut reader) = registry.subscribe();
        let stored = with_presence(&registry);
        let found = registry.resolve(&token(1), at(1)).unwrap();
        assert!(found.with_secret_key(|key| *key.unwrap().expose() == expected));
        match removal {
            Removal::Replaced => drop(put(&registry, "a", 2, at(2))),
            _ => drop(registry.remove_entry(stored.entry, removal, at(2))),
        }
        assert!(!has_secret(&stored) && !has_secret(&found));
        for event in drain(&mut reader) {
            match &event.kind {
                EventKind::Registered(s) | EventKind::Deregistered(s, _) => assert!(!has_secret(s)),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_lent_key_survives_a_borrower_that_panics() {
    let stored = with_presence(&registry());
    let borrower = stored.clone();
    let panicked = std::thread::spawn(move || borrower.with_secret_key(|_| panic!("a borrower")));
    assert!(panicked.join().is_err());
    assert!(has_secret(&stored));
}

#[test]
fn different_keys_give_different_digests() {
    let digest = |key| TokenKey::new([key; 16]).digest(&token(1)).0;
    assert_ne!(digest(1), digest(2));
    assert_ne!(
        TokenKey::new([1; 16]).digest(&token(2)).0,
        digest(1),
        "and so do different tokens"
    );
}

/// Implemented once for every type and once more for those with `Debug`: naming the method of one that
/// has it is ambiguous and does not compile.
trait HasNoDebug<Which> {
    fn proven() {}
}
impl<T: ?Sized> HasNoDebug<()> for T {}
impl<T: ?Sized + Debug> HasNoDebug<u8> for T {}

#[test]
fn tokens_and_whatever_holds_one_cannot_be_printed() {
    <Token as HasNoDebug<_>>::proven();
    <TokenKey as HasNoDebug<_>>::proven();
    <NewSession as HasNoDebug<_>>::proven();
}

#[test]
fn handles_go_to_any_thread() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Registry>();
    shared::<Session>();
    shared::<Event>();
    sent::<Subscription>();
    sent::<NewSession>();
    sent::<RegistryBuilder>();
}
