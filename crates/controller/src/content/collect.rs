//! Which blobs may go
//!
//! One may go when nothing refers to it, nobody has pinned it, and nobody has written or looked at it for long. The age is what makes a
//! push safe that has asked and not yet published, and a reference that was dropped a moment ago harmless.

use std::time::Duration;

use super::{BlobError, Content, Referenced};

/// What was removed
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many blobs
    pub blobs: usize,
}

impl Content {
    /// Removes what is not in `referenced`, not pinned and older than `age`
    ///
    /// `referenced` has to be read after the call of [`old`](Self::old) whose answer is `candidates`: what is referred to later was
    /// renewed before, and is not old any more.
    ///
    /// # Errors
    /// [`BlobError::Io`]; what was removed until then could go.
    pub async fn collect(
        &self,
        candidates: Vec<prexorcloud_content::Digest>,
        referenced: &Referenced,
        age: Duration,
    ) -> Result<Collected, BlobError> {
        let mut collected = Collected::default();
        for name in candidates {
            if referenced.contains(&name) {
                continue;
            }
            // Nobody looks at a blob between the judgement and its end.
            let _alone = self.relying.write().await;
            if self.pinned().contains_key(&name) {
                continue;
            }
            let remove = move |blobs: &dyn super::Blobs| {
                let is_old = blobs.is_older_than(name, age)?;
                if is_old {
                    blobs.delete(name)?;
                }
                Ok(is_old)
            };
            if self.blocking(remove).await? {
                collected.blobs += 1;
            }
        }
        Ok(collected)
    }

    /// Blobs that could go if nothing refers to them
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub async fn old(&self, age: Duration) -> Result<Vec<prexorcloud_content::Digest>, BlobError> {
        self.blocking(move |blobs| blobs.older_than(age)).await
    }
}
