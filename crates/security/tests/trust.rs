//! Credentials, trust anchors and revocation lists
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use prexorcloud_security::credential::{Credential, CredentialError};
use prexorcloud_security::identity::PeerIdentity;
use prexorcloud_security::revocation::{
    RevocationList, Revoked, RevokedNode, RevokedSerial, SharedRevocations,
};
use prexorcloud_security::trust::{MAX_ANCHORS, TrustAnchors, TrustError};
use support::{DAY, authority, epoch};

#[test]
fn credentials_hold_together_or_do_not_exist() {
    let (ours, theirs) = (authority(), authority());
    let (a, b) = (
        ours.issue_node("a", epoch()).unwrap(),
        ours.issue_node("b", epoch()).unwrap(),
    );
    assert_eq!(
        Credential::from_pem(&a.chain_pem(), &a.key_pem()).unwrap().leaf(),
        a.leaf()
    );
    let refuse = |chain: String, key: &str| Credential::from_pem(&chain, key).unwrap_err();
    assert!(matches!(
        refuse(a.chain_pem(), &b.key_pem()),
        CredentialError::KeyMismatch { .. }
    ));
    let broken = a.leaf().to_pem() + &theirs.certificate().to_pem();
    assert!(matches!(
        refuse(broken, &a.key_pem()),
        CredentialError::BrokenChain { .. }
    ));
    let reversed = ours.certificate().to_pem() + &a.leaf().to_pem();
    assert!(matches!(
        refuse(reversed, &a.key_pem()),
        CredentialError::BrokenChain { .. }
    ));
    assert_eq!(refuse(String::new(), &a.key_pem()), CredentialError::EmptyChain);
    assert_eq!(
        refuse(ours.certificate().to_pem().repeat(5), &a.key_pem()),
        CredentialError::ChainTooLong
    );
    assert!(a.check_trusted(&ours.trust_anchors().unwrap()).is_ok());
    let untrusted = a.check_trusted(&theirs.trust_anchors().unwrap()).unwrap_err();
    assert_eq!(
        untrusted,
        CredentialError::Untrusted {
            subject: "CN=a".into()
        }
    );
    let key = a.key_pem().lines().nth(1).unwrap().to_owned();
    assert!(!format!("{a:?} {ours:?}").contains(&key));
}

#[test]
fn trust_anchors_are_authorities_and_few() {
    let ours = authority();
    let node = ours.issue_node("a", epoch()).unwrap();
    assert_eq!(TrustAnchors::from_pem(""), Err(TrustError::Empty));
    assert!(matches!(
        TrustAnchors::from_pem(&node.chain_pem()),
        Err(TrustError::NotAnAuthority { .. })
    ));
    let twice = TrustAnchors::from_pem(&ours.certificate().to_pem().repeat(2)).unwrap();
    assert_eq!(twice.iter().count(), 1);
    assert_eq!(TrustAnchors::from_pem(&twice.to_pem()).unwrap(), twice);
    let many: String = (0..=MAX_ANCHORS)
        .map(|_| authority().certificate().to_pem())
        .collect();
    assert_eq!(TrustAnchors::from_pem(&many), Err(TrustError::TooMany));
}

