//! Why a start failed, as a controller needs to hear it

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use prexorcloud_proto::{StartFailureDisposition, StartPreparationStage};

use crate::cache::templates::TemplateError;

/// Something that kept an instance from being started
///
/// The variant decides the stage, the stable code, whether trying again can help, and the sentence; see the methods.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreparationError {
    /// A field of the order cannot be accepted
    #[error("{field} {problem}")]
    InvalidOrder {
        /// The field
        field: &'static str,
        /// What is wrong with it
        problem: String,
    },
    /// Somebody listens on the port
    #[error("port {port} is in use on this node")]
    PortInUse {
        /// The port
        port: u16,
    },
    /// This user may not listen on the port
    #[error("port {port} cannot be listened on: {error}")]
    PortDenied {
        /// The port
        port: u16,
        /// The system's answer
        error: io::Error,
    },
    /// A file or folder of the instance could not be written
    #[error("cannot prepare {path}: {error}", path = path.display())]
    Workspace {
        /// The path
        path: PathBuf,
        /// The system's answer
        error: io::Error,
    },
    /// An earlier preparation of the instance is still being undone
    #[error(
        "an earlier preparation still works in {path} after {waited} s: its disk is slow or does not answer",
        path = path.display(), waited = waited.as_secs()
    )]
    Busy {
        /// The folder of the instance
        path: PathBuf,
        /// For how long it was waited
        waited: Duration,
    },
    /// What a failed start has changed in the folder of a static instance cannot be put back
    #[error(
        "what a failed start has changed in {path} cannot be put back ({error}): mend that, or delete {kept} to take the folder as it is",
        path = path.display(), kept = kept.display()
    )]
    RollBack {
        /// The folder of the instance
        path: PathBuf,
        /// Where the former files are
        kept: PathBuf,
        /// What is in the way
        error: io::Error,
    },
    /// What was prepared cannot take its place
    #[error(
        "what was prepared cannot become {path} ({error}); it is in {kept}",
        path = path.display(), kept = kept.display()
    )]
    Promotion {
        /// The folder of the instance
        path: PathBuf,
        /// Where it was put aside
        kept: PathBuf,
        /// The system's answer
        error: io::Error,
    },
    /// A template cannot be had
    #[error("template {name}: {source}")]
    Template {
        /// Its name
        name: String,
        /// Why
        source: TemplateError,
    },
    /// A template cannot be unpacked, or what it brings does not fit to what is there
    #[error("template {name} cannot be applied: {problem}")]
    TemplateApply {
        /// Its name
        name: String,
        /// Why
        problem: String,
        /// Whether the file system failed, and not the template
        is_transient: bool,
    },
    /// The runtime jar could not be provided
    #[error("runtime {file}: {source}")]
    Runtime {
        /// Its file name
        file: String,
        /// Why
        source: ArtifactError,
    },
    /// The stand-in runtime was ordered, and is not allowed here
    #[error(
        "{file} is the built-in stand-in server, which runtime.allow_standin does not allow on this node"
    )]
    StandinNotAllowed {
        /// The file name
        file: String,
    },
    /// An extension could not be provided
    #[error("extension {file}: {source}")]
    Extension {
        /// Its file name
        file: String,
        /// Why
        source: ArtifactError,
    },
    /// Variables could not be put into a file
    #[error("cannot substitute variables in {path}: {error}", path = path.display())]
    Substitution {
        /// The file
        path: PathBuf,
        /// Why
        error: io::Error,
    },
    /// A variable's value is none for the place that it has in a file
    #[error(
        "with the value of {variable} in it, {file} could not be read any more: the template has to quote it in another way, or the value must do without quotes, backslashes and line breaks"
    )]
    Unreadable {
        /// The file, below the folder of the instance
        file: String,
        /// The variable, or several where no single one is to blame; never a value
        variable: String,
    },
    /// A config patch could not be applied
    #[error("cannot patch {file}: {problem}")]
    ConfigPatch {
        /// The file, as the order names it
        file: String,
        /// Why
        problem: String,
        /// Whether the file system failed, and not the patch
        is_transient: bool,
    },
    /// There is no Java
    #[error(
        "no Java found ({looked_for}): install one (Debian, Ubuntu: openjdk-17-jre-headless or newer) or set runtime.java"
    )]
    NoJava {
        /// What was looked for
        looked_for: String,
    },
}

