#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn sweep(&self) {
        sweep(self.0.path()).unwrap();
    }
}

#[test]
fn each_kind_of_leftover_is_known_by_its_name() {
    for (name, leftover) in [
        (".a-staging-1-2", Some(Leftover::Useless)),
        (".a-scratch-1-2", Some(Leftover::Useless)),
        (".a-undone-1-2", Some(Leftover::Useless)),
        (".a-undo", Some(Leftover::Undo("a"))),
        (".a-undo-undo", Some(Leftover::Undo("a-undo"))),
        (".a-undo-staging-1-2", Some(Leftover::Useless)),
        (".a-replaced-1-2", Some(Leftover::Former("a"))),
        (".a-ended-7", Some(Leftover::Former("a"))),
        (".a-staging-1", None),
        (".a-staging-x-2", None),
        (".a-staging-1-2-3", None),
        ("a-staging-1-2", None),
        ("a-undo", None),
        ("a@failed-7", None),
        (".git", None),
    ] {
        assert_eq!(Leftover::of(name), leftover, "{name}");
    }
}

#[test]
fn leftovers_of_a_killed_daemon_are_swept() {
    let node = Node::new();
    for name in [
        ".staging/lobby/lobby-1-1/x",
        "lobby/.lobby-1-staging-1-1/x",
        "lobby/.lobby-1-scratch-1-2/0/x",
        "lobby/.lobby-1-undone-1-2/0",
        "lobby/.lobby-1-ended-7/x",
        "lobby/.lobby-2-replaced-a/x",
        "lobby/.lobby-4-undo/x",
        "lobby/lobby-3/x",
        "lobby/lobby-3-undo/x",
        "lobby/.theirs/x",
        "lost+found/x",
    ] {
        node.write(name, "");
    }
    node.write("lobby/.lobby-5-replaced-1-1/hs_err_pid7.log", "why");
    node.sweep();
    assert!(!node.path(".staging").exists());
    let names = node.names("lobby");
    let [theirs, live, undo, crashed] = names.as_slice() else {
        panic!("{names:?}");
    };
    assert_eq!(
        [theirs.as_str(), live, undo],
        [".theirs", "lobby-3", "lobby-3-undo"]
    );
    assert!(crashed.starts_with("lobby-5@crashed-"), "{crashed}");
    node.sweep();
    assert_eq!(node.names("lobby"), names);
}

#[test]
fn a_static_instance_that_a_java_daemon_has_taken_away_is_put_back() {
    let node = Node::new();
    node.write(".staging/survival/survival-1-backup-12345/world", "precious");
    node.write(".staging/survival/survival-1-12346/world", "half");
    node.write(".staging/survival/survival-2-backup-7/world", "older");
    node.write("survival/survival-2/world", "promoted");
    node.sweep();
    assert_eq!(node.text("survival/survival-1/world"), "precious");
    assert_eq!(node.text("survival/survival-2/world"), "promoted");
    assert!(!node.path(".staging").exists());
    let names = node.names("survival");
    let aside = names.iter().find(|name| name.starts_with("survival-2@failed-"));
    assert_eq!(
        node.text(&format!("survival/{}/world", aside.unwrap())),
        "older",
        "nobody knows whether it is needed"
    );
    assert_eq!(names.len(), 3);
}

#[test]
fn what_a_java_daemon_has_taken_away_stays_where_it_cannot_be_put_back() {
    let node = Node::new();
    node.write(".staging/survival/survival-1-backup-12345/world", "precious");
    node.write("survival", "a file in the place of the group");
    node.sweep();
    assert_eq!(
        node.text(".staging/survival/survival-1-backup-12345/world"),
        "precious"
    );
}

#[test]
fn what_is_put_aside_goes_after_a_week_or_before_too_many_others() {
    let node = Node::new();
    let now = milliseconds(SystemTime::now());
    let day = 24 * 60 * 60 * 1000;
    let old = format!("lobby/lobby-1@failed-{}", now - 8 * day);
    let young = format!("lobby/lobby-1@failed-{}", now - 6 * day);
    for folder in [&old, &young] {
        node.write(&format!("{folder}/x"), "");
    }
    node.write("lobby/lobby-1@failed-notes/x", "");
    node.sweep();
    assert!(!node.path(&old).exists() && node.path(&young).exists());
    let live = node.path("lobby/lobby-2");
    for number in 0..MOST_KEPT {
        node.write("lobby/staged/x", &number.to_string());
        let aside = quarantine(&node.path("lobby/staged"), &live).unwrap();
        assert_eq!(fs::read_to_string(aside.join("x")).unwrap(), number.to_string());
        assert!(put_aside(&aside).unwrap() >= now);
    }
    assert!(!node.path(&young).exists(), "the oldest of more than eight");
    let names = node.names("lobby");
    assert_eq!(names.len(), MOST_KEPT + 1, "{names:?}");
    assert!(names.contains(&"lobby-1@failed-notes".to_owned()));
}
