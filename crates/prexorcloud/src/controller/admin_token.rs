//! `prexorcloud controller admin-token`: access to a controller for whoever can read its data folder
//!
//! A controller that runs is asked over HTTP, with the token of its file for this host; where none runs, its records are
//! changed directly.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use prexorcloud_controller::access::{ALL_PERMISSIONS, AccessTokens, id_of, status_of};
use prexorcloud_controller::host_access::HostAccess;
use prexorcloud_controller::lineage;
use prexorcloud_controller::store::Store;
use prexorcloud_security::files::{DataDirLock, LockError};
use prexorctl::Client;
use prexorctl::settings::{Target, Token};
use serde::Deserialize;
use serde_json::json;

use crate::arguments::AdminTokenCommand;
use crate::logging;

/// Who did it, in the audit log
const ACTOR: &str = "operator:host";

/// Where the commands act
enum Controller {
    Running(Client),
    Stopped {
        store: Arc<dyn Store>,
        _lock: DataDirLock,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    token_id: String,
    name: String,
    permissions: Vec<String>,
    status: String,
    #[serde(default)]
    token: Option<String>,
}

pub async fn run(data_dir: &Path, command: AdminTokenCommand) -> anyhow::Result<()> {
    let controller = Controller::of(data_dir).await?;
    let done = controller.carry_out(command).await;
    if let Controller::Stopped { store, .. } = &controller {
        store.close().await.context("the store did not close")?;
    }
    done
}

impl Controller {
    async fn of(data_dir: &Path) -> anyhow::Result<Self> {
        let lock = match DataDirLock::acquire(data_dir, "controller admin-token") {
            Ok(lock) => lock,
            Err(LockError::Held { .. }) => {
                let access = HostAccess::of(data_dir).context(
                    "a controller has this data folder, and how to ask it cannot be read; it may be starting or stopping",
                )?;
                let target = Target {
                    controller: format!("http://{}", access.http).parse()?,
                    token: Some(Token::new(&access.token, "the controller's file for this host")?),
                    ca_file: None,
                };
                logging::say(format_args!(
                    "The controller at {} runs, and is asked.",
                    access.http
                ));
                return Ok(Self::Running(Client::new(target)?));
            }
            Err(error) => return Err(error.into()),
        };
        let folder = data_dir.to_path_buf();
        let store = tokio::task::spawn_blocking(move || lineage::open_records(&folder)).await??;
        logging::say(format_args!(
            "No controller runs in {}: its records are changed, and the next start knows.",
            data_dir.display()
        ));
        Ok(Self::Stopped {
            store: Arc::new(store),
            _lock: lock,
        })
    }

    async fn carry_out(&self, command: AdminTokenCommand) -> anyhow::Result<()> {
        match command {
            AdminTokenCommand::Mint {
                name,
                permission,
                ttl_days,
            } => {
                let permissions = match permission.is_empty() {
                    true => vec![ALL_PERMISSIONS.to_owned()],
                    false => permission,
                };
                let minted = self.mint(&name, permissions, ttl_days).await?;
                let token = minted.token.as_deref().unwrap_or_default();
                ensure!(!token.is_empty(), "the controller sent no token");
                logging::say(format_args!(
                    "{} stands for {name}; it is not shown again. Use it with `prexorctl --token-file`, or PREXOR_TOKEN.",
                    minted.token_id
                ));
                print(&format!("{token}\n"))
            }
            AdminTokenCommand::List => {
                let mut table = String::new();
                for token in self.list().await? {
                    let Listed {
                        token_id,
                        name,
                        permissions,
                        status,
                        ..
                    } = token;
                    table += &format!("{token_id}  {status:<7}  {name}  {}\n", permissions.join(","));
                }
                print(&table)
            }
            AdminTokenCommand::Revoke { id } => {
                if !self.revoke(&id).await? {
                    bail!("there is no access token {id}: see `prexorcloud controller admin-token list`");
                }
                logging::say(format_args!("{id} is revoked"));
                Ok(())
            }
        }
    }

    async fn mint(
        &self,
        name: &str,
        permissions: Vec<String>,
        ttl_days: Option<u32>,
    ) -> anyhow::Result<Listed> {
        let ttl = ttl_days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
        match self {
            Self::Running(client) => {
                let body = json!({
                    "name": name, "permissions": permissions,
                    "ttlSeconds": ttl.map(|ttl| ttl.as_secs()),
                });
                let answer = client.post(&["admin", "access-tokens"], &[], Some(&body)).await?;
                Ok(answer.value)
            }
            Self::Stopped { store, .. } => {
                let names: Vec<&str> = permissions.iter().map(String::as_str).collect();
                let access = AccessTokens::new(Arc::clone(store));
                let (token, record) = access.mint(ACTOR, name, &names, ttl).await?;
                Ok(Listed {
                    token_id: id_of(&record),
                    name: record.name,
                    permissions,
                    status: "ACTIVE".to_owned(),
                    token: Some(token.expose().to_owned()),
                })
            }
        }
    }

    async fn list(&self) -> anyhow::Result<Vec<Listed>> {
        match self {
            Self::Running(client) => Ok(client.get(&["admin", "access-tokens"], &[]).await?.value),
            Self::Stopped { store, .. } => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
                let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
                let records = AccessTokens::new(Arc::clone(store)).list().await?;
                let listed = records.into_iter().map(|record| Listed {
                    token_id: id_of(&record),
                    status: status_of(&record, now).to_owned(),
                    name: record.name,
                    permissions: record.permissions,
                    token: None,
                });
                Ok(listed.collect())
            }
        }
    }

    async fn revoke(&self, id: &str) -> anyhow::Result<bool> {
        match self {
            Self::Running(client) => {
                let known = self.list().await?.iter().any(|token| token.token_id == id);
                if known {
                    client.delete(&["admin", "access-tokens", id]).await?;
                }
                Ok(known)
            }
            Self::Stopped { store, .. } => {
                Ok(AccessTokens::new(Arc::clone(store)).revoke_id(ACTOR, id).await?)
            }
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("standard output takes nothing")
}
