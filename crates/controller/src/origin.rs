//! What is recorded of a start and told to no daemon: the values that somebody gave for it, and why its group gave the order
//!
//! A server that its group brings back gets the values again that it was started with. They outlive its end, and are kept as
//! long as nobody has asked for that end, sealed like what is [secret](crate::secrets) in an order: with the key that lies
//! beside the authority's, for one start of one instance. What comes back is another start, and seals them anew.

use std::{collections::BTreeMap, fmt};

use prexorcloud_security::{NoRandomness, seal::SealingKey};
use prost::Message as _;

use crate::records::{InstanceRecord, Wanted};

/// Longest reason that is recorded, in bytes
const MAX_REASON: usize = 1024;

/// Where a start comes from
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    /// What its group is to start it with again
    pub(crate) given: GivenValues,
    /// Why its group gave the order, for people; empty = somebody did
    pub(crate) reason: String,
}

/// Values of variables that were given at a start; printing it shows none of them
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct GivenValues(pub(crate) BTreeMap<String, String>);

impl fmt::Debug for GivenValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The same, as it is sealed
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Values {
    #[prost(btree_map = "string, string", tag = "1")]
    by_key: BTreeMap<String, String>,
}

/// What is kept of an earlier start cannot be read
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Notes where a start comes from, in the record that begins with it
///
/// # Errors
/// [`NoRandomness`]; nothing is noted then.
pub(crate) fn note(
    key: &SealingKey,
    record: &mut InstanceRecord,
    origin: &Origin,
) -> Result<(), NoRandomness> {
    if let Some(start) = &record.start
        && !origin.given.0.is_empty()
    {
        let values = Values {
            by_key: origin.given.0.clone(),
        };
        record.sealed_given = key.seal(
            &context(&start.instance_id, start.incarnation),
            &values.encode_to_vec(),
        )?;
    }
    record.started_because = shortened(&origin.reason);
    Ok(())
}

/// The values that were given at the start that is recorded, as long as it is to run
///
/// # Errors
/// [`Unreadable`] when they were sealed with another key, or for another start.
pub(crate) fn given(key: &SealingKey, record: &InstanceRecord) -> Result<GivenValues, Unreadable> {
    let Some(start) = &record.start else {
        return Ok(GivenValues::default());
    };
    if record.sealed_given.is_empty() || record.wanted() != Wanted::Run {
        return Ok(GivenValues::default());
    }
    opened(key, &start.instance_id, start.incarnation, &record.sealed_given)
}

/// Values that were taken from the record of a start before it was stopped
///
/// # Errors
/// [`Unreadable`] when they were sealed with another key, or for another start.
pub(crate) fn opened(
    key: &SealingKey,
    instance: &str,
    incarnation: u64,
    sealed: &[u8],
) -> Result<GivenValues, Unreadable> {
    let opened = key
        .open(&context(instance, incarnation), sealed)
        .map_err(|_| Unreadable)?;
    let values = Values::decode(opened.as_slice()).map_err(|_| Unreadable)?;
    Ok(GivenValues(values.by_key))
}

/// Forgets all of it, since the record is about another start now
pub(crate) fn forget(record: &mut InstanceRecord) {
    record.sealed_given.clear();
    record.started_because.clear();
}

/// What is sealed is of one start of one instance, and is no other secret of it
fn context(instance: &str, incarnation: u64) -> Vec<u8> {
    format!("given\n{instance}#{incarnation}").into_bytes()
}

fn shortened(reason: &str) -> String {
    let mut ends = (0..=MAX_REASON.min(reason.len())).rev();
    let end = ends.find(|end| reason.is_char_boundary(*end));
    reason.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use prexorcloud_proto::StartInstance;

    use super::*;
    use crate::secrets;

    fn record(incarnation: u64) -> InstanceRecord {
        InstanceRecord {
            instance_id: "lobby-1".to_owned(),
            start: Some(StartInstance {
                instance_id: "lobby-1".to_owned(),
                incarnation,
                ..StartInstance::default()
            }),
            ..InstanceRecord::default()
        }
    }

    fn origin() -> Origin {
        Origin {
            given: GivenValues([("PW".to_owned(), "hunter2".to_owned())].into()),
            reason: "é".repeat(MAX_REASON),
        }
    }

    #[test]
    fn values_outlive_the_secrets_of_a_start_and_open_for_that_start_alone() {
        let key = SealingKey::generate().unwrap();
        let mut noted = record(3);
        note(&key, &mut noted, &origin()).unwrap();
        assert_eq!(noted.started_because.len(), MAX_REASON);
        assert!(!format!("{:?}", origin()).contains("hunter2"));
        let bytes = noted.encode_to_vec();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        secrets::remove(&mut noted);
        assert_eq!(given(&key, &noted), Ok(origin().given));
        assert_eq!(given(&SealingKey::generate().unwrap(), &noted), Err(Unreadable));
        let other = InstanceRecord {
            sealed_given: noted.sealed_given.clone(),
            ..record(4)
        };
        assert_eq!(given(&key, &other), Err(Unreadable));
        noted.set_wanted(Wanted::Stop);
        assert_eq!(given(&key, &noted), Ok(GivenValues::default()));
        forget(&mut noted);
        assert!(noted.sealed_given.is_empty() && noted.started_because.is_empty());
    }

    #[test]
    fn a_start_without_values_keeps_nothing() {
        let key = SealingKey::generate().unwrap();
        let mut noted = record(1);
        note(&key, &mut noted, &Origin::default()).unwrap();
        assert_eq!(noted, record(1));
        assert_eq!(given(&key, &noted), Ok(GivenValues::default()));
    }
}
