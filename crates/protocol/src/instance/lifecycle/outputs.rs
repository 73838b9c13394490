//! What a lifecycle has to say, in the order in which it came about

use crate::instance::{Cause, LifecycleOutput, State};

/// News and work that nobody has polled yet
///
/// One of each kind at most: what is told again takes the place of what was not polled, and moves to the end. So there
/// is room for everything in a fixed place, and thousands of instances that nobody polls do not grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outputs([Option<LifecycleOutput>; 6]);

impl Outputs {
    pub(super) fn push(&mut self, output: LifecycleOutput) {
        let kind = std::mem::discriminant(&output);
        self.take(|known| std::mem::discriminant(known) == kind);
        if let Some(free) = self.0.iter_mut().find(|place| place.is_none()) {
            *free = Some(output);
        }
    }

    /// A change joins the one that nobody has polled; there and back is no change.
    pub(super) fn push_change(&mut self, from: State, to: State, cause: Cause) {
        let from = match self.take(|known| matches!(known, LifecycleOutput::Changed { .. })) {
            Some(LifecycleOutput::Changed { from: first, .. }) => first,
            _ => from,
        };
        if from != to {
            self.push(LifecycleOutput::Changed { from, to, cause });
        }
    }

    /// There is nothing left to stop, or nobody wants it stopped.
    pub(super) fn forget_stop(&mut self) {
        self.take(|known| matches!(known, LifecycleOutput::Stop(_)));
    }

    pub(super) fn pop(&mut self) -> Option<LifecycleOutput> {
        self.take(|_| true)
    }

    fn take(&mut self, of: impl Fn(&LifecycleOutput) -> bool) -> Option<LifecycleOutput> {
        let at = self.0.iter().position(|place| place.as_ref().is_some_and(&of))?;
        let taken = self.0[at].take();
        self.0[at..].rotate_left(1);
        taken
    }
}
