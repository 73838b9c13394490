//! What of two files is left, byte for byte
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[track_caller]
fn assert_merged(name: &str, base: &str, overlay: &str, wanted: &str) {
    let merged = merge(name, base.as_bytes(), overlay.as_bytes());
    assert_eq!(merged.note, None);
    assert_eq!(
        String::from_utf8(merged.bytes).unwrap(),
        wanted,
        "{name}: {base:?}"
    );
    let again = merge(name, wanted.as_bytes(), overlay.as_bytes());
    assert_eq!(again.bytes, wanted.as_bytes(), "the second time changes nothing");
}

#[track_caller]
fn assert_taken(name: &str, base: &[u8], overlay: &[u8], words: &str) {
    let merged = merge(name, base, overlay);
    assert_eq!(merged.bytes, overlay, "the newer one");
    let note = merged.note.unwrap();
    assert!(note.contains(words), "{words} in {note}");
}

#[test]
fn the_kind_of_a_file_is_its_suffix() {
    for (name, merged) in [
        ("a.bin", "b\n"),
        ("a.sh", "b\n"),
        ("yml", "b\n"),
        ("a.TXT", "a\nb\n"),
        ("a.cfg", "a\nb\n"),
        ("a.conf", "a\nb\n"),
        ("a.ini", "a\nb\n"),
        ("a.list", "a\nb\n"),
    ] {
        assert_merged(name, "a\n", "b\n", merged);
    }
}

#[test]
fn lines_are_added_once() {
    assert_merged("a.txt", "a\r\n\r\nb", "\n\nb\nc\nc\n \na", "a\r\n\r\nb\r\nc\r\n");
    assert_merged("a.txt", "", "a\n", "a\n");
}

#[test]
fn properties_keep_what_is_not_replaced() {
    for (base, overlay, wanted) in [
        (
            "# top\r\na = 1 \r\nb=2\r\n",
            "b=3\n",
            "# top\r\na = 1 \r\nb=3\r\n",
        ),
        ("a=1", "c : x\\\n  y\nb=2\n", "a=1\nc : x\\\n  y\nb=2\n"),
        ("a\nb\n", "a=1\n", "a=1\nb\n"),
        ("a=1\na=2\n", "a=3\n", "a=1\na=3\n"),
        ("a=1\n", "a=3\na=4\n", "a=4\n"),
        ("\u{feff}a=1\n", "b=2\n", "\u{feff}a=1\nb=2\n"),
        ("motd=\\u00a7a x\n", "motd=\\u00a7b\n", "motd=\\u00a7b\n"),
        ("a=1\n", "\\u0061b=1\n", "a=1\n\\u0061b=1\n"),
        ("a=1\n", "# only a comment\n", "a=1\n"),
    ] {
        assert_merged("server.properties", base, overlay, wanted);
    }
}

#[test]
fn a_file_keeps_its_character_set() {
    let latin = merge("a.properties", b"a=\xe4\nb=1\n", "b=\u{20ac}\u{e4}\n".as_bytes());
    assert_eq!(latin.bytes, b"a=\xe4\nb=\\u20ac\xe4\n");
    let latin = merge("a.yml", b"# \xe4\r\na: 1\r\n", "a: '\u{e4}'\n".as_bytes());
    assert_eq!(
        (latin.bytes, latin.note),
        (b"# \xe4\r\na: '\xe4'\r\n".to_vec(), None)
    );
    let overlay = "a: '\u{20ac}'\n".as_bytes();
    assert_taken("a.yml", b"# \xe4\na: 1\n", overlay, "character set");
    let utf = merge("a.yml", "a: ä\n".as_bytes(), b"b: \xe4\n");
    assert_eq!(utf.bytes, "a: ä\nb: ä\n".as_bytes());
}

