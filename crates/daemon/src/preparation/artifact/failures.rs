//! What came of downloads that others waited for
//!
//! Starts of one content wait for one download. Where that fails after minutes, those who waited have seen it fail as well: one
//! after the other trying the same again would take minutes each.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use reqwest::Url;

/// Whoever has waited for longer than so many other failures tries again
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<VecDeque<Failure>>);

#[derive(Debug)]
struct Failure {
    url: Url,
    problem: String,
    ended: Instant,
}

impl Failures {
    /// Why a download from there failed, if one has since then
    pub(super) fn since(&self, url: &Url, asked: Instant) -> Option<String> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = failures.iter().rev().find(|failure| failure.url == *url)?;
        (found.ended >= asked).then(|| found.problem.clone())
    }

    pub(super) fn note(&self, url: Url, problem: String) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() == MOST {
            failures.pop_front();
        }
        failures.push_back(Failure {
            url,
            problem,
            ended: Instant::now(),
        });
    }
}
