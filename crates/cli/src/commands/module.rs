//! `prexorctl module`

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use super::confirm::confirm;
use crate::arguments::ModuleCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, or_dash, remark};
use crate::printable;
use crate::transfer::{Form, progress};

/// Bytes of the largest jar that a controller takes
const MAX_JAR: u64 = (100 << 20) - 4096;

/// Bytes of the largest signature that a controller takes
const MAX_SIGNATURE: u64 = 256 << 10;

const LONGEST_ERROR: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Module {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    signer: String,
    #[serde(default)]
    unresolved_requirements: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Installed {
    module_id: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    sha256: String,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    signer: String,
    #[serde(default)]
    unchanged: bool,
    #[serde(default)]
    unresolved_requirements: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    module: String,
    node: String,
    state: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    last_error: String,
    updated_at: Option<String>,
    #[serde(default)]
    connected: bool,
    #[serde(default)]
    installed: bool,
}

pub(super) async fn run(command: ModuleCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        ModuleCommand::List => list(client, output).await,
        ModuleCommand::Install { jar, signature } => install(&jar, signature, client, output).await,
        ModuleCommand::Rollback { id, to } => rollback(&id, to, client, output).await,
        ModuleCommand::Retry { id } => retry(&id, client, output).await,
        ModuleCommand::Uninstall { id, yes } => {
            if !yes {
                confirm(
                    &format!("Remove {id} from every node?"),
                    &format!("{id} would be removed from every node"),
                )?;
            }
            client.delete(&["modules", "platform", &id]).await?;
            if output.is_json() {
                return output.json(&json!({ "moduleId": id, "status": "UNINSTALLED" }));
            }
            output.text(&format!(
                "{id} is uninstalled; nodes that are away remove it when they are back"
            ))
        }
        ModuleCommand::States { id } => states(id.as_deref(), client, output).await,
    }
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get::<Vec<Module>>(&["modules"], &[]).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let rows = answer.value.into_iter().map(|module| {
        vec![
            module.name,
            module.version,
            module.hosts.join(", ").to_lowercase(),
            or_dash(Some(module.signer).filter(|signer| !signer.is_empty())),
            or_dash(Some(module.unresolved_requirements.join(", ")).filter(|unmet| !unmet.is_empty())),
        ]
    });
    output.table(
        &["NAME", "VERSION", "HOSTS", "SIGNED BY", "LACKS"],
        rows.collect(),
        "No modules. Install one: prexorctl module install FILE.jar",
    )
}

async fn install(
    jar: &Path,
    signature: Option<PathBuf>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let name = name_of(jar);
    if !name.ends_with(".jar") {
        return Err(Failure::Usage {
            message: format!("{} is not a .jar", jar.display()),
        });
    }
    let bytes = read(jar, MAX_JAR)?;
    let beside = |end: &str| {
        let mut path = jar.as_os_str().to_owned();
        path.push(end);
        Some(PathBuf::from(path)).filter(|path| path.is_file())
    };
    let signature = signature
        .or_else(|| beside(".cosign.bundle"))
        .or_else(|| beside(".sig"));
    let mut form = Form::new();
    form.file("file", &name, &bytes);
    if let Some(file) = &signature {
        let name = name_of(file);
        if !name.ends_with(".sig") && !name.ends_with(".cosign.bundle") {
            return Err(Failure::Usage {
                message: format!("{} ends in neither .sig nor .cosign.bundle", file.display()),
            });
        }
        form.file("signature", &name, &read(file, MAX_SIGNATURE)?);
    }
    drop(bytes);
    let form = form.finish();
    let bar = progress(form.len(), output.is_json());
    bar.set_message(name);
    let sent = client
        .post_form::<Installed>(&["modules", "platform", "upload"], form, &bar)
        .await;
    bar.finish_and_clear();
    let answer = sent?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let installed = answer.value;
    output.facts(&[
        ("module", Some(installed.module_id.clone())),
        ("version", Some(installed.version)),
        ("sha256", Some(installed.sha256)),
        ("hosts", Some(installed.hosts.join(", ").to_lowercase())),
        (
            "signed by",
            Some(installed.signer).filter(|signer| !signer.is_empty()),
        ),
    ])?;
    for unmet in installed.unresolved_requirements {
        remark(format!(
            "It needs {}, which no installed module provides.",
            printable::line(&unmet)
        ));
    }
    remark(match installed.unchanged {
        true => "It was installed already.".to_owned(),
        false => format!(
            "See what comes of it: prexorctl module states {}",
            installed.module_id
        ),
    });
    Ok(())
}

#[derive(Deserialize)]
struct Restored {
    version: String,
}

async fn rollback(id: &str, to: Option<String>, client: &Client, output: &Output) -> Result<(), Failure> {
    let body = to.map_or_else(|| json!({}), |to| json!({ "version": to }));
    let path = ["modules", "platform", id, "rollback"];
    let answer = client.post::<Restored>(&path, &[], Some(&body)).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    output.text(&format!("{id}: version {} counts again", answer.value.version))?;
    remark(format!("See what comes of it: prexorctl module states {id}"));
    Ok(())
}

#[derive(Deserialize)]
struct Retried {
    nodes: usize,
}

async fn retry(id: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = ["modules", "platform", id, "retry"];
    let answer = client.post::<Retried>(&path, &[], None).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    output.text(&match answer.value.nodes {
        0 => format!("{id} waits for no other attempt on any node that is there"),
        1 => format!("{id} is tried again on 1 node"),
        nodes => format!("{id} is tried again on {nodes} nodes"),
    })
}

async fn states(id: Option<&str>, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = match id {
        Some(id) => vec!["modules", "platform", id, "states"],
        None => vec!["modules", "states"],
    };
    let answer = client.get::<Vec<State>>(&path, &[]).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let rows = answer.value.into_iter().map(|state| {
        let mut remarks = Vec::new();
        if !state.connected {
            remarks.push("node is away".to_owned());
        }
        if !state.installed {
            remarks.push("not installed here".to_owned());
        }
        if !state.last_error.is_empty() {
            remarks.push(printable::short(&state.last_error, LONGEST_ERROR));
        }
        vec![
            state.module,
            state.node,
            output.paint().state(&state.state),
            state.version,
            output.ago(state.updated_at.as_deref()),
            or_dash(Some(remarks.join("; ")).filter(|remarks| !remarks.is_empty())),
        ]
    });
    output.table(
        &["MODULE", "NODE", "STATE", "VERSION", "SINCE", "REMARKS"],
        rows.collect(),
        "No node has a module, and none is to have one.",
    )
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let wrong = |what: String| Failure::Usage {
        message: format!("{}: {what}", path.display()),
    };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > most {
        return Err(wrong(format!(
            "it has more than {most} bytes, which no controller takes"
        )));
    }
    Ok(bytes)
}
