//! Secrets: they are never printed and never outlive their session.

use std::fmt::Debug;

use super::support::*;
use crate::token::decode_hex;
use crate::*;

fn with_presence(registry: &Registry) -> std::sync::Arc<Session> {
    let mut new = session("a", 1);
    new.presence = Some(presence());
    let stored = registry.register(new, at(1));
    stored.unwrap().session
}

/// The plain and the pretty `Debug` text.
fn printed(value: &dyn Debug) -> String {
    format!("{value:?}\n{value:#?}").to_lowercase()
}

/// The forms in which a derived `Debug` or a hex dump would print these bytes.
fn spellings(bytes: &[u8]) -> Vec<String> {
    let hex = |byte: &u8| format!("{byte:02x}");
    let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
    vec![
        bytes.iter().map(hex).collect(),
        decimal.join(", "),
        decimal.join(",\n"),
    ]
}

fn assert_hides_secrets(what: &str, value: &dyn Debug) {
    let text = printed(value);
    let mut token_bytes = [0; 32];
    decode_hex(&token(1).reveal(), &mut token_bytes).unwrap();
    let mut key_bytes = [0; 64];
    decode_hex(SECRET_HEX, &mut key_bytes).unwrap();
    // The token without its public prefix, and the start of the key.
    for secret in [&token_bytes[4..12], &token_bytes[24..], &key_bytes[..8]] {
        for spelling in spellings(secret) {
            assert!(!text.contains(&spelling), "{what} shows {spelling}: {text}");
        }
    }
}

#[test]
fn is_token_of_is_true_for_the_own_session_only_even_after_its_removal() {
    let registry = registry();
    let [one, other] = [1, 2].map(|number| put(&registry, "a", number, at(number)));
    assert!(registry.is_token_of(&token(1), &one), "replaced");
    assert!(registry.is_token_of(&token(2), &other));
    assert!(!registry.is_token_of(&token(2), &one));
}

#[test]
fn debug_output_contains_no_token_and_no_key() {
    let registry = registry();
    let (mut reader, _) = registry.subscribe(None);
    assert_hides_secrets("a presence", &presence());
    assert_hides_secrets("a secret key", &presence().secret_key);
    assert_hides_secrets("a token", &token(1));
    assert_hides_secrets("a token key", &TokenKey::new([0xc0; 16]));
    let mut new = session("a", 1);
    new.presence = Some(presence());
    assert_hides_secrets("a registration", &new);
    assert_hides_secrets("a builder", &builder());
    assert_hides_secrets("a registry", &registry);
    assert_hides_secrets("a reader", &reader);
    let stored = with_presence(&registry);
    assert_hides_secrets("a live session", &stored);
    stored.with_secret_key(|key| assert_hides_secrets("a borrowed key", &key));
    registry.deregister(&token(1), at(2));
    assert_hides_secrets("a removed session", &stored);
    let events = drain(&mut reader);
    assert_eq!(events.len(), 2);
    assert_hides_secrets("events", &events);
    let tombstone = registry.recently_gone(&token(1), None, at(2)).unwrap();
    assert_hides_secrets("a tombstone", &Next::Event(tombstone));
    let digest = TokenKey::new([7; 16]).digest(&token(1));
    assert!(!printed(&stored).contains(&digest.0.to_string()));
}

#[test]
fn debug_output_of_a_session_contains_its_token_prefix() {
    let stored = with_presence(&registry());
    let text = printed(&stored);
    assert!(text.contains(&stored.token_prefix.to_string()));
    assert!(text.contains("secretkey(hidden)"));
}

#[test]
fn a_key_can_be_borrowed_only_while_its_session_is_live() {
    let mut expected = [0; 64];
    decode_hex(SECRET_HEX, &mut expected).unwrap();
    for removal in [
        Removal::Requested,
        Removal::Expired,
        Removal::Replaced,
        Removal::Died(DEATH),
    ] {
        let registry = registry();
        let (mut reader, _) = registry.subscribe(None);
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
fn a_key_can_be_borrowed_again_after_a_panic_of_the_borrower() {
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
        "different tokens"
    );
}

#[test]
fn handles_can_be_sent_to_other_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Registry>();
    shared::<Session>();
    shared::<Event>();
    sent::<Subscription>();
    sent::<NewSession>();
    sent::<RegistryBuilder>();
}
