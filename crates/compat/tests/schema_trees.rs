//! Trees of sources: what a name means, what is compared, and which problems are told
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;

use prexorcloud_compat::schema::{SchemaChange, Tree, classify_trees};
use proptest::prelude::*;
use support::{compile_tree, source_files, tree_findings as found, tree_problems as problems};

#[test]
fn an_unrelated_package_does_not_change_what_a_name_means() {
    let user = ">> user.proto\nsyntax = 'proto3'; package envoy.extensions.filters; import 'core.proto';
        message Filter { config.core.Flag flag = 1; }";
    let core = ">> core.proto\nsyntax = 'proto3'; package envoy.config.core; message Flag {}";
    let unrelated =
        ">> other.proto\nsyntax = 'proto3'; package envoy.extensions.config.core; message Flag {}";
    for tree in [
        [user, core, unrelated].join("\n"),
        [unrelated, core, user].join("\n"),
    ] {
        assert_eq!(
            found(&[user, core].join("\n"), &tree),
            [
                "file-added other.proto",
                "message-added envoy.extensions.config.core.Flag"
            ]
        );
        let report = found(
            &tree,
            &tree.replace("config.core.Flag flag", "envoy.config.core.Flag flag"),
        );
        assert_eq!(report, [""; 0], "written in full it is the same");
    }
}

#[test]
fn what_an_import_imports_does_not_change_what_a_name_means() {
    let hidden = ">> hidden.proto\nsyntax = 'proto3'; package a.b.c; message Unused {}";
    let user = |visibility: &str| {
        format!(
            ">> user.proto\nsyntax = 'proto3'; package a.b; import 'c.proto'; import 'd.proto'; message M {{ c.N n = 1; }}
             >> c.proto\nsyntax = 'proto3'; package c; message N {{}}
             >> d.proto\nsyntax = 'proto3'; package d; import {visibility} 'hidden.proto';
             message D {{ a.b.c.Unused u = 1; }}\n{hidden}"
        )
    };
    assert_eq!(found(&user(""), &user("").replace("c.N n", ".c.N n")), [""; 0]);
    // Seen through a public import, the package a.b.c comes first, and has no N.
    assert_eq!(
        problems(&user("public")),
        [
            "user.proto:1: 'c.N' resolves to 'a.b.c.N', which is not defined (The innermost scope is searched first in name resolution. Consider using a leading '.' (i.e., '.c.N') to start from the outermost scope.)"
        ]
    );
}

#[test]
fn a_file_means_the_same_to_whoever_imports_it() {
    // Where both meet, c.N in lib.proto must not become a.b.c.N.
    let tree = ">> user.proto\nsyntax = 'proto3'; import 'other.proto'; import 'lib.proto'; message U { a.b.M m = 1; a.b.c.X x = 2; }
        >> lib.proto\nsyntax = 'proto3'; package a.b; import 'c.proto'; message M { c.N n = 1; }
        >> c.proto\nsyntax = 'proto3'; package c; message N {}
        >> other.proto\nsyntax = 'proto3'; package a.b.c; message X {}";
    assert_eq!(found(tree, tree), [""; 0]);
}

#[test]
fn names_are_visible_through_public_imports_only() {
    let tree = |visibility: &str| {
        format!(
            ">> user.proto\nsyntax = 'proto3';\nimport 'way.proto';\nmessage U {{\n  N n = 1;\n}}
             >> way.proto\nsyntax = 'proto3'; import {visibility} 'n.proto'; message W {{ N n = 1; }}
             >> n.proto\nsyntax = 'proto3'; message N {{}}"
        )
    };
    assert_eq!(found(&tree("public"), &tree("public")), [""; 0]);
    assert_eq!(
        problems(&tree("")),
        [
            "user.proto:4: name 'N' is not defined ('N' is defined in 'n.proto', which is not imported by 'user.proto')"
        ]
    );
}

