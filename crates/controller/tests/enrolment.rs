//! Join tokens and their exchange, over a real store and a real authority
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use prexorcloud_controller::{
    access::{AccessError, AccessTokens, Caller, Permission},
    audit,
    authorities::SharedAuthorities,
    config::{ControllerConfig, EnrolmentConfig},
    enrolment::{Enrolment, ExchangeError, Exchanged},
    join_tokens::{JoinTokens, MintTokenError, REMEMBERED_FOR, RevokeOutcome, TokenStatus, status},
    records::{AuditRecord, CertificateRecord, JoinTokenEntry, NodeRecord},
    store::{self, SqliteOptions, SqliteStore, Store, Txn},
};
use prexorcloud_proto::{ExchangeJoinTokenRequest, ExchangeJoinTokenResponse};
use prexorcloud_security::{
    authority::{Authority, AuthorityPolicy, NodeKey},
    identity::PeerIdentity,
    keystore::{self, KeystorePassword},
    revocation::SharedRevocations,
    token::{JoinToken, RedeemError},
};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

struct Fixture {
    _folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    tokens: JoinTokens,
    enrolment: Arc<Bootstrap>,
    authorities: SharedAuthorities,
    revocations: SharedRevocations,
}

/// Exchanges tokens for nodes that make no key of their own
struct Bootstrap(Enrolment);

impl Bootstrap {
    async fn exchange(
        &self,
        peer: IpAddr,
        join_token: &str,
        node_id: &str,
    ) -> Result<ExchangeJoinTokenResponse, ExchangeError> {
        let request = ExchangeJoinTokenRequest {
            join_token: join_token.to_owned(),
            node_id: node_id.to_owned(),
            ..Default::default()
        };
        self.0
            .exchange(peer, &request)
            .await
            .map(|exchanged| exchanged.answer)
    }

    async fn exchange_for(
        &self,
        key: &NodeKey,
        join_token: &str,
        node_id: &str,
    ) -> Result<Exchanged, ExchangeError> {
        let request = ExchangeJoinTokenRequest {
            join_token: join_token.to_owned(),
            node_id: node_id.to_owned(),
            certificate_request: key.request().unwrap().into(),
        };
        self.0.exchange(PEER, &request).await
    }
}

fn fixture(limits: &EnrolmentConfig) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("controller.db"), &SqliteOptions::default()).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let authority = Authority::create(&AuthorityPolicy::default(), SystemTime::now()).unwrap();
    let authorities = SharedAuthorities::only(authority);
    let tokens = JoinTokens::new(
        Arc::clone(&store),
        authorities.clone(),
        ControllerConfig::default().tokens,
    );
    let revocations = SharedRevocations::default();
    let enrolment = Bootstrap(Enrolment::new(
        Arc::clone(&store),
        tokens.clone(),
        authorities.clone(),
        revocations.clone(),
        limits,
    ));
    Fixture {
        _folder: folder,
        store,
        tokens,
        enrolment: Arc::new(enrolment),
        authorities,
        revocations,
    }
}

fn generous() -> EnrolmentConfig {
    ControllerConfig::default().enrolment
}

fn refusal(error: &ExchangeError) -> Option<RedeemError> {
    match error {
        ExchangeError::Refused(refused) => Some(*refused),
        _ => None,
    }
}

#[tokio::test]
async fn a_token_becomes_a_certificate_once() {
    let cluster = fixture(&generous());
    let minted = cluster
        .tokens
        .mint("token:admin", Some("node-1"), None)
        .await
        .unwrap();
    let reply = cluster
        .enrolment
        .exchange(PEER, minted.token.expose(), "node-1")
        .await
        .unwrap();

    let password = KeystorePassword::new(&reply.pkcs12_password).unwrap();
    let credential = keystore::read(&reply.pkcs12, &password).unwrap();
    let identity = PeerIdentity::from_certificate(credential.leaf()).unwrap();
    assert_eq!(identity.node_id(), Some("node-1"));
    assert_eq!(
        reply.ca_certificate_pem,
        cluster
            .authorities
            .current()
            .signer
            .certificate()
            .to_pem()
            .into_bytes()
    );
    assert!(
        minted
            .token
            .pin()
            .unwrap()
            .matches(cluster.authorities.current().signer.certificate())
    );
    assert!(reply.cli_token.is_empty());

    let again = cluster
        .enrolment
        .exchange(PEER, minted.token.expose(), "node-1")
        .await
        .unwrap_err();
    assert_eq!(refusal(&again), Some(RedeemError::Consumed));

    let serial = identity.serial.to_string();
    let certificate = store::load::<CertificateRecord>(&*cluster.store, &serial)
        .await
        .unwrap()
        .unwrap()
        .record;
    assert_eq!(
        (certificate.node_id.as_str(), certificate.revoked_at_ms),
        ("node-1", 0)
    );
    assert!(
        store::load::<NodeRecord>(&*cluster.store, "node-1")
            .await
            .unwrap()
            .is_some()
    );
    let listed = cluster.tokens.list().await.unwrap();
    assert_eq!(status(&listed[0], SystemTime::now()), TokenStatus::Consumed);
    assert_eq!(listed[0].consumed_by, "node-1");
    let (audit, _) = store::load_all::<AuditRecord>(&*cluster.store).await.unwrap();
    let actions: Vec<_> = audit.iter().map(|entry| entry.record.action.as_str()).collect();
    assert_eq!(actions, ["join-token.create", "node.enrol"]);
}

