//! The trace that a request belongs to, from its `traceparent` to the orders that come of it
//!
//! The trace is that of the task that answers the request. Whatever goes on elsewhere takes it along with [`carried`], and the
//! task of a node is given it with each order.

use axum::{extract::Request, middleware::Next, response::Response};
use prexorcloud_logs::trace;
use prexorcloud_protocol::trace::TraceParent;
use tracing::Instrument as _;

/// The name of the header over HTTP, and of the metadata over gRPC
const HEADER: &str = "traceparent";

tokio::task_local! {
    static CURRENT: TraceParent;
}

/// The trace of the request that this task answers
pub(crate) fn current() -> Option<TraceParent> {
    CURRENT.try_with(|trace| *trace).ok()
}

/// Work for the present request that goes on in another task
pub(crate) fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    within(current(), work)
}

/// Does this inside of a trace, if there is one
pub(crate) async fn within<T>(trace: Option<TraceParent>, work: impl Future<Output = T>) -> T {
    match trace {
        Some(trace) => CURRENT.scope(trace, work).instrument(trace::span(&trace)).await,
        None => work.await,
    }
}

/// Answers a request as a part of the trace that it names; what is no `traceparent` of version 00 counts as none
pub(crate) async fn answer(request: Request, next: Next) -> Response {
    let named = request.headers().get(HEADER).and_then(|text| text.to_str().ok());
    let Some(trace) = named.and_then(TraceParent::parse) else {
        return next.run(request).await;
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answering = async {
        let answer = next.run(request).await;
        tracing::debug!(%method, path, status = answer.status().as_u16(), "a request of a trace was answered");
        answer
    };
    within(Some(trace::child(&trace)), answering).await
}
