//! Plugins inside servers: who calls, by the secret that a start was given
//!
//! A server gets its token with its start, in `CLOUD_PLUGIN_TOKEN`. It is good for [`LIFE`] from when the server is launched
//! and can be exchanged for another one for as long again; none outlives the server. Calls are numbered by the plugin, and each
//! number is higher than the last, so that what somebody overheard cannot be said again. Only hashes are kept.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prexorcloud_protocol::{Incarnation, InstanceId, NodeId};
use prexorcloud_security::{NoRandomness, token::ApiToken};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "ptk_";

/// Prefix and 64 hexadecimal digits
const TOKEN_LEN: usize = PREFIX.len() + 64;

/// How long a token is good for, and how long after that it can still be exchanged
pub(crate) const LIFE: Duration = Duration::from_secs(15 * 60);

/// Calls of one plugin at once, and one more each second: it says that its server is ready every few seconds
const BURST: u32 = 60;

/// One start of an instance, as its plugin proved to be inside of
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) node: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
}

/// Why a call of a plugin is not carried out
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// The token stands for nobody, or for a start that is over
    Unknown,
    /// The number is not higher than the last one, or the time of the token is over
    Replayed,
    /// It calls too often
    TooOften,
}

/// What a call is for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Anything that a token is for
    Call,
    /// Another token
    Exchange,
}

struct Admitted {
    workload: Workload,
    last_sequence: u64,
    /// `None` until the server is launched
    expires: Option<Instant>,
    calls: Calls,
}

/// How many calls are left to a plugin
struct Calls {
    left: u32,
    counted: Option<Instant>,
    is_named: bool,
}

impl Calls {
    /// Whether one more is taken; the log is told of the first that is not, once until it has calmed down
    fn take(&mut self, now: Instant, workload: &Workload) -> bool {
        let seconds = self
            .counted
            .map_or(0, |counted| now.saturating_duration_since(counted).as_secs());
        if seconds > 0 || self.counted.is_none() {
            self.counted = Some(now);
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(BURST);
        }
        self.is_named &= self.left < BURST;
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return true;
        }
        if !std::mem::replace(&mut self.is_named, true) {
            tracing::warn!(node = %workload.node, instance = %workload.instance, "a plugin calls too often, and is not heard until it calls less");
        }
        false
    }
}

pub(crate) type Digest = [u8; 32];

/// The tokens of the starts that are not over, by their hashes
#[derive(Default)]
pub(crate) struct Workloads {
    admitted: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    by_token: HashMap<Digest, Admitted>,
    /// More than one only where a start may go out again, and its first token may have arrived
    tokens: HashMap<InstanceId, Vec<Digest>>,
}

impl Workloads {
    /// A token for one start
    pub(crate) fn mint() -> Result<String, NoRandomness> {
        let secret = ApiToken::generate()?.hash();
        let digits = secret.as_bytes().iter().map(|byte| format!("{byte:02x}"));
        Ok(digits.fold(PREFIX.to_owned(), |token, digits| token + &digits))
    }

    /// From now on the token stands for this start of the instance, beside others of the same start; those of an earlier
    /// one stand for nobody. `None` = its time begins with the server
    pub(crate) fn admit(&self, hash: Digest, workload: Workload, expires: Option<Instant>) {
        let mut tables = self.lock();
        let is_it = |known: &Admitted| known.workload.incarnation == workload.incarnation;
        let is_same = tables
            .tokens
            .get(&workload.instance)
            .and_then(|hashes| tables.by_token.get(hashes.first()?))
            .is_some_and(is_it);
        if !is_same {
            tables.remove(workload.instance);
        }
        tables.tokens.entry(workload.instance).or_default().push(hash);
        let admitted = Admitted {
            workload,
            last_sequence: 0,
            expires,
            calls: Calls {
                left: BURST,
                counted: None,
                is_named: false,
            },
        };
        tables.by_token.insert(hash, admitted);
    }