#[tokio::test]
async fn the_raw_token_is_stored_nowhere() {
    let cluster = fixture(&generous());
    let minted = cluster.tokens.mint("token:admin", None, None).await.unwrap();
    cluster
        .enrolment
        .exchange(PEER, minted.token.expose(), "node-1")
        .await
        .unwrap();
    let secret = &minted.token.expose()[4..36];
    let listing = cluster.store.list(store::Query::prefix("")).await.unwrap();
    assert!(listing.entries.len() > 4);
    for entry in listing.entries {
        assert!(
            !entry
                .value
                .windows(secret.len())
                .any(|window| window == secret.as_bytes()),
            "{}",
            entry.key
        );
        assert!(!entry.key.contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_callers_exactly_one_wins() {
    let cluster = fixture(&generous());
    let minted = cluster.tokens.mint("token:admin", None, None).await.unwrap();
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let enrolment = Arc::clone(&cluster.enrolment);
            let token = minted.token.expose().to_owned();
            tokio::spawn(async move { enrolment.exchange(PEER, &token, &format!("node-{caller}")).await })
        })
        .collect();
    let mut won = 0;
    for caller in callers {
        match caller.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(refusal(&error), Some(RedeemError::Consumed), "{error}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(
        store::load_all::<NodeRecord>(&*cluster.store)
            .await
            .unwrap()
            .0
            .len(),
        1
    );
    assert_eq!(
        store::load_all::<CertificateRecord>(&*cluster.store)
            .await
            .unwrap()
            .0
            .len(),
        1
    );
}

#[tokio::test]
async fn every_refusal_has_its_reason_and_leaves_the_token_as_it_was() {
    let cluster = fixture(&generous());
    let bound = cluster
        .tokens
        .mint("token:admin", Some("node-1"), None)
        .await
        .unwrap();
    let revoked = cluster.tokens.mint("token:admin", None, None).await.unwrap();
    assert_eq!(
        cluster.tokens.revoke("token:admin", &revoked.id).await.unwrap(),
        RevokeOutcome::Revoked
    );
    assert_eq!(
        cluster.tokens.revoke("token:admin", &revoked.id).await.unwrap(),
        RevokeOutcome::AlreadyRevoked
    );
    let expired = cluster
        .tokens
        .mint("token:admin", None, Some(Duration::from_secs(1)))
        .await
        .unwrap();
    let found = store::load::<JoinTokenEntry>(&*cluster.store, &expired.id)
        .await
        .unwrap()
        .unwrap();
    let past = JoinTokenEntry {
        expires_at_ms: 1,
        ..found.record
    };
    cluster
        .store
        .txn(Txn::new().replace(found.revision, &past))
        .await
        .unwrap()
        .committed()
        .unwrap();
    let stranger = JoinToken::generate(None).unwrap();

    let cases = [
        (stranger.expose(), "node-1", RedeemError::Unknown),
        ("pxr_short", "node-1", RedeemError::Unknown),
        ("../../etc/passwd", "node-1", RedeemError::Unknown),
        (revoked.token.expose(), "node-1", RedeemError::Revoked),
        (expired.token.expose(), "node-1", RedeemError::Expired),
        (bound.token.expose(), "node-2", RedeemError::BoundElsewhere),
    ];
    for (token, node, expected) in cases {
        let error = cluster.enrolment.exchange(PEER, token, node).await.unwrap_err();
        assert_eq!(refusal(&error), Some(expected), "{error}");
    }
    for node in ["../x", "a,b", "-a", ".a", "a b", &"a".repeat(65), "n\u{e9}"] {
        let error = cluster
            .enrolment
            .exchange(PEER, bound.token.expose(), node)
            .await
            .unwrap_err();
        assert!(matches!(error, ExchangeError::InvalidNodeId), "{node}: {error}");
    }
    let error = cluster
        .enrolment
        .exchange(PEER, bound.token.expose(), "")
        .await
        .unwrap_err();
    assert!(matches!(error, ExchangeError::Missing { field: "node_id" }));
    let error = cluster
        .enrolment
        .exchange(PEER, "  ", "node-1")
        .await
        .unwrap_err();
    assert!(matches!(error, ExchangeError::Missing { field: "join_token" }));

    assert!(
        store::load_all::<NodeRecord>(&*cluster.store)
            .await
            .unwrap()
            .0
            .is_empty()
    );
    // The bound token still works for the node that it is bound to.
    cluster
        .enrolment
        .exchange(PEER, bound.token.expose(), "node-1")
        .await
        .unwrap();
}

#[tokio::test]
async fn failures_are_limited_per_address_and_successes_are_not() {
    let cluster = fixture(&EnrolmentConfig {
        failures_per_minute: 1,
        failure_burst: 3,
    });
    for node in 0..5 {
        let minted = cluster.tokens.mint("token:admin", None, None).await.unwrap();
        cluster
            .enrolment
            .exchange(PEER, minted.token.expose(), &format!("node-{node}"))
            .await
            .unwrap();
    }
    let stranger = JoinToken::generate(None).unwrap();
    for _ in 0..3 {
        let error = cluster
            .enrolment
            .exchange(PEER, stranger.expose(), "node-1")
            .await
            .unwrap_err();
        assert_eq!(refusal(&error), Some(RedeemError::Unknown));
    }
    let error = cluster
        .enrolment
        .exchange(PEER, stranger.expose(), "node-1")
        .await
        .unwrap_err();
    assert!(matches!(error, ExchangeError::RateLimited { .. }), "{error}");
    // A good token is good whatever else came from there, and the losers of a race are in nobody's way.
    let minted = cluster.tokens.mint("token:admin", None, None).await.unwrap();
    for _ in 0..2 {
        let exchanged = cluster
            .enrolment
            .exchange(PEER, minted.token.expose(), "node-7")
            .await;
        assert!(exchanged.is_ok() || refusal(&exchanged.unwrap_err()) == Some(RedeemError::Consumed));
    }
    // Another address is not concerned.
    let elsewhere = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 8));
    let minted = cluster.tokens.mint("token:admin", None, None).await.unwrap();
    cluster
        .enrolment
        .exchange(elsewhere, minted.token.expose(), "node-9")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_that_lost_the_reply_enrols_with_a_new_token() {
    let cluster = fixture(&generous());
    let lost = cluster
        .tokens
        .mint("token:admin", Some("node-1"), None)
        .await
        .unwrap();
    let first = cluster
        .enrolment
        .exchange(PEER, lost.token.expose(), "node-1")
        .await
        .unwrap();
    drop(first);
    let fresh = cluster
        .tokens
        .mint("token:admin", Some("node-1"), None)
        .await
        .unwrap();
    cluster
        .enrolment
        .exchange(PEER, fresh.token.expose(), "node-1")
        .await
        .unwrap();
    assert_eq!(
        store::load_all::<CertificateRecord>(&*cluster.store)
            .await
            .unwrap()
            .0
            .len(),
        2
    );
}

#[tokio::test]
async fn lifetimes_and_names_have_limits() {
    let cluster = fixture(&generous());
    let days = |days: u64| Some(Duration::from_secs(days * 24 * 3600));
    assert!(cluster.tokens.mint("a", None, days(30)).await.is_ok());
    assert!(matches!(
        cluster.tokens.mint("a", None, days(31)).await,
        Err(MintTokenError::TooLong { .. })
    ));
    assert!(matches!(
        cluster.tokens.mint("a", None, Some(Duration::ZERO)).await,
        Err(MintTokenError::Record(_))
    ));
    assert!(matches!(
        cluster.tokens.mint("a", Some("../x"), None).await,
        Err(MintTokenError::Record(_))
    ));
    assert_eq!(
        cluster.tokens.revoke("a", "tok_unknown").await.unwrap(),
        RevokeOutcome::Unknown
    );
    assert_eq!(
        cluster.tokens.revoke("a", "with blanks").await.unwrap(),
        RevokeOutcome::Unknown
    );
    assert_eq!(cluster.tokens.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn tokens_are_forgotten_long_after_they_ended() {
    let cluster = fixture(&generous());
    let used = cluster.tokens.mint("a", None, None).await.unwrap();
    cluster
        .enrolment
        .exchange(PEER, used.token.expose(), "node-1")
        .await
        .unwrap();
    let open = cluster
        .tokens
        .mint("a", None, Some(Duration::from_secs(30 * 24 * 3600)))
        .await
        .unwrap();
    let now = SystemTime::now();
    assert_eq!(
        cluster
            .tokens
            .prune(now + Duration::from_secs(3600))
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        cluster
            .tokens
            .prune(now + REMEMBERED_FOR + Duration::from_secs(60))
            .await
            .unwrap(),
        1
    );
    let left: Vec<_> = cluster
        .tokens
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.token_id)
        .collect();
    assert_eq!(left, [open.id]);
    let error = cluster
        .enrolment
        .exchange(PEER, used.token.expose(), "node-1")
        .await
        .unwrap_err();
    assert_eq!(refusal(&error), Some(RedeemError::Unknown));
}

#[tokio::test]
async fn bearer_tokens_allow_what_they_name_until_revoked() {
    let cluster = fixture(&generous());
    let access = AccessTokens::new(Arc::clone(&cluster.store));
    let (viewer, record) = access
        .mint("token:admin", "viewer", &[Permission::NodesView.name()], None)
        .await
        .unwrap();
    assert_eq!(access.list().await.unwrap(), [record]);
    for (name, permissions) in [("a b", &["*"][..]), ("a", &[]), ("a", &["nodes.everything"])] {
        assert!(access.mint("token:admin", name, permissions, None).await.is_err());
    }
    let (brief, record) = access
        .mint("token:admin", "brief", &["*"], Some(Duration::ZERO))
        .await
        .unwrap();
    assert_ne!(record.expires_at_ms, 0);
    assert_eq!(
        access.authenticate(&format!("Bearer {}", brief.expose())).await,
        Err(AccessError::Invalid)
    );
    let header = format!("Bearer {}", viewer.expose());
    let caller = access.authenticate(&header).await.unwrap();
    assert!(caller.may(Permission::NodesView));
    assert!(!caller.may(Permission::TokensManage));
    assert_eq!(caller.actor(), "token:viewer");
    for wrong in [
        "",
        "Bearer",
        "Bearer prx_x",
        viewer.expose(),
        "Basic YWRtaW46YWRtaW4=",
    ] {
        assert_eq!(
            access.authenticate(wrong).await,
            Err(AccessError::Invalid),
            "{wrong}"
        );
    }
    assert_eq!(access.revoke("token:admin", "viewer").await.unwrap(), 1);
    assert_eq!(access.authenticate(&header).await, Err(AccessError::Invalid));
    assert!(
        !Caller::Node {
            node_id: "node-1".to_owned()
        }
        .may(Permission::NodesView)
    );
}

#[tokio::test]
async fn the_first_administrator_is_minted_once_and_written_privately() {
    use std::os::unix::fs::PermissionsExt as _;
    let cluster = fixture(&generous());
    let folder = tempfile::tempdir().unwrap();
    let access = AccessTokens::new(Arc::clone(&cluster.store));
    assert!(access.mint_first(folder.path()).await.unwrap());
    let file = folder.path().join("admin.token");
    let raw = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!access.mint_first(folder.path()).await.unwrap());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), raw);
    let caller = access
        .authenticate(&format!("bearer {}", raw.trim()))
        .await
        .unwrap();
    assert!(caller.may(Permission::InstancesManage));
}

