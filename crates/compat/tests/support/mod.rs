//! Compiles `.proto` sources that stand in a test

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

/// Compiles one source, or several that begin with a line `>> name.proto` each.
pub fn compile(source: &str) -> FileDescriptorSet {
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