const NAMESAKES: &str = ">> a.proto\nsyntax = 'proto3'; package p; message M { int32 a = 1; N n = 2; } message N {}
    >> b.proto\nsyntax = 'proto3'; package p; message M { string b = 1; } service S { rpc R(M) returns (M); }
    >> c.proto\nsyntax = 'proto3'; package p; import 'a.proto'; message U { M m = 1; map<string, M> all = 2; }";

#[test]
fn namesakes_in_unrelated_files_are_elements_of_their_own() {
    assert_eq!(found(NAMESAKES, NAMESAKES), [""; 0]);
    let renamed = NAMESAKES.replace("string b", "bytes b");
    assert_eq!(found(NAMESAKES, &renamed), ["field-type-changed p.M (b.proto).b"]);
    let without = NAMESAKES.replace(
        "message M { string b = 1; } service S { rpc R(M) returns (M); }",
        "",
    );
    assert_eq!(
        found(NAMESAKES, &without),
        ["message-removed p.M (b.proto)", "service-removed p.S"]
    );
    assert_eq!(
        found(&without, NAMESAKES),
        ["message-added p.M (b.proto)", "service-added p.S"]
    );
    // The same words, and another message.
    let turned = NAMESAKES.replace("import 'a.proto'", "import 'b.proto'");
    assert_eq!(
        found(NAMESAKES, &turned),
        [
            "field-type-changed p.U.all",
            "field-type-changed p.U.m",
            "imports-changed c.proto"
        ]
    );
}

#[test]
fn a_namesake_that_moves_is_the_same() {
    let moved = NAMESAKES.replace("b.proto", "d.proto");
    assert_eq!(
        found(NAMESAKES, &moved),
        [
            "file-added d.proto",
            "file-removed b.proto",
            "type-moved p.M (b.proto)",
            "type-moved p.S"
        ]
    );
}

#[test]
fn copies_that_say_the_same_are_one_element() {
    let copies = ">> a.proto\nsyntax = 'proto3'; package p; message M { N n = 1; } message N { enum E { Z = 0; } E e = 1; }
        >> copy/a.proto\nsyntax = 'proto3'; package p; message N { enum E { Z = 0; } E e = 1; } // a copy\n message M { N n = 1; }
        >> user.proto\nsyntax = 'proto3'; package p; import 'a.proto'; message U { M m = 1; }";
    let one = copies
        .replace(">> copy/a.proto", ">> copy/b.proto")
        .replace("// a copy\n message M { N n = 1; }", "");
    assert_eq!(found(copies, copies), [""; 0]);
    assert_eq!(
        found(copies, &one),
        ["file-added copy/b.proto", "file-removed copy/a.proto"]
    );
    let elsewhere = copies.replace("import 'a.proto'", "import 'copy/a.proto'");
    assert_eq!(found(copies, &elsewhere), ["imports-changed user.proto"]);
    // One copy changes: its M is another one too, because it refers to another N.
    let changed = copies.replacen("E e = 1;", "int32 e = 1;", 1);
    assert_eq!(found(copies, &changed), ["field-type-changed p.N (a.proto).e"]);
    let both = changed.replace("import 'a.proto'", "import 'copy/a.proto'");
    assert_eq!(
        found(copies, &both),
        [
            "field-type-changed p.N (a.proto).e",
            "field-type-changed p.U.m",
            "imports-changed user.proto"
        ]
    );
}

#[test]
fn namesakes_that_meet_are_a_problem() {
    let meet = ">> a.proto\nsyntax = 'proto3';\nmessage M {}
        >> b.proto\nsyntax = 'proto3';\nmessage M {}
        >> user.proto\nsyntax = 'proto3';\nimport 'a.proto';\nimport 'b.proto';";
    let expected =
        "user.proto:3: cannot import 'b.proto' as well: name 'M' is already defined in file 'a.proto'";
    assert_eq!(problems(meet), [expected]);
    // Also where one of them comes along with another import.
    let far = meet.replace("import 'b.proto';", "import 'way.proto';")
        + "\n>> way.proto\nsyntax = 'proto3';\nimport 'b.proto';";
    assert_eq!(problems(&far), [expected]);
    let direct = ">> a.proto\nsyntax = 'proto3';\nimport 'b.proto';\n\nmessage M {}
        >> b.proto\nsyntax = 'proto3';\nmessage M {}";
    assert_eq!(
        problems(direct),
        ["a.proto:4: name 'M' is already defined in file 'b.proto'"]
    );
}

