//! Plugins inside servers: who calls, by the secret that a start was given
//!
//! A server gets its token with its start, in `CLOUD_PLUGIN_TOKEN`, and has it until it ends. Calls are numbered by the
//! plugin, and each number is higher than the last, so that what somebody overheard cannot be said again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prexorcloud_protocol::{Incarnation, InstanceId, NodeId};
use prexorcloud_security::{NoRandomness, token::ApiToken};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "ptk_";

/// Prefix and 64 hexadecimal digits
const TOKEN_LEN: usize = PREFIX.len() + 64;

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
    /// The number is not higher than the last one
    Replayed,
}

struct Admitted {
    workload: Workload,
    last_sequence: u64,
}

type Digest = [u8; 32];

/// The tokens of the starts that are not over
///
/// The tokens themselves are kept with the starts, which may have to be sent again; what is looked up here are their hashes.
#[derive(Default)]
pub(crate) struct Workloads {
    admitted: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    by_token: HashMap<Digest, Admitted>,
    tokens: HashMap<InstanceId, Digest>,
}

impl Workloads {
    /// A token for one start
    pub(crate) fn mint() -> Result<String, NoRandomness> {
        let secret = ApiToken::generate()?.hash();
        let digits = secret.as_bytes().iter().map(|byte| format!("{byte:02x}"));
        Ok(digits.fold(PREFIX.to_owned(), |token, digits| token + &digits))
    }

    /// From now on the token stands for this start of the instance, and that of an earlier one for nobody
    pub(crate) fn admit(&self, token: &str, workload: Workload) {
        if token.is_empty() {
            return;
        }
        let digest = digest(token);
        let mut tables = self.lock();
        if let Some(former) = tables.tokens.insert(workload.instance, digest) {
            tables.by_token.remove(&former);
        }
        let admitted = Admitted {
            workload,
            last_sequence: 0,
        };
        tables.by_token.insert(digest, admitted);
    }

    /// A start is over
    pub(crate) fn forget(&self, instance: InstanceId, incarnation: Incarnation) {
        let mut tables = self.lock();
        let Some(digest) = tables.tokens.get(&instance).copied() else {
            return;
        };
        let is_that = |admitted: &Admitted| admitted.workload.incarnation == incarnation;
        if tables.by_token.get(&digest).is_none_or(is_that) {
            tables.tokens.remove(&instance);
            tables.by_token.remove(&digest);
        }
    }

    /// Whether a token stands for anybody
    pub(crate) fn is_known(&self, token: &str) -> bool {
        token.len() == TOKEN_LEN && self.lock().by_token.contains_key(&digest(token))
    }

    /// Who makes the call with this number
    pub(crate) fn authenticate(&self, token: &str, sequence: u64) -> Result<Workload, NotAdmitted> {
        if token.len() != TOKEN_LEN {
            return Err(NotAdmitted::Unknown);
        }
        let mut tables = self.lock();
        let admitted = tables
            .by_token
            .get_mut(&digest(token))
            .ok_or(NotAdmitted::Unknown)?;
        if sequence <= admitted.last_sequence {
            return Err(NotAdmitted::Replayed);
        }
        admitted.last_sequence = sequence;
        Ok(admitted.workload)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(token: &str) -> Digest {
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

    #[test]
    fn a_token_stands_for_one_start_until_that_is_over() {
        let workloads = Workloads::default();
        let (first, second) = (Workloads::mint().unwrap(), Workloads::mint().unwrap());
        assert_ne!(first, second);
        assert_eq!(first.len(), TOKEN_LEN);
        assert_eq!(workloads.authenticate(&first, 1), Err(NotAdmitted::Unknown));
        workloads.admit(&first, workload(1));
        assert_eq!(workloads.authenticate(&first, 1), Ok(workload(1)));
        workloads.admit(&second, workload(2));
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
        let workloads = Workloads::default();
        let token = Workloads::mint().unwrap();
        workloads.admit(&token, workload(1));
        for (sequence, is_new) in [(2, true), (2, false), (1, false), (3, true), (0, false)] {
            let answer = workloads.authenticate(&token, sequence);
            assert_eq!(answer.is_ok(), is_new, "{sequence}: {answer:?}");
        }
    }

    #[test]
    fn a_start_without_a_token_admits_nobody() {
        let workloads = Workloads::default();
        workloads.admit("", workload(1));
        assert!(!workloads.is_known(""));
        assert_eq!(workloads.authenticate("", 1), Err(NotAdmitted::Unknown));
    }
}
