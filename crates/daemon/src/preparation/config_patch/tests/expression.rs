//! Expressions, replacements, and what is refused of them

use super::*;

fn replaced(pattern: &str, replacement: &str, text: &str) -> Result<String, String> {
    Expression::new(pattern, replacement, "")?.replace_all(text)
}

/// What `java.util.regex` gives for each; `java_reads_expressions_as_they_are_read_here` asks it
const SAME: &[(&str, &str, &str)] = &[
    (": false", ": true", "a: false b: false"),
    ("x*", "-", "axb"),
    ("(a)(b)?", "[$2$1]", "ab a"),
    ("(?<key>\\w+)=(.*)", "${key}: $2", "port=1"),
    ("^(\\s*)enabled: \\S+$", "$1enabled: yes", "  enabled: no"),
    ("a|ab", "x", "ab"),
    ("a{2,3}?", "x", "aaaa"),
    ("(?i)ONLINE-mode", "x", "Online-Mode"),
    ("(?i:a)b", "x", "Ab AB"),
    ("\\bword\\b", "x", "word swordword word1"),
    ("\\w", "x", "\u{e4}_1"),
    ("\\W", "x", "\u{e4}_1"),
    ("\\d+", "<$0>", "\u{661}12"),
    ("[\\d.]+", "x", "1.2.3 4"),
    ("[]a]", "x", "a]b"),
    ("[^]a]", "x", "a]b"),
    ("[a\\-z]", "x", "b-az"),
    ("\\Qa.b*\\E+", "x", "a.b*** aXb"),
    ("\\Qa\\E\\.", "x", "a."),
    ("\\<a\\>", "x", "<a> a"),
    ("\\x41\\u00e4", "x", "A\u{e4}"),
    ("\\p{Lu}", "x", "a\u{c4}B"),
    ("a\\Z", "\\$\\\\", "aa"),
    ("(a)", "$12", "a"),
    ("(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)", "$11$12", "abcdefghijk"),
    (".", "x", "\u{1f600}a"),
    ("%[a-z]+%", "$0", "%motd%"),
    ("a.c", "x", "abc a\tc"),
];

#[test]
fn an_expression_replaces_every_match_in_every_line() {
    let text = "a: 1\r\nb: 2\nc: 3\r\rd: 4";
    assert_eq!(
        replaced("^(.): (\\d)$", "$2: $1", text).unwrap(),
        "1: a\r\n2: b\n3: c\r\r4: d"
    );
    assert_eq!(replaced("$", ";", "a\r\n\nb").unwrap(), "a;\r\n;\nb;");
    assert_eq!(replaced("a", "", "").unwrap(), "");
}

#[test]
fn an_expression_that_means_something_else_here_is_refused() {
    for (pattern, words) in [
        ("a(?=b)", "(?="),
        ("a(?!b)", "look-around"),
        ("(?<=a)b", "(?<="),
        ("(?>a)", "(?>"),
        ("(a)\\1", "\\1"),
        ("a++", "quantifier"),
        ("a{2}+", "quantifier"),
        ("a?+", "quantifier"),
        ("a+?+", "quantifier"),
        ("(?x)a b", "(?x"),
        ("(?m)^a", "(?m"),
        ("(?U)a", "(?U"),
        ("[a&&b]", "&&"),
        ("[a--b]", "--"),
        ("[[:alpha:]]", "set"),
        ("\\v", "\\v"),
        ("\\p{Lower}", "\\p"),
        ("\\b{g}", "\\b"),
        ("a{", "{"),
        ("{a}", "{"),
        ("(a", "unclosed"),
        ("a)", "unopened"),
        ("[a", "does not end"),
        ("a\\", "backslash"),
        ("*", "missing expression"),
        ("\\ud800", "character"),
        ("(?i)\u{e4}", "ASCII only"),
        ("(?", "does not end"),
    ] {
        let problem = replaced(pattern, "", "").unwrap_err();
        assert!(problem.contains(words), "{pattern}: {words} in {problem}");
    }
    for (replacement, words) in [
        ("$", "number of a group"),
        ("$a", "number of a group"),
        ("$2", "group 2, and the expression has 1"),
        ("${b}", "\"b\""),
        ("${b", "\"\""),
        ("\\", "backslash"),
    ] {
        let problem = replaced("(?<a>a)", replacement, "").unwrap_err();
        assert!(problem.contains(words), "{replacement}: {words} in {problem}");
    }
}