    /// The token stands for this start of the instance, and no other one does any more
    pub(crate) fn replace(&self, hash: Digest, workload: Workload, expires: Instant) {
        self.lock().remove(workload.instance);
        self.admit(hash, workload, Some(expires));
    }

    /// The server is launched: the time of its token begins
    pub(crate) fn begin(&self, instance: InstanceId, incarnation: Incarnation, now: Instant) {
        let mut tables = self.lock();
        let Tables { by_token, tokens } = &mut *tables;
        for hash in tokens.get(&instance).into_iter().flatten() {
            if let Some(admitted) = by_token.get_mut(hash)
                && admitted.workload.incarnation == incarnation
            {
                admitted.expires = admitted.expires.or_else(|| now.checked_add(LIFE));
            }
        }
    }

    /// A start is over
    pub(crate) fn forget(&self, instance: InstanceId, incarnation: Incarnation) {
        let mut tables = self.lock();
        let first = tables
            .tokens
            .get(&instance)
            .and_then(|hashes| hashes.first().copied());
        let known = first.and_then(|hash| tables.by_token.get(&hash));
        if known.is_none_or(|known| known.workload.incarnation == incarnation) {
            tables.remove(instance);
        }
    }

    /// Whether a token stands for anybody
    pub(crate) fn is_known(&self, token: &str) -> bool {
        token.len() == TOKEN_LEN && self.lock().by_token.contains_key(&digest(token))
    }

    /// Who makes the call with this number
    pub(crate) fn authenticate(
        &self,
        token: &str,
        sequence: u64,
        purpose: Purpose,
        now: Instant,
    ) -> Result<Workload, NotAdmitted> {
        if token.len() != TOKEN_LEN {
            return Err(NotAdmitted::Unknown);
        }
        let mut tables = self.lock();
        let admitted = tables
            .by_token
            .get_mut(&digest(token))
            .ok_or(NotAdmitted::Unknown)?;
        if !admitted.calls.take(now, &admitted.workload) {
            return Err(NotAdmitted::TooOften);
        }
        let grace = match purpose {
            Purpose::Call => Duration::ZERO,
            Purpose::Exchange => LIFE,
        };
        let is_over = admitted.expires.is_some_and(|expires| now >= expires + grace);
        if is_over || sequence <= admitted.last_sequence {
            return Err(NotAdmitted::Replayed);
        }
        admitted.last_sequence = sequence;
        Ok(admitted.workload)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn remove(&mut self, instance: InstanceId) {
        for hash in self.tokens.remove(&instance).into_iter().flatten() {
            self.by_token.remove(&hash);
        }
    }
}

/// What is kept of a token
pub(crate) fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn workload(incarnation: u64) -> Workload {
        Workload {
            node: "node-1".parse().unwrap(),
            instance: "lobby-1".parse().unwrap(),
            incarnation: Incarnation::new(incarnation),
        }
    }

    fn call(
        workloads: &Workloads,
        token: &str,
        sequence: u64,
        now: Instant,
    ) -> Result<Workload, NotAdmitted> {
        workloads.authenticate(token, sequence, Purpose::Call, now)
    }

    #[test]
    fn a_token_stands_for_one_start_until_that_is_over() {
        let (workloads, now) = (Workloads::default(), Instant::now());
        let (first, second) = (Workloads::mint().unwrap(), Workloads::mint().unwrap());
        assert_ne!(first, second);
        assert_eq!(first.len(), TOKEN_LEN);
        assert_eq!(call(&workloads, &first, 1, now), Err(NotAdmitted::Unknown));
        workloads.admit(digest(&first), workload(1), None);
        assert_eq!(call(&workloads, &first, 1, now), Ok(workload(1)));
        workloads.admit(digest(&second), workload(2), None);
        assert!(!workloads.is_known(&first) && workloads.is_known(&second));
        // The end of the first is heard late.
        workloads.forget(workload(1).instance, Incarnation::new(1));
        assert!(workloads.is_known(&second));
        workloads.forget(workload(2).instance, Incarnation::new(2));
        assert!(!workloads.is_known(&second));
        assert!(workloads.lock().by_token.is_empty() && workloads.lock().tokens.is_empty());
    }

