//! Rules for what has several parts: lists, maps, and messages within messages

use std::collections::HashMap;
use std::marker::PhantomData;

use super::rule::{Checked, FieldRule, Fields, Judge, Otherwise, Rule, ensure, told};
use crate::validate::Fault;

/// How many entries a list or map may have
pub(super) struct Entries {
    limit: usize,
    otherwise: Otherwise,
}

impl Entries {
    pub(super) const fn refused(limit: usize) -> Self {
        Self {
            limit,
            otherwise: Otherwise::Refused,
        }
    }

    /// Those that are first remain: of a list its beginning, of a map its smallest keys.
    pub(super) const fn dropped(limit: usize) -> Self {
        Self {
            limit,
            otherwise: Otherwise::Dropped,
        }
    }

    fn judge(&self, field: &'static str, entries: usize) -> Checked {
        ensure(field, entries <= self.limit, Fault::TooMany { limit: self.limit })
    }
}

impl Rule for Entries {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        let rule = format!("at most {} entries", self.limit);
        told(field, rule, self.otherwise, rules);
    }
}

impl<T> Judge<Vec<T>> for Entries {
    #[inline]
    fn check(&self, field: &'static str, value: &Vec<T>) -> Checked {
        self.judge(field, value.len())
    }

    fn fit(&self, value: &mut Vec<T>) {
        if self.otherwise == Otherwise::Dropped {
            value.truncate(self.limit);
        }
    }
}

impl Judge<HashMap<String, String>> for Entries {
    #[inline]
    fn check(&self, field: &'static str, value: &HashMap<String, String>) -> Checked {
        self.judge(field, value.len())
    }

    fn fit(&self, value: &mut HashMap<String, String>) {
        if self.otherwise == Otherwise::Dropped && value.len() > self.limit {
            // A map has no order of its own; the keys decide, so that the same map loses the same entries.
            let mut keys: Vec<_> = value.keys().cloned().collect();
            keys.sort_unstable();
            for key in keys.drain(self.limit..) {
                value.remove(&key);
            }
        }
    }
}

/// A rule for each entry of a list
pub(super) struct Each<R>(pub(super) R);

impl<R: Rule> Rule for Each<R> {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        self.0.tell(&format!("{field}[]"), rules);
    }
}

impl<T, R: Judge<T>> Judge<Vec<T>> for Each<R> {
    #[inline]
    fn check(&self, field: &'static str, value: &Vec<T>) -> Checked {
        value.iter().try_for_each(|entry| self.0.check(field, entry))
    }

    fn fit(&self, value: &mut Vec<T>) {
        value.iter_mut().for_each(|entry| self.0.fit(entry));
    }
}

/// A rule for each entry of a list; an entry of ours that breaks it is left out
pub(super) struct Only<R>(pub(super) R);

impl<R: Rule> Rule for Only<R> {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        let begin = rules.len();
        self.0.tell(&format!("{field}[]"), rules);
        for rule in rules.iter_mut().skip(begin) {
            rule.otherwise = Otherwise::Dropped;
        }
    }
}

impl<T, R: Judge<T>> Judge<Vec<T>> for Only<R> {
    #[inline]
    fn check(&self, field: &'static str, value: &Vec<T>) -> Checked {
        value.iter().try_for_each(|entry| self.0.check(field, entry))
    }

    fn fit(&self, value: &mut Vec<T>) {
        value.retain(|entry| self.0.check("", entry).is_ok());
    }
}

/// A rule for each key of a map; an entry of ours whose key breaks it is left out
pub(super) struct Keys<R>(pub(super) R, pub(super) Otherwise);

impl<R: Rule> Rule for Keys<R> {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        let begin = rules.len();
        self.0.tell(&format!("{field}[key]"), rules);
        for rule in rules.iter_mut().skip(begin) {
            rule.otherwise = self.1;
        }
    }
}

impl<V, R: Judge<String>> Judge<HashMap<String, V>> for Keys<R> {
    fn check(&self, field: &'static str, value: &HashMap<String, V>) -> Checked {
        value.keys().try_for_each(|key| self.0.check(field, key))
    }

    fn fit(&self, value: &mut HashMap<String, V>) {
        if self.1 == Otherwise::Dropped {
            value.retain(|key, _| self.0.check("", key).is_ok());
        }
    }
}

/// A rule for each value of a map
pub(super) struct Values<R>(pub(super) R);

impl<R: Rule> Rule for Values<R> {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        self.0.tell(&format!("{field}[value]"), rules);
    }
}

impl<V, R: Judge<V>> Judge<HashMap<String, V>> for Values<R> {
    fn check(&self, field: &'static str, value: &HashMap<String, V>) -> Checked {
        value.values().try_for_each(|value| self.0.check(field, value))
    }

    fn fit(&self, value: &mut HashMap<String, V>) {
        value.values_mut().for_each(|value| self.0.fit(value));
    }
}

/// The rules of a message within a message
pub(super) struct Inside<M>(PhantomData<fn(M)>);

impl<M> Inside<M> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<M: Fields> Rule for Inside<M> {
    fn tell(&self, field: &str, rules: &mut Vec<FieldRule>) {
        M::tell(&format!("{field}."), rules);
    }
}

impl<M: Fields> Judge<M> for Inside<M> {
    fn check(&self, _field: &'static str, value: &M) -> Checked {
        value.check()
    }

    fn fit(&self, value: &mut M) {
        value.fit();
    }
}

impl<M: Fields> Judge<Option<M>> for Inside<M> {
    fn check(&self, _field: &'static str, value: &Option<M>) -> Checked {
        value.as_ref().map_or(Ok(()), M::check)
    }

    fn fit(&self, value: &mut Option<M>) {
        if let Some(value) = value {
            value.fit();
        }
    }
}
