//! Tokens as texts, and the life of a join token
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use prexorcloud_security::token::{
    ApiToken, CaPin, JoinToken, JoinTokenParseError, JoinTokenRecord, JoinTokenState, RecordError,
    RedeemError, Revocation, TokenHash, TokenId, redeem,
};
use proptest::prelude::*;
use support::{DAY, authority, epoch};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_token_carries_its_pin_and_reads_back() {
    let pin = CaPin::of(authority().certificate());
    let token = JoinToken::generate(Some(pin)).unwrap();
    assert_eq!(token.expose().len(), 4 + 32 + 1 + 43);
    let read = JoinToken::parse(&format!("  {}\n", token.expose())).unwrap();
    assert_eq!(
        (read.pin(), read.expose(), read.hash()),
        (Some(pin), token.expose(), token.hash())
    );
    let plain = JoinToken::generate(None).unwrap();
    assert_eq!((plain.expose().len(), plain.pin()), (36, None));
    assert_eq!(JoinToken::parse(plain.expose()).unwrap().hash(), plain.hash());
}

#[test]
fn the_hash_is_what_a_java_controller_stores() {
    // Lower-case hexadecimal SHA-256 of the whole text; here an independent program says what that is.
    let token = JoinToken::parse("pxr_abcdefghijklmnopqrstuvwxyz012345").unwrap();
    assert_eq!(token.hash().to_string(), sha256sum(token.expose()));
    assert_eq!(
        token.hash().to_string().parse::<TokenHash>().unwrap(),
        token.hash()
    );
}

fn sha256sum(text: &str) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum (coreutils)");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn texts_that_are_no_join_tokens_say_why_and_are_not_repeated() {
    let secret = "a".repeat(32);
    let pin = "A".repeat(43);
    for (text, error) in [
        (String::new(), JoinTokenParseError::Empty),
        ("  ".to_owned(), JoinTokenParseError::Empty),
        ("hello".to_owned(), JoinTokenParseError::WrongPrefix),
        (format!("pxt_{secret}"), JoinTokenParseError::WrongPrefix),
        (format!("prx_{secret}"), JoinTokenParseError::WrongPrefix),
        (format!("PXR_{secret}"), JoinTokenParseError::WrongPrefix),
        ("pxr_".to_owned(), JoinTokenParseError::WrongSecret),
        (
            format!("pxr_{}", "a".repeat(31)),
            JoinTokenParseError::WrongSecret,
        ),
        (
            format!("pxr_{}", "a".repeat(33)),
            JoinTokenParseError::WrongSecret,
        ),
        (
            format!("pxr_{}", "A".repeat(32)),
            JoinTokenParseError::WrongSecret,
        ),
        (format!("pxr_{secret}."), JoinTokenParseError::WrongPin),
        (
            format!("pxr_{secret}.{}", "A".repeat(42)),
            JoinTokenParseError::WrongPin,
        ),
        (
            format!("pxr_{secret}.{}", "A".repeat(44)),
            JoinTokenParseError::WrongPin,
        ),
        (
            format!("pxr_{secret}.{}=", "A".repeat(42)),
            JoinTokenParseError::WrongPin,
        ),
        (
            format!("pxr_{secret}.{}+", "A".repeat(42)),
            JoinTokenParseError::WrongPin,
        ),
        (format!("pxr_{secret}.{pin}.{pin}"), JoinTokenParseError::WrongPin),
        ("x".repeat(10_000_000), JoinTokenParseError::WrongPrefix),
    ] {
        let refused = JoinToken::parse(&text).unwrap_err();
        assert_eq!(refused, error, "{:.80}", text);
        assert!(!refused.to_string().contains(&secret));
    }
    for text in [
        format!("pxr_{secret}.{pin}"),
        format!("\u{feff}pxr_{secret}.{pin} \r\n"),
        format!(" \n\u{feff}\npxr_{secret}.{pin}"),
    ] {
        assert_eq!(
            JoinToken::parse(&text).unwrap().expose(),
            format!("pxr_{secret}.{pin}")
        );
    }
    assert!(format!("\u{feff}{pin}\r\n").parse::<CaPin>().is_ok());
}

