//! Variables of templates: what they may be, and what they are for one instance
//!
//! A template says which there are. A group and an instance give values to those whose scope reaches them, and where templates are laid
//! over each other, the later one's definition counts.

use std::collections::{BTreeMap, BTreeSet};

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Most variables of a template
pub const MAX_VARIABLES: usize = 256;

/// Longest value in bytes
pub const MAX_VALUE_BYTES: usize = 4096;

/// A compiled pattern of an operator may not need more
const MAX_REGEX_BYTES: usize = 256 * 1024;

/// What values a variable takes
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VariableType {
    /// Any text
    String,
    /// A whole number
    Int,
    /// `true` or `false`
    Bool,
    /// One of a list
    Enum,
    /// A text that is shown to nobody
    Secret,
}

/// Who may set a variable, from the outermost to the innermost
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scope {
    /// The template only, by its default
    Template,
    /// The template and the group
    Group,
    /// All, the instance included
    #[default]
    Instance,
}

/// A variable of a template
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name: letters, digits, `_`, `-` and `.`
    pub key: String,
    /// What values it takes
    pub kind: VariableType,
    /// What it is if nobody says otherwise
    pub default: Option<String>,
    /// Whether a start without a value is refused
    pub required: bool,
    /// Who may set it
    pub scope: Scope,
    /// For interfaces; kept as it was given
    pub visibility: String,
    /// For operators
    pub description: String,
    /// What a value has to be beside its type
    pub validation: Validation,
    /// Whether it was a SECRET before: what it was set to then is quoted nowhere
    pub was_secret: bool,
}

/// What a value has to be beside its type
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Validation {
    /// A pattern that the whole value matches
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// The least INT, or the fewest characters of a text
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// The greatest INT, or the most characters of a text
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// The values of an ENUM
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enum_values: Option<Vec<String>>,
}

/// What is wrong with a variable or a value; no value is in it of what is a SECRET, or was one
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("variable {key}: {problem}")]
pub struct VariableError {
    /// Which
    pub key: String,
    /// What is wrong
    pub problem: String,
}

impl Variable {
    fn wrong(&self, problem: impl Into<String>) -> VariableError {
        VariableError {
            key: self.key.clone(),
            problem: problem.into(),
        }
    }

    /// Whether it can be a variable
    ///
    /// # Errors
    /// [`VariableError`] with the first thing that is wrong.
    pub fn check(&self) -> Result<(), VariableError> {
        let is_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if self.key.is_empty() || self.key.len() > 64 || !self.key.bytes().all(is_key) {
            let shown: String = self.key.chars().take(64).collect();
            return Err(VariableError {
                key: format!("{shown:?}"),
                problem: "a key has 1 to 64 letters, digits, \"_\", \"-\" and \".\"".to_owned(),
            });
        }
        if self.description.len() > 1024 || self.visibility.len() > 64 {
            return Err(self.wrong("its description has at most 1024 bytes and its visibility 64"));
        }
        let Validation {
            regex,
            min,
            max,
            enum_values,
        } = &self.validation;
        if let Some(pattern) = regex {
            if matches!(self.kind, VariableType::Int | VariableType::Bool) {
                return Err(self.wrong("a pattern is for texts"));
            }
            self.pattern(pattern)?;
        }
        if matches!((min, max), (Some(min), Some(max)) if min > max) {
            return Err(self.wrong("min is greater than max"));
        }
        let values = enum_values.as_deref().unwrap_or_default();
        if values.iter().any(|value| value.len() > MAX_VALUE_BYTES) {
            return Err(self.wrong("a value in enumValues is too long"));
        }
        match self.kind {
            VariableType::Enum if !(1..=256).contains(&values.len()) => {
                return Err(self.wrong("an ENUM has 1 to 256 enumValues"));
            }
            VariableType::Enum => {}
            _ if values.is_empty() => {}
            _ => return Err(self.wrong("enumValues are for an ENUM")),
        }
        if let Some(default) = &self.default {
            self.check_value(default)?;
        }
        if self.required && self.default.is_none() && self.scope == Scope::Template {
            return Err(
                self.wrong("it is required, and only the template may set it: give it a defaultValue")
            );
        }
        Ok(())
    }

    fn pattern(&self, pattern: &str) -> Result<Regex, VariableError> {
        // The whole value, as Java's matches() has it.
        RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
            .size_limit(MAX_REGEX_BYTES)
            .build()
            .map_err(|error| {
                let first = error.to_string();
                self.wrong(format!(
                    "its pattern cannot be used: {}",
                    first.lines().last().unwrap_or_default()
                ))
            })
    }

    /// Whether it may have this value
    ///
    /// # Errors
    /// [`VariableError`], which quotes no secret.
    pub fn check_value(&self, value: &str) -> Result<(), VariableError> {
        self.check_quoting(value, self.is_hidden())
    }

