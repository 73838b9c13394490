//! `prexorctl catalog`

use serde_json::{Value, json};

use crate::arguments::CatalogCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, or_dash};
use crate::resource::CatalogPage;

pub(super) async fn run(command: CatalogCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        CatalogCommand::List => list(client, output).await,
        CatalogCommand::Add {
            platform,
            version,
            url,
            sha256,
            category,
            config_format,
            recommended,
        } => {
            let body = json!({
                "category": category.to_ascii_uppercase(), "configFormat": config_format.to_ascii_uppercase(),
                "downloadUrl": url, "sha256": sha256, "version": version,
            });
            let path = ["catalog", platform.as_str(), "versions"];
            client.post::<Value>(&path, &[], Some(&body)).await?;
            if recommended {
                recommend(&platform, &version, client).await?;
            }
            said(&platform, &version, "is in the catalog", output)
        }
        CatalogCommand::Recommend { platform, version } => {
            recommend(&platform, &version, client).await?;
            said(&platform, &version, "is recommended", output)
        }
        CatalogCommand::Remove { platform, version } => {
            client
                .delete(&["catalog", &platform, "versions", &version])
                .await?;
            said(&platform, &version, "is not in the catalog any more", output)
        }
    }
}

async fn recommend(platform: &str, version: &str, client: &Client) -> Result<(), Failure> {
    let path = ["catalog", platform, "versions", version, "recommended"];
    client.put(&path, &json!({})).await
}

fn said(platform: &str, version: &str, what: &str, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&json!({ "platform": platform, "version": version }));
    }
    output.text(&format!("{platform} {version} {what}"))
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let mut entries = Vec::new();
    for page in 1_u32.. {
        let query = [("page", page.to_string())];
        let answer = client.get::<CatalogPage>(&["catalog"], &query).await?;
        let is_last = answer.value.data.len() < answer.value.page_size;
        let json = answer.json["data"].as_array().cloned().unwrap_or_default();
        entries.extend(answer.value.data.into_iter().zip(json));
        if is_last {
            break;
        }
    }
    if output.is_json() {
        let all: Vec<Value> = entries.into_iter().map(|(_, json)| json).collect();
        return output.json(&all.into());
    }
    let rows = entries.into_iter().map(|(entry, _)| {
        vec![
            entry.platform,
            entry.version,
            entry.category,
            if entry.recommended { "yes" } else { "no" }.to_owned(),
            entry.download_url,
            or_dash(Some(entry.sha256).filter(|sha256| !sha256.is_empty())),
        ]
    });
    output.table(
        &["PLATFORM", "VERSION", "CATEGORY", "RECOMMENDED", "JAR", "SHA-256"],
        rows.collect(),
        "The catalog is empty. Fill it: prexorctl catalog add PLATFORM --version VERSION --url URL --recommended",
    )
}
