//! The routes as one connection gets them: what it is doing is known from the head of a request to the last byte of its
//! answer

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, Response, header::CONTENT_TYPE},
    response::IntoResponse as _,
};
use hyper::body::{Frame, Incoming, SizeHint};
use tower_service::Service as _;

use super::{
    connections::{self, Connection, Place},
    error::ApiError,
};

/// Where the state of the controller is asked for, also when there is no room for anything else
const STATE: [&str; 4] = [
    "/api/v1/system/health",
    "/api/v1/system/ready",
    "/api/v1/system/version",
    "/metrics",
];

pub(super) struct Answering {
    pub(super) router: Router,
    pub(super) connection: Arc<Connection>,
    pub(super) is_answering: Arc<AtomicBool>,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.is_answering.store(true, Ordering::Relaxed);
        let under_way = UnderWay {
            request: self.connection.begin(),
            is_answering: Arc::clone(&self.is_answering),
        };
        let may_ask = self.connection.place == Place::Full || STATE.contains(&request.uri().path());
        let answer = may_ask.then(|| self.router.clone().call(request));
        Box::pin(async move {
            let full = |message: &str| ApiError::unavailable(message).into_response();
            let mut answer = match answer {
                Some(answer) => answer.await?,
                None => full("too many requests are under way, try again"),
            };
            let kind = answer.headers().get(CONTENT_TYPE);
            if kind.is_some_and(|kind| kind == "text/event-stream") && !under_way.request.follow() {
                answer = full("too many consoles are followed, try again");
            }
            Ok(answer.map(|body| {
                Body::new(Answer {
                    body,
                    _under_way: under_way,
                })
            }))
        })
    }
}

struct UnderWay {
    request: connections::Request,
    is_answering: Arc<AtomicBool>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.is_answering.store(false, Ordering::Relaxed);
    }
}

/// An answer; its request is under way until it is dropped
struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
