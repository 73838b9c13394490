//! `prexorctl audit`

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::resource::AuditPage;

use super::query;

pub(super) async fn run(
    limit: u32,
    before: Option<String>,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let query = query(&[("limit", Some(&limit.to_string())), ("before", before.as_ref())]);
    let answer = client.get::<AuditPage>(&["admin", "audit"], &query).await?;
    if output.is_json() {
        return output.json(&answer.json);
    }
    let rows = answer
        .value
        .entries
        .into_iter()
        .map(|entry| {
            let when = output.ago(Some(&entry.at));
            vec![when, entry.actor, entry.action, entry.target, entry.detail]
        })
        .collect();
    output.table(
        &["WHEN", "WHO", "WHAT", "ON", "DETAIL"],
        rows,
        "Nothing is recorded.",
    )
}
