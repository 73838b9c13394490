//! The files of instances, with a daemon that says what the test wants

use prexorcloud_proto::{
    FileEntry, InstanceFileContent, InstanceFileTree, controller_message::Payload as ToDaemon,
    daemon_message::Payload,
};
use serde_json::json;

use crate::{puppet::Puppet, support::Cluster};

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_instance_are_what_its_daemon_says() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let body = json!({ "group": "lobby", "jar": "/srv/server.jar" });
    assert_eq!(cluster.post("/instances", &body).await.0, 201);
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;

    let listed = cluster.get("/instances/lobby-1/files?maxEntries=7&maxDepth=2");
    let told = async {
        let Ok(ToDaemon::WalkInstanceFiles(asked)) = puppet.next().await else {
            panic!("nothing is asked")
        };
        assert_eq!(
            (
                asked.group.as_str(),
                asked.instance_id.as_str(),
                asked.max_entries,
                asked.max_depth
            ),
            ("lobby", "lobby-1", 7, 2)
        );
        let entry = FileEntry {
            path: "world".to_owned(),
            size_bytes: 12,
            is_dir: true,
            modified_at_ms: 1_764_000_000_000,
            summary: true,
            child_count: 900,
        };
        // What nobody asked for is nobody's answer.
        for request_id in ["stranger".to_owned(), asked.request_id] {
            let tree = InstanceFileTree {
                request_id,
                entries: vec![entry.clone()],
                truncated: true,
                error: String::new(),
            };
            puppet.say(Payload::InstanceFileTree(tree)).await;
        }
    };
    let ((status, tree), ()) = tokio::join!(listed, told);
    assert_eq!((status, &tree["truncated"]), (200, &json!(true)), "{tree}");
    assert_eq!(
        tree["entries"][0],
        json!({ "path": "world", "isDir": true, "sizeBytes": 12, "modifiedAt": "2025-11-24T16:00:00.000Z",
                "summary": true, "childCount": 900 })
    );

    for (content, error, status, shown) in [
        (&b"motd=hi\n"[..], "", 200, json!("motd=hi\n")),
        (&b"\xff\xfe\x00"[..], "", 200, json!("//4A")),
        (&b""[..], "FILE_NOT_FOUND", 404, json!("FILE_NOT_FOUND")),
        (
            &b""[..],
            "PATH_OUTSIDE_INSTANCE",
            400,
            json!("PATH_OUTSIDE_INSTANCE"),
        ),
        (&b""[..], "DAEMON_NOT_READY", 503, json!("DAEMON_NOT_READY")),
        (&b""[..], "FILE_UNREADABLE", 500, json!("UNREADABLE")),
        (&b""[..], "\u{1b}[2J", 500, json!("DAEMON_ERROR")),
    ] {
        let read = cluster.get("/instances/lobby-1/files/content?path=a%2Fb.txt&tail=true&maxBytes=9");
        let told = async {
            let Ok(ToDaemon::ReadInstanceFile(asked)) = puppet.next().await else {
                panic!("nothing is asked")
            };
            assert_eq!(
                (asked.path.as_str(), asked.max_bytes, asked.tail),
                ("a/b.txt", 9, true)
            );
            let found = InstanceFileContent {
                request_id: asked.request_id,
                content: content.to_vec().into(),
                total_size_bytes: 8,
                truncated: false,
                error: error.to_owned(),
            };
            puppet.say(Payload::InstanceFileContent(found)).await;
        };
        let ((answered, body), ()) = tokio::join!(read, told);
        let seen = if status == 200 {
            &body["content"]
        } else {
            &body["error"]["code"]
        };
        assert_eq!((answered, seen), (status, &shown), "{body}");
    }

    // Who waits when the stream ends is told so at once.
    let asked = cluster.get("/instances/lobby-1/files");
    let gone = async {
        assert!(matches!(puppet.next().await, Ok(ToDaemon::WalkInstanceFiles(_))));
        puppet.vanish(&cluster, "node-1").await;
    };
    let ((status, body), ()) = tokio::join!(asked, gone);
    assert_eq!(
        (status, &body["error"]["code"]),
        (409, &json!("NODE_NOT_CONNECTED")),
        "{body}"
    );
    assert_eq!(cluster.get("/instances/nobody-1/files").await.0, 404);
}
