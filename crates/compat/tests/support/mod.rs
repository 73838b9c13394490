//! Compiles `.proto` sources that stand in a test
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::collections::BTreeMap;

use prexorcloud_compat::schema::{Problem, Source, Tree, classify_trees};
use prost_types::FileDescriptorSet;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

struct Sources(Vec<(String, String)>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.iter().find(|(file, _)| file == name) {
            Some((_, source)) => File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// One source, or several that begin with a line `>> name.proto` each.
fn split(source: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = Vec::new();
    for line in source.lines() {
        if let Some(name) = line.trim().strip_prefix(">> ") {
            files.push((name.to_owned(), String::new()));
            continue;
        }
        if files.is_empty() {
            files.push(("a.proto".to_owned(), String::new()));
        }
        let text = &mut files.last_mut().unwrap().1;
        text.push_str(line);
        text.push('\n');
    }
    files
}

/// Compiles one source, or several that begin with a line `>> name.proto` each.
pub fn compile(source: &str) -> FileDescriptorSet {
    let files = split(source);
    let names: Vec<_> = files.iter().map(|(name, _)| name.clone()).collect();
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(files));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_source_info(true);
    for name in names {
        if let Err(error) = compiler.open_file(&name) {
            panic!("{error:?}\n{source}");
        }
    }
    compiler.file_descriptor_set()
}

/// The files of a source as [`compile`] takes them, for a tree.
pub fn source_files(text: &str) -> BTreeMap<String, Source> {
    split(text)
        .into_iter()
        .map(|(name, text)| (name, Ok(text.into_bytes())))
        .collect()
}

/// Compiles a tree whose imports come from a function.
pub fn compile_tree(text: &str, import: impl Fn(&str) -> Option<String>) -> Result<Tree, Vec<Problem>> {
    Tree::compile(source_files(text), |name| Some(Ok(import(name)?.into_bytes())))
}

/// Every finding between two trees without further imports, as `rule element`, sorted.
pub fn tree_findings(old: &str, new: &str) -> Vec<String> {
    let compile = |text| match compile_tree(text, |_| None) {
        Ok(tree) => tree,
        Err(problems) => panic!("{problems:#?}\n{text}"),
    };
    let report = classify_trees(&compile(old), &compile(new));
    let mut found: Vec<_> = report
        .findings()
        .iter()
        .map(|finding| format!("{} {}", finding.rule.id(), finding.element))
        .collect();
    found.sort();
    found
}

/// Every problem of a tree without further imports.
pub fn tree_problems(text: &str) -> Vec<String> {
    let problems = compile_tree(text, |_| None).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}
