//! A server of the demo, watched from outside as an operator would

use anyhow::{bail, ensure};
use prexorctl::Client;
use prexorctl::console::{Console, Extent, Happening};
use prexorctl::resource::{Instance, Outcome};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::stage::Stage;
use crate::cluster::{Jar, LIMIT, looks};

/// An instance, its state and its console
#[derive(Debug)]
pub struct Server {
    operator: Client,
    id: String,
    /// Which start of this id it is; lines of others are not shown
    incarnation: Option<u64>,
    console: Console,
    states: Vec<String>,
    lines: Vec<String>,
    last_error: Option<String>,
}

impl Server {
    /// Asks for it to be started
    pub async fn start(operator: &Client, id: &str, jar: &Jar) -> anyhow::Result<Self> {
        Self::start_with(operator, id, jar, json!({})).await
    }

    /// The same, with what else the order says
    pub async fn start_with(operator: &Client, id: &str, jar: &Jar, order: Value) -> anyhow::Result<Self> {
        let mut order = order;
        let usual = json!({ "group": "demo", "id": id, "jar": jar.path, "memoryMb": 128 });
        if let (Some(order), Value::Object(usual)) = (order.as_object_mut(), usual) {
            order.extend(usual);
        }
        if let (Some(order), Some(sha256)) = (order.as_object_mut(), &jar.sha256) {
            order.insert("sha256".to_owned(), sha256.as_str().into());
        }
        let started = operator
            .post::<Instance>(&["instances"], &[], Some(&order))
            .await?
            .value;
        ensure!(started.id == id, "{id} was asked for, {} was started", started.id);
        Ok(Self {
            operator: operator.clone(),
            id: started.id,
            incarnation: started.incarnation,
            console: Console::new(operator, id, 0, Extent::Live),
            states: vec![started.state],
            lines: Vec::new(),
            last_error: None,
        })
    }

    /// The state seen last
    pub fn state(&self) -> &str {
        self.states.last().map_or("unknown", String::as_str)
    }

    /// The states that it went through since the last call, from the one it was in
    pub fn path(&mut self) -> String {
        let path = self.states.join(" > ");
        self.states.drain(..self.states.len().saturating_sub(1));
        path
    }

    /// Types a line on its console
    pub async fn command(&self, line: &str) -> anyhow::Result<()> {
        let order = json!({ "command": line });
        let path = ["instances", self.id.as_str(), "command"];
        self.operator.post::<Value>(&path, &[], Some(&order)).await?;
        Ok(())
    }

    /// Asks for it to be stopped gracefully
    pub async fn stop(&self) -> anyhow::Result<()> {
        let path = ["instances", self.id.as_str(), "stop"];
        self.operator.post::<Outcome>(&path, &[], None).await?;
        Ok(())
    }

    /// Shows what happens until it is in `state` and has printed a line with `text` in it since the call
    ///
    /// Gives that line. It is an error if it ends in another state, or if nothing of it happens in time.
    pub async fn until(&mut self, stage: &Stage, state: &str, text: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + LIMIT;
        let mut look = looks();
        let from = self.lines.len();
        loop {
            let printed = self.lines.iter().skip(from).find(|line| line.contains(text));
            if let Some(line) = printed
                && self.state() == state
            {
                return Ok(line.clone());
            }
            let ended = matches!(self.state(), "STOPPED" | "CRASHED");
            if ended && self.state() != state {
                let reason = self
                    .last_error
                    .clone()
                    .unwrap_or_else(|| "no reason was given".to_owned());
                bail!(
                    "{} should have become {state}, but is {}: {reason}",
                    self.id,
                    self.state()
                );
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => bail!(
                    "{} should have become {state} and printed {text:?} within {} s, but went {} and printed {:?} last",
                    self.id, LIMIT.as_secs(), self.states.join(" > "), self.lines.last()
                ),
                happening = self.console.next() => match happening? {
                    Some(Happening::Line(line)) if Some(line.incarnation) == self.incarnation => {
                        stage.console(&self.id, &line.line);
                        self.lines.push(line.line);
                    }
                    Some(Happening::Gap { missed }) => bail!("{missed} console lines of {} were lost", self.id),
                    Some(_) => {}
                    None => bail!("the console of {} ended", self.id),
                },
                _ = look.tick() => self.look(stage).await?,
            }
        }
    }

    async fn look(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let now = self
            .operator
            .get::<Instance>(&["instances", &self.id], &[])
            .await?
            .value;
        self.last_error = now.last_error;
        if now.state != self.state() {
            stage.state(&self.id, &now.state);
            self.states.push(now.state);
        }
        Ok(())
    }
}
