//! What has happened, told in order: over HTTP and to daemons, across restarts

use prexorcloud_proto::{
    EventSubscribe, EventUnsubscribe, Handshake, ModuleEvent, controller_message::Payload as ToDaemon,
    daemon_message::Payload,
};
use prexorcloud_protocol::Capabilities;
use prexorcloud_security::credential::Credential;
use serde_json::{Value, json};

use crate::{
    puppet::{Puppet, handshake},
    support::{Cluster, eventually},
};

async fn group(cluster: &Cluster, name: &str) {
    let (status, body) = cluster.post("/groups", &json!({ "name": name })).await;
    assert_eq!(status, 201, "{body}");
}

fn kinds(events: &Value) -> Vec<&str> {
    events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_node_and_its_instances_is_told_in_order() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let start = json!({ "id": "lobby-1", "group": "lobby", "node": "node-1", "jar": "/srv/demo/server.jar" });
    let (status, body) = cluster.post("/instances", &start).await;
    assert!(status < 300, "{body}");
    let start = puppet.start().await;
    puppet.bring_up(&start).await;
    cluster.instance_state("lobby-1", "RUNNING").await;
    puppet.vanish(&cluster, "node-1").await;
    let events = eventually("the node is told to be away", async || {
        let (status, events) = cluster.get("/events?since=0").await;
        assert_eq!(status, 200, "{events}");
        kinds(&events).contains(&"NODE_DISCONNECTED").then_some(events)
    })
    .await;
    assert_eq!(events[0]["type"], "NODE_CONNECTED");
    assert_eq!(events[0]["sequence"], 1);
    let all = events.as_array().unwrap().iter();
    let states: Vec<String> = all
        .filter(|event| event["type"] == "INSTANCE_STATE_CHANGED")
        .map(|event| {
            assert_eq!(
                (&event["instanceId"], &event["nodeId"]),
                (&json!("lobby-1"), &json!("node-1"))
            );
            format!(
                "{}-{}",
                event["oldState"].as_str().unwrap(),
                event["newState"].as_str().unwrap()
            )
        })
        .collect();
    // States that came together are one change.
    assert_eq!(states.first().map(String::as_str), Some("SCHEDULED-SCHEDULED"));
    assert!(states.last().unwrap().ends_with("-RUNNING"), "{states:?}");
    for pair in states.windows(2) {
        let [before, after] = pair else { unreachable!() };
        assert_eq!(before.rsplit('-').next(), after.split('-').next(), "{states:?}");
    }
    let only = cluster.get("/events?since=0&type=NODE_CONNECTED&limit=1").await;
    assert_eq!(kinds(&only.1), ["NODE_CONNECTED"]);
    let (status, body) = cluster.get("/events?type=NO_SUCH").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (422, &json!("VALIDATION_ERROR")),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_it_was_and_says_what_it_cannot_give() {
    let mut cluster = Cluster::start().await;
    let mut live = cluster.events("", "").await;
    live.until("\"latestSequence\":0").await;
    for name in ["one", "two", "three"] {
        group(&cluster, name).await;
    }
    let seen = live.until(r#""groupName":"three"}"#).await;
    assert!(
        seen.contains(r#"{"type":"GROUP_CREATED","sequence":3,"check":""#),
        "{seen}"
    );
    assert!(seen.contains("\nid: 1\n"), "{seen}");
    cluster.restart().await;
    assert!(live.rest().await.contains("the controller is shutting down"));

    let mut again = cluster.events("", "Last-Event-ID: 1\r\n").await;
    let seen = again.until("\"three\"").await;
    assert!(!seen.contains("\"one\"") && seen.contains("\"two\""), "{seen}");
    let mut filtered = cluster.events("?lastSequence=0&type=GROUP_DELETED", "").await;
    assert_eq!(cluster.call("DELETE", "/groups/two", None).await.0, 204);
    let seen = filtered.until("\"GROUP_DELETED\"").await;
    assert!(!seen.contains("GROUP_CREATED"), "{seen}");
    // Of another log, or of this one before a backup was restored.
    let mut ahead = cluster.events("?lastSequence=99", "").await;
    let seen = ahead.until("RESYNC_REQUIRED").await;
    assert!(seen.contains("\"lastSequence\":99"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_stream() {
    let cluster = Cluster::start().await;
    let (status, ticket) = cluster.act("/events/ticket").await;
    assert_eq!(status, 200, "{ticket}");
    let ticket = ticket["ticket"].as_str().unwrap();
    let mut first = cluster.events_by_ticket(ticket).await;
    first.until("event: connected").await;
    for ticket in [ticket, "", "made-up"] {
        let refused = cluster.events_by_ticket(ticket).await.rest().await;
        assert!(refused.contains(r#"{"message":"Unauthorized"}"#), "{refused}");
    }
}

/// The check of the newest event
async fn newest_check(cluster: &Cluster) -> String {
    let (status, events) = cluster.get("/events?since=0").await;
    assert_eq!(status, 200, "{events}");
    events.as_array().unwrap().last().unwrap()["check"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&from, &to),
            false => drop(std::fs::copy(&from, &to).unwrap()),
        }
    }
}

/// The numbers of a restored log are given out again, and a cursor of before is one of events that never happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_from_before_a_backup_was_restored_is_recognised() {
    let mut cluster = Cluster::start().await;
    group(&cluster, "kept").await;
    let credential = cluster.enrol("node-1").await;
    cluster.stop().await;
    let data = cluster.config.data_dir.clone();
    let backup = cluster.folder.path().join("backup");
    copy(&data, &backup);
    cluster.restart().await;
    group(&cluster, "lost").await;
    let mut puppet = join_numbered(&cluster, &credential).await;
    subscribe(&puppet, &[CREATED], 0).await;
    let seen = event(&mut puppet).await;
    puppet.vanish(&cluster, "node-1").await;
    let (check, before) = (newest_check(&cluster).await, seen.sequence);
    let (_, events) = cluster.get("/events?since=0").await;
    let last = events.as_array().unwrap().last().unwrap()["sequence"]
        .as_u64()
        .unwrap();
    cluster.stop().await;

    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    cluster.restart().await;
    // As many and more, so that no number tells.
    for number in 0..last + 3 {
        group(&cluster, &format!("new-{number}")).await;
    }
    let mut stream = cluster
        .events(&format!("?lastSequence={last}&lastCheck={check}"), "")
        .await;
    stream.until("RESYNC_REQUIRED").await;
    let mut unchecked = cluster.events(&format!("?lastSequence={last}"), "").await;
    let seen_there = unchecked.until("GROUP_CREATED").await;
    assert!(!seen_there.contains("RESYNC_REQUIRED"), "{seen_there}");
    // What both logs have is gone on with.
    let (_, kept) = cluster.get("/events?since=0&limit=1").await;
    let kept = kept[0]["check"].as_str().unwrap();
    let mut same = cluster
        .events(&format!("?lastSequence=1&lastCheck={kept}"), "")
        .await;
    let seen_there = same.until("new-1").await;
    assert!(!seen_there.contains("RESYNC_REQUIRED"), "{seen_there}");
    let refused = cluster
        .events("?lastSequence=1&lastCheck=none", "")
        .await
        .rest()
        .await;
    assert!(refused.contains("VALIDATION_ERROR"), "{refused}");

    let mut puppet = join_numbered(&cluster, &credential).await;
    puppet
        .say(Payload::EventSubscribe(EventSubscribe {
            event_types: vec![CREATED.to_owned()],
            after_sequence: before,
            after_check: seen.check,
        }))
        .await;
    let told = event(&mut puppet).await;
    assert_eq!((told.event_type.as_str(), told.previous), ("", before));
    assert!(told.missed > 0 && told.sequence > before, "{told:?}");
    puppet.vanish(&cluster, "node-1").await;
}

const CREATED: &str = "me.prexorjustin.prexorcloud.api.event.events.GroupCreatedEvent";

async fn subscribe(puppet: &Puppet, names: &[&str], after_sequence: u64) {
    puppet
        .say(Payload::EventSubscribe(EventSubscribe {
            event_types: names.iter().map(|&name| name.to_owned()).collect(),
            after_sequence,
            ..EventSubscribe::default()
        }))
        .await;
}

async fn event(puppet: &mut Puppet) -> ModuleEvent {
    match puppet.next().await.unwrap() {
        ToDaemon::ModuleEvent(event) => event,
        other => panic!("expected an event, got {other:?}"),
    }
}

async fn join_numbered(cluster: &Cluster, credential: &Credential) -> Puppet {
    let mut puppet = Puppet::open(cluster, credential).await.unwrap();
    let capabilities = Capabilities::SESSION.union(Capabilities::EVENTS).to_wire();
    let hello = Handshake {
        capabilities,
        ..handshake("node-1")
    };
    puppet.say(Payload::Handshake(Box::new(hello))).await;
    assert!(matches!(puppet.next().await.unwrap(), ToDaemon::HandshakeAck(_)));
    cluster.node_status_is_connected("node-1").await;
    puppet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_java_daemon_gets_the_exact_json_and_the_three_errors() {
    let cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = Puppet::join(&cluster, &credential, "node-1").await;
    let interface = "me.prexorjustin.prexorcloud.api.event.CloudEvent";
    subscribe(
        &puppet,
        &["", "a.B", "java.lang.String", interface, CREATED, CREATED],
        1,
    )
    .await;
    for wanted in [
        "EVENT_TYPE_BLANK",
        "EVENT_TYPE_UNKNOWN",
        "EVENT_TYPE_NOT_CLOUD_EVENT",
    ] {
        match puppet.next().await.unwrap() {
            ToDaemon::ErrorReport(report) => {
                assert_eq!(
                    (report.error_code.as_str(), report.context.as_str()),
                    (wanted, "")
                );
            }
            other => panic!("expected {wanted}, got {other:?}"),
        }
    }
    group(&cluster, "one").await;
    let plain = ModuleEvent {
        event_type: CREATED.to_owned(),
        payload_json: r#"{"groupName":"one"}"#.into(),
        ..ModuleEvent::default()
    };
    assert_eq!(event(&mut puppet).await, plain);
    let gone = EventUnsubscribe {
        event_types: vec![CREATED.to_owned()],
    };
    puppet.say(Payload::EventUnsubscribe(gone)).await;
    // Its refusal says that what came before was heard.
    subscribe(&puppet, &["a.B"], 0).await;
    assert!(matches!(puppet.next().await.unwrap(), ToDaemon::ErrorReport(_)));
    group(&cluster, "two").await;
    subscribe(&puppet, &["a.B"], 0).await;
    assert!(
        matches!(puppet.next().await.unwrap(), ToDaemon::ErrorReport(_)),
        "no event before"
    );
    puppet.vanish(&cluster, "node-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_that_happened_meanwhile_arrive_in_order_after_a_restart() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    let mut puppet = join_numbered(&cluster, &credential).await;
    subscribe(&puppet, &[CREATED], 0).await;
    let mark = event(&mut puppet).await;
    assert_eq!((mark.event_type.as_str(), mark.missed), ("", 0));
    puppet.vanish(&cluster, "node-1").await;
    cluster.stop().await;
    let away = 10_000;
    happen(&cluster, away).await;
    cluster.restart().await;

    let mut puppet = join_numbered(&cluster, &credential).await;
    subscribe(&puppet, &[CREATED], mark.sequence).await;
    let mut cursor = mark.sequence;
    let mut number = 0;
    while number < away {
        let event = event(&mut puppet).await;
        assert_eq!((event.previous, event.missed), (cursor, 0));
        cursor = event.sequence;
        if !event.event_type.is_empty() {
            assert_eq!(event.payload_json, format!(r#"{{"groupName":"g{number}"}}"#));
            number += 1;
        }
    }
    puppet.vanish(&cluster, "node-1").await;
}

/// 10^5 names, most of them of nothing: the daemon is told of some, loses nothing else, and is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_subscriptions_is_refused_and_harms_nobody() {
    let cluster = Cluster::start().await;
    let (flooding, other) = (cluster.enrol("node-1").await, cluster.enrol("node-2").await);
    let mut puppet = Puppet::join(&cluster, &flooding, "node-1").await;
    let mut bystander = Puppet::join(&cluster, &other, "node-2").await;
    subscribe(&bystander, &[CREATED], 0).await;
    for part in 0..100 {
        let event_types = (0..1000).map(|number| match number % 3 {
            0 => String::new(),
            1 => "java.lang.String".to_owned(),
            _ => format!("no.such.Event{part}x{number}"),
        });
        puppet
            .say(Payload::EventSubscribe(EventSubscribe {
                event_types: event_types.collect(),
                ..EventSubscribe::default()
            }))
            .await;
    }
    // One message with too many, and one name that is too long.
    for event_types in [vec![CREATED.to_owned(); 1025], vec!["x".repeat(513)]] {
        puppet
            .say(Payload::EventSubscribe(EventSubscribe {
                event_types,
                ..EventSubscribe::default()
            }))
            .await;
    }
    subscribe(&puppet, &[CREATED], 0).await;
    eventually("the subscription that is one", async || {
        (cluster.node("node-1").await["eventTypes"] == json!([CREATED])).then_some(())
    })
    .await;
    // It is subscribed to by whoever said so before, too: what he hears says that he is heard.
    eventually("the subscription of the bystander", async || {
        (cluster.node("node-2").await["eventTypes"] == json!([CREATED])).then_some(())
    })
    .await;
    group(&cluster, "one").await;
    assert_eq!(event(&mut bystander).await.event_type, CREATED);
    let mut refusals = 0;
    loop {
        match puppet.next().await.unwrap() {
            ToDaemon::ErrorReport(report) => {
                refusals += 1;
                assert!(
                    [
                        "EVENT_TYPE_BLANK",
                        "EVENT_TYPE_UNKNOWN",
                        "EVENT_TYPE_NOT_CLOUD_EVENT",
                        "INVALID_MESSAGE"
                    ]
                    .contains(&report.error_code.as_str()),
                    "{report:?}"
                );
            }
            ToDaemon::ModuleEvent(event) => {
                assert_eq!(event.event_type, CREATED);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    // The names, as far as they are told, and the two messages that were none.
    assert_eq!(refusals, 256 + 2);
}

/// What the log has let go of is told, with what is there, and everything after it comes.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_falls_out_of_the_log_is_told_and_goes_on() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.enrol("node-1").await;
    group(&cluster, "before").await;
    cluster.stop().await;
    // More bytes than the log keeps.
    append(
        &cluster,
        (0..40).map(|number| {
            (
                "GROUP_DELETED",
                format!("d{}", number.to_string().repeat(700_000)),
            )
        }),
    )
    .await;
    append(&cluster, [("GROUP_CREATED", "after".to_owned())]).await;
    cluster.restart().await;
    let mut stream = cluster.events("?lastSequence=1&type=GROUP_CREATED", "").await;
    let seen = stream.until("\"after\"").await;
    let (resync, _) = seen.split_once("\"after\"").unwrap();
    assert!(
        resync.contains(r#""type":"RESYNC_REQUIRED""#) && resync.contains(r#""lastSequence":1"#),
        "{resync}"
    );
    let earliest: u64 = resync
        .split_once(r#""earliestSequence":"#)
        .and_then(|(_, rest)| rest.split_once(','))
        .unwrap()
        .0
        .parse()
        .unwrap();
    assert!((3..42).contains(&earliest), "{earliest}");
    let (_, page) = cluster.get("/events?since=1&type=GROUP_CREATED").await;
    assert_eq!(kinds(&page), ["RESYNC_REQUIRED", "GROUP_CREATED"]);
    let (_, page) = cluster
        .get(&format!("/events?since={}&type=GROUP_CREATED", earliest - 1))
        .await;
    assert_eq!(kinds(&page), ["GROUP_CREATED"], "nothing is missing");

    let mut puppet = join_numbered(&cluster, &credential).await;
    subscribe(&puppet, &[CREATED], 1).await;
    let mark = event(&mut puppet).await;
    assert_eq!((mark.event_type.as_str(), mark.sequence, mark.missed), ("", 1, 0));
    let first = event(&mut puppet).await;
    // All that is gone, and nothing that is there.
    assert_eq!((first.previous, first.missed), (1, earliest - 2));
    assert!(first.payload_json.ends_with(br#""after"}"#), "{first:?}");
    puppet.vanish(&cluster, "node-1").await;
}

/// Lets something have happened to groups as far as the log is concerned, each in a commit of its own
async fn append(cluster: &Cluster, events: impl IntoIterator<Item = (&str, String)>) {
    use prexorcloud_controller::{
        records::EventRecord,
        store::{SqliteOptions, SqliteStore, Store as _, Txn},
    };
    let file = cluster.config.data_dir.join("controller.db");
    let store = SqliteStore::open(file, &SqliteOptions::default()).unwrap();
    for (kind, name) in events {
        let record = EventRecord {
            kind: kind.to_owned(),
            at_ms: 1,
            payload_json: format!(r#"{{"groupName":"{name}"}}"#),
        };
        let txn = Txn::new().append(prost::Message::encode_to_vec(&record));
        assert!(store.txn(txn).await.unwrap().committed().is_some());
    }
    store.close().await.unwrap();
}

/// Lets so many groups be created as far as the log is concerned
async fn happen(cluster: &Cluster, count: usize) {
    use prexorcloud_controller::{
        records::EventRecord,
        store::{SqliteOptions, SqliteStore, Store as _, Txn},
    };
    let file = cluster.config.data_dir.join("controller.db");
    let store = SqliteStore::open(file, &SqliteOptions::default()).unwrap();
    for first in (0..count).step_by(500) {
        let txn = (first..first + 500).fold(Txn::new(), |txn, number| {
            let record = EventRecord {
                kind: "GROUP_CREATED".to_owned(),
                at_ms: 1,
                payload_json: format!(r#"{{"groupName":"g{number}"}}"#),
            };
            txn.append(prost::Message::encode_to_vec(&record))
        });
        assert!(store.txn(txn).await.unwrap().committed().is_some());
    }
    store.close().await.unwrap();
}
