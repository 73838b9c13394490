//! `prexorctl logs`

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::arguments::{LogsArguments, LogsCommand};
use crate::client::Client;
use crate::console::{Console, Extent, Happening};
use crate::failure::Failure;
use crate::log_stream::{LogHappening, LogRecord, LogStream};
use crate::output::{Colour, Output, Paint, remark};
use crate::printable;
use crate::resource::{Instance, Node};

use super::console::RECOUNTED;
use super::node::has_ended;

/// What is shown later than it came
const SHOWN_LATER: usize = 256;

/// Logs that are shown at once; each is a connection
const MOST_SOURCES: usize = 100;

/// How often new nodes and servers are looked for
const LOOK: Duration = Duration::from_secs(5);

/// Whose log it is
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Controller,
    Daemon(String),
    Instance(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("controller"),
            Self::Daemon(node) => write!(f, "daemon {node}"),
            Self::Instance(id) => write!(f, "instance {id}"),
        }
    }
}

impl Source {
    fn path(&self) -> Vec<&str> {
        match self {
            Self::Controller => vec!["system", "logs"],
            Self::Daemon(node) => vec!["nodes", node, "logs"],
            Self::Instance(id) => vec!["instances", id, "console"],
        }
    }
}

/// Something to show of one of them
enum Shown {
    Record(Box<LogRecord>),
    Gap(u64),
    Note(String),
    /// Nothing comes of it any more
    Over(Failure),
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    records: Vec<Value>,
}

pub(super) async fn run(command: LogsCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    let (sources, wanted, look) = match command {
        LogsCommand::Controller { wanted } => (vec![Source::Controller], wanted, None),
        LogsCommand::Daemon { node, wanted } => {
            let node = match node {
                Some(node) => node,
                None => only("node", "logs daemon NODE", nodes(client).await?)?,
            };
            (vec![Source::Daemon(node)], wanted, None)
        }
        LogsCommand::Instance { id, wanted } => {
            let id = match id {
                Some(id) => id,
                None => only("instance", "logs instance ID", instances(client, &[]).await?)?,
            };
            (vec![Source::Instance(id)], wanted, None)
        }
        LogsCommand::All { group, node, wanted } => {
            let look = Look { group, node };
            (look.all(client).await?, wanted, Some(look))
        }
    };
    let view = View {
        output,
        notes: Paint::for_stderr(!output.paint().is_enabled()),
        zone: TimeZone::system(),
        names_sources: look.is_some(),
    };
    if wanted.follow {
        return follow(sources, &wanted, look, client, &view).await;
    }
    let mut records = Vec::new();
    for source in sources {
        let kept = kept(&source, &wanted, client).await?;
        if let (Source::Daemon(node), true) = (&source, kept.is_empty()) {
            // A node that nobody knows has an empty log, too.
            is_known(node, client).await?;
        }
        records.extend(kept.into_iter().map(|record| (source.clone(), record)));
    }
    // Those of one source stay in their order.
    records.sort_by_key(|(_, record)| record.ts);
    for (source, record) in &records {
        view.record(source, record)?;
    }
    Ok(())
}

/// Fails if there is no such node; whoever may not see nodes is not told
async fn is_known(node: &str, client: &Client) -> Result<(), Failure> {
    match client.get::<Value>(&["nodes", node], &[]).await {
        Err(failure @ Failure::Refused { status: 404, .. }) => Err(failure),
        _ => Ok(()),
    }
}

/// The only one, or an error that names them
fn only(what: &str, usage: &str, names: Vec<String>) -> Result<String, Failure> {
    let message = match <[String; 1]>::try_from(names) {
        Ok([name]) => return Ok(name),
        Err(names) if names.is_empty() => format!("there is no {what}"),
        Err(names) => format!("name one (prexorctl {usage}): {}", names.join(", ")),
    };
    Err(Failure::Usage { message })
}

async fn nodes(client: &Client) -> Result<Vec<String>, Failure> {
    let nodes = client.get::<Vec<Node>>(&["nodes"], &[]).await?.value;
    Ok(nodes.into_iter().map(|node| node.id).collect())
}

async fn instances(client: &Client, query: &[(&str, String)]) -> Result<Vec<String>, Failure> {
    let instances = client.get::<Vec<Instance>>(&["instances"], query).await?.value;
    let live = instances
        .into_iter()
        .filter(|instance| !has_ended(&instance.state));
    Ok(live.map(|instance| instance.id).collect())
}

/// What `all` is
struct Look {
    group: Option<String>,
    node: Option<String>,
}

