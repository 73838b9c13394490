//! What a patch changes, what it leaves, and what is refused
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use proptest::prelude::*;

use super::*;

mod expression;
mod field;
mod java;

fn plain(text: &str) -> Value {
    Value {
        text: text.to_owned(),
        is_text: false,
    }
}

fn set(format: Format, text: &str, key: &str, value: &str) -> String {
    match format.edit(text, key, &plain(value), true) {
        Ok(patched) => patched.unwrap_or_else(|| text.to_owned()),
        Err(problem) => panic!("{text:?}: {problem}"),
    }
}

fn properties(text: &str, key: &str, value: &str) -> String {
    set(Format::Properties, text, key, value)
}

fn toml(text: &str, key: &str, value: &str) -> String {
    set(Format::Toml, text, key, value)
}

fn yaml(text: &str, key: &str, value: &str) -> String {
    set(Format::Yaml, text, key, value)
}

#[track_caller]
fn assert_refused(format: Format, text: &str, key: &str, words: &str) {
    let problem = format.edit(text, key, &plain("9"), true).unwrap_err();
    assert!(problem.contains(words), "{words} in {problem}");
}

#[test]
fn only_the_value_of_a_property_changes() {
    assert_eq!(properties("# top\r\na=1\r\nb=2", "a", "9"), "# top\r\na=9\r\nb=2");
    assert_eq!(properties("  a : 1 \nb=2\n", "a", "9"), "  a : 9\nb=2\n");
    assert_eq!(
        properties("a=1\\\n  2\nb=2\n", "a", "\\u00a7a x"),
        "a=\\u00a7a x\nb=2\n"
    );
    assert_eq!(properties("a\nb=2\n", "a", "9"), "a=9\nb=2\n");
    assert_eq!(properties("a=\nb=2\n", "a", "9"), "a=9\nb=2\n");
    assert_eq!(properties("a\\:b=1\n", "a:b", "9"), "a\\:b=9\n");
    assert_eq!(
        properties("#a=1\naa=2\n!a=3\n", "a", "9"),
        "#a=1\naa=2\n!a=3\na=9\n"
    );
    assert_eq!(properties("a=1", "c", "3"), "a=1\nc=3\n");
    assert_eq!(properties("a=1\n", "a", " x "), "a=\\ x \n");
    assert_eq!(properties("a=1\r\n", "c", "3"), "a=1\r\nc=3\r\n");
    assert_eq!(properties("", "c d", "3"), "c\\ d=3\n");
    let replaced = Format::Properties.edit("a=1\n", "c", &plain("3"), false);
    assert_eq!(replaced, Ok(None), "replace creates nothing");
}

#[test]
fn properties_that_cannot_be_edited_exactly_are_refused() {
    let format = Format::Properties;
    assert_refused(format, "a=1\nb=2\na=3\n", "a", "2 times, in lines 1, 3");
    assert_refused(format, "\u{feff}a=1\nb=2\n", "a", "byte order mark");
    assert_refused(format, "b=\\u12\na=1\n", "a", "line 1");
    assert_refused(format, "a=1\nb=2\\", "c", "more than that");
    let swallowed = format.edit("a=1\nb=2\n", "a", &plain("x\\"), true).unwrap_err();
    assert!(swallowed.contains("more than that"), "{swallowed}");
}

#[test]
fn only_the_value_of_a_toml_key_changes() {
    assert_eq!(
        toml("bind = \"x\"\nport = 1 # why\n", "port", "25577"),
        "bind = \"x\"\nport = 25577 # why\n"
    );
    assert_eq!(
        toml("motd = 1\r\n[a]\r\nport=2\r\n", "port", "3"),
        "motd = 1\r\n[a]\r\nport=3\r\n"
    );
    assert_eq!(
        toml("\u{feff}motd = '''x\ny''' # c\n", "motd", "a \"b\" \u{1}"),
        "\u{feff}motd = \"a \\\"b\\\" \\u0001\" # c\n"
    );
    assert_eq!(
        toml("[a]\nb = {c = [1, 2], d = 3}\n", "a.b.d", "TRUE"),
        "[a]\nb = {c = [1, 2], d = true}\n"
    );
    assert_eq!(toml("a = [\n 1, # one\n]\n", "a", "007"), "a = \"007\"\n");
    assert_eq!(toml("a = 1\n", "c", "3"), "a = 1\nc = 3\n");
    assert_eq!(
        toml("# top\na = 1 # x\n\n[b]\nc = 1\n", "d", "e"),
        "# top\na = 1 # x\nd = \"e\"\n\n[b]\nc = 1\n"
    );
    assert_eq!(toml("[b]\nc = 1\n", "d", "1"), "d = 1\n[b]\nc = 1\n");
    assert_eq!(toml("a = 1", "b.c", "2"), "a = 1\nb.c = 2\n");
    assert_eq!(
        toml("[a]\r\nb = 1 # x\r\n# y\r\n\r\n[c]\r\nd = 1\r\n", "a.e", "x"),
        "[a]\r\nb = 1 # x\r\ne = \"x\"\r\n# y\r\n\r\n[c]\r\nd = 1\r\n"
    );
}

