//! Bytes of templates and modules to a controller, and from it
//!
//! A blob or an archive may take longer than any other request, so these have their own deadline; what stalls is given up sooner.

use std::io::Cursor;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::{Body, Method, Response};
use serde::de::DeserializeOwned;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio_util::io::ReaderStream;

use crate::client::{Answer, Client, Request};
use crate::failure::Failure;

/// Longest transfer of one blob, and longest making of an archive: as long as the controller takes one
const LONGEST: Duration = Duration::from_secs(3600);

/// Longest silence of a controller that sends
const PATIENCE: Duration = Duration::from_secs(30);

/// What is read of a file at once
const PART: usize = 128 * 1024;

/// A bar on standard error; without a terminal, and where programs read the results, there is none
#[must_use]
pub fn progress(total: u64, is_json: bool) -> ProgressBar {
    if is_json {
        return ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(total);
    let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

impl Client {
    /// Sends a manifest to be looked at or published
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller.
    pub async fn post_manifest<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        manifest: Vec<u8>,
    ) -> Result<Answer<T>, Failure> {
        let request = Request::new(self, Method::POST, path, query);
        let builder = request
            .builder(self)
            .timeout(LONGEST)
            .header("content-type", "application/json")
            .body(manifest);
        let response = request.accept(builder.send().await).await?;
        request.understand(response).await
    }

    /// Sends the first `size` bytes of a file
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller.
    pub async fn put_blob(
        &self,
        sha256: &str,
        size: u64,
        file: std::fs::File,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let file = Counted {
            file: File::from_std(file),
            bar: bar.clone(),
        };
        let request = Request::new(self, Method::PUT, &["content", sha256], &[]);
        let body = Body::wrap_stream(ReaderStream::with_capacity(file.take(size), PART));
        let builder = request
            .builder(self)
            .timeout(LONGEST)
            .header("content-type", "application/octet-stream")
            .header("content-length", size.to_string())
            .body(body);
        request.accept(builder.send().await).await.map(drop)
    }

    /// Sends the files of a form
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller.
    pub async fn post_form<T: DeserializeOwned>(
        &self,
        path: &[&str],
        form: Form,
        bar: &ProgressBar,
    ) -> Result<Answer<T>, Failure> {
        let request = Request::new(self, Method::POST, path, &[]);
        let size = form.len();
        let body = Counted {
            file: Cursor::new(form.bytes),
            bar: bar.clone(),
        };
        let builder = request
            .builder(self)
            .timeout(LONGEST)
            .header(
                "content-type",
                format!("multipart/form-data; boundary={}", form.boundary),
            )
            .header("content-length", size.to_string())
            .body(Body::wrap_stream(ReaderStream::with_capacity(body, PART)));
        let response = request.accept(builder.send().await).await?;
        request.understand(response).await
    }

    /// Asks for bytes
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller.
    pub async fn download(&self, path: &[&str]) -> Result<Download, Failure> {
        let request = Request::new(self, Method::GET, path, &[]);
        let sending = request.builder(self).timeout(LONGEST).send();
        let response = match tokio::time::timeout(PATIENCE, sending).await {
            Ok(outcome) => request.accept(outcome).await?,
            Err(_) => return Err(stalled(&request)),
        };
        Ok(Download { request, response })
    }
}

/// Bytes that come
#[derive(Debug)]
pub struct Download {
    request: Request,
    response: Response,
}

impl Download {
    /// The next bytes; `None` at the end
    ///
    /// # Errors
    /// [`Failure::Unreachable`] if they do not come.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match tokio::time::timeout(PATIENCE, self.response.chunk()).await {
            Ok(Ok(part)) => Ok(part.map(Vec::from)),
            Ok(Err(error)) => Err(self.request.unreachable(crate::client::reason(&error))),
            Err(_) => Err(stalled(&self.request)),
        }
    }
}

fn stalled(request: &Request) -> Failure {
    request.unreachable(format!("nothing came for {} s", PATIENCE.as_secs()))
}

/// Files on their way, as `multipart/form-data`
#[derive(Debug)]
pub struct Form {
    boundary: String,
    bytes: Vec<u8>,
}

impl Form {
    /// One without files
    #[must_use]
    #[expect(clippy::new_without_default, reason = "the boundary is another one each time")]
    pub fn new() -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            // What it must not be is a line of a file, and a jar has none with this.
            boundary: format!("prexorctl-{:x}-{:x}", std::process::id(), since.as_nanos()),
            bytes: Vec::new(),
        }
    }

    /// Adds a file
    pub fn file(&mut self, field: &str, name: &str, content: &[u8]) {
        let name: String = name
            .chars()
            .map(|letter| match letter {
                '"' | ';' | '\\' => '_',
                letter if letter.is_control() => '_',
                letter => letter,
            })
            .collect();
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream\r\n\r\n",
            self.boundary
        );
        self.bytes.reserve(head.len() + content.len() + 128);
        self.bytes.extend(head.as_bytes());
        self.bytes.extend(content);
        self.bytes.extend(b"\r\n");
    }

    /// All files are there
    #[must_use]
    pub fn finish(mut self) -> Self {
        self.bytes.extend(format!("--{}--\r\n", self.boundary).as_bytes());
        self
    }

    /// Its size in bytes
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// A file whose bytes are counted as they are read
struct Counted<R> {
    file: R,
    bar: ProgressBar,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.file).poll_read(context, buffer));
        self.bar.inc((buffer.filled().len() - before) as u64);
        Poll::Ready(read)
    }
}