impl Look {
    async fn all(&self, client: &Client) -> Result<Vec<Source>, Failure> {
        let mut sources = vec![Source::Controller];
        let nodes = nodes(client).await?;
        let wanted = nodes
            .into_iter()
            .filter(|node| self.node.as_ref().is_none_or(|only| only == node));
        sources.extend(wanted.map(Source::Daemon));
        let query = super::query(&[("group", self.group.as_ref()), ("node", self.node.as_ref())]);
        sources.extend(instances(client, &query).await?.into_iter().map(Source::Instance));
        sources.truncate(MOST_SOURCES);
        Ok(sources)
    }
}

fn query(wanted: &LogsArguments) -> Vec<(&'static str, String)> {
    let mut query = vec![("level", wanted.level.to_uppercase())];
    if !wanted.logger.is_empty() {
        query.push(("logger", wanted.logger.clone()));
    }
    if let Some(since) = wanted.since {
        query.push(("since", since.to_string()));
    }
    query
}

/// What is there now, the oldest first
async fn kept(source: &Source, wanted: &LogsArguments, client: &Client) -> Result<Vec<LogRecord>, Failure> {
    let most = usize::try_from(wanted.tail).unwrap_or(usize::MAX);
    if most == 0 {
        return Ok(Vec::new());
    }
    let Source::Instance(id) = source else {
        let mut query = query(wanted);
        query.push(("limit", wanted.tail.to_string()));
        let path = source.path();
        let page = client.get::<Page>(&path, &query).await?.value;
        let understood = page
            .records
            .into_iter()
            .map(LogRecord::of)
            .collect::<Result<Vec<_>, _>>();
        return understood.map_err(|error| Failure::Unintelligible {
            controller: client.controller().to_owned(),
            request: format!("GET /api/v1/{}", path.join("/")),
            reason: error.to_string(),
        });
    };
    let mut console = Console::new(client, id, 0, Extent::Kept);
    let mut lines = Vec::new();
    while let Some(happening) = console.next().await? {
        if let Happening::Line(line) = happening
            && wanted.since.is_none_or(|since| line.timestamp_ms >= since)
        {
            lines.push(of_line(line));
        }
    }
    let first = lines.len().saturating_sub(most);
    Ok(lines.split_off(first))
}

/// A console line as the record that it is
fn of_line(line: crate::console::Line) -> LogRecord {
    let json = json!({
        "seq": line.sequence, "ts": line.timestamp_ms, "incarnation": line.incarnation, "line": line.line,
    });
    LogRecord {
        seq: line.sequence,
        ts: line.timestamp_ms,
        level: String::new(),
        message: line.line,
        json,
        ..LogRecord::default()
    }
}

async fn follow(
    sources: Vec<Source>,
    wanted: &LogsArguments,
    look: Option<Look>,
    client: &Client,
    view: &View<'_>,
) -> Result<(), Failure> {
    let (shown, mut showing) = mpsc::channel(SHOWN_LATER);
    let mut followed = BTreeSet::new();
    let begin = |source: &Source, tail: u32| {
        let (source, wanted, client, shown) = (source.clone(), wanted.clone(), client.clone(), shown.clone());
        tokio::spawn(async move { feed(source, wanted, tail, client, shown).await })
    };
    for source in sources {
        begin(&source, wanted.tail);
        followed.insert(source);
    }
    let mut looking = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(());
            }
            Some((source, what)) = showing.recv() => match what {
                Shown::Record(record) => view.record(&source, &record)?,
                Shown::Gap(missed) => view.gap(&source, missed)?,
                Shown::Note(note) => view.note(&source, &note),
                // One of many may go, but not the controller itself.
                Shown::Over(failure) if look.is_some() && source != Source::Controller => {
                    followed.remove(&source);
                    view.note(&source, &failure.to_string());
                }
                Shown::Over(failure) => return Err(failure),
            },
            _ = looking.tick(), if look.is_some() => {
                let Some(look) = &look else { continue };
                // The streams say it, if the controller is away.
                for source in look.all(client).await.unwrap_or_default() {
                    if followed.len() < MOST_SOURCES && followed.insert(source.clone()) {
                        begin(&source, wanted.tail);
                    }
                }
            }
        }
    }
}

/// Brings everything of one source, until nobody wants it
async fn feed(
    source: Source,
    wanted: LogsArguments,
    tail: u32,
    client: Client,
    shown: mpsc::Sender<(Source, Shown)>,
) {
    let mut feeder = match &source {
        Source::Instance(id) => {
            let console = Console::tail(&client, id, tail, Extent::Live);
            Feeder::Console(Box::new(console), wanted.since)
        }
        _ => {
            let mut path = source.path();
            path.push("stream");
            Feeder::Log(Box::new(LogStream::new(&client, &path, query(&wanted), tail)))
        }
    };
    loop {
        let (what, is_over) = match feeder.next().await {
            Ok(Some(what)) => (what, false),
            Ok(None) => continue,
            Err(failure) => (Shown::Over(failure), true),
        };
        if shown.send((source.clone(), what)).await.is_err() || is_over {
            return;
        }
    }
}