#[tokio::test]
async fn old_audit_entries_go_first() {
    let cluster = fixture(&generous());
    for batch in 0..11 {
        let txn = (0..1000).fold(Txn::new(), |txn, number| {
            txn.put_record(&audit::entry("a", "test", &format!("{batch}/{number}"), ""))
        });
        cluster.store.txn(txn).await.unwrap().committed().unwrap();
    }
    assert_eq!(audit::prune(&*cluster.store).await.unwrap(), 1000);
    let (left, _) = store::load_all::<AuditRecord>(&*cluster.store).await.unwrap();
    assert_eq!(left.len(), audit::KEPT);
    assert_eq!(left[0].record.target, "1/0");
    assert_eq!(audit::prune(&*cluster.store).await.unwrap(), 0);
}

#[tokio::test]
async fn an_unbound_token_takes_no_node_over() {
    let cluster = fixture(&generous());
    let first = cluster.tokens.mint("token:admin", None, None).await.unwrap();
    let unbound = cluster.tokens.mint("token:admin", None, None).await.unwrap();
    let bound = cluster
        .tokens
        .mint("token:admin", Some("node-1"), None)
        .await
        .unwrap();
    let before = cluster
        .enrolment
        .exchange(PEER, first.token.expose(), "node-1")
        .await
        .unwrap();
    let refused = cluster
        .enrolment
        .exchange(PEER, unbound.token.expose(), "node-1")
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused), Some(RedeemError::NodeKnown));
    assert!(refused.to_string().contains("--node"), "{refused}");
    let counts = |reply: &ExchangeJoinTokenResponse| {
        let password = KeystorePassword::new(&reply.pkcs12_password).unwrap();
        let credential = keystore::read(&reply.pkcs12, &password).unwrap();
        let identity = PeerIdentity::from_certificate(credential.leaf()).unwrap();
        cluster.revocations.current().is_revoked(&identity).is_none()
    };
    assert!(counts(&before));
    // The token is still good for a node that is new.
    cluster
        .enrolment
        .exchange(PEER, unbound.token.expose(), "node-2")
        .await
        .unwrap();
    let after = cluster
        .enrolment
        .exchange(PEER, bound.token.expose(), "node-1")
        .await
        .unwrap();
    assert!(!counts(&before) && counts(&after));
    let (audit, _) = store::load_all::<AuditRecord>(&*cluster.store).await.unwrap();
    let again = audit
        .iter()
        .find(|entry| entry.record.action == "node.enrol-again")
        .unwrap();
    assert!(again.record.detail.contains("in place of"), "{again:?}");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_by_the_same_key_only() {
    let cluster = fixture(&generous());
    let minted = cluster
        .tokens
        .mint("token:admin", Some("node-1"), None)
        .await
        .unwrap();
    let token = minted.token.expose();
    let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    for _ in 0..3 {
        let exchanged = cluster
            .enrolment
            .exchange_for(&key, token, "node-1")
            .await
            .unwrap();
        assert!(exchanged.answer.pkcs12.is_empty() && exchanged.superseded.is_empty());
        let credential = key.join(&exchanged.answer.certificate_chain_pem).unwrap();
        let identity = PeerIdentity::from_certificate(credential.leaf()).unwrap();
        assert_eq!(identity.node_id(), Some("node-1"));
        assert_eq!(cluster.revocations.current().is_revoked(&identity), None);
    }
    let spent = |exchanged: Result<Exchanged, ExchangeError>| refusal(&exchanged.unwrap_err());
    assert_eq!(
        spent(cluster.enrolment.exchange_for(&other, token, "node-1").await),
        Some(RedeemError::Consumed)
    );
    assert_eq!(
        spent(cluster.enrolment.exchange_for(&key, token, "node-2").await),
        Some(RedeemError::Consumed)
    );
    let without = cluster.enrolment.exchange(PEER, token, "node-1").await;
    assert_eq!(refusal(&without.unwrap_err()), Some(RedeemError::Consumed));

    // What was revoked since then does not come back by asking again.
    let newer = cluster
        .tokens
        .mint("token:admin", Some("node-1"), None)
        .await
        .unwrap();
    let exchanged = cluster
        .enrolment
        .exchange_for(&other, newer.token.expose(), "node-1")
        .await
        .unwrap();
    assert_eq!(exchanged.superseded.len(), 3);
    assert_eq!(
        spent(cluster.enrolment.exchange_for(&key, token, "node-1").await),
        Some(RedeemError::Consumed)
    );
}

#[tokio::test]
async fn a_request_that_is_none_costs_no_token() {
    let cluster = fixture(&generous());
    let minted = cluster.tokens.mint("token:admin", None, None).await.unwrap();
    let request = |bytes: Vec<u8>| ExchangeJoinTokenRequest {
        join_token: minted.token.expose().to_owned(),
        node_id: "node-1".to_owned(),
        certificate_request: bytes.into(),
    };
    let mut damaged = NodeKey::generate().unwrap().request().unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    for bytes in [vec![0], vec![0x30; 5000], damaged] {
        let error = cluster
            .enrolment
            .0
            .exchange(PEER, &request(bytes))
            .await
            .unwrap_err();
        assert!(matches!(error, ExchangeError::Request(_)), "{error}");
    }
    let good = NodeKey::generate().unwrap().request().unwrap();
    cluster.enrolment.0.exchange(PEER, &request(good)).await.unwrap();
}
