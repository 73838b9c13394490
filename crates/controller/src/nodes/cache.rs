//! What a node keeps for later starts, as its daemon says, and orders to fill that
//!
//! A daemon answers such an order with no message of its own: failures come as error reports, and the end of it is the next
//! status. So what came of the last order stands beside the last status, for whoever looks. An order that comes while another is
//! followed joins it: what is fetched already is not asked for again, the rest is sent when the daemon has done the former, and
//! all of it has one outcome.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prexorcloud_proto::{CacheStatus, ErrorReport, PreWarmCache, RequestCacheStatus, controller_message};
use prexorcloud_protocol::{peer::DaemonPeer, session::error_code::PRE_WARM_BUSY};

use super::{OrderError, task::Node};
use crate::{
    events::{Event, instant},
    wall_clock::now_millis,
};

/// How long a daemon may take to fill its cache, downloads included
const WARMED_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Most runtimes, and most templates, that wait until the daemon has done what it was sent
const MAX_WAITING: usize = 256;

/// Failures of one order that are kept; a daemon tells 16
const MAX_FAILURES: usize = 64;

/// What others see of a node's cache
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheView {
    /// What its daemon said last; kept after a disconnect
    pub(crate) status: Option<Arc<CacheStatus>>,
    /// When that was, in milliseconds since 1970; 0 = not since this controller started
    pub(crate) heard_at_ms: i64,
    /// How often it has said so since this controller started
    pub(crate) number: u64,
    /// The last order to fill it
    pub(crate) warming: Option<Warming>,
    /// Questions that were sent since then and whose answers are no end of it
    asked: usize,
}

/// What came of an order to fill the cache
#[derive(Clone, Debug)]
pub(crate) struct Warming {
    pub(crate) runtimes: usize,
    pub(crate) templates: usize,
    pub(crate) began_at_ms: i64,
    /// 0 = it has not ended
    pub(crate) ended_at_ms: i64,
    pub(crate) failures: Vec<ErrorReport>,
    /// When the daemon was sent something last
    began: Instant,
    outcome: Option<Outcome>,
    /// All that was sent
    sent: PreWarmCache,
    /// What is sent next
    waiting: PreWarmCache,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The daemon has said what it keeps
    Ended,
    /// The daemon follows an earlier order
    Busy,
    /// The stream ended first
    Lost,
    /// This daemon says nothing about it
    Untold,
}

impl Warming {
    fn of(order: PreWarmCache, now: Instant, outcome: Option<Outcome>) -> Self {
        Self {
            runtimes: order.entries.len(),
            templates: order.templates.len(),
            began_at_ms: now_millis(),
            ended_at_ms: 0,
            failures: Vec::new(),
            began: now,
            outcome,
            sent: order,
            waiting: PreWarmCache::default(),
        }
    }

    /// Takes in another order: what is not asked for yet waits, as far as there is room
    fn join(&mut self, order: PreWarmCache) -> Result<(), OrderError> {
        let (sent, waiting) = (&self.sent, &self.waiting);
        let entries = order.entries.into_iter();
        let entries: Vec<_> = entries
            .filter(|entry| !sent.entries.contains(entry) && !waiting.entries.contains(entry))
            .collect();
        let templates = order.templates.into_iter();
        let templates: Vec<_> = templates
            .filter(|template| !sent.templates.contains(template) && !waiting.templates.contains(template))
            .collect();
        if waiting.entries.len() + entries.len() > MAX_WAITING
            || waiting.templates.len() + templates.len() > MAX_WAITING
        {
            return Err(OrderError::Conflict(format!(
                "the cache is being filled, and at most {MAX_WAITING} jars and {MAX_WAITING} templates wait for that: try again when it has ended"
            )));
        }
        self.runtimes += entries.len();
        self.templates += templates.len();
        self.waiting.entries.extend(entries);
        self.waiting.templates.extend(templates);
        Ok(())
    }

    /// What is sent now that the daemon has done the former
    fn next(&mut self, now: Instant) -> Option<PreWarmCache> {
        let next = std::mem::take(&mut self.waiting);
        if next == PreWarmCache::default() {
            return None;
        }
        self.began = now;
        self.sent.entries.extend(next.entries.iter().cloned());
        self.sent.templates.extend(next.templates.iter().cloned());
        Some(next)
    }