#[test]
fn options_of_unrelated_files_may_share_a_number() {
    let tree = ">> a.proto\nsyntax = 'proto2'; package a; import 'google/protobuf/descriptor.proto';
            extend google.protobuf.FieldOptions { optional string note = 50000; }
            message M { optional int32 x = 1 [(note) = 'old']; }
        >> b.proto\nsyntax = 'proto2'; package b; import 'google/protobuf/descriptor.proto';
            extend google.protobuf.FieldOptions { optional int32 limit = 50000; }
            message M { optional int32 x = 1 [(limit) = 7]; }";
    assert_eq!(found(tree, tree), [""; 0]);
    assert_eq!(
        found(tree, &tree.replace("'old'", "'new'")),
        ["option-changed a.M.x"]
    );
    assert_eq!(found(tree, &tree.replace("= 7", "= 8")), ["option-changed b.M.x"]);
    assert_eq!(
        found(tree, &tree.replace("[(limit) = 7]", "")),
        ["option-changed b.M.x"]
    );
}

#[test]
fn custom_options_are_compared_on_every_kind_of_element() {
    let tree = |value: u8| {
        let extensions: String = [
            "File",
            "Message",
            "Field",
            "Oneof",
            "Enum",
            "EnumValue",
            "Service",
            "Method",
        ]
        .map(|kind| {
            format!(
                "extend google.protobuf.{kind}Options {{ optional Rule {} = 50000; }}\n",
                kind.to_lowercase()
            )
        })
        .concat();
        format!(
            ">> rule.proto\nsyntax = 'proto2'; package r; import 'google/protobuf/descriptor.proto';
                message Rule {{ repeated int32 limit = 1 [packed = true]; }} {extensions}
             >> a.proto\nsyntax = 'proto2'; package a; import 'rule.proto'; option (r.file).limit = {value};
                message M {{ option (r.message) = {{ limit: [{value}] }};
                    oneof o {{ option (r.oneof).limit = {value}; int32 x = 1 [(r.field).limit = {value}]; }}
                    message N {{ optional int32 y = 1 [(.r.field).limit = {value}]; extensions 5; }}
                    extend N {{ optional int32 inner = 5 [(r.field).limit = {value}]; }} }}
                extend M.N {{ optional int32 outer = 6 [(r.field).limit = {value}]; }}
                enum E {{ option (r.enum).limit = {value}; Z = 0 [(r.enumvalue).limit = {value}]; }}
                service S {{ option (r.service).limit = {value};
                    rpc R(M) returns (M) {{ option (r.method).limit = {value}; }} }}"
        )
        .replace("extensions 5;", "extensions 5 to 6;")
    };
    assert_eq!(found(&tree(1), &tree(1)), [""; 0]);
    assert_eq!(
        found(&tree(1), &tree(2)),
        [
            "a.E",
            "a.E.Z",
            "a.M",
            "a.M.N.y",
            "a.M.inner",
            "a.M.o",
            "a.M.x",
            "a.S",
            "a.S.R",
            "a.outer",
            "a.proto",
        ]
        .map(|element| format!("option-changed {element}"))
    );
}

// ---- imports that are not compared ----

const USER: &str = ">> user.proto\nsyntax = 'proto2'; package p; import 'lib/unit.proto'; import 'google/protobuf/duration.proto';
    message U { optional lib.Unit unit = 1; optional google.protobuf.Duration d = 2; optional lib.Size size = 3; }";

