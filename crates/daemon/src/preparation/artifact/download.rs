//! One file over HTTP: tried again, resumed where it broke, begun anew where it changed

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use reqwest::{Client, StatusCode, Url};

use super::{ArtifactError, Lasts, blocking, finish, io_error, shown};
use crate::partial::Partial;

/// Attempts in a row that bring nothing
const ATTEMPTS: u32 = 3;

/// Attempts in all: a server that breaks off again and again is given up before the deadline
const MAX_ATTEMPTS: u32 = 10;

/// How long to wait after the first attempt that brought nothing; twice as long after each further one
const PAUSE: Duration = Duration::from_millis(250);

/// More redirects lead nowhere
const MAX_REDIRECTS: usize = 8;

/// A client that gives up after `stall` without a byte
pub(super) fn client(stall: Duration) -> Result<Client, reqwest::Error> {
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        match redirect_problem(attempt.previous(), attempt.url()) {
            Some(problem) => attempt.error(problem),
            None => attempt.follow(),
        }
    });
    Client::builder()
        .user_agent(concat!("prexorcloud-daemon/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(stall)
        .read_timeout(stall)
        .pool_max_idle_per_host(1)
        .redirect(redirects)
        .build()
}

/// Why a redirect to `next` is not followed, after requests to all of `previous`
pub(super) fn redirect_problem(previous: &[Url], next: &Url) -> Option<String> {
    let leaves_tls = previous.last().is_some_and(|url| url.scheme() == "https") && next.scheme() != "https";
    if leaves_tls {
        Some(format!("the redirect to {} leaves https", shown(next)))
    } else if previous.contains(next) {
        Some(format!("redirects lead in a circle to {}", shown(next)))
    } else if previous.len() > MAX_REDIRECTS {
        let last = shown(next);
        Some(format!(
            "there are more than {MAX_REDIRECTS} redirects, the last one to {last}"
        ))
    } else {
        None
    }
}

/// A file to get
pub(super) struct Download<'d> {
    pub(super) client: Client,
    pub(super) url: Url,
    /// The address without what may be secret in it
    pub(super) shown: String,
    /// Empty if nobody knows it
    pub(super) sha256: &'d str,
    /// Where it is put when it is whole
    pub(super) target: &'d Path,
    /// Where it grows if its digest is known
    pub(super) part: PathBuf,
    pub(super) max_bytes: u64,
}

/// What the answers so far said
#[derive(Default)]
struct Seen {
    /// What names this content of the file, for the server
    validator: Option<HeaderValue>,
    is_web_page: bool,
    /// Whether what is there is of more than one answer
    is_resumed: bool,
    /// Whether what is there is of an earlier download, whose answers nobody remembers
    is_inherited: bool,
}

