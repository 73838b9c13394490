//! What a start gets of the templates that it names

use std::collections::BTreeMap;

use prexorcloud_proto::TemplateRef;

use super::{
    TemplateError, TemplateRecord, TemplateVersionRecord, Templates,
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

/// A template as it was when it was looked at, whatever becomes of it
#[derive(Clone, Debug)]
pub struct Layer {
    name: String,
    /// `None` = there is no such template
    record: Option<TemplateRecord>,
    /// `None` = nothing was pushed to it
    current: Option<TemplateVersionRecord>,
}

impl Layer {
    /// What it is called, whether or not there is one
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is such a template
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.record.is_some()
    }

    /// The version that counted, as daemons know it; `None` = nothing was pushed
    #[must_use]
    pub fn reference(&self) -> Option<TemplateRef> {
        let version = self.current.as_ref()?;
        Some(TemplateRef {
            name: self.name.clone(),
            hash: version.archive.clone(),
        })
    }
}

impl Layer {
    /// What it is of, for a record
    pub(crate) fn parts(&self) -> (Option<&TemplateRecord>, Option<&TemplateVersionRecord>) {
        (self.record.as_ref(), self.current.as_ref())
    }

    /// The one that such parts were of
    pub(crate) fn from_parts(
        name: String,
        record: Option<TemplateRecord>,
        current: Option<TemplateVersionRecord>,
    ) -> Self {
        Self {
            name,
            record,
            current,
        }
    }

    /// The same with another version of it
    pub(crate) fn with_version(self, version: TemplateVersionRecord) -> Self {
        Self {
            current: Some(version),
            ..self
        }
    }
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
        let mut layers = Vec::with_capacity(names.len());
        for name in names {
            layers.push(self.layer(name).await?);
        }
        self.composed(&layers, group, instance)
    }

    /// The same for templates as they were when they were looked at
    ///
    /// # Errors
    /// [`TemplateError::Invalid`] names what is missing or wrong.
    pub fn composed(
        &self,
        layers: &[Layer],
        group: &BTreeMap<String, String>,
        instance: &BTreeMap<String, String>,
    ) -> Result<Composition, TemplateError> {
        let mut templates = Vec::with_capacity(layers.len());
        for layer in layers {
            let name = &layer.name;
            let reference = layer.reference().ok_or_else(|| match layer.record {
                None => TemplateError::Invalid(format!("there is no template {name:?}")),
                Some(_) => TemplateError::Invalid(format!(
                    "nothing was pushed to the template {name} yet: prexorctl template push"
                )),
            });
            // Also of one without files: folders and links are something.
            templates.push(reference?);
        }
        let defined = self.definitions(layers)?;
        let variables = variables::resolve(&defined, group, instance).map_err(|wrong| {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            TemplateError::Invalid(wrong.join("; "))
        })?;
        Ok(Composition { templates, variables })
    }

    /// A template as it is now
    ///
    /// # Errors
    /// What the storage reported; not if there is none.
    pub async fn layer(&self, name: &str) -> Result<Layer, TemplateError> {
        let (record, current) = match self.show(name).await {
            Ok((record, current)) => (Some(record), current),
            Err(TemplateError::Unknown) => (None, None),
            Err(error) => return Err(error),
        };
        Ok(Layer {
            name: name.to_owned(),
            record,
            current,
        })
    }

    /// What templates say about variables, in their order; one that is not there says nothing
    ///
    /// # Errors
    /// [`TemplateError::Conflict`] if a default was sealed with another key.
    pub fn definitions(&self, layers: &[Layer]) -> Result<Vec<Vec<Variable>>, TemplateError> {
        let records = layers.iter().filter_map(|layer| layer.record.as_ref());
        records.map(|record| self.variables_of(record)).collect()
    }

    /// Whether one of the versions that counted has this file at its top
    ///
    /// # Errors
    /// What the storage reported.
    pub async fn bring(&self, layers: &[Layer], file: &str) -> Result<bool, TemplateError> {
        for version in layers.iter().filter_map(|layer| layer.current.as_ref()) {
            let manifest = self.manifest(version).await?;
            if manifest.files().any(|(path, _)| path.as_str() == file) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
