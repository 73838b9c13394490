//! The steps of the demo that bring files to servers

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use prexorctl::Client;
use prexorctl::push::{Pushed, push_folder};
use prexorctl::resource::{FileContent, Instance};
use prexorctl::transfer::progress;
use serde_json::{Value, json};

use super::server::Server;
use super::stage::Stage;
use crate::cluster::Jar;

const TEMPLATE: &str = "arcade";

const PROPERTIES: &str = "server.properties";
const LIMITS: &str = "config/limits.yml";
const PROXY: &str = "config/proxy.toml";

/// Pushes a folder, starts servers from it, changes a file of it, and goes back
pub async fn run(folder: &Path, operator: &Client, jar: &Jar, stage: &mut Stage) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join("config"))?;
    fs::create_dir_all(folder.join("plugins"))?;
    fs::write(folder.join("plugins/arcade.jar"), vec![7; 200_000])?;
    fs::write(
        folder.join(PROPERTIES),
        "# as the template has it\nserver-port=%PORT%\nmotd=%MOTD%\n",
    )?;
    fs::write(folder.join(LIMITS), "players: 20 # on each server\n")?;
    fs::write(folder.join(PROXY), "[here]\nname = \"%INSTANCE_ID%\"\n")?;
    push(folder, operator, stage).await?;
    let mut servers = start_two(operator, jar, stage).await?;
    servers.push(change(folder, operator, jar, stage).await?);
    for server in &mut servers {
        server.stop().await?;
    }
    for server in &mut servers {
        server.until(stage, "STOPPED", "All dimensions are saved").await?;
    }
    Ok(())
}

async fn push(folder: &Path, operator: &Client, stage: &mut Stage) -> anyhow::Result<()> {
    stage.begin(
        "Template pushed",
        "A folder becomes an immutable version; what is in it is kept by its digest.",
    );
    let created = json!({ "name": TEMPLATE, "description": "a server with games" });
    operator
        .post::<Value>(&["templates"], &[], Some(&created))
        .await?;
    let pushed = publish(folder, operator).await?;
    ensure!(
        pushed.sent_files == 4,
        "{} files were sent, not 4",
        pushed.sent_files
    );
    let Pushed {
        version,
        sent_files,
        sent_bytes,
        ..
    } = pushed;
    stage.pass(format!(
        "version {}, {sent_files} files, {sent_bytes} bytes sent",
        version.number
    ));
    Ok(())
}

async fn publish(folder: &Path, operator: &Client) -> anyhow::Result<Pushed> {
    Ok(push_folder(operator, TEMPLATE, folder, |total| progress(total, true)).await?)
}

async fn start_two(operator: &Client, jar: &Jar, stage: &mut Stage) -> anyhow::Result<Vec<Server>> {
    stage.begin(
        "Servers from it",
        "Each gets the files with its own port and name; they are read back from the node's disk.",
    );
    let mut servers = Vec::new();
    for id in ["arcade-1", "arcade-2"] {
        let server = start(operator, id, jar, stage).await?;
        let port = port(operator, id).await?;
        let properties = read(operator, id, PROPERTIES).await?;
        let expected = format!("# as the template has it\nserver-port={port}\nmotd=play\n");
        ensure!(
            properties == expected,
            "{id} has {properties:?}, not {expected:?}"
        );
        let proxy = read(operator, id, PROXY).await?;
        ensure!(
            proxy == format!("[here]\nname = \"{id}\"\n"),
            "{id} has {proxy:?}"
        );
        stage.fact(&format!("{id}: server-port={port}, name = {id:?}"));
        servers.push(server);
    }
    stage.pass("2 RUNNING, each with its own files");
    Ok(servers)
}

async fn change(folder: &Path, operator: &Client, jar: &Jar, stage: &mut Stage) -> anyhow::Result<Server> {
    stage.begin(
        "One file changes",
        "Only what the controller lacks travels; what runs keeps its version, and a rollback is one pointer.",
    );
    let before = read(operator, "arcade-1", LIMITS).await?;
    fs::write(folder.join(LIMITS), "players: 50\n")?;
    let pushed = publish(folder, operator).await?;
    ensure!(
        pushed.sent_files == 1 && pushed.sent_bytes < 100,
        "{} files of {} bytes were sent",
        pushed.sent_files,
        pushed.sent_bytes
    );
    let server = start(operator, "arcade-3", jar, stage).await?;
    let limits = read(operator, "arcade-3", LIMITS).await?;
    ensure!(limits == "players: 50\n", "arcade-3 has {limits:?}");
    let kept = read(operator, "arcade-1", LIMITS).await?;
    ensure!(kept == before, "arcade-1 had {before:?} and has {kept:?}");
    stage.fact("arcade-1: players: 20, arcade-3: players: 50");
    operator
        .post::<Value>(&["templates", TEMPLATE, "rollback"], &[], None)
        .await?;
    let versions = operator
        .get::<Vec<Value>>(&["templates", TEMPLATE, "versions"], &[])
        .await?
        .value;
    let oldest = versions.last().context("the template has no versions")?;
    ensure!(oldest["current"] == true, "after the rollback: {versions:?}");
    stage.pass(format!("1 file, {} bytes sent; rolled back", pushed.sent_bytes));
    Ok(server)
}

async fn start(operator: &Client, id: &str, jar: &Jar, stage: &mut Stage) -> anyhow::Result<Server> {
    let order = json!({ "templates": [TEMPLATE], "variables": { "MOTD": "play" } });
    let mut server = Server::start_with(operator, id, jar, order).await?;
    server.until(stage, "RUNNING", "Done (").await?;
    Ok(server)
}

async fn port(operator: &Client, id: &str) -> anyhow::Result<u16> {
    let instance = operator.get::<Instance>(&["instances", id], &[]).await?.json;
    let port = instance["port"].as_u64().context("the instance has no port")?;
    Ok(u16::try_from(port)?)
}

async fn read(operator: &Client, id: &str, path: &str) -> anyhow::Result<String> {
    let query = [("path", path.to_owned())];
    let found = operator
        .get::<FileContent>(&["instances", id, "files", "content"], &query)
        .await?;
    Ok(found.value.content)
}
