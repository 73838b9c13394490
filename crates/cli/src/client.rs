//! One controller's HTTP interface
//!
//! Every request has a deadline and every answer a size limit. Redirects are not followed, because the token would go
//! along; proxies from the environment are used, except for this machine itself.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;
use crate::printable;
use crate::settings::{Target, read_public};

/// The largest answer that is read, in bytes
pub const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Where a list says how its next page is asked for
const NEXT_CURSOR: &str = "x-next-cursor";

const MAX_ERROR_BYTES: usize = 64 * 1024;
const MAX_MESSAGE_CHARS: usize = 600;

/// A connection to one controller
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    target: Target,
}

/// What the controller answered, as sent and as understood
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// As sent, for output as JSON
    pub json: Value,
    /// As understood
    pub value: T,
    /// What the next page of a list is asked for with, if there is one
    pub next: Option<String>,
}

impl Client {
    /// Prepares a client; nothing is sent yet
    ///
    /// # Errors
    /// [`Failure::Usage`] if the certificates of `ca_file` cannot be used.
    pub fn new(target: Target) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("prexorctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .http1_only();
        if is_this_machine(&target.controller) {
            builder = builder.no_proxy();
        }
        if let Some(file) = &target.ca_file {
            let unusable = |reason: String| Failure::Usage {
                message: format!("the certificates in {} cannot be used: {reason}", file.display()),
            };
            let text = read_public(file).map_err(|error| unusable(error.to_string()))?;
            // Blanks before a line would hide it.
            let text: String = text.lines().flat_map(|line| [line.trim(), "\n"]).collect();
            let certificates = reqwest::Certificate::from_pem_bundle(text.as_bytes())
                .map_err(|error| unusable(error.to_string()))?;
            if certificates.is_empty() {
                return Err(unusable("there are none".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| Failure::Usage {
            message: format!("the HTTP client cannot be prepared: {}", reason(&error)),
        })?;
        Ok(Self { http, target })
    }

    /// The base URL, for messages
    #[must_use]
    pub fn controller(&self) -> &str {
        self.target.controller.as_str().trim_end_matches('/')
    }

    /// Asks for something
    ///
    /// `path` are the segments after `/api/v1`, each of which is escaped.
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Answer<T>, Failure> {
        self.call(Method::GET, path, query, None).await
    }

    /// Asks for something to be done
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller. After [`Failure::Unreachable`] it may have been done.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Answer<T>, Failure> {
        self.call(Method::POST, path, query, body).await
    }

    /// Changes what is named of something that still has the revision `seen`
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller; [`Failure::Refused`] with status 412 if somebody else has changed it meanwhile.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &Value,
        seen: u64,
    ) -> Result<Answer<T>, Failure> {
        let mut request = Request::new(self, Method::PATCH, path, &[]);
        request.seen = Some(seen);
        request.answered(self, Some(body)).await
    }

    /// Replaces something
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller.
    pub async fn put(&self, path: &[&str], body: &Value) -> Result<(), Failure> {
        self.call::<Value>(Method::PUT, path, &[], Some(body))
            .await
            .map(drop)
    }

    /// Removes something
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller.
    pub async fn delete(&self, path: &[&str]) -> Result<(), Failure> {
        self.delete_if(path, &[]).await
    }

    /// Removes something, on conditions that `query` has
    ///
    /// # Errors
    /// Every [`Failure`] of the network and the controller.
    pub async fn delete_if(&self, path: &[&str], query: &[(&str, String)]) -> Result<(), Failure> {
        let request = Request::new(self, Method::DELETE, path, query);
        request.within(request.send(self, None, ANSWER_TIMEOUT)).await?;
        Ok(())
    }

    /// Opens an event stream; the answer's body has no deadline, its reader must watch for silence
    pub(crate) async fn open_events(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<(Request, Response), Failure> {
        let request = Request::new(self, Method::GET, path, query);
        let response = request.within(request.send_events(self)).await?;
        Ok((request, response))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Answer<T>, Failure> {
        Request::new(self, method, path, query).answered(self, body).await
    }
}

/// One request, as needed for messages about it
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: Method,
    url: Url,
    controller: String,
    /// The revision of what it is about that its maker has seen
    seen: Option<u64>,
}

impl Request {
    pub(crate) fn new(client: &Client, method: Method, path: &[&str], query: &[(&str, String)]) -> Self {
        let mut url = client.target.controller.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut()
                .extend_pairs(query.iter().map(|(name, value)| (*name, value.as_str())));
        }
        Self {
            method,
            url,
            controller: client.controller().to_owned(),
            seen: None,
        }
    }

    async fn answered<T: DeserializeOwned>(
        &self,
        client: &Client,
        body: Option<&Value>,
    ) -> Result<Answer<T>, Failure> {
        self.within(async {
            let response = self.send(client, body, ANSWER_TIMEOUT).await?;
            self.understand(response).await
        })
        .await
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::time::timeout(ANSWER_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| {
                Err(self.unreachable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
            })
    }

    async fn send(
        &self,
        client: &Client,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<Response, Failure> {
        let mut builder = self.builder(client).timeout(timeout);
        if let Some(seen) = self.seen {
            builder = builder.header("if-match", format!("\"{seen}\""));
        }
        if let Some(body) = body {
            builder = builder
                .header("content-type", "application/json")
                .body(body.to_string());
        } else if self.method == Method::POST {
            builder = builder.header("content-length", "0");
        }
        self.accept(builder.send().await).await
    }

    async fn send_events(&self, client: &Client) -> Result<Response, Failure> {
        let builder = self.builder(client).header("accept", "text/event-stream");
        let response = self.accept(builder.send().await).await?;
        let kind = response
            .headers()
            .get("content-type")
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or("nothing");
        if !kind.starts_with("text/event-stream") {
            let kind = printable::short(kind, 60);
            return Err(self.unintelligible(format!("an event stream was expected, {kind} came")));
        }
        Ok(response)
    }

    pub(crate) fn builder(&self, client: &Client) -> reqwest::RequestBuilder {
        let builder = client.http.request(self.method.clone(), self.url.clone());
        match &client.target.token {
            Some(token) => builder.bearer_auth(token.expose()),
            None => builder,
        }
    }

    pub(crate) async fn accept(
        &self,
        outcome: Result<Response, reqwest::Error>,
    ) -> Result<Response, Failure> {
        let response = outcome.map_err(|error| self.unreachable(reason(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    async fn refusal(&self, response: Response) -> Failure {
        let status = response.status();
        let retained = match self.read(response, MAX_ERROR_BYTES).await {
            Ok(body) => body,
            Err(Failure::TooLarge { .. }) => Vec::new(),
            Err(other) => return other,
        };
        let (code, message) = words(&retained, status);
        Failure::Refused {
            status: status.as_u16(),
            code,
            message,
        }
    }

    /// Reads an answer to its end
    pub(crate) async fn understand<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<Answer<T>, Failure> {
        let next = response.headers().get(NEXT_CURSOR);
        let next = next.and_then(|next| next.to_str().ok()).map(str::to_owned);
        let answer = self.read(response, MAX_ANSWER_BYTES).await?;
        let json: Value = if answer.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&answer)
                .map_err(|error| self.unintelligible(format!("not JSON ({error})")))?
        };
        let value = T::deserialize(&json)
            .map_err(|error| self.unintelligible(printable::short(&error.to_string(), MAX_MESSAGE_CHARS)))?;
        Ok(Answer { json, value, next })
    }

    async fn read(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(reason(&error)))?
        {
            if body.len() + chunk.len() > limit {
                return Err(Failure::TooLarge {
                    controller: self.controller.clone(),
                    request: self.shown(),
                    limit,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn shown(&self) -> String {
        format!("{} {}", self.method, self.url.path())
    }

    pub(crate) fn unreachable(&self, reason: String) -> Failure {
        Failure::Unreachable {
            controller: self.controller.clone(),
            reason,
        }
    }

    pub(crate) fn unintelligible(&self, reason: String) -> Failure {
        Failure::Unintelligible {
            controller: self.controller.clone(),
            request: self.shown(),
            reason,
        }
    }
}

/// Code and message of an error answer, whatever shape it has
fn words(body: &[u8], status: StatusCode) -> (String, String) {
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str);
    let code = text("/error/code").or_else(|| text("/code")).unwrap_or_default();
    let message = text("/error/message")
        .or_else(|| text("/message"))
        .or_else(|| text("/detail"))
        .or_else(|| text("/title"))
        .map(str::trim)
        .filter(|message| !message.is_empty());
    let message = match message {
        Some(message) => printable::short(message, MAX_MESSAGE_CHARS),
        None => match status.canonical_reason() {
            Some(reason) => format!("the controller refused: {reason}"),
            None => "the controller refused".to_owned(),
        },
    };
    (printable::short(code, 60), message)
}

/// The innermost cause, which is the one that an operator can act on
pub(crate) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    printable::short(&innermost.to_string(), MAX_MESSAGE_CHARS)
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn certificates_are_read_as_editors_leave_them() {
        const PEM: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBdTCCARugAwIBAgIUQV5pUpOiTywhzDDwa7+XBWcRwyowCgYIKoZIzj0EAwIw\n\
        DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjkxMDAzNDRaGA8yMTI2MTEwNTEwMDM0\n\
        NFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMhY\n\
        1xkeDQjlvpbugFE4b16nora6OEu/pQ2pr8vjnRvfFb+U6Bl/0ToHD7m9FK4n2NRV\n\
        Mm+7CIbywQE0YPJSGeyjUzBRMB0GA1UdDgQWBBRmVaPHT8dnDUXDXQOa/8Z4p7Ia\n\
        RTAfBgNVHSMEGDAWgBRmVaPHT8dnDUXDXQOa/8Z4p7IaRTAPBgNVHRMBAf8EBTAD\n\
        AQH/MAoGCCqGSM49BAMCA0gAMEUCIQDOqwJQ2BQcKg64PbomZbkglW3COipnK/dc\n\
        BoYcJ6WIqwIgPj4amzp9vlFqUuru9woycte3E3VsxV3NkU7zpJaMLXY=\n\
        -----END CERTIFICATE-----\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let client = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Client::new(Target {
                controller: Url::parse("https://controller.example").unwrap(),
                token: None,
                ca_file: Some(file.clone()),
            })
        };
        for text in [
            PEM.to_owned(),
            format!("\u{feff}{}", PEM.replace('\n', " \r\n")),
            format!("\r\n  {}", PEM.replace('\n', "\n  ")),
        ] {
            assert!(client(&text).is_ok(), "{text:?}");
        }
        for text in ["", "nothing", PEM.get(..200).unwrap()] {
            let Err(Failure::Usage { message }) = client(text) else {
                panic!("{text:?} was taken")
            };
            assert!(message.contains("ca.pem cannot be used"), "{message}");
        }
    }

    #[test]
    fn the_words_of_a_refusal_are_found_in_every_shape() {
        let status = StatusCode::CONFLICT;
        let nested = br#"{"error":{"code":"NODE_NOT_CONNECTED","message":"node-1 is away","status":409}}"#;
        assert_eq!(
            words(nested, status),
            ("NODE_NOT_CONNECTED".to_owned(), "node-1 is away".to_owned())
        );
        assert_eq!(words(br#"{"message":"flat","code":"X"}"#, status).1, "flat");
        assert_eq!(
            words(br#"{"title":"Forbidden","status":403}"#, status).1,
            "Forbidden"
        );
        assert_eq!(words(b"<html>", status).1, "the controller refused: Conflict");
        assert_eq!(
            words(br#"{"error":"a string"}"#, status).1,
            "the controller refused: Conflict"
        );
        assert_eq!(
            words(b"", StatusCode::from_u16(599).unwrap()).1,
            "the controller refused"
        );
        let hostile = "{\"message\":\"\\u001b[2Jgone\"}";
        assert_eq!(words(hostile.as_bytes(), status).1, "\\u{1b}[2Jgone");
        let long = format!("{{\"message\":\"{}\"}}", "x".repeat(10_000));
        assert_eq!(
            words(long.as_bytes(), status).1.chars().count(),
            MAX_MESSAGE_CHARS
        );
    }

    #[test]
    fn loopback_needs_no_proxy() {
        for (url, here) in [
            ("http://localhost:1", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:8080", true),
            ("http://example.org", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_this_machine(&Url::parse(url).unwrap()), here, "{url}");
        }
    }
}