    /// Whether its values are shown to nobody
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.was_secret || self.kind == VariableType::Secret
    }

    fn check_quoting(&self, value: &str, is_hidden: bool) -> Result<(), VariableError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(self.wrong(format!("a value has at most {MAX_VALUE_BYTES} bytes")));
        }
        let shown = match is_hidden {
            true => "the value".to_owned(),
            false => format!("{value:?}"),
        };
        let within = |number: i64| {
            self.validation.min.is_none_or(|min| number >= min)
                && self.validation.max.is_none_or(|max| number <= max)
        };
        match self.kind {
            VariableType::Int => match value.parse::<i64>() {
                Ok(number) if within(number) => {}
                Ok(_) => return Err(self.wrong(format!("{shown} is {}", self.range()))),
                Err(_) => return Err(self.wrong(format!("{shown} is no whole number"))),
            },
            VariableType::Bool if matches!(value, "true" | "false") => {}
            VariableType::Bool => return Err(self.wrong(format!("{shown} is neither true nor false"))),
            VariableType::Enum => {
                let values = self.validation.enum_values.as_deref().unwrap_or_default();
                if !values.iter().any(|known| known == value) {
                    return Err(self.wrong(format!("{shown} is none of {}", values.join(", "))));
                }
            }
            VariableType::String | VariableType::Secret => {
                let length = i64::try_from(value.chars().count()).unwrap_or(i64::MAX);
                if !within(length) {
                    return Err(self.wrong(format!("the length of {shown} is {}", self.range())));
                }
                // In a file of lines, the next one is another key.
                if self.validation.regex.is_none() && value.contains(char::is_control) {
                    return Err(self.wrong(format!(
                        "{shown} has line ends or other control characters, which only a validation.regex can allow"
                    )));
                }
            }
        }
        if let Some(pattern) = &self.validation.regex
            && !self.pattern(pattern)?.is_match(value)
        {
            return Err(self.wrong(format!("{shown} does not match {pattern}")));
        }
        Ok(())
    }

    fn range(&self) -> String {
        match (self.validation.min, self.validation.max) {
            (Some(min), Some(max)) => format!("not from {min} to {max}"),
            (Some(min), None) => format!("less than {min}"),
            (_, Some(max)) => format!("more than {max}"),
            (None, None) => "not acceptable".to_owned(),
        }
    }
}

/// What laid-over templates say about their variables: a later definition of a key replaces an earlier one
#[derive(Clone, Debug, Default)]
pub struct Definitions<'a> {
    defined: BTreeMap<&'a str, &'a Variable>,
    /// In any of the templates
    hidden: BTreeSet<&'a str>,
}

impl<'a> Definitions<'a> {
    /// Of templates in the order in which they are laid over each other
    #[must_use]
    pub fn of(templates: &'a [Vec<Variable>]) -> Self {
        let variables = || templates.iter().flatten();
        let hidden = variables().filter(|variable| variable.is_hidden());
        Self {
            defined: variables()
                .map(|variable| (variable.key.as_str(), variable))
                .collect(),
            hidden: hidden.map(|variable| variable.key.as_str()).collect(),
        }
    }

    /// Whether a template knows this key
    #[must_use]
    pub fn knows(&self, key: &str) -> bool {
        self.defined.contains_key(key)
    }

    /// Whether a value of this key is shown to nobody: in one of the templates it is a SECRET, or was one
    #[must_use]
    pub fn hides(&self, key: &str) -> bool {
        self.hidden.contains(key)
    }

    /// Whether these values may be given by whoever has this scope; a key that no template knows passes
    ///
    /// # Errors
    /// Every value of the wrong kind, or that the scope does not reach.
    pub fn check_given(
        &self,
        values: &BTreeMap<String, String>,
        from: Scope,
    ) -> Result<(), Vec<VariableError>> {
        self.check(values, from, |key| self.hides(key))
    }

    /// Whether the values of an earlier start of an instance may be given again; a key that no template knows passes
    ///
    /// # Errors
    /// Every value of the wrong kind, or that the scope does not reach. None is quoted, since nobody is there who has just said it.
    pub fn check_kept(&self, values: &BTreeMap<String, String>) -> Result<(), Vec<VariableError>> {
        self.check(values, Scope::Instance, |_| true)
    }

