//! A Java daemon's `daemon.yml`, in the words of this one

use serde_json::Value as Json;

use super::keys::{KEYS, Kind};
use super::settings::{Settings, Value};
use super::{ConfigError, Origin};

/// Reads the text; what has no meaning here becomes a warning, as a Java daemon ignores what it does not know
pub(super) fn settings(text: &str, file: &str) -> Result<(Settings, Vec<String>), ConfigError> {
    let document: Json = serde_saphyr::from_str(text).map_err(|error| ConfigError::Unreadable {
        file: file.to_owned(),
        detail: format!("it is not YAML: {error}"),
    })?;
    let origin = || Origin::JavaFile {
        file: file.to_owned(),
    };
    let mut leaves = Vec::new();
    flatten("", &document, &mut leaves);
    let mut values = Vec::new();
    let mut warnings = Vec::new();
    let get = |path: &str| {
        leaves
            .iter()
            .find(|(leaf, _)| leaf == path)
            .map(|(_, value)| *value)
    };
    let text_of = |path: &str| get(path).and_then(Json::as_str).unwrap_or_default().to_owned();
    for (path, json) in &leaves {
        match path.as_str() {
            "controller.host" | "controller.grpcPort" | "controller.endpoints" => {}
            "health.bindAddress" | "health.port" => {}
            _ => match KEYS.iter().find(|key| !key.java.is_empty() && key.java == path) {
                Some(key) => values.extend(value(key.kind, json).map(|value| (key.path, value, origin()))),
                None => warnings.push(format!(
                    "{file}: `{path}` has no meaning for this daemon and is ignored"
                )),
            },
        }
    }
    let port = get("controller.grpcPort")
        .and_then(Json::as_i64)
        .filter(|port| *port > 0)
        .unwrap_or(9090);
    let mut endpoints: Vec<String> = match get("controller.endpoints") {
        Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    for endpoint in &mut endpoints {
        if !endpoint.contains(':') {
            *endpoint = format!("{endpoint}:{port}");
        }
    }
    let host = text_of("controller.host");
    let is_local =
        matches!(host.as_str(), "localhost" | "0.0.0.0" | "::" | "::1") || host.starts_with("127.");
    // Beside named endpoints, a loopback host is only the template's default.
    if !host.is_empty() && (endpoints.is_empty() || !is_local) {
        endpoints.insert(0, format!("{host}:{port}"));
    }
    if !endpoints.is_empty() {
        values.push(("controller.endpoints", Value::TextList(endpoints), origin()));
    }
    let bind = text_of("health.bindAddress");
    let health_port = get("health.port").and_then(Json::as_i64);
    if !bind.is_empty() || health_port.is_some() {
        let bind = if bind.is_empty() {
            "127.0.0.1".to_owned()
        } else {
            bind
        };
        let listen = format!("{bind}:{}", health_port.unwrap_or(9091));
        values.push(("health.listen", Value::Text(listen), origin()));
    }
    // Relative paths of a Java daemon start in its working folder, and so does its state.
    values.push(("data_dir", Value::Text("prexorcloud-daemon".to_owned()), origin()));
    Ok((Settings::from_values(values), warnings))
}

fn value(kind: Kind, json: &Json) -> Option<Value> {
    match (kind, json) {
        (_, Json::Null) => None,
        (Kind::TextMap, Json::Object(map)) => Some(Value::TextMap(
            map.iter()
                .map(|(name, value)| (name.clone(), plain(value)))
                .collect(),
        )),
        (_, Json::Bool(value)) => Some(Value::Switch(*value)),
        (_, Json::Number(number)) => Some(number.as_i64().map_or(Value::Other("a fraction"), Value::Integer)),
        (_, Json::String(text)) => Some(Value::Text(text.clone())),
        (_, Json::Array(_)) => Some(Value::Other("a list")),
        (_, Json::Object(_)) => Some(Value::Other("a section")),
    }
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn flatten<'j>(section: &str, json: &'j Json, leaves: &mut Vec<(String, &'j Json)>) {
    match json {
        Json::Object(map) if section != "labels" => {
            for (name, value) in map {
                let path = if section.is_empty() {
                    name.clone()
                } else {
                    format!("{section}.{name}")
                };
                flatten(&path, value, leaves);
            }
        }
        _ if section.is_empty() => {}
        leaf => leaves.push((section.to_owned(), leaf)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use crate::config::load;

    #[test]
    fn a_java_daemons_file_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.yml");
        let text = "nodeId: node-7\nadvertiseAddress: 10.0.0.7\n\
            controller:\n  host: ctrl-1\n  grpcPort: 9190\n  endpoints: [ctrl-2, 'ctrl-3:9999']\n\
            security:\n  certificateDir: config/security\n  joinToken: \"\"\n\
            instances:\n  shutdownTimeoutSeconds: 12\n  logRingBufferLines: 500\n\
            health:\n  enabled: true\n  port: 9191\nresources:\n  maxMemoryMb: 2048\n\
            labels:\n  zone: eu\n  rack: 7\nlogging:\n  level: INFO\n";
        std::fs::write(&path, text).unwrap();
        let loaded = load(Some(&path), []).unwrap();
        let config = loaded.config;
        assert_eq!(config.node_id, "node-7");
        assert_eq!(
            config.controller.endpoints,
            ["ctrl-1:9190", "ctrl-2:9190", "ctrl-3:9999"]
        );
        assert_eq!(config.instances.shutdown_timeout, Duration::from_secs(12));
        assert_eq!(config.health.listen, "127.0.0.1:9191".parse().unwrap());
        assert_eq!(config.resources.max_memory_mb, 2048);
        assert_eq!(config.labels["rack"], "7");
        assert_eq!(config.certificate_dir().to_str().unwrap(), "config/security");
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
        assert!(loaded.warnings[0].contains("instances.logRingBufferLines"));
    }
}
