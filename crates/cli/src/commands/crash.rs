//! `prexorctl crash`

use crate::arguments::CrashCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, or_dash, span};
use crate::printable;
use crate::resource::Crash;

use super::{more, query};

const LONGEST_CAUSE: usize = 80;

pub(super) async fn run(command: CrashCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        CrashCommand::List {
            instance,
            group,
            node,
            limit,
            cursor,
        } => {
            let mut wanted = query(&[
                ("instance", instance.as_ref()),
                ("group", group.as_ref()),
                ("node", node.as_ref()),
                ("cursor", cursor.as_ref()),
            ]);
            wanted.push(("limit", limit.to_string()));
            let answer = client.get::<Vec<Crash>>(&["crashes"], &wanted).await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            let rows = answer
                .value
                .into_iter()
                .map(|crash| {
                    let cause = crash
                        .cause_summary
                        .map(|cause| printable::short(&cause, LONGEST_CAUSE));
                    vec![
                        crash.id,
                        crash.instance_id,
                        or_dash(crash.node),
                        or_dash(crash.exit_code.filter(|code| *code >= 0)),
                        or_dash(crash.classification),
                        output.ago(crash.crashed_at.as_deref()),
                        or_dash(cause),
                    ]
                })
                .collect();
            output.table(
                &["ID", "INSTANCE", "NODE", "EXIT", "CLASS", "CRASHED", "CAUSE"],
                rows,
                "No crashes.",
            )?;
            more(answer.next.as_deref(), output)
        }
        CrashCommand::Show { id } => {
            let answer = client.get::<Crash>(&["crashes", &id], &[]).await?;
            if output.is_json() {
                return output.json(&answer.json);
            }
            let crash = answer.value;
            output.facts(&[
                ("id", Some(crash.id)),
                ("instance", Some(crash.instance_id)),
                ("group", crash.group),
                ("node", crash.node),
                ("exit code", crash.exit_code.map(exit_code)),
                ("class", crash.classification),
                ("cause", crash.cause_summary),
                ("crashed", output.moment(crash.crashed_at.as_deref())),
                ("uptime", crash.uptime_ms.map(span)),
            ])?;
            if crash.log_tail.is_empty() {
                return output.text("\nThe server had printed nothing.");
            }
            output.text(&format!(
                "\nThe last {} lines of its console:",
                crash.log_tail.len()
            ))?;
            for line in &crash.log_tail {
                output.text(&format!("  {}", printable::line(line)))?;
            }
            Ok(())
        }
    }
}

fn exit_code(code: i64) -> String {
    if code < 0 {
        "not known: nobody saw how the process ended".to_owned()
    } else {
        code.to_string()
    }
}