#[test]
fn revocation_lists_are_merged_queried_and_pruned() {
    let authority = authority();
    let (a, b) = (
        authority.issue_node("a", epoch()).unwrap(),
        authority.issue_node("b", epoch()).unwrap(),
    );
    let peer = |node: &Credential| PeerIdentity::from_certificate(node.leaf()).unwrap();
    let mut list = RevocationList::new();
    for revoked_at in [epoch() + DAY, epoch()] {
        list.revoke_serial(RevokedSerial {
            serial: a.leaf().serial().clone(),
            revoked_at,
            not_after: a.leaf().not_after(),
        });
    }
    list.revoke_node(RevokedNode {
        node_id: "b".into(),
        issued_until: epoch(),
        not_after: b.leaf().not_after(),
    });
    assert_eq!(
        list.serials().next().unwrap().revoked_at,
        epoch(),
        "the first revocation counts"
    );
    assert_eq!(
        (list.is_revoked(&peer(&a)), list.is_revoked(&peer(&b))),
        (Some(Revoked::Serial), Some(Revoked::Node))
    );
    let newer = authority
        .issue_node("b", epoch() + Duration::from_millis(1))
        .unwrap();
    assert_eq!(list.is_revoked(&peer(&newer)), None);
    let admin = authority.issue_admin("b", epoch()).unwrap();
    assert_eq!(
        list.is_revoked(&peer(&admin)),
        None,
        "an administrator is not the node of that name"
    );

    let end = a.leaf().not_after();
    assert_eq!(list.prune(end + DAY, DAY), 0);
    assert_eq!(list.clone().prune(end + DAY + Duration::from_secs(1), DAY), 2);
    assert!(list.restore_serial(a.leaf().serial()) && list.restore_node("b") && list.is_empty());
    assert!(!list.restore_node("b"));
}

#[test]
fn a_node_stays_revoked_up_to_the_latest_moment_in_whatever_order_they_come() {
    let authority = authority();
    let node = authority.issue_node("a", epoch() + DAY).unwrap();
    let peer = PeerIdentity::from_certificate(node.leaf()).unwrap();
    for moments in [[epoch(), epoch() + DAY], [epoch() + DAY, epoch()]] {
        let mut list = RevocationList::new();
        for issued_until in moments {
            list.revoke_node(RevokedNode {
                node_id: "a".into(),
                issued_until,
                not_after: node.leaf().not_after(),
            });
        }
        assert_eq!(list.is_revoked(&peer), Some(Revoked::Node));
    }
}

#[test]
fn signed_revocation_lists_are_read_by_openssl() {
    let authority = authority();
    let node = authority.issue_node("node-1", epoch()).unwrap();
    let other = authority.issue_node("node-2", epoch()).unwrap();
    let mut list = RevocationList::new();
    list.revoke_serial(RevokedSerial {
        serial: node.leaf().serial().clone(),
        revoked_at: epoch(),
        not_after: node.leaf().not_after(),
    });
    let crl = authority.sign_crl(&list, 7, epoch()).unwrap();
    assert!(!crl.refresh_due(epoch() + 3 * DAY) && crl.refresh_due(epoch() + 4 * DAY));
    assert_eq!(crl.next_update(), epoch() + 7 * DAY);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("ca.pem", authority.certificate().to_pem());
    write("crl.pem", crl.to_pem());
    write("node.pem", node.leaf().to_pem());
    write("other.pem", other.leaf().to_pem());
    let verify = |certificate: &str| {
        let output = std::process::Command::new("openssl")
            .args("verify -crl_check -attime 1767225600 -CAfile ca.pem -CRLfile crl.pem".split(' '))
            .arg(certificate)
            .current_dir(dir.path())
            .output()
            .expect("openssl must be installed for this test");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert!(
        verify("other.pem").contains("other.pem: OK"),
        "{}",
        verify("other.pem")
    );
    assert!(
        verify("node.pem").contains("certificate revoked"),
        "{}",
        verify("node.pem")
    );
    assert!(
        authority
            .sign_crl(&RevocationList::new(), u64::MAX, epoch())
            .is_ok()
    );
}

#[test]
fn merging_loses_no_revocation_whatever_the_order() {
    let revoked = |node_id: &str| {
        let mut list = RevocationList::new();
        list.revoke_node(RevokedNode {
            node_id: node_id.to_owned(),
            issued_until: epoch(),
            not_after: epoch() + DAY,
        });
        list
    };
    let shared = SharedRevocations::new(revoked("first"));
    std::thread::scope(|scope| {
        for caller in 0..32 {
            let (shared, revoked) = (&shared, &revoked);
            scope.spawn(move || shared.merge(&revoked(&format!("node-{caller}"))));
        }
    });
    assert_eq!(shared.current().len(), 33);
    shared.merge(&RevocationList::new());
    assert_eq!(shared.current().len(), 33);
    shared.replace(RevocationList::new());
    assert!(shared.current().is_empty());
}
