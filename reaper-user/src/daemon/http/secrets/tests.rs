//! What is taken from heads and bodies, and what is left.

use super::*;

const HEX: &str = "aBcdef0123456789aBcdef0123456789aBcdef0123456789aBcdef0123456789";

/// Returns the secrets of a head and what is left of it.
fn taken(head: &str) -> (RequestSecrets, String) {
    let mut head = head.as_bytes().to_vec();
    let (secrets, _) = SecretQueue::for_tests().take_from(&mut head);
    (secrets, String::from_utf8(head).unwrap())
}

fn of_field(value: &str) -> (Claim, String) {
    let head = format!("GET / HTTP/1.1\r\nHost: l\r\nAUTHORIZATION:{value}\r\n\r\n");
    let (secrets, left) = taken(&head);
    assert_eq!(left.len(), head.len());
    (secrets.claim, left)
}

#[test]
fn a_session_is_presented_by_its_scheme_and_a_token() {
    for value in [
        format!(" ClaudeMesh-Session {HEX}"),
        format!("claudemesh-session {HEX} \t"),
        format!("\t CLAUDEMESH-SESSION   {}", HEX.to_uppercase()),
    ] {
        let (claim, left) = of_field(&value);
        let Claim::Token(token) = claim else {
            panic!("{value}");
        };
        assert_eq!(token.prefix().to_string(), "abcdef01");
        assert!(!left.to_lowercase().contains("claudemesh"), "{left}");
        assert!(!left.contains(&HEX[..4]), "{left}");
    }
    for value in [
        "ClaudeMesh-Session".to_owned(),
        "ClaudeMesh-Session ".to_owned(),
        format!("ClaudeMesh-Session {}", &HEX[1..]),
        format!("ClaudeMesh-Session {HEX}0"),
        format!("ClaudeMesh-Session {HEX} {HEX}"),
        format!("ClaudeMesh-Session \"{HEX}\""),
        "ClaudeMesh-Session null".to_owned(),
    ] {
        let (claim, left) = of_field(&value);
        assert!(matches!(claim, Claim::Malformed), "{value}");
        assert!(!left.contains(&HEX[1..9]), "{left}");
    }
    for value in [
        "",
        "Bearer x",
        HEX,
        "ClaudeMesh-Sessions x",
        "ClaudeMesh-Session:x",
    ] {
        assert!(matches!(of_field(value).0, Claim::None), "{value}");
    }
}

#[test]
fn the_first_authorization_counts_and_every_one_is_blanked() {
    let (secrets, left) = taken(&format!(
        "GET / HTTP/1.1\r\nAuthorization: x\r\nauthorization: ClaudeMesh-Session {HEX}\r\n\r\n"
    ));
    assert!(matches!(secrets.claim, Claim::None));
    assert_eq!(left.matches("uthorization:*").count(), 2, "{left}");
    assert!(!left.contains(HEX));
}

#[test]
fn a_control_byte_in_a_value_stays_so_that_the_head_is_refused() {
    let (_, left) = of_field(" a\0b\x7f");
    assert!(left.contains("*\0*\x7f"), "{left:?}");
}

#[test]
fn a_token_in_a_path_is_taken_and_all_but_its_prefix_is_blanked() {
    let blanked = format!("aBcdef01{}", "*".repeat(56));
    for (target, is_token) in [
        ("/v1/sessions/TOKEN", true),
        ("/v1/sessions/TOKEN?a=b", true),
        ("/v1/sessions/TOKEN#f", true),
        ("http://localhost/v1/sessions/TOKEN", true),
        ("/v1/sessions/TOKEN/", false),
        ("/v1/sessions/TOKEN0", false),
        ("//v1/sessions/TOKEN", false),
        ("/TOKEN", false),
    ] {
        let line =
            |token: &str| format!("DELETE {} HTTP/1.1\r\n\r\n", target.replace("TOKEN", token));
        let (secrets, left) = taken(&line(HEX));
        assert_eq!(secrets.path_token.is_some(), is_token, "{target}");
        let expected = match target {
            "/v1/sessions/TOKEN0" => line(&blanked).replace("*0", "**"),
            _ => line(&blanked),
        };
        assert_eq!(left, expected, "{target}");
    }
}

#[test]
fn a_session_id_that_looks_like_a_token_is_kept() {
    for target in ["/v1/sessions/by-id/TOKEN", "/v1/events?session=TOKEN"] {
        let head = format!("DELETE {} HTTP/1.1\r\n\r\n", target.replace("TOKEN", HEX));
        assert_eq!(taken(&head).1, head);
    }
}

#[test]
fn a_token_in_the_query_is_blanked() {
    for key in ["token", "%74oken", "a=b&token"] {
        let head = format!("GET /?{key}={HEX}&c=d HTTP/1.1\r\n\r\n");
        let expected = head.replace(HEX, &"*".repeat(64));
        assert_eq!(taken(&head).1, expected);
    }
}

#[test]
fn malformed_heads_are_handled_without_a_panic() {
    for head in [
        "",
        "\r\n",
        " ",
        "GET",
        "GET ",
        "GET  x",
        ":",
        "a\n:\nAuthorization:\n\r\n",
    ] {
        let (secrets, left) = taken(head);
        assert!(secrets.path_token.is_none());
        assert_eq!(left.len(), head.len());
    }
}

#[test]
fn a_body_is_kept_up_to_its_largest_size_and_only_while_its_request_is_handled() {
    let (secrets, keeper) = SecretQueue::for_tests().take_from(&mut []);
    let mut sent = Vec::new();
    for size in [1, 700, 1_000, 70_000] {
        let mut bytes = vec![b'x'; size];
        sent.extend_from_slice(&bytes);
        keeper.take(&mut bytes);
        assert_eq!(bytes, vec![b' '; size]);
    }
    assert_eq!(*secrets.take_body(), sent[..65_536]);
    drop(secrets);
    let mut late = *b"late";
    keeper.take(&mut late);
    assert_eq!(&late, b"    ");
}

#[test]
fn secrets_come_in_the_order_of_their_requests() {
    let queue = SecretQueue::for_tests();
    for claim in [Claim::None, Claim::Malformed] {
        let secrets = RequestSecrets {
            claim,
            ..RequestSecrets::default()
        };
        queue.push(secrets);
    }
    assert!(matches!(queue.next().claim, Claim::None));
    assert!(matches!(queue.next().claim, Claim::Malformed));
    assert!(matches!(queue.next().claim, Claim::None), "empty");
}