#[test]
fn toml_that_cannot_be_edited_exactly_is_refused() {
    let format = Format::Toml;
    assert_refused(format, "[a]\nport = 1\n[b]\nport = 2\n", "port", "in lines 2, 4");
    assert_refused(format, "a = 1\na = 2\n", "a", "line 2");
    assert_refused(format, "a = \n", "a", "line 1");
    assert_refused(format, "[a]\nb = 1\n", "a", "it is a section");
    assert_refused(format, "[[a]]\nb = 1\n", "a", "it is a list of sections");
    assert_refused(format, "a = {b = 1\n, c = 2}\n", "a.b.c", "more than that");
}

#[test]
fn only_the_value_of_a_yaml_key_changes() {
    let text = "bedrock:\n  address: 0.0.0.0\n  port: 19132\n# remote\nremote:\n  # where\n  address: auto # here\n  port: 25565\n";
    assert_eq!(
        yaml(text, "remote.address", "127.0.0.1"),
        text.replace("auto", "\"127.0.0.1\"")
    );
    assert_eq!(
        Format::Yaml.edit(text, "remote.missing", &plain("x"), true),
        Ok(None)
    );
    assert_eq!(
        Format::Yaml.edit(text, "missing.address", &plain("x"), true),
        Ok(None)
    );
    assert_eq!(Format::Yaml.edit("a: 1\n", "b", &plain("x"), false), Ok(None));
    let deep = "a:\n  b:\n    c: 1\n  c: 2\n";
    assert_eq!(yaml(deep, "a.c", "3"), "a:\n  b:\n    c: 1\n  c: 3\n");
    assert_eq!(
        yaml("settings:\r\n  bungeecord: 'no' \r\n", "bungeecord", "true"),
        "settings:\r\n  bungeecord: true \r\n"
    );
    assert_eq!(yaml("a: 1\n", "b", "2"), "a: 1\nb: 2\n");
    assert_eq!(yaml("a: 1\n", "on", "2"), "a: 1\n\"on\": 2\n");
    assert_eq!(
        yaml("a: 1\r\nc: {d: 1, e: \"x\"}", "c.e", "y"),
        "a: 1\r\nc: {d: 1, e: \"y\"}"
    );
    assert_eq!(yaml("a:\nb: 2\n", "a", "x"), "a: \"x\"\nb: 2\n");
    assert_eq!(yaml("a:   # why\nb: 2\n", "a", "x"), "a: \"x\"   # why\nb: 2\n");
    assert_eq!(
        yaml("\u{feff}ä: 1\nb: &x 2\nc: *x\n", "ä", "3"),
        "\u{feff}ä: 3\nb: &x 2\nc: *x\n"
    );
    assert_eq!(yaml("# nothing yet\n", "a", "1"), "# nothing yet\na: 1\n");
    assert_eq!(
        yaml("listeners:\n- host: 0.0.0.0:1\n", "host", "[::]:2"),
        "listeners:\n- host: \"[::]:2\"\n"
    );
}

#[test]
fn yaml_that_cannot_be_edited_exactly_is_refused() {
    let format = Format::Yaml;
    assert_refused(format, "a: 1\n---\na: 2\n", "a", "several documents");
    assert_refused(format, "a: 1\nb: 2\na: 3\n", "a", "in lines 1, 3");
    assert_refused(format, "s:\n  a: 1\ns:\n  b: 2\n", "s.a", "s is there twice");
    assert_refused(format, "x:\n  a: 1\ny:\n  a: 2\n", "a", "in lines 2, 4");
    assert_refused(format, "a: &x 1\nb: *x\n", "a", "anchor");
    assert_refused(format, "s: &x\n  a: 1\nt: *x\n", "s.a", "anchor");
    assert_refused(format, "b: &x 1\na: *x\n", "a", "alias");
    assert_refused(format, "a: |\n  x\n", "a", "block of lines");
    assert_refused(format, "a: !!str 1\n", "a", "tag");
    assert_refused(format, "a:\n  b: 1\n", "a", "section");
    assert_refused(format, "a: [1]\n", "a", "list");
    assert_refused(format, "a: [1\n", "a", "line");
    assert_refused(format, "- a\n", "a", "a list and no section");
    assert_refused(format, "{a: 1}\n", "b", "more than that");
    assert_refused(format, "a: |+\n  x\n\n\n...\n", "b", "more than that");
}