#[test]
fn imports_are_asked_for_once_and_not_compared() {
    let asked = RefCell::new(Vec::new());
    let compile = |unit: &'static str| {
        Tree::compile(source_files(USER), |name| {
            asked.borrow_mut().push(name.to_owned());
            let text = match name {
                "lib/unit.proto" => unit,
                "lib/base.proto" => "syntax = 'proto2'; package lib; message Base {}",
                _ => return None,
            };
            Some(Ok(text.as_bytes().to_vec()))
        })
        .unwrap()
    };
    let old = compile(
        "syntax = 'proto2'; package lib; import 'lib/base.proto'; message Unit { optional Base b = 1; } enum Size { S = 0; }",
    );
    asked.borrow_mut().sort();
    assert_eq!(
        asked.take(),
        ["lib/base.proto", "lib/unit.proto"],
        "well-known files are built in"
    );
    let new = compile(
        "syntax = 'proto2'; package lib; message Unit { required int32 other = 9; } enum Size { L = 9; }",
    );
    assert_eq!(classify_trees(&old, &new).verdict(), SchemaChange::Identical);
    let names: Vec<_> = old.descriptors().file.iter().map(|file| file.name()).collect();
    assert_eq!(names, ["user.proto"]);
}

#[test]
fn an_import_says_what_an_implicit_default_is() {
    let tree = |field: &str| {
        let text = format!(
            ">> user.proto\nsyntax = 'proto2'; package p; import 'lib.proto'; message U {{ {field} }}"
        );
        let lib = "syntax = 'proto2'; package lib; enum Size { M = 5; L = 9; }";
        Tree::compile(source_files(&text), |_| Some(Ok(lib.as_bytes().to_vec()))).unwrap()
    };
    let plain = tree("optional lib.Size size = 1;");
    let spelled = tree("optional lib.Size size = 1 [default = M];");
    let other = tree("optional lib.Size size = 1 [default = L];");
    assert_eq!(
        classify_trees(&plain, &spelled).verdict(),
        SchemaChange::Identical
    );
    assert_eq!(
        classify_trees(&spelled, &plain).verdict(),
        SchemaChange::Identical
    );
    assert_eq!(classify_trees(&spelled, &other).verdict(), SchemaChange::Breaking);
}

#[test]
fn a_file_that_one_side_carries_and_the_other_imports_is_compared() {
    let lib = |field: &str| format!("syntax = 'proto3'; package lib; message Unit {{ int32 {field} = 1; }}");
    let user = ">> user.proto\nsyntax = 'proto3'; import 'lib.proto'; message U { lib.Unit u = 1; }";
    let carries = compile_tree(&format!("{user}\n>> lib.proto\n{}", lib("a")), |_| None).unwrap();
    for (field, verdict) in [("a", SchemaChange::Identical), ("b", SchemaChange::Breaking)] {
        let imports = compile_tree(user, |_| Some(lib(field))).unwrap();
        assert_eq!(classify_trees(&carries, &imports).verdict(), verdict);
        assert_eq!(classify_trees(&imports, &carries).verdict(), verdict);
    }
}

// ---- problems ----