#[test]
fn yaml_keeps_comments_order_and_line_ends() {
    for (base, overlay, wanted) in [
        ("a: 1 # one\nb: 2\n", "a: 3\n", "a: 3 # one\nb: 2\n"),
        (
            "# top\r\na:\r\n  b: 1 # why\r\n  c: 2\r\n# end\r\n",
            "a:\n    b: 2\n    d:\n      - 1\n      - 2\n",
            "# top\r\na:\r\n  b: 2 # why\r\n  c: 2\r\n  d:\r\n    - 1\r\n    - 2\r\n# end\r\n",
        ),
        ("a:\n- 1\n- 2\nb: 1\n", "a:\n- 3\n", "a:\n- 3\nb: 1\n"),
        ("a: [1, 2] # list\n", "a: [3]\n", "a: [3] # list\n"),
        (
            "a: {x: 1, y: 2}\n",
            "a: {y: 3, z: 4}\n",
            "a: {x: 1, y: 3, z: 4}\n",
        ),
        ("a: {}\n", "a: {z: 4}\n", "a: {z: 4}\n"),
        ("a:\nb: 1\n", "a: x\n", "a: x\nb: 1\n"),
        ("a:\n  b: 1\nc: 2\n", "a: off\n", "a: off\nc: 2\n"),
        ("a: off\nc: 2\n", "a:\n  b: 1\n", "a:\n  b: 1\nc: 2\n"),
        (
            "a: |\n  x\n  y\n\nb: 1\n",
            "a: |\n    z\n",
            "a: |\n    z\n\nb: 1\n",
        ),
        ("a: >-\n  x\n  y\nb: 1\n", "b: 2\n", "a: >-\n  x\n  y\nb: 2\n"),
        ("a: '1'\n", "a: 1\n", "a: 1\n"),
        ("# nothing\n", "a: 1\n", "# nothing\na: 1\n"),
        ("", "a: 1\n", "a: 1\n"),
        ("a: 1\n", "# nothing\n", "a: 1\n"),
        ("a: 1", "b: 1", "a: 1\nb: 1\n"),
        (
            "x: &x {k: 1}\ny: *x\nb: 1\n",
            "b: 2\n",
            "x: &x {k: 1}\ny: *x\nb: 2\n",
        ),
        ("\u{feff}a: 1\n", "a: 2\n", "\u{feff}a: 2\n"),
        ("\"a b\": 1\n", "'a b': 2\n", "\"a b\": 2\n"),
    ] {
        assert_merged("config.yml", base, overlay, wanted);
    }
}

#[test]
fn toml_keeps_comments_order_and_line_ends() {
    for (base, overlay, wanted) in [
        (
            "# top\na = 1 # one\nb = \"x\"\n",
            "a = 2\n",
            "# top\na = 2 # one\nb = \"x\"\n",
        ),
        (
            "a = 1\r\n[s]\r\nx = 1 # why\r\n[t]\r\ny = 2\r\n",
            "[s]\nx = 2\nz = [1, 2]\n",
            "a = 1\r\n[s]\r\nx = 2 # why\r\nz = [1, 2]\r\n[t]\r\ny = 2\r\n",
        ),
        (
            "[s]\nx = 1\n",
            "b = 1\n[new]\ny = 1\n",
            "b = 1\n[s]\nx = 1\n[new]\ny = 1\n",
        ),
        ("s.x = 1\n", "s.y = 2\n", "s.x = 1\ns.y = 2\n"),
        ("s = { x = 1 } # in\n", "[s]\nx = 2\n", "s = { x = 2 } # in\n"),
        (
            "a = [\n  1, # one\n]\nb = 1\n",
            "b = 2\n",
            "a = [\n  1, # one\n]\nb = 2\n",
        ),
    ] {
        assert_merged("velocity.toml", base, overlay, wanted);
    }
}

#[test]
fn json_keeps_its_layout() {
    for (base, overlay, wanted) in [
        (
            "{\n\t\"a\": 1,\n\t\"b\": {\"c\": 2}\n}\n",
            "{\"a\": 2, \"b\": {\"d\": [1, 2]}, \"e\": {\n  \"f\": 1\n}}",
            "{\n\t\"a\": 2,\n\t\"b\": {\"c\": 2, \"d\": [1, 2]},\n\t\"e\": {\n\t  \"f\": 1\n\t}\n}\n",
        ),
        ("{}", "{\"a\": 1}", "{\n  \"a\": 1\n}"),
        (
            "{ \"a\\u0062\": \"x, }\" }",
            "{\"ab\": null}",
            "{ \"a\\u0062\": null }",
        ),
        ("{\"a\": [1,  2]}", "{\"a\": [1, 2]}", "{\"a\": [1,  2]}"),
        (
            "{\"n\": 18446744073709551617}",
            "{\"n\": 18446744073709551618}",
            "{\"n\": 18446744073709551618}",
        ),
    ] {
        assert_merged("a.json", base, overlay, wanted);
    }
}

