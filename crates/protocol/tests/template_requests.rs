//! Requests for templates: shared, bounded, asked again on the next stream, and given up in time
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use prexorcloud_protocol::TemplateName;
use prexorcloud_protocol::content::requests::{
    Outcome, RequestOutput, RequestsConfig, TEMPLATE_NOT_FOUND, TEMPLATE_TOO_LARGE, TEMPLATE_UNAVAILABLE,
    TemplateRequests, Wanted,
};
use prexorcloud_testkit::Clock;

const SECOND: Duration = Duration::from_secs(1);

fn name(name: &str) -> TemplateName {
    TemplateName::new(name).unwrap()
}

fn wanted(template: &str, hash: &str) -> Wanted {
    Wanted {
        name: name(template),
        hash: hash.to_owned(),
    }
}

fn ask(template: &str, known_hash: &str) -> RequestOutput {
    RequestOutput::Ask {
        wanted: wanted(template, "h"),
        known_hash: known_hash.to_owned(),
    }
}

fn settled(wanted: Wanted, outcome: Outcome) -> RequestOutput {
    RequestOutput::Settled { wanted, outcome }
}

fn outputs(requests: &mut TemplateRequests) -> Vec<RequestOutput> {
    std::iter::from_fn(|| requests.poll_output()).collect()
}

fn connected() -> (TemplateRequests, Instant) {
    let now = Clock::new().at(Duration::ZERO);
    let mut requests = TemplateRequests::new(RequestsConfig::default());
    requests.handle_connected(now);
    (requests, now)
}

#[test]
fn all_who_wait_for_the_same_content_share_one_request() {
    let (mut requests, now) = connected();
    for _ in 0..50 {
        requests.handle_wanted(now, wanted("base", "h"), "old");
    }
    assert_eq!(outputs(&mut requests), [ask("base", "old")]);
    assert_eq!(
        requests.handle_data(now, name("base"), "h"),
        [wanted("base", "h")]
    );
    assert_eq!(requests.poll_timeout(), None);
    assert!(
        requests.handle_data(now, name("base"), "h").is_empty(),
        "answered already"
    );
}

#[test]
fn an_answer_of_another_name_answers_nothing() {
    let (mut requests, now) = connected();
    requests.handle_wanted(now, wanted("base", "h"), "");
    outputs(&mut requests);
    assert!(requests.handle_data(now, name("other"), "h").is_empty());
    assert!(!requests.handle_up_to_date(now, name("other")));
    assert!(!requests.handle_error(now, TEMPLATE_NOT_FOUND, "other", ""));
    assert!(!requests.handle_error(now, TEMPLATE_NOT_FOUND, "../x", ""));
    assert!(!requests.handle_error(now, "ANYTHING", "base", ""));
    assert_eq!(outputs(&mut requests), []);
    assert!(requests.poll_timeout().is_some(), "still waiting");
}

#[test]
fn a_content_answers_who_wants_exactly_it_or_else_the_name() {
    let (mut requests, now) = connected();
    requests.handle_wanted(now, wanted("base", "1"), "");
    // Changed since the order was made.
    assert_eq!(
        requests.handle_data(now, name("base"), "3"),
        [wanted("base", "1")]
    );
    requests.handle_wanted(now, wanted("base", "2"), "");
    requests.handle_wanted(now, wanted("base", "4"), "");
    assert_eq!(
        requests.handle_data(now, name("base"), "4"),
        [wanted("base", "2"), wanted("base", "4")],
        "who waits for its turn has the answer, too"
    );
}

#[test]
fn of_one_name_one_content_is_asked_for_at_a_time() {
    let (mut requests, now) = connected();
    for hash in ["1", "2"] {
        requests.handle_wanted(now, wanted("base", hash), "old");
    }
    assert_eq!(outputs(&mut requests).len(), 1);
    assert!(requests.handle_error(now, TEMPLATE_NOT_FOUND, "base", "why"));
    let [
        RequestOutput::Settled { wanted: refused, .. },
        RequestOutput::Ask { wanted: next, .. },
    ] = &outputs(&mut requests)[..]
    else {
        panic!("an error is the answer to the one that was asked for");
    };
    assert_eq!((refused, next), (&wanted("base", "1"), &wanted("base", "2")));
    assert!(requests.handle_up_to_date(now, name("base")));
    let known_hash = "old".to_owned();
    assert_eq!(
        outputs(&mut requests),
        [settled(wanted("base", "2"), Outcome::UpToDate { known_hash })]
    );
}