#[test]
fn debug_never_shows_a_secret() {
    let join = JoinToken::generate(None).unwrap();
    let api = ApiToken::generate().unwrap();
    let shown = format!("{join:?} {api:?} {join:#?}");
    assert!(
        !shown.contains(&join.expose()[4..]) && !shown.contains(&api.expose()[4..]),
        "{shown}"
    );
}

#[test]
fn api_tokens_are_checked_against_their_hash() {
    let token = ApiToken::generate().unwrap();
    assert!(token.expose().starts_with("prx_") && token.expose().len() == 44);
    let stored: TokenHash = token.hash().to_string().parse().unwrap();
    assert!(
        ApiToken::from_authorization(&format!("bearer {}", token.expose()))
            .unwrap()
            .matches(&stored)
    );
    assert!(!ApiToken::generate().unwrap().matches(&stored));
    for bad in [
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer pxr_x",
        "prx_",
        token.expose(),
        "Bearer prx_é",
    ] {
        assert!(ApiToken::from_authorization(bad).is_err(), "{bad}");
    }
}

#[test]
fn token_ids_are_version_4_uuids_and_differ() {
    let ids: HashSet<String> = (0..500)
        .map(|_| TokenId::generate().unwrap().as_str().to_owned())
        .collect();
    assert_eq!(ids.len(), 500);
    for id in &ids {
        let uuid = id.strip_prefix("tok_").unwrap().as_bytes();
        assert_eq!((uuid.len(), uuid[14]), (36, b'4'), "{id}");
        assert!(matches!(uuid[19], b'8' | b'9' | b'a' | b'b'), "{id}");
        assert_eq!(id.parse::<TokenId>().unwrap().as_str(), id);
    }
    for bad in [
        "",
        "tok_",
        "tok_1",
        "tok_00000000-0000-4000-8000-00000000000G",
        "00000000-0000-4000-8000-000000000000",
    ] {
        assert!(bad.parse::<TokenId>().is_err(), "{bad}");
    }
}

fn open(node_id: Option<&str>) -> (JoinToken, JoinTokenRecord) {
    let token = JoinToken::generate(None).unwrap();
    let record = JoinTokenRecord::create(&token, node_id, epoch(), HOUR).unwrap();
    (token, record)
}

#[test]
fn a_token_is_redeemed_once() {
    let (token, record) = open(None);
    let at = epoch() + HOUR;
    let consumed = redeem(Some(&record), &token.hash(), at, "node-1").unwrap();
    assert_eq!(
        consumed.state,
        JoinTokenState::Consumed {
            at,
            node_id: "node-1".into()
        }
    );
    assert_eq!((&consumed.id, consumed.hash), (&record.id, record.hash));
    for node_id in ["node-1", "node-2"] {
        assert_eq!(
            redeem(Some(&consumed), &token.hash(), at, node_id),
            Err(RedeemError::Consumed)
        );
    }
}

