//! `prexorctl token`

use serde_json::{Map, Value};

use crate::arguments::TokenCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, or_dash, remark};
use crate::resource::{CreatedToken, JoinToken};

pub(super) async fn run(command: TokenCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { node, ttl } => {
            let mut body = Map::new();
            if let Some(node) = node {
                body.insert("nodeId".to_owned(), node.into());
            }
            if let Some(ttl) = ttl {
                body.insert("ttlSeconds".to_owned(), ttl.into());
            }
            let body = Value::Object(body);
            let answer = client
                .post::<CreatedToken>(&["admin", "tokens"], &[], Some(&body))
                .await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            let created = answer.value;
            output.facts(&[
                ("token", Some(created.token)),
                ("id", Some(created.token_id)),
                ("node", Some(created.node_id.unwrap_or_else(|| "any".to_owned()))),
                ("expires", output.moment(created.expires_at.as_deref())),
            ])?;
            remark(
                "It can be used once and is not shown again. On the node: put it into daemon.toml as enrolment.join_token.",
            );
            Ok(())
        }
        TokenCommand::List => {
            let answer = client.get::<Vec<JoinToken>>(&["admin", "tokens"], &[]).await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            let rows = answer
                .value
                .into_iter()
                .map(|token| {
                    let expires = output.ago(token.expires_at.as_deref());
                    let node = token.node_id.unwrap_or_else(|| "any".to_owned());
                    vec![
                        token.token_id,
                        node,
                        token.status,
                        expires,
                        or_dash(token.consumed_by),
                    ]
                })
                .collect();
            output.table(
                &["ID", "NODE", "STATUS", "EXPIRES", "USED BY"],
                rows,
                "There are no join tokens. Create one: prexorctl token create",
            )
        }
        TokenCommand::Revoke { id } => {
            client.delete(&["admin", "tokens", &id]).await?;
            if output.is_json() {
                return output.json(&serde_json::json!({ "tokenId": id, "status": "REVOKED" }));
            }
            output.text(&format!("{id} is revoked"))
        }
    }
}