#[test]
fn where_both_cannot_be_had_the_newer_file_is_taken() {
    for (name, base, overlay, words) in [
        ("a.yml", "a: [\n", "a: 1\n", "the former file"),
        ("a.yml", "a: 1\na: 2\n", "a: 3\n", "twice"),
        ("a.yml", "- 1\n", "a: 3\n", "no section"),
        ("a.yml", "a: &x {k: 1}\nb: *x\n", "a: {k: 2}\n", "anchor"),
        ("a.yml", "a: 1\n", "b: &x 1\nc: *x\n", "anchor"),
        ("a.toml", "a = \n", "a = 1\n", "the former file"),
        ("a.json", "[1]", "{\"a\": 1}", "no object"),
        ("a.json", "{\"a\": 1, \"a\": 2}", "{\"a\": 1}", "twice"),
        ("a.properties", "a=\\u00\n", "a=1\n", "hexadecimal"),
    ] {
        assert_taken(name, base.as_bytes(), overlay.as_bytes(), words);
    }
    let many = format!("a: [{}1]\n", "1, ".repeat(250_000));
    let deep = format!("a: {}1{}\n", "[".repeat(80), "]".repeat(80));
    for (name, base, overlay, words) in [
        (
            "ops.json",
            r#"[{"name":"Old"}]"#,
            r#"[{"name":"New"}]"#,
            "no object",
        ),
        ("a.json", "{}", "7", "no object"),
        ("a.yml", "a: 1\n", "- 1\n", "a list"),
        ("a.yml", "a: 1\n", "a: 1\n---\na: 2\n", "several documents"),
        ("a.yml", "a: 1\n", "a: 1\na: 2\n", "twice"),
        ("a.yml", "a: 1\n", &many, "too many"),
        ("a.yml", "a: 1\n", &deep, "too deeply"),
    ] {
        assert_taken(name, base.as_bytes(), overlay.as_bytes(), words);
    }
    for (name, base, overlay) in [
        ("a.yml", "a: 1\n", "a: [\n"),
        ("a.json", "{}", "{\"a\": }"),
        ("a.json", "{}", "[1"),
        ("a.toml", "a = 1\n", "a = \n"),
    ] {
        let unreadable = merge(name, base.as_bytes(), overlay.as_bytes());
        assert_eq!(unreadable.bytes, base.as_bytes());
        assert!(unreadable.note.unwrap().contains("left out"));
    }
    let large = vec![b'a'; MAX_FILE as usize + 1];
    assert_taken("a.yml", &large, b"a: 1\n", "larger");
}

/// What a plugin or a template brings is anything at all; neither a panic nor a wrong value may come of it
mod anything {
    use proptest::prelude::*;

    use super::*;

    fn piece() -> impl Strategy<Value = String> {
        const WORDS: &[&str] = &[
            "a", "b", "c", ": ", "=", " = ", "\n", "\n  ", "\r\n", "[", "]", "{", "}", ",", "1", "'x'",
            "\"y\"", "# c", "- ", "&x ", "*x", "|\n", "\\", "[s]\n", "\u{e4}", "\u{20ac}", "true", "---\n",
        ];
        let text = proptest::collection::vec(proptest::sample::select(WORDS), 0..24);
        text.prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn is_merged_exactly_or_replaced(
            base in piece(),
            overlay in piece(),
            name in proptest::sample::select(&["a.yml", "a.toml", "a.json", "a.properties", "a.txt"][..]),
        ) {
            let merged = merge(name, base.as_bytes(), overlay.as_bytes());
            if merged.note.is_none() {
                let again = merge(name, &merged.bytes, overlay.as_bytes());
                prop_assert_eq!(again.bytes, merged.bytes);
            }
        }
    }
}

#[test]
fn what_is_nested_very_deep_is_not_followed_and_costs_little() {
    for depth in [200, 100_000] {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        for (base, overlay) in [("{\"b\":1}", deep.as_str()), (&deep, "{\"b\":1}")] {
            let merged = merge("a.json", base.as_bytes(), overlay.as_bytes());
            let note = merged.note.unwrap();
            assert!(note.contains("nested deeper"), "{note}");
            assert_eq!(merged.bytes, overlay.as_bytes(), "the newer one");
        }
    }
    // Below the bounds of the readers, where a value must not cost more than what it holds.
    let lists = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let (yaml, toml) = (format!("a: {}\n", lists(50)), format!("a = {}\n", lists(50)));
    assert_merged("a.yml", "b: 1\n", &yaml, &format!("b: 1\n{yaml}"));
    assert_merged("a.toml", "b = 1\n", &toml, &format!("b = 1\n{toml}"));
}
