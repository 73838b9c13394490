//! A stream of events that is opened anew when it is lost

use reqwest::Response;
use tokio::time::{Instant, timeout};

use crate::client::{Client, Request};
use crate::event_stream::{Decoder, Event};
use crate::failure::Failure;
use crate::outage::{LONGEST_SILENCE, Outage};

/// What comes of an open stream
pub(crate) enum Came {
    Event(Event, Request),
    /// The controller ended it, in order
    Ended,
    /// Why nothing comes any more
    Lost(String),
}

/// Why nothing comes any more of one that was [`Came::Ended`] and should not have been
pub(crate) const ENDED: &str = "the controller ended the stream";

/// A stream, open or between two connections
#[derive(Debug, Default)]
pub(crate) struct Followed {
    stream: Option<Stream>,
    outage: Outage,
}

#[derive(Debug)]
struct Stream {
    request: Request,
    response: Response,
    decoder: Decoder,
    opened_at: Instant,
}

impl Followed {
    pub(crate) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Tries to open it, when it is time for that; whether it is open now
    ///
    /// # Errors
    /// What the controller refuses, and, if it `is_first`, that it cannot be reached; later on after
    /// [`GIVE_UP_AFTER`](crate::outage::GIVE_UP_AFTER).
    pub(crate) async fn open(
        &mut self,
        client: &Client,
        path: &[&str],
        query: &[(&str, String)],
        is_first: bool,
    ) -> Result<bool, Failure> {
        self.outage.wait().await;
        match client.open_events(path, query).await {
            Ok((request, response)) => {
                self.stream = Some(Stream {
                    request,
                    response,
                    decoder: Decoder::default(),
                    opened_at: Instant::now(),
                });
                Ok(true)
            }
            Err(error) => {
                let now = Instant::now();
                if is_first || !error.is_transient() || self.outage.is_given_up(now) {
                    return Err(error);
                }
                self.outage.note_failure(now);
                Ok(false)
            }
        }
    }

    /// What comes next of the open stream. May be dropped at any point and called again.
    ///
    /// # Errors
    /// The controller speaks something else.
    pub(crate) async fn next(&mut self) -> Result<Came, Failure> {
        let Some(stream) = &mut self.stream else {
            return Ok(Came::Ended);
        };
        loop {
            if let Some(event) = stream.decoder.next_event() {
                return Ok(Came::Event(event, stream.request.clone()));
            }
            match timeout(LONGEST_SILENCE, stream.response.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    let fed = stream.decoder.feed(&bytes);
                    fed.map_err(|error| stream.request.unintelligible(error.to_string()))?;
                }
                Ok(Ok(None)) => return Ok(Came::Ended),
                Ok(Err(_)) => return Ok(Came::Lost("the connection broke".to_owned())),
                Err(_) => {
                    let seconds = LONGEST_SILENCE.as_secs();
                    return Ok(Came::Lost(format!("nothing came for {seconds} s")));
                }
            }
        }
    }

    /// Leaves the open stream, to open another one at once
    pub(crate) fn leave(&mut self) {
        self.stream = None;
    }

    /// Leaves the open stream, of which nothing comes any more
    ///
    /// # Errors
    /// It has been lost again and again for too long.
    pub(crate) fn lose(&mut self, reason: &str) -> Result<(), Failure> {
        let Some(stream) = self.stream.take() else {
            return Ok(());
        };
        let now = Instant::now();
        self.outage.note_loss(stream.opened_at, now);
        if self.outage.is_given_up(now) {
            return Err(stream.request.unreachable(reason.to_owned()));
        }
        self.outage.note_failure(now);
        Ok(())
    }
}