#[test]
fn what_is_being_taken_has_a_place_and_no_deadline() {
    let now = Clock::new().at(Duration::ZERO);
    let mut requests = TemplateRequests::new(RequestsConfig {
        at_once: 1,
        ..RequestsConfig::default()
    });
    requests.handle_connected(now);
    requests.handle_wanted(now, wanted("a", "h"), "");
    requests.handle_wanted(now, wanted("b", "h"), "");
    assert_eq!(outputs(&mut requests), [ask("a", "")]);
    assert_eq!(requests.handle_data(now, name("a"), "h"), [wanted("a", "h")]);
    requests.handle_wanted(now, wanted("a", "h"), "");
    requests.handle_disconnected();
    requests.handle_connected(now);
    requests.handle_timeout(now + 600 * SECOND);
    assert_eq!(outputs(&mut requests), [], "the disk or the line is slow");
    requests.handle_taken(now + 600 * SECOND, &wanted("a", "h"));
    assert_eq!(outputs(&mut requests), [ask("b", "")]);
}

#[test]
fn a_late_answer_is_taken_and_who_comes_later_asks_again() {
    let (mut requests, now) = connected();
    requests.handle_wanted(now, wanted("base", "h"), "");
    requests.handle_timeout(now + 120 * SECOND);
    assert_eq!(
        outputs(&mut requests),
        [
            ask("base", ""),
            settled(wanted("base", "h"), Outcome::Overdue { asked: true })
        ]
    );
    // It may be lost.
    requests.handle_wanted(now + 121 * SECOND, wanted("base", "h"), "");
    assert_eq!(outputs(&mut requests), [ask("base", "")]);
    requests.handle_timeout(now + 241 * SECOND);
    outputs(&mut requests);
    assert_eq!(
        requests.handle_data(now + 250 * SECOND, name("base"), "h"),
        [wanted("base", "h")]
    );
    requests.handle_taken(now + 250 * SECOND, &wanted("base", "h"));
    assert!(
        requests.handle_data(now, name("base"), "h").is_empty(),
        "the other answer"
    );

    // A late error is nobody's.
    requests.handle_wanted(now, wanted("never", "h"), "");
    requests.handle_timeout(now + 400 * SECOND);
    outputs(&mut requests);
    assert!(requests.handle_error(now, TEMPLATE_NOT_FOUND, "never", ""));
    assert_eq!(outputs(&mut requests), []);
}

#[test]
fn a_late_answer_is_taken_while_another_request_waits_for_its_turn() {
    let now = Clock::new().at(Duration::ZERO);
    let mut requests = TemplateRequests::new(RequestsConfig {
        at_once: 1,
        ..RequestsConfig::default()
    });
    requests.handle_connected(now);
    requests.handle_wanted(now, wanted("a", "h"), "");
    requests.handle_timeout(now + 120 * SECOND);
    requests.handle_wanted(now + 120 * SECOND, wanted("b", "h"), "");
    requests.handle_wanted(now + 120 * SECOND, wanted("a", "h"), "");
    assert_eq!(
        outputs(&mut requests),
        [
            ask("a", ""),
            settled(wanted("a", "h"), Outcome::Overdue { asked: true }),
            ask("b", "")
        ]
    );
    assert_eq!(requests.handle_data(now, name("a"), "h"), [wanted("a", "h")]);
}

#[test]
fn an_artifact_that_is_gone_is_asked_for_again_a_few_times() {
    let (mut requests, now) = connected();
    requests.handle_wanted(now, wanted("base", "h"), "");
    for _ in 0..2 {
        assert_eq!(outputs(&mut requests), [ask("base", "")]);
        assert_eq!(requests.handle_data(now, name("base"), "h").len(), 1);
        requests.handle_gone(now, &wanted("base", "h"), "why");
    }
    assert_eq!(outputs(&mut requests), [ask("base", "")]);
    assert_eq!(requests.handle_data(now, name("base"), "h").len(), 1);
    requests.handle_gone(now, &wanted("base", "h"), "why");
    let outcome = Outcome::Refused {
        code: TEMPLATE_UNAVAILABLE.to_owned(),
        message: "why".to_owned(),
    };
    assert_eq!(outputs(&mut requests), [settled(wanted("base", "h"), outcome)]);
}

