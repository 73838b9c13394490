//! Variables in the records of their templates, with what is secret sealed

use std::collections::{BTreeSet, HashSet};

use super::{
    TemplateError, TemplateRecord, Templates, VariableRecord,
    variables::{MAX_VARIABLES, Scope, Validation, Variable, VariableType},
};
use crate::content::BlobError;

/// Keys of a template that ever were a SECRET; one that is forgotten would be quoted
const MAX_SECRET_KEYS: usize = 4096;

impl Templates {
    /// The variables of a template, secrets included
    ///
    /// # Errors
    /// [`TemplateError`].
    pub async fn variables(&self, name: &str) -> Result<Vec<Variable>, TemplateError> {
        self.variables_of(&self.load(name).await?.record)
    }

    pub(super) fn variables_of(&self, template: &TemplateRecord) -> Result<Vec<Variable>, TemplateError> {
        let open = |variable| self.open(template, variable);
        template.variables.iter().map(open).collect()
    }

    /// Replaces the variables of a template; a SECRET in `kept` keeps the default that it has
    ///
    /// # Errors
    /// [`TemplateError::Invalid`] with the first that is wrong; nothing is changed then.
    pub async fn set_variables(
        &self,
        actor: &str,
        name: &str,
        variables: &[Variable],
        kept: &[String],
    ) -> Result<(), TemplateError> {
        let invalid = |message: String| Err(TemplateError::Invalid(message));
        if variables.len() > MAX_VARIABLES {
            return invalid(format!("a template has at most {MAX_VARIABLES} variables"));
        }
        let mut keys = HashSet::new();
        for variable in variables {
            if !keys.insert(&variable.key) {
                return invalid(format!("variable {} is there twice", variable.key));
            }
        }
        self.change(actor, "template.variables", name, |record| {
            let mut recorded = Vec::with_capacity(variables.len());
            let mut secret = secret_keys(record);
            for variable in variables {
                let mut variable = variable.clone();
                if variable.kind == VariableType::Secret && kept.contains(&variable.key) {
                    let known = record.variables.iter().find(|known| {
                        known.key == variable.key && known.kind == kind_name(VariableType::Secret)
                    });
                    if let Some(known) = known {
                        variable.default = self.open(record, known)?.default;
                    }
                }
                if variable.kind == VariableType::Secret {
                    secret.insert(variable.key.clone());
                } else {
                    variable.was_secret = secret.contains(&variable.key);
                }
                variable
                    .check()
                    .map_err(|error| TemplateError::Invalid(error.to_string()))?;
                recorded.push(self.seal(name, variable)?);
            }
            if secret.len() > MAX_SECRET_KEYS {
                return Err(TemplateError::Invalid(format!(
                    "{MAX_SECRET_KEYS} keys of this template were SECRET already, and none of them is forgotten: use them again, or another template"
                )));
            }
            record.secret_keys = secret.into_iter().collect();
            record.variables = recorded;
            Ok(())
        })
        .await
    }

    fn seal(&self, template: &str, variable: Variable) -> Result<VariableRecord, TemplateError> {
        let is_secret = variable.kind == VariableType::Secret;
        let sealed_default = match &variable.default {
            Some(default) if is_secret => self
                .sealing
                .seal(&context(template, &variable.key), default.as_bytes())
                .map_err(|error| BlobError::Io {
                    detail: error.to_string(),
                })?,
            _ => Vec::new(),
        };
        Ok(VariableRecord {
            key: variable.key,
            kind: kind_name(variable.kind).to_owned(),
            default_value: variable.default.filter(|_| !is_secret),
            sealed_default,
            required: variable.required,
            scope: scope_name(variable.scope).to_owned(),
            visibility: variable.visibility,
            description: variable.description,
            regex: variable.validation.regex.unwrap_or_default(),
            min: variable.validation.min,
            max: variable.validation.max,
            enum_values: variable.validation.enum_values.unwrap_or_default(),
        })
    }

    fn open(&self, template: &TemplateRecord, record: &VariableRecord) -> Result<Variable, TemplateError> {
        let default = if record.sealed_default.is_empty() {
            record.default_value.clone()
        } else {
            let opened = self
                .sealing
                .open(&context(&template.name, &record.key), &record.sealed_default);
            let text = opened
                .ok()
                .and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
            let unread = || {
                TemplateError::Conflict(format!(
                    "the default of {} was sealed with another key; set it again",
                    record.key
                ))
            };
            Some(text.ok_or_else(unread)?)
        };
        Ok(Variable {
            key: record.key.clone(),
            kind: kind_named(&record.kind),
            default,
            required: record.required,
            scope: scope_named(&record.scope),
            visibility: record.visibility.clone(),
            description: record.description.clone(),
            validation: Validation {
                regex: Some(record.regex.clone()).filter(|regex| !regex.is_empty()),
                min: record.min,
                max: record.max,
                enum_values: Some(record.enum_values.clone()).filter(|values| !values.is_empty()),
            },
            was_secret: kind_named(&record.kind) != VariableType::Secret
                && template.secret_keys.contains(&record.key),
        })
    }
}

/// Every key of a template that is a SECRET, or ever was one
pub(super) fn secret_keys(template: &TemplateRecord) -> BTreeSet<String> {
    // Those of a record that an earlier release has written are in no list yet.
    let secret = template.variables.iter();
    let secret = secret.filter(|known| known.kind == kind_name(VariableType::Secret));
    let secret = secret.map(|known| &known.key);
    secret.chain(&template.secret_keys).cloned().collect()
}

fn context(template: &str, key: &str) -> Vec<u8> {
    format!("template-variable\n{template}\n{key}").into_bytes()
}

fn kind_name(kind: VariableType) -> &'static str {
    match kind {
        VariableType::String => "STRING",
        VariableType::Int => "INT",
        VariableType::Bool => "BOOL",
        VariableType::Enum => "ENUM",
        VariableType::Secret => "SECRET",
    }
}

/// What no release has written is shown to nobody.
fn kind_named(name: &str) -> VariableType {
    match name {
        "STRING" => VariableType::String,
        "INT" => VariableType::Int,
        "BOOL" => VariableType::Bool,
        "ENUM" => VariableType::Enum,
        _ => VariableType::Secret,
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Template => "TEMPLATE",
        Scope::Group => "GROUP",
        Scope::Instance => "INSTANCE",
    }
}

fn scope_named(name: &str) -> Scope {
    match name {
        "TEMPLATE" => Scope::Template,
        "GROUP" => Scope::Group,
        _ => Scope::Instance,
    }
}
