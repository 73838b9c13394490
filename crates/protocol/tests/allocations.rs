//! The machines allocate nothing per message once they are warm
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
#![allow(unsafe_code, reason = "a counting allocator is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use prexorcloud_protocol::instance::State;
use prexorcloud_protocol::peer::DaemonPeer;
use prexorcloud_protocol::proto::{InstanceStatusUpdate, StartInstance, StartInstanceAck};
use prexorcloud_protocol::roster::ReconcilePolicy;
use prexorcloud_protocol::roster::Roster;
use prexorcloud_protocol::unstable::heartbeat::{HeartbeatConfig, ProbeOutput, Prober, SilenceWatch};
use prexorcloud_protocol::{Capabilities, InstanceId, NodeId};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nobody who asks.
    let _ = ALLOCATIONS.try_with(|counter| counter.set(counter.get() + 1));
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(act: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    act();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(Box::new(7))), 1);
}

#[test]
fn a_heartbeat_costs_no_allocation() {
    let start = Instant::now();
    let mut prober = Prober::new(start, HeartbeatConfig::default());
    let mut watch = SilenceWatch::new(start, prober.interval());
    let spent = allocations(|| {
        for tick in 1..1_000_u32 {
            let now = start + tick * Duration::from_secs(30);
            prober.handle_timeout(now);
            while let Some(output) = prober.poll_output() {
                if let ProbeOutput::SendPing { sequence, .. } = output {
                    watch.handle_message(now);
                    prober.handle_pong(now, sequence).unwrap();
                    assert!(prober.handle_pong(now, sequence).is_err());
                }
            }
            assert_eq!(watch.handle_timeout(now), None);
        }
    });
    assert_eq!(spent, 0);
}

#[test]
fn a_report_costs_no_allocation() {
    let now = Instant::now();
    let mut roster = Roster::new(NodeId::new("node-1").unwrap());
    let policy = ReconcilePolicy {
        peer: DaemonPeer::of(Capabilities::SESSION),
        ..Default::default()
    };
    roster.handle_handshake(now, &[], &policy);
    let ids: Vec<InstanceId> = (0..100)
        .map(|index| format!("lobby-{index}").parse().unwrap())
        .collect();
    for id in &ids {
        let start = StartInstance {
            instance_id: id.to_string(),
            group: "lobby".into(),
            port: 30_000,
            incarnation: 2,
            max_lifetime_seconds: 86_400,
            ..Default::default()
        };
        let _ = roster.start(now, Box::new(start));
    }
    while roster.poll_dispatch().is_some() {}
    let status = |id: &InstanceId, incarnation, state: State| InstanceStatusUpdate {
        instance_id: id.to_string(),
        state: state.to_wire(),
        port: 30_000,
        player_count: 7,
        uptime_ms: 60_000,
        incarnation,
        ..Default::default()
    };
    let running: Vec<_> = ids.iter().map(|id| status(id, 2, State::Running)).collect();
    let stale: Vec<_> = ids.iter().map(|id| status(id, 1, State::Stopped)).collect();
    let impossible: Vec<_> = ids.iter().map(|id| status(id, 2, State::Preparing)).collect();
    let late = StartInstanceAck {
        instance_id: "lobby-7".into(),
        error_code: "INSTANCE_ALREADY_RUNNING".into(),
        incarnation: 2,
        ..Default::default()
    };
    let round = |roster: &mut Roster| {
        for index in 0..ids.len() {
            assert!(roster.handle_status(now, &running[index]).is_accepted());
            assert!(!roster.handle_status(now, &stale[index]).is_accepted());
            assert!(!roster.handle_status(now, &impossible[index]).is_accepted());
            let _ = roster.drain(now, ids[index]);
            let _ = roster.undrain(now, ids[index]);
            let _ = roster.handle_start_ack(now, &late);
            roster.handle_timeout(now);
            assert!(roster.poll_timeout().is_some());
            while roster.poll_event().is_some() {}
            assert!(roster.poll_dispatch().is_none());
        }
    };
    round(&mut roster);
    assert_eq!(allocations(|| round(&mut roster)), 0);
}
