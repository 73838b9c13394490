//! What a start gets of the templates that it names

use std::collections::BTreeMap;

use prexorcloud_proto::TemplateRef;

use super::{
    TemplateError, Templates,
    variables::{self, Variable},
};

/// The most templates that are laid into one folder
pub const MAX_LAYERS: usize = 32;

/// What is laid into the folder of an instance
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Composition {
    /// The versions that count now, in the order in which they are laid over each other
    pub templates: Vec<TemplateRef>,
    /// What their files may ask for
    pub variables: BTreeMap<String, String>,
}

impl Templates {
    /// The versions of these templates that count now, and what their variables are for an instance with the values of its
    /// group and its own
    ///
    /// A start that is ordered with it keeps its versions, whatever is pushed later.
    ///
    /// # Errors
    /// [`TemplateError::Invalid`] names what is missing or wrong; what the storage reported.
    pub async fn compose(
        &self,
        names: &[String],
        group: &BTreeMap<String, String>,
        instance: &BTreeMap<String, String>,
    ) -> Result<Composition, TemplateError> {
        if names.len() > MAX_LAYERS {
            let limit = format!("a start has at most {MAX_LAYERS} templates");
            return Err(TemplateError::Invalid(limit));
        }
        let mut templates = Vec::with_capacity(names.len());
        let mut defined = Vec::with_capacity(names.len());
        for name in names {
            let (record, current) = self.show(name).await.map_err(|error| match error {
                TemplateError::Unknown => TemplateError::Invalid(format!("there is no template {name:?}")),
                error => error,
            })?;
            let hash = match current {
                // Also of one without files: folders and links are something.
                Some(version) => version.archive,
                None => {
                    let nothing =
                        format!("nothing was pushed to the template {name} yet: prexorctl template push");
                    return Err(TemplateError::Invalid(nothing));
                }
            };
            defined.push(self.variables_of(&record)?);
            templates.push(TemplateRef {
                name: record.name,
                hash,
            });
        }
        let variables = variables::resolve(&defined, group, instance).map_err(|wrong| {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            TemplateError::Invalid(wrong.join("; "))
        })?;
        Ok(Composition { templates, variables })
    }

    /// The version of a template that counts now, as daemons know it; `None` = nothing was pushed
    ///
    /// # Errors
    /// [`TemplateError::Unknown`], or what the storage reported.
    pub async fn reference(&self, name: &str) -> Result<Option<TemplateRef>, TemplateError> {
        let (record, current) = self.show(name).await?;
        Ok(current.map(|version| TemplateRef {
            name: record.name,
            hash: version.archive,
        }))
    }

    /// What templates say about variables, in the order of the names; one that is not there says nothing
    ///
    /// # Errors
    /// What the storage reported.
    pub async fn definitions(&self, names: &[String]) -> Result<Vec<Vec<Variable>>, TemplateError> {
        let mut defined = Vec::with_capacity(names.len());
        for name in names {
            match self.variables(name).await {
                Ok(variables) => defined.push(variables),
                Err(TemplateError::Unknown) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(defined)
    }

    /// Whether one of these versions has this file at its top
    ///
    /// # Errors
    /// What the storage reported.
    pub async fn bring(&self, composition: &Composition, file: &str) -> Result<bool, TemplateError> {
        for TemplateRef { name, hash } in &composition.templates {
            let versions = self.versions(name).await?.0.into_iter();
            let Some(version) = versions.into_iter().find(|version| version.archive == *hash) else {
                continue;
            };
            let manifest = self.manifest(&version).await?;
            if manifest.files().any(|(path, _)| path.as_str() == file) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