#[test]
fn up_to_date_means_what_was_named_as_known() {
    let (mut requests, now) = connected();
    requests.handle_wanted(now, wanted("base", "h"), "old");
    requests.handle_wanted(now, wanted("none", "h"), "");
    outputs(&mut requests);
    assert!(requests.handle_up_to_date(now, name("base")));
    let known_hash = "old".to_owned();
    assert_eq!(
        outputs(&mut requests),
        [settled(wanted("base", "h"), Outcome::UpToDate { known_hash })]
    );
    assert!(requests.handle_up_to_date(now, name("none")));
    let [
        RequestOutput::Settled {
            outcome: Outcome::Refused { code, .. },
            ..
        },
    ] = &outputs(&mut requests)[..]
    else {
        panic!("nothing was known");
    };
    assert_eq!(code, "TEMPLATE_ANSWER_INVALID");
}

#[test]
fn an_error_report_settles_at_once() {
    for code in [TEMPLATE_NOT_FOUND, TEMPLATE_TOO_LARGE] {
        let (mut requests, now) = connected();
        requests.handle_wanted(now, wanted("base", "h"), "");
        outputs(&mut requests);
        assert!(requests.handle_error(now, code, "base", "why"));
        let outcome = Outcome::Refused {
            code: code.to_owned(),
            message: "why".to_owned(),
        };
        assert_eq!(outputs(&mut requests), [settled(wanted("base", "h"), outcome)]);
    }
}

#[test]
fn a_lost_stream_is_asked_again_on_the_next_within_one_deadline() {
    let (mut requests, now) = connected();
    requests.handle_wanted(now, wanted("base", "h"), "");
    assert_eq!(outputs(&mut requests), [ask("base", "")]);
    requests.handle_disconnected();
    assert!(
        requests.handle_data(now, name("base"), "h").is_empty(),
        "of a stream that is gone"
    );
    requests.handle_connected(now + 60 * SECOND);
    assert_eq!(outputs(&mut requests), [ask("base", "")]);
    assert_eq!(requests.poll_timeout().unwrap().at, now + 120 * SECOND);
    requests.handle_timeout(now + 119 * SECOND);
    assert_eq!(outputs(&mut requests), []);
    requests.handle_timeout(now + 120 * SECOND);
    assert_eq!(
        outputs(&mut requests),
        [settled(wanted("base", "h"), Outcome::Overdue { asked: true })]
    );
}

#[test]
fn without_a_session_it_is_overdue_too() {
    let now = Clock::new().at(Duration::ZERO);
    let mut requests = TemplateRequests::new(RequestsConfig::default());
    requests.handle_wanted(now, wanted("base", "h"), "");
    requests.handle_timeout(now + 120 * SECOND);
    assert_eq!(
        outputs(&mut requests),
        [settled(wanted("base", "h"), Outcome::Overdue { asked: false })]
    );
}

#[test]
fn what_could_not_be_sent_waits_for_the_next_stream() {
    let (mut requests, now) = connected();
    requests.handle_wanted(now, wanted("base", "h"), "");
    outputs(&mut requests);
    requests.handle_unsent(&wanted("base", "h"));
    assert_eq!(outputs(&mut requests), []);
    requests.handle_disconnected();
    requests.handle_connected(now);
    assert_eq!(outputs(&mut requests), [ask("base", "")]);
}

#[test]
fn a_few_are_under_way_and_only_for_them_the_clock_runs() {
    let now = Clock::new().at(Duration::ZERO);
    let config = RequestsConfig {
        at_once: 1,
        most: 2,
        ..RequestsConfig::default()
    };
    let mut requests = TemplateRequests::new(config);
    requests.handle_connected(now);
    for template in ["a", "b", "c"] {
        requests.handle_wanted(now, wanted(template, "h"), "");
    }
    assert_eq!(
        outputs(&mut requests),
        [ask("a", ""), settled(wanted("c", "h"), Outcome::TooMany)]
    );
    requests.handle_timeout(now + 120 * SECOND);
    assert_eq!(
        outputs(&mut requests),
        [
            settled(wanted("a", "h"), Outcome::Overdue { asked: true }),
            ask("b", "")
        ]
    );
    assert_eq!(requests.poll_timeout().unwrap().at, now + 240 * SECOND);
}