#[test]
fn only_the_value_of_a_json_key_changes() {
    let json = |text: &str, key: &str, value: &str| set(Format::Json, text, key, value);
    let text = "{\r\n\t\"a\" : 1,\r\n\t\"b\": {\"c\": [\"x\", 2.50]}\r\n}";
    assert_eq!(json(text, "a", "true"), text.replace('1', "true"));
    assert_eq!(
        json(text, "b.c.[0]", "a \"q\" \u{1}"),
        text.replace("\"x\"", "\"a \\\"q\\\" \\u0001\"")
    );
    assert_eq!(json(text, "b.c.[1]", "007"), text.replace("2.50", "\"007\""));
    assert_eq!(json(text, "b.d", "5"), text.replace("2.50]", "2.50], \"d\": 5"));
    assert_eq!(
        json(text, "e.f", "x"),
        text.replace("]}\r\n}", "]},\r\n\t\"e\": {\"f\": \"x\"}\r\n}")
    );
    assert_eq!(json("\u{feff}{}", "a", "1"), "\u{feff}{\n  \"a\": 1\n}");
    assert_eq!(json("[{\"level\": 4}]", "[0].level", "2"), "[{\"level\": 2}]");
    assert_eq!(
        Format::Json.edit("{\"s\": {\"a\": 1}}", "a", &plain("2"), false),
        Ok(None)
    );
}

#[test]
fn json_that_cannot_be_edited_exactly_is_refused() {
    let format = Format::Json;
    assert_refused(format, "{\"a\": 1,\n\"a\": 2}", "a", "in lines 1, 2");
    assert_refused(format, "{\"a\": 1,}", "a", "line 1");
    assert_refused(format, "// x\n{\"a\": 1}", "a", "line 1");
    assert_refused(format, "{\"a\": {}}", "a", "it is a section");
    assert_refused(format, "{\"a\": []}", "a", "it is a list");
    assert_refused(format, "{\"a\": 1}", "a.b", "more than that");
    assert_refused(format, "[]", "a", "no object");
    assert_refused(format, "1", "a", "neither an object nor a list");
    assert_refused(format, "{\"a\": 1,\r\n\"b\": 1\n}", "c", "two kinds");
}

#[test]
fn values_are_quoted_as_needed() {
    for bare in ["1", "-1.5", "0", "0.5", "true", "18446744073709551616"] {
        assert_eq!(Format::Yaml.rendered(&plain(bare)), bare);
    }
    assert_eq!(Format::Yaml.rendered(&plain("FALSE")), "false");
    for quoted in [
        "",
        "1.",
        "0.0.0.0:25577",
        "-",
        "007",
        "-01.5",
        "no",
        "null",
        "1e3",
    ] {
        for format in [Format::Yaml, Format::Toml, Format::Json] {
            assert_eq!(format.rendered(&plain(quoted)), format!("\"{quoted}\""));
        }
    }
    let too_large = Format::Toml.rendered(&plain("18446744073709551616"));
    assert_eq!(too_large, "\"18446744073709551616\"");
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn patch(&self, file: &str, value: &str) -> Result<(), PreparationError> {
        self.carry_out(file, "a", value, 0)
    }

    fn carry_out(&self, file: &str, key: &str, value: &str, op: i32) -> Result<(), PreparationError> {
        let inside = Inside::new(self.0.path()).unwrap();
        let patch = ConfigPatch {
            file: file.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
            op,
        };
        apply(&inside, &[patch]).map(drop)
    }

    #[track_caller]
    fn assert_refused(&self, file: &str, words: &str) {
        let error = self.patch(file, "9").unwrap_err();
        assert_eq!(
            error.disposition(),
            prexorcloud_proto::StartFailureDisposition::Permanent,
            "{error}"
        );
        assert!(error.to_string().contains(words), "{words} in {error}");
    }
}

