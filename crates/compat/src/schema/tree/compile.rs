//! Turns parsed files into descriptors, each in a pool of its own with what it imports
//!
//! A file that was compiled once enters the pools of its importers with full names, so that nothing in their pools can
//! change what it means.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorProto;
use protox::prost_reflect::{DescriptorError, DescriptorPool};

use super::custom::{CustomOptions, custom_options};
use super::order::{Imports, cycles, in_order};
use super::outline::{each_alone, lean, without_references};
use super::problem::{Problem, line_of, problems};
use super::scope::{Resolver, Symbols, Unresolved};
use super::sources::{Parsed, Sources};

/// A file that could be compiled.
pub(super) struct Compiled {
    pub(super) proto: FileDescriptorProto,
    pub(super) custom: CustomOptions,
    /// What importers need of it.
    lean: Vec<u8>,
    /// What it imports, directly or not, by position in the order of compilation.
    closure: BTreeSet<usize>,
}

/// Compiles every file; the names are those of `sources`.
pub(super) fn compile(sources: &mut Sources) -> BTreeMap<String, Compiled> {
    let parsed: BTreeMap<_, _> = sources
        .files
        .iter()
        .filter_map(|(name, file)| Some((name.as_str(), file.as_ref()?)))
        .collect();
    let imports: Imports<'_> = parsed
        .iter()
        .map(|(name, file)| (*name, file.proto.dependency.iter().map(String::as_str).collect()))
        .collect();
    let mut bench = Bench {
        symbols: parsed
            .iter()
            .map(|(name, file)| (*name, Symbols::of(&file.proto)))
            .collect(),
        parsed,
        order: in_order(&imports),
        ranks: BTreeMap::new(),
        compiled: BTreeMap::new(),
        problems: BTreeSet::new(),
    };
    bench.ranks = bench
        .order
        .iter()
        .enumerate()
        .map(|(rank, name)| (*name, rank))
        .collect();
    for rank in 0..bench.order.len() {
        bench.compile(rank);
    }
    let left: BTreeSet<_> = bench
        .parsed
        .keys()
        .copied()
        .filter(|name| !bench.ranks.contains_key(name))
        .collect();
    let mut circular = Vec::new();
    for cycle in cycles(&imports, &left) {
        let Some(&first) = cycle.first() else {
            continue;
        };
        let second = cycle.get(1).copied().unwrap_or(first);
        let index = imports
            .get(first)
            .and_then(|list| list.iter().position(|name| *name == second));
        circular.push((
            first.to_owned(),
            index.unwrap_or(0),
            format!("import cycle detected: {} -> {first}", cycle.join(" -> ")),
        ));
    }
    for name in left {
        bench.judge_alone(name);
    }
    let Bench {
        compiled, problems, ..
    } = bench;
    let compiled = compiled
        .into_iter()
        .map(|(name, file)| (name.to_owned(), file))
        .collect();
    sources.problems.extend(problems);
    for (name, index, reason) in circular {
        sources.blame_import(&name, index, reason);
    }
    compiled
}

struct Bench<'a> {
    parsed: BTreeMap<&'a str, &'a Parsed>,
    symbols: BTreeMap<&'a str, Symbols>,
    order: Vec<&'a str>,
    ranks: BTreeMap<&'a str, usize>,
    compiled: BTreeMap<&'a str, Compiled>,
    problems: BTreeSet<Problem>,
}