#[test]
fn what_an_expression_may_cost_is_bounded() {
    let too_long = "a".repeat(5000);
    assert!(replaced(&too_long, "", "").unwrap_err().contains("5000 bytes"));
    assert!(replaced("(a{100}){100}{100}", "", "").is_err());
    assert!(
        replaced("((a{1000}){1000}){1000}", "", "")
            .unwrap_err()
            .contains("size limit")
    );
    let deep = format!("{}a{}", "(".repeat(60), ")".repeat(60));
    assert!(replaced(&deep, "", "").unwrap_err().contains("nest"));
    let line = "a".repeat(70_000);
    assert!(
        replaced("b", "", &line)
            .unwrap_err()
            .contains("a line of more than")
    );
    let growing = "a".repeat(40_000);
    let problem = replaced("a", &"b".repeat(4000), &growing).unwrap_err();
    assert!(problem.contains("larger than"), "{problem}");
    // Backtracking would take longer than the world is old.
    assert_eq!(replaced("(a*)*b", "", &growing).unwrap(), growing);
}

#[test]
fn text_that_is_read_differently_is_refused() {
    assert!(
        replaced("a", "b", "x\u{2028}a")
            .unwrap_err()
            .contains("\\u{2028}")
    );
    assert!(replaced("(?i)k", "b", "\u{212a}").unwrap_err().contains("case"));
    assert_eq!(replaced("k", "b", "\u{212a}k").unwrap(), "\u{212a}b");
}

#[test]
fn a_file_stays_readable_under_an_expression() {
    for (file, former, pattern) in [
        ("x.yml", "a: [1]\n", "\\]"),
        ("x.toml", "a = 1\n", "1"),
        ("x.json", "{\"a\": 1}", "\\}"),
        ("x.properties", "a=\\u00e4\n", "00e4"),
    ] {
        let folder = Folder::new();
        let path = folder.0.path().join(file);
        fs::write(&path, former).unwrap();
        let error = folder.carry_out(file, pattern, "", 2).unwrap_err();
        assert!(
            error.to_string().contains("could not be read any more"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), former);
        // What cannot be read before is nobody's to judge.
        fs::write(&path, format!("{former}a = [\\u : \"")).unwrap();
        folder.carry_out(file, pattern, "", 2).unwrap();
    }
}

#[test]
fn java_reads_expressions_as_they_are_read_here() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("Replace.java");
    fs::write(
        &source,
        "public class Replace {
            public static void main(String[] rest) throws Exception {
                var in = new java.io.BufferedReader(new java.io.InputStreamReader(System.in, \"UTF-8\"));
                var out = new java.io.PrintStream(System.out, true, \"UTF-8\");
                for (String pattern; (pattern = in.readLine()) != null;) {
                    String replacement = in.readLine();
                    out.println(in.readLine().replaceAll(pattern, replacement));
                }
            }
        }",
    )
    .unwrap();
    let asked: String = SAME
        .iter()
        .map(|(pattern, replacement, text)| format!("{pattern}\n{replacement}\n{text}\n"))
        .collect();
    let input = folder.path().join("input");
    fs::write(&input, asked).unwrap();
    let java = crate::preparation::find_java(None, |key| std::env::var(key).ok()).unwrap();
    let ran = std::process::Command::new(java)
        .arg(&source)
        .stdin(fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    let problem = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(said.lines().count(), SAME.len(), "{problem}");
    for ((pattern, replacement, text), wanted) in SAME.iter().zip(said.lines()) {
        let got = replaced(pattern, replacement, text);
        assert_eq!(got.as_deref(), Ok(wanted), "{pattern} {replacement} {text}");
    }
}
