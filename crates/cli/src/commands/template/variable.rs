//! `prexorctl template var`

use serde_json::{Map, Value, json};

use crate::arguments::{SetVariable, VariableCommand};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, or_dash};
use crate::resource::TemplateVariable;

pub(super) async fn run(command: VariableCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        VariableCommand::List { name } => {
            let answer = client
                .get::<Vec<TemplateVariable>>(&["templates", &name, "variables"], &[])
                .await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            let rows = answer
                .value
                .into_iter()
                .map(|variable| {
                    let default = match variable.has_default {
                        Some(true) => Some("(secret)".to_owned()),
                        _ => variable.default_value,
                    };
                    vec![
                        variable.key,
                        variable.kind,
                        or_dash(default),
                        if variable.required { "yes" } else { "no" }.to_owned(),
                        variable.scope,
                        variable.description,
                    ]
                })
                .collect();
            output.table(
                &["KEY", "TYPE", "DEFAULT", "REQUIRED", "SCOPE", "DESCRIPTION"],
                rows,
                "This template has no variables.",
            )
        }
        VariableCommand::Set(set) => {
            let variable = described(&set)?;
            let mut variables = listed(&set.name, client).await?;
            let others = |other: &Value| other["key"] != set.key.as_str();
            variables.retain(others);
            variables.push(variable);
            replace(&set.name, variables, client).await?;
            if output.is_json() {
                return output.json(&json!({ "name": set.name, "key": set.key, "status": "SET" }));
            }
            output.text(&format!("{} of {} is set", set.key, set.name))
        }
        VariableCommand::Rm { name, key } => {
            let mut variables = listed(&name, client).await?;
            let before = variables.len();
            variables.retain(|other| other["key"] != key.as_str());
            if variables.len() == before {
                return Err(Failure::Usage {
                    message: format!("{name} has no variable {key}; see prexorctl template var list {name}"),
                });
            }
            replace(&name, variables, client).await?;
            if output.is_json() {
                return output.json(&json!({ "name": name, "key": key, "status": "REMOVED" }));
            }
            output.text(&format!("{key} of {name} is removed"))
        }
    }
}

async fn listed(name: &str, client: &Client) -> Result<Vec<Value>, Failure> {
    let answer = client
        .get::<Vec<Value>>(&["templates", name, "variables"], &[])
        .await?;
    Ok(answer.value)
}

async fn replace(name: &str, variables: Vec<Value>, client: &Client) -> Result<(), Failure> {
    let body = Value::Array(variables);
    client.put(&["templates", name, "variables"], &body).await
}

fn described(set: &SetVariable) -> Result<Value, Failure> {
    let usage = |message: &str| Failure::Usage {
        message: message.to_owned(),
    };
    let (kind, scope) = (set.kind.to_uppercase(), set.scope.to_uppercase());
    let default = match (&set.default, &set.default_file) {
        (Some(_), None) if kind == "SECRET" => {
            return Err(usage(
                "everybody on this machine can read the arguments of a process; give the default of a SECRET by --default-file",
            ));
        }
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).map_err(|error| Failure::Usage {
                message: format!("{} cannot be read: {error}", file.display()),
            })?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        (default, _) => default.clone(),
    };
    let mut validation = Map::new();
    for (name, value) in [
        ("regex", set.regex.clone().map(Value::from)),
        ("min", set.min.map(Value::from)),
        ("max", set.max.map(Value::from)),
        (
            "enumValues",
            Some(&set.values)
                .filter(|values| !values.is_empty())
                .map(|values| json!(values)),
        ),
    ] {
        if let Some(value) = value {
            validation.insert(name.to_owned(), value);
        }
    }
    Ok(json!({
        "key": set.key, "type": kind, "defaultValue": default, "required": set.required,
        "scope": scope, "description": set.description, "validation": validation,
    }))
}