enum Feeder {
    Log(Box<LogStream>),
    Console(Box<Console>, Option<i64>),
}

impl Feeder {
    async fn next(&mut self) -> Result<Option<Shown>, Failure> {
        let lost = |reason: String| Shown::Note(format!("{reason}; connecting again"));
        match self {
            Self::Log(stream) => Ok(Some(match stream.next().await? {
                LogHappening::Record(record) => Shown::Record(record),
                LogHappening::Gap { missed } => Shown::Gap(missed),
                LogHappening::Lost { reason } => lost(reason),
                LogHappening::Resumed => Shown::Note("connected again; nothing is missing".to_owned()),
                LogHappening::Restarted => Shown::Note(
                    "connected again; the controller was restarted, and what it logged last before may be missing".to_owned(),
                ),
            })),
            Self::Console(console, since) => Ok(match console.next().await? {
                Some(Happening::Line(line)) if since.is_some_and(|since| line.timestamp_ms < since) => None,
                Some(Happening::Line(line)) => Some(Shown::Record(Box::new(of_line(line)))),
                Some(Happening::Gap { missed }) => Some(Shown::Gap(missed)),
                Some(Happening::Lost { reason }) => Some(lost(reason)),
                Some(Happening::Resumed) => Some(Shown::Note("connected again".to_owned())),
                Some(Happening::Recounted) => Some(Shown::Note(RECOUNTED.to_owned())),
                _ => None,
            }),
        }
    }
}

struct View<'a> {
    output: &'a Output,
    notes: Paint,
    zone: TimeZone,
    names_sources: bool,
}

impl View<'_> {
    fn record(&self, source: &Source, record: &LogRecord) -> Result<(), Failure> {
        if self.output.is_json() {
            let mut json = record.json.clone();
            json["source"] = Value::from(source.to_string());
            return self.output.text(&printable::json(&json.to_string()));
        }
        if record.lost > 0 {
            self.note(
                source,
                &format!(
                    "{} records were lost here, before they came to the controller",
                    record.lost
                ),
            );
        }
        let paint = self.output.paint();
        let mut text = String::new();
        if self.names_sources {
            text.push_str(&paint.paint(Colour::Accent, &format!("[{source}] ")));
        }
        if matches!(source, Source::Instance(_)) {
            text.push_str(&printable::line(&record.message));
            return self.output.text(&text);
        }
        let level = printable::short(&record.level, 16);
        let level = match level.as_str() {
            "ERROR" => paint.paint(Colour::Bad, "ERROR"),
            "WARN" => paint.paint(Colour::Moving, " WARN"),
            other => format!("{other:>5}"),
        };
        let logger = paint.paint(Colour::Dim, &printable::line(&record.logger));
        text.push_str(&format!(
            "{}  {level}  {logger} │ {}",
            self.time(record.ts),
            printable::line(&record.message)
        ));
        let context: Vec<String> = record
            .mdc
            .iter()
            .map(|(name, value)| format!("{}={}", printable::line(name), printable::line(value)))
            .collect();
        if !context.is_empty() {
            text.push(' ');
            text.push_str(&paint.paint(Colour::Dim, &context.join(" ")));
        }
        // Whatever stands there, its lines are seen to be of this record.
        for line in record.throwable.lines() {
            text.push_str("\n    ");
            text.push_str(&printable::line(line));
        }
        self.output.text(&text)
    }

    fn time(&self, ts: i64) -> String {
        match Timestamp::from_millisecond(ts) {
            Ok(at) => at
                .to_zoned(self.zone.clone())
                .strftime("%H:%M:%S.%3f")
                .to_string(),
            Err(_) => "--:--:--.---".to_owned(),
        }
    }

    fn gap(&self, source: &Source, missed: u64) -> Result<(), Failure> {
        if self.output.is_json() {
            let gap = json!({ "source": source.to_string(), "gap": { "missed": missed } });
            return self.output.text(&gap.to_string());
        }
        self.note(source, &format!("{missed} are missing here"));
        Ok(())
    }

    /// Says something that is not of the log
    fn note(&self, source: &Source, text: &str) {
        let source = if self.names_sources {
            format!("{source}: ")
        } else {
            String::new()
        };
        remark(self.notes.paint(Colour::Moving, &format!("-- {source}{text} --")));
    }
}