#[test]
fn a_file_that_is_no_text_is_refused_and_stays() {
    let folder = Folder::new();
    let utf16: Vec<u8> = "a=1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, bytes, words) in [
        ("x.properties", utf16.as_slice(), "no text"),
        ("x.toml", b"a = '\xe4'\n", "not UTF-8"),
        ("x.json", b"{\"a\": \"\xe4\"}", "not UTF-8"),
        ("x.cfg", b"a=1\n", ".properties"),
    ] {
        let path = folder.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        folder.assert_refused(name, words);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    let sparse = fs::File::create(folder.0.path().join("sparse.yml")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    folder.assert_refused("sparse.yml", "larger than");
    fs::create_dir(folder.0.path().join("folder.yml")).unwrap();
    folder.assert_refused("folder.yml", "a folder");
    let pipe = folder.0.path().join("pipe.yml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    folder.assert_refused("pipe.yml", "a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(folder.0.path().join("socket.yml")).unwrap();
    folder.assert_refused("socket.yml", "a socket");
    folder.patch("missing.yml", "9").unwrap();
}

#[test]
fn a_key_and_a_value_are_one_line() {
    let folder = Folder::new();
    let path = folder.0.path().join("x.cfg");
    fs::write(&path, "a=1\n").unwrap();
    for (key, value) in [("a", "1\nb=2"), ("a", "1\r"), ("a=1\n", "")] {
        let error = folder
            .carry_out("x.cfg", key, value, ConfigPatchOp::Regex.into())
            .unwrap_err();
        assert!(error.to_string().contains("one line"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"a=1\n");
    }
}

#[test]
fn a_file_keeps_its_characters() {
    let folder = Folder::new();
    let assert_patched = |name: &str, former: &[u8], value: &str, wanted: &[u8]| {
        let path = folder.0.path().join(name);
        fs::write(&path, former).unwrap();
        folder.patch(name, value).unwrap();
        assert_eq!(fs::read(&path).unwrap(), wanted, "{name}");
    };
    assert_patched("a.properties", b"b=\xe4\r\na=1", "9", b"b=\xe4\r\na=9");
    assert_patched(
        "a.properties",
        b"b=\xe4\na=1\n",
        "\u{e4}\u{1f600}",
        b"b=\xe4\na=\\u00e4\\ud83d\\ude00\n",
    );
    assert_patched(
        "a.properties",
        "b=ä\na=1\n".as_bytes(),
        "ö",
        "b=ä\na=\\u00f6\n".as_bytes(),
    );
    assert_patched(
        "a.properties",
        b"\xef\xbb\xbf# top\na=1\n",
        "9",
        b"\xef\xbb\xbf# top\na=9\n",
    );
    assert_patched("a.yml", b"# \xe4\na: 1\n", "9", b"# \xe4\na: 9\n");
    assert_patched(
        "a.yml",
        b"\xef\xbb\xbfa: 1\r\n",
        "\u{e4}",
        b"\xef\xbb\xbfa: \"\xc3\xa4\"\r\n",
    );
    fs::write(folder.0.path().join("b.yml"), b"# \xe4\na: 1\n").unwrap();
    let error = folder.patch("b.yml", "ä").unwrap_err();
    assert!(error.to_string().contains("nothing but ASCII"), "{error}");
}

#[test]
fn an_operation_that_is_not_known_is_refused() {
    let folder = Folder::new();
    fs::write(folder.0.path().join("x.yml"), "a: 1\n").unwrap();
    let error = folder.carry_out("x.yml", "a", "2", 7).unwrap_err();
    assert!(error.to_string().contains("operation 7 is not known"), "{error}");
    assert_eq!(fs::read(folder.0.path().join("x.yml")).unwrap(), b"a: 1\n");
}

#[test]
fn a_secret_is_text_whatever_it_looks_like() {
    let folder = Folder::new();
    fs::write(folder.0.path().join("forwarding.secret"), "0123\\n").unwrap();
    for (name, former, wanted) in [
        ("x.yml", "a: 1\n", "a: \"0123\\\\n\"\n"),
        ("x.properties", "a=1\n", "a=0123\\\\n\n"),
    ] {
        fs::write(folder.0.path().join(name), former).unwrap();
        folder.patch(name, "%FORWARDING_SECRET%").unwrap();
        assert_eq!(fs::read_to_string(folder.0.path().join(name)).unwrap(), wanted);
    }
    fs::write(folder.0.path().join("forwarding.secret"), "7").unwrap();
    folder.patch("x.yml", "%FORWARDING_SECRET%").unwrap();
    assert_eq!(
        fs::read_to_string(folder.0.path().join("x.yml")).unwrap(),
        "a: \"7\"\n"
    );
}

#[test]
fn a_link_inside_is_followed_and_one_that_leads_out_is_refused() {
    let folder = Folder::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x.yml"), "a: 1\n").unwrap();
    fs::create_dir(folder.0.path().join("config")).unwrap();
    fs::write(folder.0.path().join("config/real.yml"), "a: 1\n").unwrap();
    let link = |to: &std::path::Path, name: &str| {
        std::os::unix::fs::symlink(to, folder.0.path().join(name)).unwrap();
    };
    link("config/real.yml".as_ref(), "link.yml");
    link(outside.path(), "out");
    link("loop.yml".as_ref(), "loop.yml");
    folder.patch("link.yml", "2").unwrap();
    let read = |name: &str| fs::read_to_string(folder.0.path().join(name)).unwrap();
    assert_eq!(read("config/real.yml"), "a: 2\n");
    assert!(
        fs::symlink_metadata(folder.0.path().join("link.yml"))
            .unwrap()
            .is_symlink()
    );
    folder.assert_refused("out/x.yml", "the link out leads out");
    folder.assert_refused("loop.yml", "links");
    folder.assert_refused("../x.yml", "leads out");
    assert_eq!(
        fs::read_to_string(outside.path().join("x.yml")).unwrap(),
        "a: 1\n"
    );
}

#[test]
fn the_secret_is_read_as_its_writer_meant_it() {
    let folder = Folder::new();
    fs::write(folder.0.path().join("x.yml"), "a: 1\n").unwrap();
    fs::write(
        folder.0.path().join("forwarding.secret"),
        "\u{feff}s3cret \r\n\r\n",
    )
    .unwrap();
    folder.patch("x.yml", "%FORWARDING_SECRET%").unwrap();
    assert_eq!(
        fs::read_to_string(folder.0.path().join("x.yml")).unwrap(),
        "a: \"s3cret\"\n"
    );
}

/// Lines that resemble each kind of file, good and bad
fn files() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ab]{1,2}[ ]?[=:][ ]?[ab1\"'\\\\#&*!|>{}\\[\\]-]{0,4}",
        "[ ]{0,3}[ab]:[ ]?[ab1\"]{0,3}[ ]{0,2}(#[ ]x)?",
        "\\[{1,2}[ab]\\.?[ab]?\\]{1,2}",
        "(#|!|---|\\.\\.\\.|- a: 1|\u{feff}|ä=ö|\\\\)",
        "\\{\"a\": (1|\"x\"|\\{\"b\": \\[2, null\\]\\})(, \"b\": 0.5)?\\}",
        "[ab] = (1|\"x\"|'y'|\\[1, 2\\]|\\{ a = 1 \\}|\"\"\"|true)",
    ];
    let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\n\n"), Just("")];
    proptest::collection::vec((piece, end), 0..8).prop_map(|lines| {
        lines
            .into_iter()
            .flat_map(|(line, end)| [line, end.to_owned()])
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_patch_is_exact_or_refused(
        text in files(),
        key in "[ab](\\.[ab])?",
        value in "[a1\"'#:\\\\ ]{0,4}",
        is_set in any::<bool>(),
    ) {
        for format in [Format::Properties, Format::Toml, Format::Yaml, Format::Json] {
            let Ok(Some(patched)) = format.edit(&text, &key, &plain(&value), is_set) else {
                continue;
            };
            // One splice, in the place of a value or of nothing.
            let body = format.body(&text);
            let mark = text.len() - body.len();
            let values = format.entries(body).unwrap().into_iter().map(|entry| entry.bytes);
            let nothings = (0..=body.len()).map(|at| at..at);
            let is_spliced = |bytes: std::ops::Range<usize>| {
                let (before, behind) = (text.get(..bytes.start + mark), text.get(bytes.end + mark..));
                before.zip(behind).is_some_and(|(before, behind)| {
                    patched.len() >= before.len() + behind.len()
                        && patched.starts_with(before)
                        && patched.ends_with(behind)
                })
            };
            prop_assert!(
                values.chain(nothings).any(is_spliced),
                "{format:?} {text:?} -> {patched:?}"
            );
            // Again, it changes nothing.
            let again = format.edit(&patched, &key, &plain(&value), is_set);
            prop_assert_eq!(again, Ok(Some(patched)));
        }
    }
}