/// Why a file from elsewhere could not be had
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Nothing says where it comes from, and it is not in the workspace
    #[error("there is no such file in the workspace and no download_url")]
    NoSource,
    /// The source is not one that this daemon takes
    #[error("{url} is no http, https or file URL and no absolute path")]
    UnsupportedUrl {
        /// What was given
        url: String,
    },
    /// It has to be verified and no digest was given
    #[error("{url} comes over the network and no sha256 was given (runtime.allow_unverified_downloads)")]
    NoDigest {
        /// Where it would come from
        url: String,
    },
    /// The digest is not one
    #[error("{given:?} is no sha256: 64 hexadecimal digits")]
    MalformedDigest {
        /// What was given
        given: String,
    },
    /// The file is not on this machine
    #[error("{path} does not exist on this node", path = path.display())]
    Missing {
        /// Its path
        path: PathBuf,
    },
    /// The file on this machine is not a file
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// Its path
        path: PathBuf,
    },
    /// The bytes are not the ones that were ordered
    #[error("sha256 of {origin} is {got}, expected {expected}")]
    WrongDigest {
        /// Where the bytes came from
        origin: String,
        /// What was ordered
        expected: String,
        /// What came
        got: String,
    },
    /// There are more bytes than allowed
    #[error("{origin} is larger than {limit} bytes")]
    TooLarge {
        /// Where the bytes come from
        origin: String,
        /// The limit
        limit: u64,
    },
    /// The server answered, and not with the file
    #[error("{url} answered HTTP {status}")]
    Status {
        /// The address
        url: String,
        /// The status code
        status: u16,
    },
    /// It leads to nowhere, or to where a file may not come from
    #[error("{url}: {problem}")]
    Redirect {
        /// The address that was asked
        url: String,
        /// Why the redirect is not followed
        problem: String,
    },
    /// The server answered with a page for people
    #[error("{url} answers with a web page and not with the file; give the address of the file itself")]
    WebPage {
        /// The address
        url: String,
    },
    /// The answer is packed, although it was asked for as it is
    #[error("{url} sends the file packed ({encoding}), although it was asked for as it is")]
    Encoded {
        /// The address
        url: String,
        /// How
        encoding: String,
    },
    /// The download broke
    #[error("{url}: {problem}")]
    Download {
        /// The address
        url: String,
        /// The causes, outermost first
        problem: String,
    },
    /// A file could not be read or written here
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file
        path: PathBuf,
        /// The system's answer
        error: io::Error,
    },
}

impl ArtifactError {
    /// Whether trying again can help: the network and the disk recover, a wrong order does not
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Download { .. } | Self::Io { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::NoSource
            | Self::UnsupportedUrl { .. }
            | Self::NoDigest { .. }
            | Self::MalformedDigest { .. }
            | Self::Missing { .. }
            | Self::NotAFile { .. }
            | Self::WrongDigest { .. }
            | Self::Redirect { .. }
            | Self::WebPage { .. }
            | Self::Encoded { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

impl PreparationError {
    /// The stage that failed
    #[must_use]
    pub fn stage(&self) -> StartPreparationStage {
        match self {
            Self::InvalidOrder { .. }
            | Self::PortInUse { .. }
            | Self::PortDenied { .. }
            | Self::Busy { .. }
            | Self::RollBack { .. }
            | Self::Workspace { .. } => StartPreparationStage::Validation,
            Self::Template { .. } | Self::TemplateApply { .. } => StartPreparationStage::TemplateApply,
            Self::Runtime { .. } | Self::StandinNotAllowed { .. } => StartPreparationStage::RuntimeProvision,
            Self::Extension { .. } => StartPreparationStage::ExtensionProvision,
            Self::Substitution { .. } | Self::Unreadable { .. } => {
                StartPreparationStage::VariableSubstitution
            }
            Self::ConfigPatch { .. } => StartPreparationStage::ConfigPatch,
            Self::Promotion { .. } | Self::NoJava { .. } => StartPreparationStage::ProcessStart,
        }
    }

    /// The stable code that controllers and operators match on
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidOrder { .. } => "INVALID_ORDER",
            Self::PortInUse { .. } => "PORT_IN_USE",
            Self::PortDenied { .. } => "PORT_DENIED",
            Self::Busy { .. } => "PREPARATION_BUSY",
            Self::RollBack { .. } => "ROLLBACK_FAILED",
            Self::Workspace { .. } => "WORKSPACE_FAILED",
            Self::Template { .. } | Self::TemplateApply { .. } => "TEMPLATE_APPLY_FAILED",
            Self::Runtime { .. } | Self::StandinNotAllowed { .. } => "RUNTIME_PROVISION_FAILED",
            Self::Extension { .. } => "EXTENSION_PROVISION_FAILED",
            Self::Substitution { .. } | Self::Unreadable { .. } => "VARIABLE_SUBSTITUTION_FAILED",
            Self::ConfigPatch { .. } => "CONFIG_PATCH_FAILED",
            Self::Promotion { .. } | Self::NoJava { .. } => "START_FAILED",
        }
    }

    /// Whether trying again on this node can help
    #[must_use]
    pub fn disposition(&self) -> StartFailureDisposition {
        let is_transient = match self {
            Self::PortInUse { .. }
            | Self::Busy { .. }
            | Self::RollBack { .. }
            | Self::Promotion { .. }
            | Self::Workspace { .. }
            | Self::Substitution { .. } => true,
            Self::Runtime { source, .. } | Self::Extension { source, .. } => source.is_transient(),
            Self::Template { source, .. } => source.is_transient(),
            Self::TemplateApply { is_transient, .. } | Self::ConfigPatch { is_transient, .. } => {
                *is_transient
            }
            Self::InvalidOrder { .. }
            | Self::PortDenied { .. }
            | Self::StandinNotAllowed { .. }
            | Self::Unreadable { .. }
            | Self::NoJava { .. } => false,
        };
        if is_transient {
            StartFailureDisposition::Transient
        } else {
            StartFailureDisposition::Permanent
        }
    }

    /// When to try again; zero if that cannot help
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match (self.disposition(), self) {
            (
                StartFailureDisposition::Transient,
                Self::PortInUse { .. } | Self::RollBack { .. } | Self::Promotion { .. },
            ) => Duration::from_secs(5),
            (StartFailureDisposition::Transient, _) => Duration::from_secs(3),
            _ => Duration::ZERO,
        }
    }
}
