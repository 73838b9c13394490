//! What happens is seen by whoever watches, across the sudden end of the controller

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::rig::{Rig, eventually};

/// Groups that were answered, in their order, and how many that is by now
struct Making {
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Making {
    fn start(http: SocketAddr, token: String) -> Self {
        let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut made = Vec::new();
            for number in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let name = format!("group-{number}");
                if make(http, &token, &name).is_ok_and(|answer| answer.starts_with("HTTP/1.1 201 ")) {
                    made.push(name);
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
            made
        });
        Self { count, stop, thread }
    }

    fn await_more(&self, more: usize) {
        let before = self.count.load(Ordering::SeqCst);
        eventually("more groups", || {
            (self.count.load(Ordering::SeqCst) >= before + more).then_some(())
        });
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn make(http: SocketAddr, token: &str, name: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(http)?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    let body = format!(r#"{{"name":"{name}"}}"#);
    let head = format!(
        "POST /api/v1/groups HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all((head + &body).as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn nothing_that_was_committed_is_lost_to_who_watches_a_controller_that_is_killed() {
    let mut rig = Rig::with_controller();
    let token = fs::read_to_string(rig.path("controller/admin.token")).unwrap();
    let token = token.trim().to_owned();
    let seen = rig.path("seen");
    let watching = [
        "event",
        "watch",
        "--since",
        "0",
        "--type",
        "GROUP_CREATED",
        "-o",
        "json",
    ];
    let mut watch = rig.ctl_command(&watching).into_command();
    watch
        .env("PREXOR_TOKEN", &token)
        .stdout(fs::File::create(&seen).unwrap())
        .stderr(rig.log("watch"));
    let mut watch = watch.spawn().unwrap();

    let making = Making::start(rig.http(), token);
    // A program that never had a connection gives up at once.
    eventually("the first event", || {
        (fs::metadata(&seen).unwrap().len() > 0).then_some(())
    });
    for _ in 0..3 {
        making.await_more(15);
        rig.kill_controller();
        rig.start_controller();
    }
    making.await_more(15);
    let made = making.end();
    let last = made.last().unwrap().clone();
    let text = eventually("the last event", || {
        if let Some(status) = watch.try_wait().unwrap() {
            panic!("the watch ended, {status}: {}", rig.log_text("watch"));
        }
        let text = fs::read_to_string(&seen).unwrap();
        text.contains(&format!("\"{last}\"")).then_some(text)
    });
    watch.kill().unwrap();
    watch.wait().unwrap();

    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let events: Vec<Value> = whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let numbers: Vec<u64> = events
        .iter()
        .map(|event| event["sequence"].as_u64().unwrap())
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "in order and once: {numbers:?}"
    );
    let told: Vec<&str> = events
        .iter()
        .map(|event| event["groupName"].as_str().unwrap())
        .collect();
    let names: BTreeSet<&str> = told.iter().copied().collect();
    assert_eq!(names.len(), told.len(), "{told:?}");
    let lost: Vec<&String> = made
        .iter()
        .filter(|name| !names.contains(name.as_str()))
        .collect();
    assert!(lost.is_empty(), "{lost:?} of {}", made.len());
}
