//! What the controller's HTTP interface answers with
//!
//! Only what this program shows is named; fields that it does not know are left alone, and a field that an older
//! controller does not send has its plain default. Times are text here, because they are only shown.

mod cache;
mod catalog;
mod controller;
mod deployment;
mod files;
mod group;
mod instance;
mod node;
mod template;
mod token;

pub use self::cache::{CachedBootstrap, CachedJar, CachedTemplate, NodeCache, WarmFailure, Warming};
pub use self::catalog::{CatalogEntry, CatalogPage};
pub use self::controller::{AuditEntry, AuditPage, ControllerVersion};
pub use self::deployment::{Deployment, DeploymentPage, Pace};
pub use self::files::{FileContent, FileEntry, FileTree};
pub use self::group::{Group, GroupPage, Scaling, Step, StoppedGroup};
pub use self::instance::{Crash, Instance, Started};
pub use self::node::{LogCounts, Node, Outcome, Rival};
pub use self::template::{
    MissingBlob, MissingContent, Template, TemplateChange, TemplateDifference, TemplateVariable,
    TemplateVersion,
};
pub use self::token::{CreatedToken, JoinToken};
