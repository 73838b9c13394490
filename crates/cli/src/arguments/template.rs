//! `prexorctl template`

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `prexorctl template`
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Creates an empty template
    Create {
        /// Its name: 1 to 32 of a-z, 0-9, _ and -
        #[arg(value_parser = name)]
        name: String,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Which platform it is for, PAPER for example
        #[arg(long, default_value = "", hide_default_value = true)]
        platform: String,
    },
    /// Lists templates
    List,
    /// Makes a folder the version that counts; only files that the controller lacks travel
    Push {
        /// The folder
        dir: PathBuf,
        /// The template [default: the name of the folder]
        #[arg(long, value_parser = name)]
        name: Option<String>,
    },
    /// Brings a version into a new or empty folder
    Pull {
        /// The template
        #[arg(value_parser = name)]
        name: String,
        /// The folder
        dir: PathBuf,
        /// Number of the version, or the beginning of its hash [default: the version that counts]
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
    },
    /// Lists the versions of a template, the newest first
    Versions {
        /// The template
        #[arg(value_parser = name)]
        name: String,
    },
    /// Shows which files differ between two versions
    Diff {
        /// The template
        #[arg(value_parser = name)]
        name: String,
        /// Number or beginning of the hash of the earlier one [default: the one before]
        #[arg(long, value_name = "VERSION")]
        from: Option<String>,
        /// Number or beginning of the hash of the later one [default: the version that counts]
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
    },
    /// Lets an earlier version count again
    Rollback {
        /// The template
        #[arg(value_parser = name)]
        name: String,
        /// Number or beginning of its hash [default: the one that counted before]
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
    },
    /// Deletes a template with all its versions, if no group uses it
    Delete {
        /// The template
        #[arg(value_parser = name)]
        name: String,
        /// Also if servers of groups get its files; the next ones start without them
        #[arg(long)]
        force: bool,
    },
    /// Variables that the files of a template use
    #[command(subcommand)]
    Var(VariableCommand),
}

/// `prexorctl template var`
#[derive(Debug, Subcommand)]
pub enum VariableCommand {
    /// Lists the variables of a template; secrets are not shown
    List {
        /// The template
        #[arg(value_parser = name)]
        name: String,
    },
    /// Adds a variable, or replaces the one with this key
    Set(Box<SetVariable>),
    /// Removes a variable
    Rm {
        /// The template
        #[arg(value_parser = name)]
        name: String,
        /// The variable
        key: String,
    },
}

/// `prexorctl template var set`
#[derive(Args, Debug)]
pub struct SetVariable {
    /// The template
    #[arg(value_parser = name)]
    pub name: String,
    /// The variable
    pub key: String,
    /// What values it takes
    #[arg(long = "type", value_name = "TYPE", default_value = "STRING", ignore_case = true, value_parser = ["STRING", "INT", "BOOL", "ENUM", "SECRET"])]
    pub kind: String,
    /// What it is if nobody says otherwise
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub default: Option<String>,
    /// The same from a file, for a SECRET
    #[arg(long, value_name = "FILE", conflicts_with = "default")]
    pub default_file: Option<PathBuf>,
    /// Refuse a start that gives it no value
    #[arg(long)]
    pub required: bool,
    /// The innermost that may set it
    #[arg(long, default_value = "INSTANCE", ignore_case = true, value_parser = ["TEMPLATE", "GROUP", "INSTANCE"])]
    pub scope: String,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    pub description: String,
    /// A pattern that the whole value matches
    #[arg(long)]
    pub regex: Option<String>,
    /// The least number, or the fewest characters
    #[arg(long, allow_hyphen_values = true)]
    pub min: Option<i64>,
    /// The greatest number, or the most characters
    #[arg(long, allow_hyphen_values = true)]
    pub max: Option<i64>,
    /// A value of an ENUM; several times, or with commas
    #[arg(long = "value", value_name = "VALUE", value_delimiter = ',')]
    pub values: Vec<String>,
}

/// A name that a template can have
fn name(text: &str) -> Result<String, String> {
    let is_known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if (1..=32).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(is_known) {
        Ok(text.to_owned())
    } else {
        Err("a template's name has 1 to 32 of a-z, 0-9, _ and -, and does not begin with -".to_owned())
    }
}
