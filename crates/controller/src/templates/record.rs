//! What is remembered of templates

use crate::store::Record;

/// A template: a name for folders that are brought to nodes, and which of its versions counts
#[derive(Clone, PartialEq, prost::Message)]
pub struct TemplateRecord {
    /// 1 to 32 of `a-z`, `0-9`, `_` and `-`, not beginning with `-`
    #[prost(string, tag = "1")]
    pub name: String,
    /// For operators
    #[prost(string, tag = "2")]
    pub description: String,
    /// Which platform it is for, as far as its maker said
    #[prost(string, tag = "3")]
    pub platform: String,
    /// Number of the version that starts get; 0 = nothing was pushed
    #[prost(uint64, tag = "4")]
    pub current: u64,
    /// The highest number that a version had
    #[prost(uint64, tag = "5")]
    pub last_number: u64,
    /// When it was created
    #[prost(int64, tag = "6")]
    pub created_at_ms: i64,
    /// When anything of it last changed
    #[prost(int64, tag = "7")]
    pub updated_at_ms: i64,
    /// What its files may ask for
    #[prost(message, repeated, tag = "8")]
    pub variables: Vec<VariableRecord>,
    /// Keys of all variables that are a SECRET, or ever were one
    #[prost(string, repeated, tag = "9")]
    pub secret_keys: Vec<String>,
    /// Numbers of the versions that counted before, the latest last
    #[prost(uint64, repeated, tag = "10")]
    pub former: Vec<u64>,
}

/// Versions that counted before and are remembered, of each template
const MAX_FORMER: usize = 100;

impl TemplateRecord {
    /// Lets a version count in the place of the one that does
    pub(super) fn count(&mut self, number: u64) {
        if self.current != 0 && self.current != number {
            self.former.push(self.current);
            let surplus = self.former.len().saturating_sub(MAX_FORMER);
            self.former.drain(..surplus);
        }
        self.current = number;
    }
}

impl Record for TemplateRecord {
    const PREFIX: &'static str = "templates/";

    fn id(&self) -> String {
        self.name.clone()
    }
}

/// Keys of a template that is gone: another one of its name must not quote what was a SECRET in the first
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FormerSecretsRecord {
    /// The name of the template
    #[prost(string, tag = "1")]
    pub template: String,
    /// Its [`secret_keys`](TemplateRecord::secret_keys)
    #[prost(string, repeated, tag = "2")]
    pub keys: Vec<String>,
    /// When it was deleted
    #[prost(int64, tag = "3")]
    pub deleted_at_ms: i64,
}

impl Record for FormerSecretsRecord {
    const PREFIX: &'static str = "template-former-secrets/";

    fn id(&self) -> String {
        self.template.clone()
    }
}

/// What was pushed once; it never changes
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TemplateVersionRecord {
    /// The template
    #[prost(string, tag = "1")]
    pub template: String,
    /// From 1 on, in the order of publishing
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// SHA-256 of the manifest, which is a blob; by this a version is named
    #[prost(string, tag = "3")]
    pub manifest: String,
    /// SHA-256 of the archive, which is a blob
    #[prost(string, tag = "4")]
    pub archive: String,
    /// Bytes of the archive
    #[prost(uint64, tag = "5")]
    pub archive_bytes: u64,
    /// Bytes of all its files
    #[prost(uint64, tag = "6")]
    pub size_bytes: u64,
    /// How many files it has
    #[prost(uint64, tag = "7")]
    pub files: u64,
    /// When it was published
    #[prost(int64, tag = "8")]
    pub created_at_ms: i64,
    /// By whom
    #[prost(string, tag = "9")]
    pub created_by: String,
    /// By what Java peers know the same files ([`prexorcloud_content::java_content_hash`]); empty = it has no files
    #[prost(string, tag = "10")]
    pub content_hash: String,
}

impl Record for TemplateVersionRecord {
    const PREFIX: &'static str = "template-versions/";

    fn id(&self) -> String {
        Self::id_of(&self.template, self.number)
    }
}

impl TemplateVersionRecord {
    /// Which it is, for people
    pub(crate) fn title(&self) -> String {
        format!("{} version {}", self.template, self.number)
    }

    /// Whether a peer that names what it has by `hash` has this version
    ///
    /// Our peers name archives. A Java controller names files without their modes, folders and links, so a daemon's cache that one has
    /// filled is as good as what that controller would have sent.
    #[must_use]
    pub fn is_known_as(&self, hash: &str) -> bool {
        !hash.is_empty() && (hash == self.archive || hash == self.content_hash)
    }

    /// The id of a version; ids of one template are in the order of their numbers
    #[must_use]
    pub fn id_of(template: &str, number: u64) -> String {
        format!("{template}/{number:020}")
    }

    /// The keys of all versions of a template begin with this
    #[must_use]
    pub fn prefix_of(template: &str) -> String {
        format!("{}{template}/", Self::PREFIX)
    }
}

/// A variable as it is recorded
#[derive(Clone, PartialEq, prost::Message)]
pub struct VariableRecord {
    /// Its name
    #[prost(string, tag = "1")]
    pub key: String,
    /// STRING, INT, BOOL, ENUM or SECRET
    #[prost(string, tag = "2")]
    pub kind: String,
    /// What it is if nobody says otherwise; absent = nothing, and always for a SECRET
    #[prost(string, optional, tag = "3")]
    pub default_value: Option<String>,
    /// The default of a SECRET, sealed; empty = none
    #[prost(bytes = "vec", tag = "4")]
    pub sealed_default: Vec<u8>,
    /// Whether a start without a value is refused
    #[prost(bool, tag = "5")]
    pub required: bool,
    /// TEMPLATE, GROUP or INSTANCE: the innermost that may set it
    #[prost(string, tag = "6")]
    pub scope: String,
    /// For interfaces; kept as it was given
    #[prost(string, tag = "7")]
    pub visibility: String,
    /// For operators
    #[prost(string, tag = "8")]
    pub description: String,
    /// A pattern that the whole value matches; empty = any
    #[prost(string, tag = "9")]
    pub regex: String,
    /// The least value of an INT
    #[prost(int64, optional, tag = "10")]
    pub min: Option<i64>,
    /// The greatest value of an INT
    #[prost(int64, optional, tag = "11")]
    pub max: Option<i64>,
    /// The values of an ENUM
    #[prost(string, repeated, tag = "12")]
    pub enum_values: Vec<String>,
}
