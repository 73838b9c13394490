//! The order in which files can be compiled, and the cycles that leave none

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Files by name, each with those that it imports.
pub(super) type Imports<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// Every file after what it imports, except those that import themselves in the end.
pub(super) fn in_order<'a>(imports: &Imports<'a>) -> Vec<&'a str> {
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    let mut importers: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    for (&file, dependencies) in imports {
        let known: BTreeSet<_> = dependencies
            .iter()
            .copied()
            .filter(|name| imports.contains_key(name))
            .collect();
        waiting.insert(file, known.len());
        for dependency in known {
            importers.entry(dependency).or_default().push(file);
        }
    }
    let mut ready: VecDeque<_> = imports
        .keys()
        .copied()
        .filter(|file| waiting.get(file) == Some(&0))
        .collect();
    let mut order = Vec::with_capacity(imports.len());
    while let Some(file) = ready.pop_front() {
        order.push(file);
        for &importer in importers.get(file).into_iter().flatten() {
            if let Some(left) = waiting.get_mut(importer) {
                *left -= 1;
                if *left == 0 {
                    ready.push_back(importer);
                }
            }
        }
    }
    order
}

/// The shortest cycle through each of some files, each cycle once and from its first file by name.
pub(super) fn cycles<'a>(imports: &Imports<'a>, among: &BTreeSet<&'a str>) -> BTreeSet<Vec<&'a str>> {
    let mut found = BTreeSet::new();
    for &start in among {
        // Who was reached from where, breadth first.
        let mut reached: BTreeMap<&str, &'a str> = BTreeMap::new();
        let mut pending = VecDeque::from([start]);
        while let Some(file) = pending.pop_front() {
            for &next in imports.get(file).into_iter().flatten() {
                if among.contains(next) && !reached.contains_key(next) {
                    reached.insert(next, file);
                    pending.push_back(next);
                }
            }
            if reached.contains_key(start) {
                break;
            }
        }
        let mut cycle = Vec::new();
        let mut at = start;
        while let Some(&before) = reached.get(at).filter(|_| reached.contains_key(start)) {
            cycle.push(before);
            at = before;
            if at == start {
                break;
            }
        }
        cycle.reverse();
        if let Some(first) = (0..cycle.len()).min_by_key(|index| cycle.get(*index)) {
            cycle.rotate_left(first);
            found.insert(cycle);
        }
    }
    found
}
