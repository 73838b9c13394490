//! What each command does

mod audit;
mod cache;
mod catalog;
mod cert;
mod confirm;
mod console;
mod crash;
mod deploy;
mod event;
mod files;
mod group;
mod instance;
mod logs;
mod module;
mod node;
mod pairs;
mod template;
mod token;
mod version;

use std::time::Duration;

use clap::CommandFactory as _;
use tokio::time::Instant;

use crate::arguments::{Arguments, Command, EventCommand};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::printable;
use crate::settings::{self, Target};

/// How often a condition that is waited for is looked at
const POLL: Duration = Duration::from_millis(200);

/// Does what the command line says
///
/// # Errors
/// See [`Failure`].
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    if global.token.is_some() {
        return Err(Failure::Usage {
            message:
                "--token is refused, because everybody on this machine can read the arguments of a process; \
                use --token-file FILE or PREXOR_TOKEN"
                    .to_owned(),
        });
    }
    let output = Output::new(global.output, global.no_color);
    if let Command::Completion { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "prexorctl", &mut script);
        return output.text(String::from_utf8_lossy(&script).trim_end());
    }
    let target = settings::resolve(&global.overrides(), |name| std::env::var(name).ok())?;
    match command {
        Command::Token(command) => token::run(command, &client(target)?, &output).await,
        Command::Node(command) => node::run(command, &client(target)?, &output).await,
        Command::Instance(command) => instance::run(command, &client(target)?, &output).await,
        Command::Catalog(command) => catalog::run(command, &client(target)?, &output).await,
        Command::Deploy(command) => deploy::run(command, &client(target)?, &output).await,
        Command::Group(command) => group::run(command, &client(target)?, &output).await,
        Command::Template(command) => template::run(command, &client(target)?, &output).await,
        Command::Crash(command) => crash::run(command, &client(target)?, &output).await,
        Command::Module(command) => module::run(command, &client(target)?, &output).await,
        Command::Cert(command) => cert::run(command, &client(target)?, &output).await,
        Command::Logs(command) => logs::run(command, &client(target)?, &output).await,
        Command::Event(EventCommand::Watch { kinds, since }) => {
            event::watch(&kinds, since, &client(target)?, &output).await
        }
        Command::Audit { limit, before } => audit::run(limit, before, &client(target)?, &output).await,
        Command::Version => version::run(&client(target)?, &output).await,
        // Done above, before anything that could fail.
        Command::Completion { .. } => Ok(()),
    }
}

fn client(target: Target) -> Result<Client, Failure> {
    Client::new(target)
}

/// Looks again and again until there is an answer, at most for so long
async fn wait_for<T, Look>(awaited: String, timeout: Duration, mut look: Look) -> Result<T, Failure>
where
    Look: AsyncFnMut() -> Result<Sight<T>, Failure>,
{
    let deadline = Instant::now() + timeout;
    loop {
        let seen = match look().await {
            Ok(Sight::There(value)) => return Ok(value),
            Ok(Sight::NotYet(seen)) => seen,
            // The controller may be restarting; the deadline decides.
            Err(error) if error.is_transient() && Instant::now() < deadline => error.to_string(),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        if now >= deadline {
            return Err(Failure::TimedOut {
                awaited,
                seconds: timeout.as_secs(),
                seen,
            });
        }
        tokio::time::sleep(POLL.min(deadline - now)).await;
    }
}

/// What a look showed
enum Sight<T> {
    There(T),
    /// What there is instead
    NotYet(String),
}

/// A query of those pairs that have a value
fn query<'a>(pairs: &[(&'a str, Option<&String>)]) -> Vec<(&'a str, String)> {
    pairs
        .iter()
        .filter_map(|(name, value)| Some((*name, (*value)?.clone())))
        .collect()
}

/// Says how the next page of a list is had
fn more(next: Option<&str>, output: &Output) -> Result<(), Failure> {
    match next {
        Some(next) => output.text(&format!(
            "There are more: --cursor {}",
            printable::short(next, 128)
        )),
        None => Ok(()),
    }
}
