//! What servers of groups will need of a node's cache

use std::collections::BTreeMap;

use prexorcloud_proto::{PreWarmCache, PreWarmEntry};

use super::{Group, GroupError, Groups, start::format_of};
use crate::{
    catalog::CatalogRecord,
    nodes::{file_name, is_path, pinned_version},
    templates::Layer,
};

/// Most runtimes, and most templates, of one order
const MOST: usize = 256;

impl Groups {
    /// The jars and templates of these groups, all if none is named, and further templates
    ///
    /// A jar that is on the node already is none that has to be fetched.
    ///
    /// # Errors
    /// [`GroupError`] with a name that is wrong, or if these are too many at once.
    pub(crate) async fn warmth(
        &self,
        groups: Option<&[String]>,
        templates: &[String],
    ) -> Result<PreWarmCache, GroupError> {
        let groups: Vec<Group> = match groups {
            Some(names) => {
                let mut groups = Vec::with_capacity(names.len());
                for name in names {
                    groups.push(self.show(name).await?);
                }
                groups
            }
            None => self.page(0, usize::MAX).await?.groups,
        };
        let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
        for name in templates {
            let layer = self.templates.layer(name).await?;
            if !layer.is_there() {
                return Err(GroupError::Invalid(format!("Template not found: {name}")));
            }
            layers.insert(name.clone(), layer);
        }
        let mut entries: Vec<PreWarmEntry> = Vec::new();
        for group in &groups {
            let (meaning, known) = self.resolved(&self.meaning(group)?).await?;
            let known_format = known.as_ref().and_then(CatalogRecord::format);
            for layer in self.layers(group.name, &meaning).await? {
                layers.insert(layer.name().to_owned(), layer);
            }
            if meaning.jar.is_empty() || is_path(&meaning.jar) {
                continue;
            }
            let named = |text: &str, otherwise: &str| match text {
                "" => otherwise.to_owned(),
                text => text.to_owned(),
            };
            let sha256 = meaning.sha256.to_lowercase();
            let entry = PreWarmEntry {
                platform: named(&meaning.platform, "server"),
                platform_version: pinned_version(&meaning.platform_version, &sha256),
                config_format: known_format
                    .unwrap_or_else(|| format_of(&meaning.platform))
                    .into(),
                jar_file: named(&meaning.jar_file, file_name(&meaning.jar)),
                download_url: meaning.jar,
                sha256,
            };
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        if entries.len() > MOST || layers.len() > MOST {
            return Err(GroupError::Invalid(format!(
                "these are {} jars and {} templates, and at most {MOST} of each are fetched at once: name some groups",
                entries.len(),
                layers.len()
            )));
        }
        // A group may name a template that is gone, which its start will say.
        let templates = layers.values().filter_map(Layer::reference).collect();
        Ok(PreWarmCache { entries, templates })
    }
}