    fn check(
        &self,
        values: &BTreeMap<String, String>,
        from: Scope,
        hides: impl Fn(&str) -> bool,
    ) -> Result<(), Vec<VariableError>> {
        let mut wrong = Vec::new();
        for (key, value) in values {
            if let Some(variable) = self.defined.get(key.as_str()) {
                wrong.extend(reached(variable, from).err());
                wrong.extend(variable.check_quoting(value, hides(key)).err());
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// Whether whoever has this scope may set the variable
fn reached(variable: &Variable, from: Scope) -> Result<(), VariableError> {
    let who = match from {
        Scope::Instance => "an instance",
        Scope::Group => "a group",
        Scope::Template => "a template",
    };
    if from > variable.scope {
        return Err(variable.wrong(format!("{who} may not set it")));
    }
    Ok(())
}

/// What the variables of laid-over templates are for an instance
///
/// `templates` are in the order in which they are laid over each other: a later definition of a key replaces an earlier one. The
/// instance's value counts before the group's, and that before the default. Values of keys that no template knows are passed on, since files
/// may use what nobody has defined.
///
/// # Errors
/// Every value that is missing, of the wrong kind, or set by somebody whom the scope does not reach.
pub fn resolve(
    templates: &[Vec<Variable>],
    group: &BTreeMap<String, String>,
    instance: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Vec<VariableError>> {
    let definitions = Definitions::of(templates);
    let mut resolved = group.clone();
    resolved.extend(instance.clone());
    let mut wrong = Vec::new();
    for (key, value) in &resolved {
        if !definitions.defined.contains_key(key.as_str()) && value.contains(char::is_control) {
            wrong.push(VariableError {
                key: key.clone(),
                problem: "its value has line ends or other control characters, which only a template that defines it can allow"
                    .to_owned(),
            });
        }
    }
    for (key, variable) in &definitions.defined {
        for (given, from) in [(group, Scope::Group), (instance, Scope::Instance)] {
            if given.contains_key(*key) {
                wrong.extend(reached(variable, from).err());
            }
        }
        match (resolved.get(*key), &variable.default) {
            (Some(value), _) => wrong.extend(variable.check_quoting(value, definitions.hides(key)).err()),
            (None, Some(default)) => {
                resolved.insert((*key).to_owned(), default.clone());
            }
            (None, None) if variable.required => {
                wrong.push(variable.wrong("it is required and has no value"));
            }
            (None, None) => {}
        }
    }
    if wrong.is_empty() {
        Ok(resolved)
    } else {
        Err(wrong)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn variable(kind: VariableType) -> Variable {
        Variable {
            key: "key".to_owned(),
            kind,
            default: None,
            required: false,
            scope: Scope::Instance,
            visibility: String::new(),
            description: String::new(),
            validation: Validation::default(),
            was_secret: false,
        }
    }

    #[test]
    fn a_value_is_one_line_unless_its_template_allows_more() {
        let lines = "x\nonline-mode=false";
        let mut text = variable(VariableType::String);
        let problem = text.check_value(lines).unwrap_err().to_string();
        assert!(problem.contains("line ends"), "{problem}");
        let given = |key: &str| BTreeMap::from([(key.to_owned(), lines.to_owned())]);
        let wrong = |group: &BTreeMap<String, String>| {
            resolve(&[vec![text.clone()]], group, &BTreeMap::new()).is_err()
        };
        assert!(wrong(&given("key")) && wrong(&given("MOTD")));
        text.validation.regex = Some("(?s).*".to_owned());
        text.check_value(lines).unwrap();
    }

    #[test]
    fn a_kept_value_is_checked_and_quoted_in_no_error() {
        let templates = [vec![variable(VariableType::Int)]];
        let given = |value: &str| BTreeMap::from([("key".to_owned(), value.to_owned())]);
        let definitions = Definitions::of(&templates);
        assert_eq!(definitions.check_kept(&given("7")), Ok(()));
        let wrong = definitions.check_kept(&given("hunter2")).unwrap_err();
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(wrong, ["variable key: the value is no whole number"]);
        let mut fixed = variable(VariableType::Int);
        fixed.scope = Scope::Template;
        let templates = [vec![fixed]];
        assert!(Definitions::of(&templates).check_kept(&given("7")).is_err());
    }

    #[test]
    fn values_are_of_their_type() {
        let mut int = variable(VariableType::Int);
        (int.validation.min, int.validation.max) = (Some(1), Some(10));
        let mut text = variable(VariableType::String);
        (text.validation.regex, text.validation.max) = (Some("[a-z]+|x y".to_owned()), Some(5));
        let mut one_of = variable(VariableType::Enum);
        one_of.validation.enum_values = Some(vec!["EASY".to_owned(), "HARD".to_owned()]);
        for (variable, good, bad) in [
            (&int, &["1", "10"][..], &["0", "11", "1.0", "", "one"][..]),
            (&text, &["abc", "x y"], &["abc1", "abcdef", "", "a b"]),
            (&one_of, &["EASY"], &["easy", ""]),
            (
                &variable(VariableType::Bool),
                &["true", "false"],
                &["yes", "True", "1"],
            ),
        ] {
            variable.check().unwrap();
            for value in good {
                variable.check_value(value).unwrap();
            }
            for value in bad {
                assert!(
                    variable.check_value(value).is_err(),
                    "{:?} {value:?}",
                    variable.kind
                );
            }
        }
    }

    #[test]
    fn no_error_quotes_a_secret() {
        let mut secret = variable(VariableType::Secret);
        secret.validation.regex = Some("[0-9]+".to_owned());
        let error = secret.check_value("hunter2").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_secret_that_has_become_a_text_is_not_quoted_and_neither_is_one_of_a_template_below() {
        let given = |value: &str| BTreeMap::from([("key".to_owned(), value.to_owned())]);
        let mut number = variable(VariableType::Int);
        let quoted = resolve(&[vec![number.clone()]], &given("hunter2"), &given("hunter2")).unwrap_err();
        assert!(quoted[0].to_string().contains("hunter2"), "{quoted:?}");
        let below = vec![variable(VariableType::Secret)];
        let layers = [below, vec![number.clone()]];
        number.was_secret = true;
        assert!(number.is_hidden());
        let changed = [vec![number]];
        for templates in [&layers[..], &changed[..]] {
            let values = given("hunter2");
            let errors = resolve(templates, &values, &values).unwrap_err();
            let checked = Definitions::of(templates)
                .check_given(&values, Scope::Group)
                .unwrap_err();
            for error in errors.iter().chain(&checked) {
                let error = error.to_string();
                assert!(
                    !error.contains("hunter2") && error.contains("the value"),
                    "{error}"
                );
            }
        }
        let own = changed[0][0].check_value("hunter2").unwrap_err().to_string();
        assert!(!own.contains("hunter2"), "{own}");
    }

    #[test]
    fn a_group_gives_values_to_what_its_scope_reaches() {
        let mut of_template = variable(VariableType::String);
        of_template.scope = Scope::Template;
        let templates = [vec![of_template]];
        let definitions = Definitions::of(&templates);
        let given = |key: &str| BTreeMap::from([(key.to_owned(), "x".to_owned())]);
        let wrong = definitions.check_given(&given("key"), Scope::Group).unwrap_err();
        assert_eq!(wrong[0].to_string(), "variable key: a group may not set it");
        assert!(definitions.check_given(&given("other"), Scope::Group).is_ok());
        assert!(definitions.knows("key") && !definitions.knows("other") && !definitions.hides("key"));
    }

    #[test]
    fn what_cannot_be_a_variable_is_refused() {
        type Change = fn(&mut Variable);
        let cases: [(&str, Change); 7] = [
            ("a key has", |variable| variable.key = "a b".to_owned()),
            ("cannot be used", |variable| {
                variable.validation.regex = Some("(".to_owned());
            }),
            ("cannot be used", |variable| {
                variable.validation.regex = Some(r"(?:\w{1000}){1000}".to_owned());
            }),
            ("min is greater", |variable| {
                (variable.validation.min, variable.validation.max) = (Some(2), Some(1));
            }),
            ("enumValues are for", |variable| {
                variable.validation.enum_values = Some(vec!["a".to_owned()]);
            }),
            ("1 to 256 enumValues", |variable| {
                variable.kind = VariableType::Enum
            }),
            ("give it a defaultValue", |variable| {
                (variable.required, variable.scope) = (true, Scope::Template);
            }),
        ];
        for (sentence, change) in cases {
            let mut variable = variable(VariableType::String);
            change(&mut variable);
            let error = variable.check().unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn later_templates_and_inner_scopes_win() {
        let with = |key: &str, default: Option<&str>, scope, required| Variable {
            key: key.to_owned(),
            default: default.map(str::to_owned),
            scope,
            required,
            ..variable(VariableType::String)
        };
        let given = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let base = vec![
            with("motd", Some("base"), Scope::Instance, false),
            with("seed", None, Scope::Group, true),
        ];
        let lobby = vec![
            with("motd", Some("lobby"), Scope::Instance, false),
            with("id", Some("0"), Scope::Instance, false),
        ];
        let templates = [base, lobby];
        let resolved = resolve(
            &templates,
            &given(&[("seed", "1"), ("id", "1"), ("free", "x")]),
            &given(&[("id", "2")]),
        );
        let expected = given(&[("motd", "lobby"), ("seed", "1"), ("id", "2"), ("free", "x")]);
        assert_eq!(resolved.unwrap(), expected);

        let wrong = resolve(&templates, &given(&[]), &given(&[])).unwrap_err();
        assert_eq!(
            wrong[0].to_string(),
            "variable seed: it is required and has no value"
        );
        let wrong = resolve(&templates, &given(&[]), &given(&[("seed", "1")])).unwrap_err();
        assert_eq!(wrong[0].to_string(), "variable seed: an instance may not set it");
    }
}
