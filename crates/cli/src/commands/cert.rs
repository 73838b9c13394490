//! `prexorctl cert`

use serde::Deserialize;

use super::confirm::confirm;
use crate::arguments::{CertCommand, Step};
use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::output::{Output, or_dash, remark};

/// Hexadecimal digits of a fingerprint that tell it from others
const DIGITS: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorities {
    active: Authority,
    next: Option<Authority>,
    former: Option<Authority>,
    #[serde(default)]
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    sha256: String,
    subject: String,
    not_after: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: String,
    signed_by: Option<String>,
    trusts: Option<Vec<String>>,
    #[serde(default)]
    connected: bool,
}

#[derive(Deserialize)]
struct Asked {
    status: String,
}

pub(super) async fn run(command: CertCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        CertCommand::Show => {
            let answer = client.get::<Authorities>(&["system", "authorities"], &[]).await?;
            show(&answer, output)
        }
        CertCommand::Renew { node } => {
            let path = ["nodes", node.as_str(), "renew-cert"];
            let answer = client.post::<Asked>(&path, &[], None).await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            output.facts(&[("node", Some(node)), ("status", Some(answer.value.status))])
        }
        CertCommand::Prepare => {
            step("prepare", None, client, output).await?;
            remark(
                "Nodes that are connected believe it soon: prexorctl cert show. Then: prexorctl cert activate.",
            );
            Ok(())
        }
        CertCommand::Discard => step("discard", None, client, output).await,
        CertCommand::Activate(options) => {
            let refusal =
                "another authority would sign from now on, and join tokens of before would be of no use";
            if !options.yes {
                confirm("Have the prepared authority sign from now on?", refusal)?;
            }
            step("activate", Some(options), client, output).await?;
            remark(
                "Nodes that are connected renew their certificates within ten minutes. Then: prexorctl cert retire.",
            );
            Ok(())
        }
        CertCommand::Retire(options) => {
            if !options.yes {
                confirm(
                    "Believe the former authority no more?",
                    "certificates of the former authority would count no more",
                )?;
            }
            step("retire", Some(options), client, output).await
        }
    }
}

async fn step(name: &str, options: Option<Step>, client: &Client, output: &Output) -> Result<(), Failure> {
    let force = options.map(|options| ("force", options.force.to_string()));
    let query: Vec<_> = force.into_iter().collect();
    let path = ["system", "authorities", name];
    let answer = client.post::<Authorities>(&path, &query, None).await?;
    show(&answer, output)
}

fn show(answer: &Answer<Authorities>, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&answer.json);
    }
    let Authorities {
        active,
        next,
        former,
        nodes,
    } = &answer.value;
    output.facts(&[
        ("active", Some(described(active, output))),
        ("next", next.as_ref().map(|next| described(next, output))),
        ("former", former.as_ref().map(|former| described(former, output))),
    ])?;
    let believed: Vec<(&str, &str)> = [
        ("active", Some(active)),
        ("next", next.as_ref()),
        ("former", former.as_ref()),
    ]
    .into_iter()
    .filter_map(|(role, authority)| Some((role, authority?.sha256.as_str())))
    .collect();
    let role_of = |sha256: &str| {
        let known = believed.iter().find(|(_, known)| *known == sha256);
        known.map_or_else(|| short(sha256), |(role, _)| (*role).to_owned())
    };
    let rows = nodes.iter().map(|node| {
        let trusts = node.trusts.as_ref().map(|trusts| {
            let roles: Vec<_> = trusts.iter().map(|sha256| role_of(sha256)).collect();
            roles.join(", ")
        });
        vec![
            node.id.clone(),
            or_dash(node.signed_by.as_deref().map(role_of)),
            or_dash(trusts),
            if node.connected { "yes" } else { "no" }.to_owned(),
        ]
    });
    output.table(
        &["NODE", "SIGNED BY", "BELIEVES", "CONNECTED"],
        rows.collect(),
        "No nodes.",
    )
}

fn described(authority: &Authority, output: &Output) -> String {
    let until = output.moment(authority.not_after.as_deref());
    let until = until.map(|until| format!(", until {until}")).unwrap_or_default();
    format!("{} ({}){until}", short(&authority.sha256), authority.subject)
}

fn short(sha256: &str) -> String {
    sha256.chars().take(DIGITS).collect()
}
