//! Calls with bytes instead of messages, to say what no session would say

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::Stream;
use prexorcloud_transport::Connection;
use prexorcloud_transport::connect::CONNECT_PATH;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone, Copy, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

/// Opens the stream as a daemon would, with bytes.
pub async fn connect(
    connection: &Connection,
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Streaming<Bytes>, Status> {
    tonic::client::Grpc::new(connection.clone())
        .max_decoding_message_size(usize::MAX)
        .streaming(Request::new(messages), CONNECT_PATH.parse().unwrap(), RawCodec)
        .await
        .map(Response::into_inner)
}

type Answer = futures_util::stream::BoxStream<'static, Result<Bytes, Status>>;

/// A controller that answers with bytes; the function gets what the daemon sends
#[derive(Clone)]
pub struct RawController(pub Arc<dyn Fn(Streaming<Bytes>) -> Answer + Send + Sync>);

impl tonic::server::NamedService for RawController {
    const NAME: &'static str = "me.prexorjustin.prexorcloud.protocol.DaemonService";
}

impl tonic::server::StreamingService<Bytes> for RawController {
    type Response = Bytes;
    type ResponseStream = Answer;
    type Future = std::future::Ready<Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        std::future::ready(Ok(Response::new((self.0)(request.into_inner()))))
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for RawController {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            Ok(tonic::server::Grpc::new(RawCodec)
                .streaming(service, request)
                .await)
        })
    }
}