impl Bench<'_> {
    fn compile(&mut self, rank: usize) {
        let Some((&name, file)) = self
            .order
            .get(rank)
            .and_then(|name| Some((name, self.parsed.get(name)?)))
        else {
            return;
        };
        let mut closure = BTreeSet::new();
        for dependency in &file.proto.dependency {
            let Some(compiled) = self.compiled.get(dependency.as_str()) else {
                self.judge_alone(name);
                return;
            };
            closure.extend(&compiled.closure);
            closure.extend(self.ranks.get(dependency.as_str()));
        }
        let Some((mut proto, unresolved)) = self.resolved(name) else {
            return;
        };
        let positions = proto.source_code_info.take();
        let mut pool = match self.pool(&closure) {
            Ok(pool) => pool,
            Err((culprit, error)) => return self.blame_import(name, culprit, &error),
        };
        if pool.add_file_descriptor_proto(proto.clone()).is_err() {
            // Once more, with positions for the report.
            proto.source_code_info = positions;
            if let Err(error) = pool.add_file_descriptor_proto(proto) {
                self.blame(name, error, &unresolved);
            }
            return;
        }
        if let Some(file) = pool.get_file_by_name(name) {
            let compiled = Compiled {
                proto: file.file_descriptor_proto().clone(),
                custom: custom_options(&file),
                lean: lean(file.file_descriptor_proto()).encode_to_vec(),
                closure,
            };
            self.compiled.insert(name, compiled);
        }
    }

    /// A pool with everything that a file imports, or the first that does not go with the others.
    fn pool(&self, closure: &BTreeSet<usize>) -> Result<DescriptorPool, (usize, DescriptorError)> {
        let mut pool = DescriptorPool::new();
        for &rank in closure {
            if let Some(file) = self.order.get(rank).and_then(|name| self.compiled.get(name)) {
                pool.decode_file_descriptor_proto(file.lean.as_slice())
                    .map_err(|error| (rank, error))?;
            }
        }
        Ok(pool)
    }

    /// Reports that what a file imports does not go together, where the file of rank `culprit` came in.
    fn blame_import(&mut self, name: &str, culprit: usize, error: &DescriptorError) {
        let Some(file) = self.parsed.get(name) else {
            return;
        };
        let index = file.proto.dependency.iter().position(|dependency| {
            let dependency = dependency.as_str();
            self.ranks.get(dependency) == Some(&culprit)
                || self
                    .compiled
                    .get(dependency)
                    .is_some_and(|compiled| compiled.closure.contains(&culprit))
        });
        let line = index
            .and_then(|index| i32::try_from(index).ok())
            .and_then(|index| line_of(&file.proto, &[3, index]));
        let culprit = self.order.get(culprit).copied().unwrap_or(name);
        self.problems.insert(Problem {
            file: name.to_owned(),
            line,
            reason: format!("cannot import '{culprit}' as well: {error}"),
        });
    }

    /// The file with full names, and the names that mean nothing, as far as that can be said.
    fn resolved(&self, name: &str) -> Option<(FileDescriptorProto, Vec<Unresolved>)> {
        let mut proto = self.parsed.get(name)?.proto.clone();
        let (visible, is_complete) = self.visible(name);
        let mut resolver = Resolver::new(visible);
        resolver.file(&mut proto);
        let unresolved = if is_complete {
            resolver.unresolved
        } else {
            Vec::new()
        };
        Some((proto, unresolved))
    }

    /// The symbols that a file can see: its own, those of its imports, and what they import publicly; and whether all of
    /// these files could be parsed.
    fn visible(&self, name: &str) -> (Vec<&Symbols>, bool) {
        let mut seen = BTreeSet::from([name]);
        let mut pending = self.imports(name, false);
        let mut visible: Vec<_> = self.symbols.get(name).into_iter().collect();
        let mut is_complete = true;
        while let Some(next) = pending.pop() {
            if seen.insert(next) {
                visible.extend(self.symbols.get(next));
                is_complete &= self.symbols.contains_key(next);
                pending.extend(self.imports(next, true));
            }
        }
        (visible, is_complete)
    }

    fn imports(&self, name: &str, public_only: bool) -> Vec<&str> {
        let Some(file) = self.parsed.get(name) else {
            return Vec::new();
        };
        let is_public = |index: usize| {
            let mut public = file.proto.public_dependency.iter();
            public.any(|other| usize::try_from(*other) == Ok(index))
        };
        file.proto
            .dependency
            .iter()
            .enumerate()
            .filter(|(index, _)| !public_only || is_public(*index))
            .map(|(_, name)| name.as_str())
            .collect()
    }

    /// Reports every problem of a file that the compiler refused.
    fn blame(&mut self, name: &str, error: DescriptorError, unresolved: &[Unresolved]) {
        let Some(file) = self.parsed.get(name) else {
            return;
        };
        let told = |error: DescriptorError| {
            let error = error.with_source_code(&file.text);
            problems(name, &file.text, &error)
        };
        let mut found = told(error);
        // The compiler stops after each of its steps: names, then numbers and types, then options.
        for part in each_alone(&file.proto) {
            let outcome = DescriptorPool::new().add_file_descriptor_proto(part);
            found.extend(outcome.err().into_iter().flat_map(told));
        }
        for nowhere in unresolved {
            let problem = undefined(name, file, nowhere);
            let quoted = format!("'{}'", nowhere.name);
            let is_told = |other: &Problem| other.line == problem.line && other.reason.contains(&quoted);
            if !found.iter().any(is_told) {
                found.push(problem);
            }
        }
        self.problems.extend(found);
    }

    /// Reports what is wrong with a file whose imports are not all known.
    fn judge_alone(&mut self, name: &str) {
        let (Some(file), Some((_, unresolved))) = (self.parsed.get(name), self.resolved(name)) else {
            return;
        };
        match DescriptorPool::new().add_file_descriptor_proto(without_references(&file.proto)) {
            Ok(()) => {
                let undefined = unresolved.iter().map(|nowhere| undefined(name, file, nowhere));
                self.problems.extend(undefined);
            }
            Err(error) => self.blame(name, error, &unresolved),
        }
    }
}

fn undefined(name: &str, file: &Parsed, nowhere: &Unresolved) -> Problem {
    Problem {
        file: name.to_owned(),
        line: line_of(&file.proto, &nowhere.path),
        reason: format!("name '{}' is not defined", nowhere.name),
    }
}