impl Download<'_> {
    /// Gets the file; whoever calls has the deadline
    pub(super) async fn run(self) -> Result<(), ArtifactError> {
        let (mut partial, mut seen) = self.open().await?;
        if seen.is_inherited && partial.digest().to_string() == self.sha256 {
            return self.finish(partial).await;
        }
        let (mut attempts, mut failures) = (0, 0);
        loop {
            let length = partial.length();
            attempts += 1;
            match self.attempt(&mut partial, &mut seen).await {
                Ok(()) => {
                    match self.finish(partial).await {
                        // Pieces of two contents, for which the server had one name.
                        Err(ArtifactError::WrongDigest { .. }) if seen.is_resumed => {
                            tracing::warn!(
                                url = self.shown,
                                "the file changed while it was downloaded, once more"
                            );
                            (partial, seen) = self.open().await?;
                        }
                        Err(ArtifactError::WrongDigest { .. }) if seen.is_web_page => {
                            return Err(self.web_page());
                        }
                        result => return result,
                    }
                }
                Err(error) if !is_worth_another(&error) => {
                    // Nobody goes on with a disk that is full, nor with what is too large.
                    partial.discard();
                    return Err(error);
                }
                Err(error) => {
                    failures = if partial.length() > length {
                        1
                    } else {
                        failures + 1
                    };
                    if failures >= ATTEMPTS || attempts >= MAX_ATTEMPTS {
                        return Err(error);
                    }
                    tracing::info!(url = self.shown, bytes = partial.length(), %error, "a download is tried again");
                    tokio::time::sleep(PAUSE * 2_u32.pow(failures - 1)).await;
                }
            }
        }
    }

    /// What has come of it earlier, where its content is known by its digest
    async fn open(&self) -> Result<(Partial, Seen), ArtifactError> {
        let (target, part) = (self.target.to_path_buf(), self.part.clone());
        let (most, is_known) = (self.max_bytes, !self.sha256.is_empty());
        let opened = tokio::task::spawn_blocking(move || match is_known {
            true => Partial::resume(part, most),
            false => Partial::beside(&target),
        });
        let opened = opened
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let partial = opened.map_err(io_error(self.target))?;
        let is_inherited = partial.length() > 0;
        let seen = Seen {
            is_resumed: is_inherited,
            is_inherited,
            ..Seen::default()
        };
        Ok((partial, seen))
    }

    async fn finish(&self, partial: Partial) -> Result<(), ArtifactError> {
        let (shown, sha256) = (self.shown.clone(), self.sha256.to_owned());
        let target = self.target.to_path_buf();
        blocking(self.target, move || {
            finish(partial, &target, &shown, &sha256, Lasts::Yes)
        })
        .await
    }

    /// Goes on where `partial` ends if the server still has the same file, else begins anew
    async fn attempt(&self, partial: &mut Partial, seen: &mut Seen) -> Result<(), ArtifactError> {
        // A digest is one of the file and not of a packed form of it.
        let mut request = self
            .client
            .get(self.url.clone())
            .header(ACCEPT_ENCODING, "identity");
        let validator = seen.validator.take().filter(|_| partial.length() > 0);
        if let Some(validator) = &validator {
            request = request.header(IF_RANGE, validator);
        }
        // Of an earlier download the digest will say whether it was of the same content.
        let is_inherited = seen.is_inherited && partial.length() > 0;
        if validator.is_some() || is_inherited {
            request = request.header(RANGE, format!("bytes={}-", partial.length()));
        }
        let response = request.send().await.map_err(|error| {
            // No answer says nothing about the file.
            seen.validator.clone_from(&validator);
            self.broken(error)
        })?;
        let (status, headers) = (response.status(), response.headers());
        let goes_on = match &validator {
            None if is_inherited && status == StatusCode::RANGE_NOT_SATISFIABLE => {
                seen.is_inherited = false;
                partial.restart().map_err(io_error(self.target))?;
                return Err(self.failed("the file is shorter than what has come of it earlier".to_owned()));
            }
            None if is_inherited && status == StatusCode::PARTIAL_CONTENT => {
                if !begins_at(headers, partial.length()) {
                    seen.is_inherited = false;
                    return Err(self.failed("the server answered with another part of the file".to_owned()));
                }
                true
            }
            Some(validator) if status == StatusCode::PARTIAL_CONTENT => {
                if !continues(headers, validator, partial.length()) {
                    return Err(self.failed("the server answered with another part of the file".to_owned()));
                }
                true
            }
            Some(_) if status == StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.failed("the file became shorter while it was downloaded".to_owned()));
            }
            _ => false,
        };
        if !status.is_success() || (status == StatusCode::PARTIAL_CONTENT && !goes_on) {
            seen.validator = validator;
            return Err(ArtifactError::Status {
                url: self.shown.clone(),
                status: status.as_u16(),
            });
        }
        if let Some(encoding) = encoding(headers) {
            return Err(ArtifactError::Encoded {
                url: self.shown.clone(),
                encoding,
            });
        }
        *seen = Seen {
            validator: validator
                .filter(|_| goes_on)
                .or_else(|| strong_validator(headers)),
            is_web_page: is_web_page(headers),
            is_resumed: goes_on,
            is_inherited: false,
        };
        if seen.is_web_page && self.sha256.is_empty() {
            return Err(self.web_page());
        }
        if !goes_on {
            partial.restart().map_err(io_error(self.target))?;
        }
        self.receive(response, partial).await
    }

    async fn receive(
        &self,
        mut response: reqwest::Response,
        partial: &mut Partial,
    ) -> Result<(), ArtifactError> {
        let check = |length: u64| {
            if length <= self.max_bytes {
                return Ok(());
            }
            Err(ArtifactError::TooLarge {
                origin: self.shown.clone(),
                limit: self.max_bytes,
            })
        };
        check(
            partial
                .length()
                .saturating_add(response.content_length().unwrap_or(0)),
        )?;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error))? {
            check(partial.length().saturating_add(chunk.len() as u64))?;
            // Chunks are small and go to the page cache; the sync at the end is what takes time.
            partial.write(&chunk).map_err(io_error(self.target))?;
        }
        Ok(())
    }

    fn broken(&self, error: reqwest::Error) -> ArtifactError {
        let is_redirect = error.is_redirect();
        let problem = causes(&error.without_url());
        if is_redirect {
            ArtifactError::Redirect {
                url: self.shown.clone(),
                problem,
            }
        } else {
            self.failed(problem)
        }
    }

    fn failed(&self, problem: String) -> ArtifactError {
        ArtifactError::Download {
            url: self.shown.clone(),
            problem,
        }
    }

    fn web_page(&self) -> ArtifactError {
        ArtifactError::WebPage {
            url: self.shown.clone(),
        }
    }
}

/// The network and the server recover, the disk does not within seconds
fn is_worth_another(error: &ArtifactError) -> bool {
    error.is_transient() && !matches!(error, ArtifactError::Io { .. })
}

/// Whether an answer goes on at this place, with the content that was asked for
fn continues(headers: &HeaderMap, validator: &HeaderValue, at: u64) -> bool {
    let is_another = strong_validator(headers).is_some_and(|now| now != validator);
    begins_at(headers, at) && !is_another
}

fn begins_at(headers: &HeaderMap, at: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {at}-")))
}

/// What names the content byte for byte
fn strong_validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_strong = |tag: &&HeaderValue| tag.as_bytes().starts_with(b"\"");
    let tag = headers.get(ETAG).filter(is_strong);
    tag.or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

fn is_web_page(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let begins = |name: &str| {
        kind.get(..name.len())
            .is_some_and(|kind| kind.eq_ignore_ascii_case(name.as_bytes()))
    };
    begins("text/html") || begins("application/xhtml")
}

/// How the bytes of an answer are packed, if they are
fn encoding(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let mut words = values.flat_map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        text.split(',')
            .map(|word| word.trim().to_owned())
            .collect::<Vec<_>>()
    });
    words
        .find(|word| !word.is_empty() && !word.eq_ignore_ascii_case("identity"))
        .map(|word| {
            word.chars()
                .filter(|character| !character.is_control())
                .take(40)
                .collect()
        })
}

/// An error and its causes in one line, each said once
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}