#[test]
fn every_problem_of_a_tree_is_told_with_its_line() {
    let tree = ">> bytes.proto\n
        >> cycle/a.proto\nsyntax = 'proto3';\nimport 'cycle/b.proto';
        >> cycle/b.proto\nsyntax = 'proto3';\n\nimport 'cycle/a.proto';
        >> edition.proto\n\nedition = '2023';
        >> imports.proto\nsyntax = 'proto3';\nimport 'no/1.proto';\nimport 'no/2.proto';\nimport 'syntax.proto';\nmessage M {\n  int32 a = 1;\n  int32 b = 1;\n}
        >> itself.proto\nsyntax = 'proto3';\nimport 'itself.proto';
        >> names.proto\nsyntax = 'proto3';\nmessage M {\n  Nowhere a = 1;\n  No.Where b = 2;\n}\nmessage M {}\nservice S {\n  rpc R(Gone) returns (M);\n}
        >> numbers.proto\nsyntax = 'proto3';\nmessage M {\n  int32 a = 1;\n  int32 b = 1;\n  reserved 7;\n  Nowhere d = 7;\n}\nenum E {\n  A = 1;\n}
        >> open.proto\nsyntax = 'proto3';\nmessage M {\n  int32 a = 0;\n  string b = 600000000;\n
        >> options.proto\nsyntax = 'proto3';\noption no_such = 1;\nmessage M {\n  int32 a = 1 [(gone) = 2];\n  int32 b = 2 [packed = 'x'];\n}
        >> syntax.proto\nsyntax = 'proto3';\nmessage M {\n  int32 a = ;\n}\nmessage N {\n  int32 = 4;\n}
        >> twice.proto\nsyntax = 'proto3';\nimport 'google/protobuf/any.proto';\nimport 'google/protobuf/any.proto';
        >> unread.proto\n";
    let mut files = source_files(tree);
    files.insert("bytes.proto".into(), Ok(b"syntax = 'proto3';\n// \xff".to_vec()));
    files.insert("unread.proto".into(), Err("permission denied".into()));
    let told = Tree::compile(files, |_| None).unwrap_err();
    let mut sorted = told.clone();
    sorted.sort();
    assert_eq!(told, sorted);
    let places: Vec<_> = told
        .iter()
        .map(|problem| format!("{}:{}", problem.file, problem.line.unwrap_or(0)))
        .collect();
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    assert_eq!(
        places,
        [
            "bytes.proto:2",
            "cycle/a.proto:2",
            "edition.proto:2",
            "imports.proto:2",
            "imports.proto:3",
            "imports.proto:7",
            "itself.proto:2",
            "names.proto:3",
            "names.proto:4",
            "names.proto:6",
            "names.proto:8",
            "numbers.proto:4",
            "numbers.proto:6",
            "numbers.proto:6",
            "numbers.proto:9",
            "open.proto:4",
            "options.proto:2",
            "options.proto:4",
            "options.proto:5",
            "syntax.proto:3",
            "syntax.proto:6",
            "twice.proto:3",
            "unread.proto:0",
        ],
        "{told:#?}"
    );
}

#[test]
fn what_follows_from_another_file_is_not_told_again() {
    let tree = ">> broken.proto\nsyntax = 'proto3';\nmessage Broken {\n  int32 a = 1;\n  int32 b = 1;\n}
        >> garbled.proto\nsyntax = 'proto3';\nmessage {
        >> near.proto\nsyntax = 'proto3';\nimport 'broken.proto';\nmessage Near {\n  Broken a = 1;\n  Gone b = 2;\n}
        >> far.proto\nsyntax = 'proto3';\nimport 'near.proto';\nmessage Far {\n  Near a = 1;\n  int32 b = 1;\n}
        >> blind.proto\nsyntax = 'proto3';\nimport 'garbled.proto';\nmessage Blind {\n  Maybe a = 1;\n  reserved 1;\n}
        >> fine.proto\nsyntax = 'proto3';\nimport 'far.proto';\nmessage Fine {\n  Far a = 1;\n}";
    let places: Vec<_> = problems(tree)
        .iter()
        .map(|problem| problem.split(": ").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        places,
        [
            "blind.proto:4",
            "broken.proto:4",
            "far.proto:5",
            "garbled.proto:2",
            "near.proto:5"
        ]
    );
}

#[test]
fn a_problem_of_an_import_is_told_once_and_under_its_name() {
    let tree = ">> a.proto\nsyntax = 'proto3'; import 'lib/unit.proto'; message A { Unit u = 1; }
        >> b.proto\nsyntax = 'proto3'; import 'lib/unit.proto'; message B { Unit u = 1; }";
    let told = |import: &'static str| {
        let problems = compile_tree(tree, |name| (name == "lib/unit.proto").then(|| import.to_owned()));
        let problems = problems.unwrap_err();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        told("syntax = 'proto3';\nmessage Unit {\n  int32 a = 0;\n}"),
        ["lib/unit.proto:3: message numbers must be between 1 and 536870911"]
    );
    assert_eq!(
        told("syntax = 'proto3';\n\nimport 'base.proto'; message Unit {}"),
        ["lib/unit.proto:3: import 'base.proto' not found"]
    );
    assert_eq!(
        told("syntax = 'proto3';\nimport 'a.proto'; message Unit {}"),
        ["a.proto:1: import cycle detected: a.proto -> lib/unit.proto -> a.proto"]
    );
}

#[test]
fn each_cycle_is_told_once() {
    let tree = ">> a.proto\nimport 'b.proto';\nimport 'c.proto';
        >> b.proto\nimport 'a.proto';
        >> c.proto\nimport 'd.proto';
        >> d.proto\nimport 'a.proto';
        >> e.proto\nimport 'd.proto';";
    assert_eq!(
        problems(tree),
        [
            "a.proto:1: import cycle detected: a.proto -> b.proto -> a.proto",
            "a.proto:2: import cycle detected: a.proto -> c.proto -> d.proto -> a.proto",
        ]
    );
}

#[test]
fn a_chain_of_imports_of_any_length_costs_no_stack() {
    let last = 400;
    let tree: String = (0..last)
        .map(|n| {
            format!(
                ">> f{n}.proto\nsyntax = 'proto3'; import 'f{}.proto'; message M{n} {{}}\n",
                n + 1
            )
        })
        .collect();
    let end = |import: &str| format!("{tree}>> f{last}.proto\nsyntax = 'proto3';\n{import}");
    assert_eq!(problems(&end("import 'f0.proto';")).len(), 1);
    assert_eq!(problems(&end("message {")).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Sources made of the words that decide about imports, scopes and names.
    #[test]
    fn any_sources_are_compiled_or_refused_with_reasons(
        texts in proptest::collection::vec(proptest::collection::vec(proptest::sample::select(WORDS), 0..24), 1..4),
        import in proptest::collection::vec(proptest::sample::select(WORDS), 0..24),
    ) {
        let names = ["a.proto", "b.proto", "c.proto"];
        let files: BTreeMap<_, _> = names
            .iter()
            .zip(&texts)
            .map(|(name, words)| ((*name).to_owned(), Ok(words.join(" ").into_bytes())))
            .collect();
        let compile = || Tree::compile(files.clone(), |name| {
            (name == "lib.proto").then(|| Ok(import.join(" ").into_bytes()))
        });
        match (compile(), compile()) {
            (Ok(old), Ok(new)) => prop_assert_eq!(classify_trees(&old, &new).verdict(), SchemaChange::Identical),
            (Err(problems), Err(again)) => {
                prop_assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.reason.is_empty()));
                prop_assert_eq!(problems, again);
            }
            _ => prop_assert!(false, "the same sources are the same"),
        }
    }
}

const WORDS: &[&str] = &[
    "syntax = 'proto2';",
    "import 'a.proto';",
    "import public 'b.proto';",
    "import 'lib.proto';",
    "import weak 'c.proto';",
    "import 'google/protobuf/descriptor.proto';",
    "package p;",
    "package p.q;",
    "package q;",
    "message M {",
    "message p {",
    "message N {}",
    "enum E { A = 0; }",
    "enum E { B = 7; }",
    "}",
    "optional M a = 1;",
    "optional p.M b = 2;",
    "optional .p.q.N c = 3;",
    "optional E d = 4 [default = B];",
    "map<int32, M> e = 5;",
    "extensions 9 to 11;",
    "extend M { optional M x = 9; }",
    "extend google.protobuf.FieldOptions { optional E o = 50000; }",
    "optional int32 f = 6 [(p.o) = A];",
    "option (o) = A;",
    "service S { rpc R(M) returns (p.M); }",
    "oneof o { M g = 7; E h = 8; }",
    "reserved 5;",
    "optional group G = 10 {",
    "repeated int32 i = 12 [packed = true];",
    "é",
];