    /// One word for it; `WARMING` until something is known
    pub(crate) fn state(&self, now: Instant) -> &'static str {
        match self.outcome {
            None if now.saturating_duration_since(self.began) > WARMED_WITHIN => "UNANSWERED",
            None => "WARMING",
            Some(Outcome::Ended) if self.failures.is_empty() => "WARMED",
            Some(Outcome::Ended) => "FAILED",
            Some(Outcome::Busy) => "BUSY",
            Some(Outcome::Lost) => "LOST",
            Some(Outcome::Untold) => "SENT",
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
            self.ended_at_ms = now_millis();
        }
    }
}

impl CacheView {
    /// What is to be sent now, if something waited for the end of what was sent
    fn handle_status(&mut self, now: Instant, status: CacheStatus) -> Option<PreWarmCache> {
        self.status = Some(Arc::new(status));
        self.heard_at_ms = now_millis();
        self.number += 1;
        match self.asked.checked_sub(1) {
            Some(asked) => {
                self.asked = asked;
                None
            }
            None => {
                let warming = self
                    .warming
                    .as_mut()
                    .filter(|warming| warming.outcome.is_none())?;
                let next = warming.next(now);
                if next.is_none() {
                    warming.end(Outcome::Ended);
                }
                next
            }
        }
    }

    fn handle_failure(&mut self, report: ErrorReport) {
        let Some(warming) = self.warming.as_mut().filter(|warming| warming.outcome.is_none()) else {
            return;
        };
        let is_busy = report.error_code == PRE_WARM_BUSY;
        if warming.failures.len() < MAX_FAILURES {
            warming.failures.push(report);
        }
        if is_busy {
            warming.end(Outcome::Busy);
        }
    }

    fn handle_stream_ended(&mut self) {
        self.asked = 0;
        if let Some(warming) = &mut self.warming {
            warming.end(Outcome::Lost);
        }
    }

    /// A daemon that tells the end of an order says once what it keeps before it has been asked for anything
    fn handle_stream_begun(&mut self, tells_warming: bool) {
        self.handle_stream_ended();
        self.asked = usize::from(tells_warming);
    }
}

impl Node {
    /// Asks what is in the cache; the answer is the number of the last status before
    pub(super) fn ask_about_cache(&mut self) -> Result<u64, OrderError> {
        let asked = RequestCacheStatus::default();
        self.send_now(controller_message::Payload::RequestCacheStatus(asked))?;
        Ok(self.with_view(|view| {
            view.cache.asked += 1;
            view.cache.number
        }))
    }

    /// Tells the daemon to fill its cache, at once or when it has done what it was told before
    pub(super) fn warm_cache(&mut self, order: PreWarmCache) -> Result<(), OrderError> {
        let now = Instant::now();
        let joined = self.with_view(|view| {
            let warming = view.cache.warming.as_mut()?;
            (warming.state(now) == "WARMING").then(|| warming.join(order.clone()))
        });
        if let Some(joined) = joined {
            return joined;
        }
        let is_told = self.machine.peer().is_none_or(DaemonPeer::tells_warming);
        let warming = Warming::of(order.clone(), now, (!is_told).then_some(Outcome::Untold));
        self.send_warming(now, order)?;
        self.with_view(|view| view.cache.warming = Some(warming));
        Ok(())
    }

    fn send_warming(&mut self, now: Instant, order: PreWarmCache) -> Result<(), OrderError> {
        self.context.grants.warm(now, self.id, &order.templates);
        self.send_now(controller_message::Payload::PreWarmCache(order))
    }

    pub(super) fn handle_cache_status(&mut self, status: CacheStatus) {
        let now = Instant::now();
        let total = status.total_size_bytes;
        let before = self.with_view(|view| view.cache.status.as_ref().map(|status| status.total_size_bytes));
        if let Some(next) = self.with_view(|view| view.cache.handle_status(now, status))
            && let Err(error) = self.send_warming(now, next)
        {
            tracing::warn!(node = %self.id, %error, "the rest of what its cache is to be filled with cannot be sent");
            self.with_view(|view| view.cache.handle_stream_ended());
        }
        if before != Some(total) {
            self.tell(Event::NodeCacheStatus {
                node_id: self.id.to_string(),
                total_size_bytes: total,
                timestamp: instant(now_millis()),
            });
        }
    }

    pub(super) fn handle_warm_failure(&mut self, report: ErrorReport) {
        self.with_view(|view| view.cache.handle_failure(report));
    }

    /// The daemon begins with what it keeps, which is no end of an order that is given meanwhile
    pub(super) fn begin_cache(&mut self) {
        let tells_warming = self.machine.peer().is_some_and(DaemonPeer::tells_warming);
        self.with_view(|view| view.cache.handle_stream_begun(tells_warming));
    }

