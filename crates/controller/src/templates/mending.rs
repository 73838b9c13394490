//! What is done about bytes that a disk has lost or changed
//!
//! An archive is made of a manifest and its files, and always comes out the same: as long as those are whole, it can be made
//! anew. What cannot is removed, so that nobody is given it, and the next push sends it again.

use prexorcloud_content::Digest;

use super::{TemplateError, TemplateVersionRecord, Templates, manifests::KEPT};
use crate::store;

impl Templates {
    /// Makes an archive anew that is not what it was; says whether that was possible
    ///
    /// # Errors
    /// What the storage reported.
    pub async fn mend(&self, archive: Digest) -> Result<bool, TemplateError> {
        let (versions, _) = store::load_all::<TemplateVersionRecord>(&*self.store).await?;
        let name = archive.to_string();
        for version in versions
            .into_iter()
            .filter(|stored| stored.record.archive == name)
        {
            if self.mend_of(&version.record).await? {
                return Ok(true);
            }
        }
        self.content.discard(archive).await?;
        Ok(false)
    }

    /// Makes the archive of a version anew; says whether that was possible
    pub(super) async fn mend_of(&self, version: &TemplateVersionRecord) -> Result<bool, TemplateError> {
        let Ok(manifest) = self.manifest(version).await else {
            return Ok(false);
        };
        // A file that is damaged, too, is removed by this.
        let packed = self.content.archive(manifest, KEPT).await;
        Ok(packed.is_ok_and(|(packed, _)| packed.sha256.to_string() == version.archive))
    }

    /// Whether what a version is made of and sent as is there, mended if it had to be
    pub(super) async fn is_whole(
        &self,
        version: &TemplateVersionRecord,
        json: &[u8],
    ) -> Result<bool, TemplateError> {
        let (Ok(manifest), Ok(archive)) = (version.manifest.parse(), version.archive.parse()) else {
            return Ok(false);
        };
        if !self.content.is_whole(manifest).await? {
            self.content.keep(json.to_vec().into()).await?;
            self.manifests.note(manifest, true);
        }
        Ok(self.content.is_whole(archive).await? || self.mend_of(version).await?)
    }
}
