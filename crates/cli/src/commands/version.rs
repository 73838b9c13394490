//! `prexorctl version`

use serde_json::json;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::resource::ControllerVersion;

const OWN: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn run(client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get::<ControllerVersion>(&["system", "version"], &[]).await;
    if output.is_json() {
        let controller = answer.as_ref().ok().map(|answer| &answer.json);
        output.json(&json!({ "prexorctl": OWN, "controller": controller }))?;
        return answer.map(drop);
    }
    output.facts(&[("prexorctl", Some(OWN.to_owned()))])?;
    let controller = answer?.value;
    output.facts(&[
        ("controller", Some(controller.version)),
        (
            "protocol",
            controller.protocol_version.map(|version| version.to_string()),
        ),
        ("address", Some(client.controller().to_owned())),
    ])
}