    /// What was asked of a stream is not answered on another one
    pub(super) fn give_up_cache(&mut self) {
        self.with_view(|view| view.cache.handle_stream_ended());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warming() -> CacheView {
        CacheView {
            warming: Some(Warming::of(PreWarmCache::default(), Instant::now(), None)),
            ..CacheView::default()
        }
    }

    fn state(view: &CacheView) -> &'static str {
        let warming = view.warming.as_ref();
        warming.map_or("", |warming| warming.state(Instant::now()))
    }

    fn report(code: &str) -> ErrorReport {
        ErrorReport {
            error_code: code.to_owned(),
            ..ErrorReport::default()
        }
    }

    fn told(view: &mut CacheView) -> Option<PreWarmCache> {
        view.handle_status(Instant::now(), CacheStatus::default())
    }

    fn templates(hashes: std::ops::Range<usize>) -> PreWarmCache {
        let template = |hash: usize| prexorcloud_proto::TemplateRef {
            name: "base".to_owned(),
            hash: hash.to_string(),
        };
        PreWarmCache {
            templates: hashes.map(template).collect(),
            ..PreWarmCache::default()
        }
    }

    #[test]
    fn an_order_that_comes_meanwhile_joins_the_one_that_is_followed() {
        let mut view = CacheView {
            warming: Some(Warming::of(templates(0..2), Instant::now(), None)),
            ..CacheView::default()
        };
        let join =
            |view: &mut CacheView, order| view.warming.as_mut().map(|warming| warming.join(order).is_ok());
        assert_eq!(
            join(&mut view, templates(0..2)),
            Some(true),
            "the same is asked once"
        );
        assert_eq!(join(&mut view, templates(1..4)), Some(true));
        assert_eq!(join(&mut view, templates(2..4)), Some(true));
        assert_eq!(join(&mut view, templates(2..2 + MAX_WAITING)), Some(true));
        assert_eq!(
            join(&mut view, templates(0..3 + MAX_WAITING)),
            Some(false),
            "no more wait"
        );
        assert_eq!(told(&mut view), Some(templates(2..2 + MAX_WAITING)));
        assert_eq!(
            (state(&view), told(&mut view), state(&view)),
            ("WARMING", None, "WARMED")
        );
        assert_eq!(
            view.warming.map(|warming| warming.templates),
            Some(2 + MAX_WAITING)
        );
    }

    #[test]
    fn an_order_ends_with_the_status_that_nobody_asked_for() {
        let mut view = warming();
        view.asked = 1;
        told(&mut view);
        assert_eq!((state(&view), view.number), ("WARMING", 1));
        told(&mut view);
        assert_eq!((state(&view), view.number), ("WARMED", 2));
        // Later ones say nothing about it, and neither does the end of the stream.
        view.handle_failure(report("PRE_WARM_FAILED"));
        view.handle_stream_ended();
        assert_eq!(state(&view), "WARMED");
    }

    #[test]
    fn what_a_daemon_keeps_when_it_connects_is_no_end_of_an_order() {
        let mut view = CacheView::default();
        view.handle_stream_begun(true);
        // Given before the first status has come.
        view.warming = warming().warming;
        told(&mut view);
        assert_eq!((state(&view), view.number), ("WARMING", 1));
        told(&mut view);
        assert_eq!(state(&view), "WARMED");
    }

    #[test]
    fn what_went_wrong_is_kept_and_bounded() {
        let mut view = warming();
        for _ in 0..2 * MAX_FAILURES {
            view.handle_failure(report("PRE_WARM_FAILED"));
        }
        told(&mut view);
        assert_eq!(state(&view), "FAILED");
        assert_eq!(
            view.warming.map_or(0, |warming| warming.failures.len()),
            MAX_FAILURES
        );
        let mut view = warming();
        view.handle_failure(report(PRE_WARM_BUSY));
        told(&mut view);
        assert_eq!(state(&view), "BUSY");
        let mut view = warming();
        view.handle_stream_ended();
        assert_eq!(state(&view), "LOST");
    }

    #[test]
    fn an_order_is_not_waited_for_for_ever() {
        let view = warming();
        let late = Instant::now() + WARMED_WITHIN + Duration::from_secs(1);
        let late = view.warming.as_ref().map(|warming| warming.state(late));
        assert_eq!((state(&view), late), ("WARMING", Some("UNANSWERED")));
    }
}
