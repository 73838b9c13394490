//! Templates: what is asked, and what is shown

use serde_json::json;

use crate::run;
use crate::server::{self, Server};

#[test]
fn a_damaged_version_is_marked_and_what_to_do_is_said() {
    let version = |number: u64, damaged: bool| {
        json!({
            "number": number, "hash": format!("{number}64620f1ca97e2d"), "sizeBytes": 29, "files": 1,
            "createdAt": "2026-11-24T16:00:00.042Z", "createdBy": "admin", "current": number == 2, "damaged": damaged,
        })
    };
    let show = |damaged: bool| {
        let answer = json!([version(2, damaged), version(1, damaged)]).to_string();
        run(&Server::json(200, &answer), &["template", "versions", "lobby"])
    };
    let ran = show(true);
    assert_eq!(ran.code, 0, "{ran:?}");
    for shown in [
        "current, damaged",
        "push the same files again",
        "prexorctl template rollback lobby",
    ] {
        assert!(ran.stdout.contains(shown), "{shown}: {}", ran.stdout);
    }
    let ran = show(false);
    assert!(!ran.stdout.contains("damaged"), "{}", ran.stdout);
}

#[test]
fn a_template_that_groups_use_is_deleted_by_force_alone() {
    let refusal = json!({ "error": { "code": "CONFLICT", "message": "servers of these groups get files of base: lobby" } });
    let server = Server::replying(vec![server::json(409, &refusal.to_string())]);
    let ran = run(&server, &["template", "delete", "base"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for said in ["lobby", "prexorctl template delete base --force"] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let request = server.only_request();
    assert_eq!(
        request.line,
        "DELETE /api/v1/templates/base?ifUnused=true HTTP/1.1"
    );
    let server = Server::json(204, "");
    let ran = run(&server, &["template", "delete", "base", "--force"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        server.only_request().line,
        "DELETE /api/v1/templates/base HTTP/1.1"
    );
}
