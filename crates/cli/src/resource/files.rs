//! Files of instances

use serde::Deserialize;

/// What is in the folder of an instance
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileTree {
    /// Sorted by name within each folder
    pub entries: Vec<FileEntry>,
    /// There was more than was asked for
    pub truncated: bool,
}

/// A file, a folder, or the sum of one with very many entries
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// From the folder of the instance
    pub path: String,
    /// Whether it is a folder
    pub is_dir: bool,
    /// Of a file, or of all that a sum stands for
    pub size_bytes: i64,
    /// When it was last changed
    #[serde(default)]
    pub modified_at: Option<String>,
    /// It stands for all that is in the folder
    #[serde(default)]
    pub summary: bool,
    /// How many that are
    #[serde(default)]
    pub child_count: i64,
}

/// A file, or an end of it
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileContent {
    /// As the encoding says
    pub content: String,
    /// `utf-8` or `base64`
    pub encoding: String,
    /// Of the whole file
    pub total_size_bytes: i64,
    /// It is not the whole file
    pub truncated: bool,
}
