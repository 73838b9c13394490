//! A session without a protocol: it sends what it is told and reports what it gets

use std::collections::VecDeque;
use std::time::Instant;

use prexorcloud_proto::{
    ConsoleOutput, ControllerMessage, DaemonMessage, InstanceFileContent, Ping, Pong, TemplateData,
    controller_message, daemon_message,
};
use prexorcloud_protocol::{Close, Deadline, Received, Session};

#[derive(Clone, Debug, PartialEq)]
pub enum Event<I> {
    Connected,
    Received(Received<I>),
    TimedOut,
    Disconnected,
}

impl<I> Event<I> {
    pub fn message(self) -> I {
        match self {
            Self::Received(received) => received.message,
            _ => panic!("not a message"),
        }
    }
}

#[derive(Debug)]
pub struct Plain<I, O> {
    /// Leaves first.
    pub urgent: VecDeque<O>,
    pub queue: VecDeque<O>,
    pub events: VecDeque<Event<I>>,
    pub close: Option<Close>,
    pub deadline: Option<Instant>,
    /// Answers pings by itself.
    pub reply: Option<fn(&I) -> Option<O>>,
    pub disconnections: u32,
}

impl<I, O> Default for Plain<I, O> {
    fn default() -> Self {
        Self {
            urgent: VecDeque::new(),
            queue: VecDeque::new(),
            events: VecDeque::new(),
            close: None,
            deadline: None,
            reply: None,
            disconnections: 0,
        }
    }
}

pub type PlainDaemon = Plain<ControllerMessage, DaemonMessage>;
pub type PlainController = Plain<DaemonMessage, ControllerMessage>;

impl<I, O> Session for Plain<I, O> {
    type Incoming = I;
    type Outgoing = O;
    type Event = Event<I>;
    type Timer = ();

    fn handle_connected(&mut self, _: Instant) {
        self.events.push_back(Event::Connected);
    }

    fn handle_message(&mut self, _: Instant, received: Received<I>) {
        if let Some(answer) = self.reply.and_then(|reply| reply(&received.message)) {
            self.urgent.push_back(answer);
        }
        self.events.push_back(Event::Received(received));
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.events.push_back(Event::TimedOut);
        }
    }

    fn handle_disconnected(&mut self, _: Instant) {
        self.disconnections += 1;
        self.events.push_back(Event::Disconnected);
    }

    fn poll_transmit(&mut self) -> Option<O> {
        self.urgent.pop_front().or_else(|| self.queue.pop_front())
    }

    fn poll_event(&mut self) -> Option<Event<I>> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Deadline<()>> {
        self.deadline.map(|at| Deadline { at, timer: () })
    }

    fn close(&self) -> Option<&Close> {
        self.close.as_ref()
    }

    fn events_pending(&self) -> usize {
        self.events.len()
    }
}

pub fn line(text: impl Into<String>) -> DaemonMessage {
    let output = ConsoleOutput {
        instance_id: "lobby-1".into(),
        line: text.into(),
        ..Default::default()
    };
    DaemonMessage {
        payload: Some(daemon_message::Payload::ConsoleOutput(output)),
    }
}

pub fn pong(sequence: i64) -> DaemonMessage {
    DaemonMessage {
        payload: Some(daemon_message::Payload::Pong(Pong { sequence })),
    }
}

pub fn file_content(bytes: usize) -> DaemonMessage {
    let content = InstanceFileContent {
        content: vec![7; bytes].into(),
        ..Default::default()
    };
    DaemonMessage {
        payload: Some(daemon_message::Payload::InstanceFileContent(content)),
    }
}

pub fn ping(sequence: i64) -> ControllerMessage {
    let payload = Some(controller_message::Payload::Ping(Ping {
        sequence,
        answered: 0,
    }));
    ControllerMessage {
        payload,
        ..Default::default()
    }
}

pub fn template(bytes: usize) -> ControllerMessage {
    let data = TemplateData {
        tar_gz: vec![7; bytes].into(),
        ..Default::default()
    };
    ControllerMessage {
        payload: Some(controller_message::Payload::TemplateData(Box::new(data))),
        ..Default::default()
    }
}

/// The answer of a daemon to a ping.
pub fn answer_pings(message: &ControllerMessage) -> Option<DaemonMessage> {
    match &message.payload {
        Some(controller_message::Payload::Ping(ping)) => Some(pong(ping.sequence)),
        _ => None,
    }
}