#[test]
fn each_refusal_has_its_own_name() {
    let (token, record) = open(Some("node-1"));
    let hash = token.hash();
    let late = epoch() + HOUR + Duration::from_nanos(1);
    let Revocation::Revoked(revoked) = record.revoke(epoch()) else {
        panic!("an open token can be revoked")
    };
    assert_eq!(redeem(None, &hash, epoch(), "node-1"), Err(RedeemError::Unknown));
    assert_eq!(
        redeem(Some(&record), &open(None).0.hash(), epoch(), "node-1"),
        Err(RedeemError::Unknown)
    );
    assert_eq!(
        redeem(Some(&record), &hash, epoch(), "node-2"),
        Err(RedeemError::BoundElsewhere)
    );
    assert_eq!(
        redeem(Some(&record), &hash, late, "node-1"),
        Err(RedeemError::Expired)
    );
    assert_eq!(
        redeem(Some(&revoked), &hash, epoch(), "node-1"),
        Err(RedeemError::Revoked)
    );
    assert_eq!(
        redeem(Some(&revoked), &hash, late, "node-1"),
        Err(RedeemError::Revoked)
    );
    for bad in ["", "../x", "a,b", "-", "prexorcloud-controller", &"a".repeat(65)] {
        assert_eq!(
            redeem(Some(&record), &hash, epoch(), bad),
            Err(RedeemError::InvalidNodeId),
            "{bad}"
        );
        assert_eq!(
            redeem(None, &hash, epoch(), bad),
            Err(RedeemError::InvalidNodeId),
            "{bad}"
        );
    }
    // None of it spent the token.
    assert!(record.is_redeemable(epoch()) && redeem(Some(&record), &hash, epoch(), "node-1").is_ok());
    assert_eq!(revoked.revoke(epoch()), Revocation::AlreadyRevoked);
    let consumed = record.redeem(epoch(), "node-1").unwrap();
    assert_eq!(consumed.revoke(epoch()), Revocation::AlreadyConsumed);
    assert!(
        !revoked.is_redeemable(epoch()) && !consumed.is_redeemable(epoch()) && !record.is_redeemable(late)
    );
}

#[test]
fn lifetimes_and_node_ids_are_checked_when_a_token_is_made() {
    let token = JoinToken::generate(None).unwrap();
    let create = |node_id, lifetime| JoinTokenRecord::create(&token, node_id, epoch(), lifetime);
    assert_eq!(
        create(None, Duration::ZERO).unwrap_err(),
        RecordError::InvalidLifetime
    );
    assert_eq!(create(None, 31 * DAY).unwrap_err(), RecordError::InvalidLifetime);
    assert_eq!(
        create(None, Duration::MAX).unwrap_err(),
        RecordError::InvalidLifetime
    );
    assert!(create(Some("node-1"), 30 * DAY).is_ok());
    let error = create(Some("../x"), HOUR).unwrap_err();
    assert_eq!(
        error,
        RecordError::InvalidNodeId {
            node_id: "../x".into()
        }
    );
}

#[test]
fn of_64_callers_with_one_token_exactly_one_wins() {
    let (token, record) = open(None);
    // The store's part, in small: the new record is written only if the old one is still there.
    let stored = Mutex::new(record);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..64)
            .map(|caller| {
                let (stored, token) = (&stored, &token);
                scope.spawn(move || {
                    let seen = stored.lock().unwrap().clone();
                    let next = redeem(Some(&seen), &token.hash(), epoch(), &format!("node-{caller}"))?;
                    let mut current = stored.lock().unwrap();
                    if *current != seen {
                        return redeem(Some(&current), &token.hash(), epoch(), &format!("node-{caller}"))
                            .map(drop);
                    }
                    *current = next;
                    Ok(())
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == Err(RedeemError::Consumed))
            .count(),
        63
    );
}

proptest! {
    #[test]
    fn parsing_never_panics_and_accepts_only_what_it_gives_back(text in "(pxr_)?[a-z0-9.]{0,90}|.{0,100}") {
        if let Ok(token) = JoinToken::parse(&text) {
            prop_assert_eq!(token.expose(), text.trim());
        }
        let _ = ApiToken::parse(&text);
        let _ = ApiToken::from_authorization(&text);
        let _ = text.parse::<CaPin>();
        let _ = text.parse::<TokenHash>();
        let _ = text.parse::<TokenId>();
    }

    #[test]
    fn pins_round_trip(digest in proptest::array::uniform32(any::<u8>())) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
        let pin: CaPin = text.parse().unwrap();
        prop_assert_eq!(*pin.fingerprint().as_bytes(), digest);
        prop_assert_eq!(pin.to_string(), text);
    }
}
