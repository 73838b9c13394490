//! Enrolment with everything in memory

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prexorcloud_proto::bootstrap_service_server::BootstrapService;
use prexorcloud_proto::{ExchangeJoinTokenRequest, ExchangeJoinTokenResponse};
use prexorcloud_protocol::NodeId;
use prexorcloud_security::authority::Authority;
use prexorcloud_security::token::{
    CaPin, JoinToken, JoinTokenRecord, RecordError, RedeemError, TokenHash, redeem,
};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};

use super::answer::{issue_node, refusal};

/// A `BootstrapService` whose authority and tokens live in memory: for tests, tools and short-lived controllers
///
/// Tokens are forgotten with the process. A controller that is to survive implements
/// [`BootstrapService`] itself, over [`issue_node`], [`refusal`] and records that are replaced only if nobody else was
/// faster.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use prexorcloud_transport::InMemoryEnrolment;
/// use prexorcloud_transport::proto::bootstrap_service_server::BootstrapServiceServer;
/// use prexorcloud_transport::security::authority::{Authority, AuthorityPolicy};
/// use prexorcloud_transport::tonic::service::Routes;
///
/// let enrolment = InMemoryEnrolment::new(Authority::create(&AuthorityPolicy::default(), SystemTime::now())?);
/// let token = enrolment.mint(Some("node-1".parse()?), Duration::from_secs(3600))?;
/// let routes = Routes::new(BootstrapServiceServer::new(enrolment));
/// # let _ = (token, routes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct InMemoryEnrolment(Arc<Inner>);

struct Inner {
    authority: Authority,
    tokens: Mutex<Vec<JoinTokenRecord>>,
}

impl fmt::Debug for InMemoryEnrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemoryEnrolment").finish_non_exhaustive()
    }
}

impl InMemoryEnrolment {
    /// Nobody may enrol yet. Clones are the same one.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self(Arc::new(Inner {
            authority,
            tokens: Mutex::default(),
        }))
    }

    /// Makes a token that works once and for this long, for one node or for any
    ///
    /// # Errors
    /// [`RecordError`]: a lifetime is 1 s to 30 days, and no node may be called like the controller.
    pub fn mint(&self, node: Option<NodeId>, lifetime: Duration) -> Result<JoinToken, RecordError> {
        let token = JoinToken::generate(Some(CaPin::of(self.0.authority.certificate())))?;
        let node = node.as_ref().map(NodeId::as_str);
        let record = JoinTokenRecord::create(&token, node, SystemTime::now(), lifetime)?;
        self.0.with_tokens(|tokens| tokens.push(record));
        Ok(token)
    }
}

impl Inner {
    fn with_tokens<R>(&self, visit: impl FnOnce(&mut Vec<JoinTokenRecord>) -> R) -> R {
        visit(&mut self.tokens.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Judges, and consumes if the answer is there.
    fn redeem(
        &self,
        hash: &TokenHash,
        node_id: &str,
        now: SystemTime,
        consume: bool,
    ) -> Result<(), RedeemError> {
        self.with_tokens(|tokens| {
            let found = tokens.iter_mut().find(|record| record.hash == *hash);
            let redeemed = redeem(found.as_deref(), hash, now, node_id)?;
            if let (true, Some(record)) = (consume, found) {
                *record = redeemed;
            }
            Ok(())
        })
    }

    fn exchange(&self, join_token: &str, node_id: &str) -> Result<ExchangeJoinTokenResponse, Status> {
        let token: JoinToken = join_token.parse().map_err(|_| refusal(RedeemError::Unknown))?;
        let (hash, now) = (token.hash(), SystemTime::now());
        // A key costs more than a look at the token, and the token must not be lost if there is none.
        self.redeem(&hash, node_id, now, false).map_err(refusal)?;
        let issued =
            issue_node(&self.authority, node_id, now).map_err(|error| Status::internal(error.to_string()))?;
        self.redeem(&hash, node_id, now, true).map_err(refusal)?;
        Ok(issued.answer)
    }
}

#[tonic::async_trait]
impl BootstrapService for InMemoryEnrolment {
    async fn exchange_join_token(
        &self,
        request: Request<ExchangeJoinTokenRequest>,
    ) -> Result<Response<ExchangeJoinTokenResponse>, Status> {
        let inner = Arc::clone(&self.0);
        // Makes every key itself, as a Java controller does; a node's own request is ignored.
        let ExchangeJoinTokenRequest {
            join_token, node_id, ..
        } = request.into_inner();
        let work = spawn_blocking(move || inner.exchange(&join_token, &node_id));
        let answer = work
            .await
            .map_err(|_| Status::unavailable("the controller is ending"))?;
        answer.map(Response::new)
    }
}