    #[test]
    fn numbers_rise() {
        let (workloads, now) = (Workloads::default(), Instant::now());
        let token = Workloads::mint().unwrap();
        workloads.admit(digest(&token), workload(1), None);
        for (sequence, is_new) in [(2, true), (2, false), (1, false), (3, true), (0, false)] {
            let answer = call(&workloads, &token, sequence, now);
            assert_eq!(answer.is_ok(), is_new, "{sequence}: {answer:?}");
        }
    }

    #[test]
    fn a_token_is_good_for_a_while_from_the_launch_and_can_be_exchanged_for_as_long_again() {
        let (workloads, ordered) = (Workloads::default(), Instant::now());
        let token = Workloads::mint().unwrap();
        workloads.admit(digest(&token), workload(1), None);
        // A preparation may take longer than a token lives.
        let launched = ordered + 3 * LIFE;
        assert!(call(&workloads, &token, 1, launched).is_ok());
        workloads.begin(workload(1).instance, Incarnation::new(1), launched);
        let second = Duration::from_secs(1);
        assert!(call(&workloads, &token, 2, launched + LIFE - second).is_ok());
        assert_eq!(
            call(&workloads, &token, 3, launched + LIFE),
            Err(NotAdmitted::Replayed)
        );
        let exchange = |sequence, now| workloads.authenticate(&token, sequence, Purpose::Exchange, now);
        assert_eq!(exchange(3, launched + 2 * LIFE), Err(NotAdmitted::Replayed));
        assert!(exchange(3, launched + 2 * LIFE - second).is_ok());
        let next = Workloads::mint().unwrap();
        workloads.replace(digest(&next), workload(1), launched + 3 * LIFE);
        assert_eq!(call(&workloads, &token, 4, launched), Err(NotAdmitted::Unknown));
        assert!(call(&workloads, &next, 1, launched + 3 * LIFE - second).is_ok());
    }

    #[test]
    fn a_start_that_goes_out_again_has_two_tokens_and_both_end_with_it() {
        let (workloads, now) = (Workloads::default(), Instant::now());
        let (first, second) = (Workloads::mint().unwrap(), Workloads::mint().unwrap());
        workloads.admit(digest(&first), workload(1), None);
        workloads.admit(digest(&second), workload(1), None);
        assert!(call(&workloads, &first, 1, now).is_ok() && call(&workloads, &second, 1, now).is_ok());
        workloads.forget(workload(1).instance, Incarnation::new(1));
        assert!(!workloads.is_known(&first) && !workloads.is_known(&second));
    }

    #[test]
    fn a_plugin_that_hammers_is_not_heard_and_nobody_else_notices() {
        let (workloads, now) = (Workloads::default(), Instant::now());
        let (loud, quiet) = (Workloads::mint().unwrap(), Workloads::mint().unwrap());
        workloads.admit(digest(&loud), workload(1), None);
        let other = Workload {
            instance: "lobby-2".parse().unwrap(),
            ..workload(1)
        };
        workloads.admit(digest(&quiet), other, None);
        let answers = (1..=1000).map(|sequence| call(&workloads, &loud, sequence, now));
        let heard = answers.filter(Result::is_ok).count();
        assert_eq!(heard, BURST as usize);
        assert_eq!(call(&workloads, &loud, 2000, now), Err(NotAdmitted::TooOften));
        assert!(call(&workloads, &quiet, 1, now).is_ok());
        assert!(call(&workloads, &loud, 2000, now + Duration::from_secs(1)).is_ok());
    }
}
