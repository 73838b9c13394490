//! Why a start failed, and whether to try again

use std::time::Duration;

use prexorcloud_proto::{StartFailureDisposition, StartInstanceAck, StartPreparationStage};

use super::{FORGOTTEN, RETRIES, START_ANSWER, UNANSWERED};

/// Whether a start that failed is worth another attempt
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Trying again will not help.
    Permanent,
    /// Trying again may help; what a daemon that does not say is taken to mean.
    Transient,
}

impl From<i32> for Disposition {
    fn from(wire: i32) -> Self {
        match StartFailureDisposition::try_from(wire) {
            Ok(StartFailureDisposition::Permanent) => Self::Permanent,
            Ok(StartFailureDisposition::Transient | StartFailureDisposition::Unspecified) | Err(_) => {
                Self::Transient
            }
        }
    }
}

/// Why a start failed
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// The stage of the preparation that failed; `Unspecified` if unknown.
    pub stage: StartPreparationStage,
    /// What failed, for programs, for instance `RUNTIME_PROVISION_FAILED`.
    pub error_code: String,
    /// What failed, for people.
    pub message: String,
    /// Whether another attempt may help.
    pub disposition: Disposition,
    /// How long to wait before it.
    pub retry_after: Duration,
    /// The composition plan that was tried; empty if unknown.
    pub plan_hash: String,
}

impl StartFailure {
    /// The failure that a daemon reports.
    #[must_use]
    pub fn of(ack: &StartInstanceAck) -> Self {
        Self {
            stage: StartPreparationStage::try_from(ack.stage).unwrap_or(StartPreparationStage::Unspecified),
            error_code: ack.error_code.clone(),
            message: ack.error_message.clone(),
            disposition: ack.failure_disposition.into(),
            retry_after: Duration::from_secs(u64::try_from(ack.retry_after_seconds).unwrap_or_default()),
            plan_hash: ack.plan_hash.clone(),
        }
    }

    /// The failure of a start that was never answered.
    #[must_use]
    pub fn unanswered() -> Self {
        Self {
            stage: StartPreparationStage::Unspecified,
            error_code: UNANSWERED.to_owned(),
            message: format!("the daemon did not answer within {} s", START_ANSWER.as_secs()),
            disposition: Disposition::Transient,
            retry_after: Duration::ZERO,
            plan_hash: String::new(),
        }
    }

    /// The failure of a start that the daemon lost before it came to anything, every time.
    #[must_use]
    pub fn forgotten() -> Self {
        Self {
            error_code: FORGOTTEN.to_owned(),
            message: format!("the daemon has lost the start {} times", RETRIES + 1),
            ..Self::unanswered()
        }
    }
}
