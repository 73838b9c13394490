//! Templates and the bytes that they are made of, without a network
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prexorcloud_content::{Digest, Folder, Limits, Manifest, unpack};
use prexorcloud_controller::{
    content::{BlobError, Content, FolderBlobs},
    store::{SqliteOptions, SqliteStore, Store},
    templates::{
        MAX_VERSIONS, TemplateError, Templates,
        variables::{Scope, Validation, Variable, VariableType},
    },
};
use prexorcloud_security::seal::SealingKey;

const PATIENCE: Duration = Duration::from_secs(5);

struct Rig {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    content: Arc<Content>,
    templates: Templates,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db"), &SqliteOptions::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let blobs = FolderBlobs::open(&folder.path().join("content")).unwrap();
        let content = Arc::new(Content::new(Arc::new(blobs)));
        let key = Arc::new(SealingKey::generate().unwrap());
        let limits = Limits {
            ratio: 50,
            ..Limits::default()
        };
        let templates = Templates::new(Arc::clone(&store), Arc::clone(&content), key, limits);
        Self {
            folder,
            store,
            content,
            templates,
        }
    }

    fn blob(&self, name: Digest) -> PathBuf {
        let name = name.to_string();
        self.folder
            .path()
            .join("content/blobs")
            .join(&name[..2])
            .join(name)
    }

    async fn put(&self, bytes: &str) -> Result<Digest, BlobError> {
        let name = Digest::of(bytes.as_bytes());
        let parts = bytes
            .as_bytes()
            .chunks(3.max(bytes.len() / 8))
            .map(|part| Ok::<_, io::Error>(Bytes::copy_from_slice(part)));
        self.content
            .receive(name, bytes.len() as u64, PATIENCE, stream::iter(parts))
            .await
            .map(|()| name)
    }

    /// Sends what is lacking of these files, and publishes them
    async fn push(&self, name: &str, files: &[(&str, &str)]) -> Result<(String, usize), TemplateError> {
        let manifest = manifest(files);
        let lacking = self.templates.lacking(name, &manifest).await?;
        for (digest, _) in &lacking.blobs {
            let (_, bytes) = files
                .iter()
                .find(|(_, bytes)| Digest::of(bytes.as_bytes()) == *digest)
                .unwrap();
            self.put(bytes).await?;
        }
        let base = lacking.current.map(|version| version.manifest.parse().unwrap());
        let published = self.templates.publish("test", name, manifest, base).await?;
        Ok((published.version.manifest, lacking.blobs.len()))
    }
}

fn manifest(files: &[(&str, &str)]) -> Manifest {
    let room = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = room.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    Folder::open(room.path())
        .unwrap()
        .scan(&Limits::default())
        .unwrap()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[tokio::test]
async fn blobs_are_whole_or_not_there() {
    let rig = Rig::new();
    let incoming = rig.folder.path().join("content/incoming");
    let name = rig.put("some bytes").await.unwrap();
    rig.put("some bytes").await.unwrap();
    assert_eq!(rig.content.read(name, 10).await.unwrap().unwrap(), b"some bytes");
    assert_eq!(rig.content.read(name, 9).await.unwrap(), None);
    let rest: Vec<Bytes> = rig
        .content
        .stream(name, 5)
        .await
        .unwrap()
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(rest.concat(), b"bytes");

    let other = Digest::of(b"something else");
    let part = || stream::iter([Ok::<_, io::Error>(Bytes::from("some bytes"))]);
    for size in [9, 10, 11] {
        let error = rig
            .content
            .receive(other, size, PATIENCE, part())
            .await
            .unwrap_err();
        assert!(matches!(error, BlobError::Mismatch), "{size}: {error}");
    }
    let torn = part().chain(stream::iter([Err(io::ErrorKind::ConnectionReset.into())]));
    let error = rig.content.receive(other, 14, PATIENCE, torn).await.unwrap_err();
    assert!(matches!(error, BlobError::Incomplete { .. }), "{error}");
    let stalled = part().chain(stream::pending());
    let error = rig
        .content
        .receive(other, 14, Duration::from_millis(20), stalled)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nothing came"), "{error}");
    let error = rig
        .content
        .receive(other, u64::MAX / 2, PATIENCE, part())
        .await
        .unwrap_err();
    assert!(matches!(error, BlobError::NoSpace), "{error}");
    assert!(rig.content.stream(other, 0).await.unwrap().is_none());
    assert!(is_empty(&incoming));

    fs::write(incoming.join("7.part"), "of a controller that was killed").unwrap();
    FolderBlobs::open(&rig.folder.path().join("content")).unwrap();
    assert!(is_empty(&incoming));
}

#[tokio::test]
async fn only_what_changed_is_sent_and_a_version_is_what_was_pushed() {
    let rig = Rig::new();
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    let before = [
        ("plugins/a.jar", "a jar"),
        ("b.yml", "a: 1"),
        ("copy.yml", "a: 1"),
    ];
    let (first, sent) = rig.push("lobby", &before).await.unwrap();
    assert_eq!(sent, 2, "the same bytes travel once");
    let after = [
        ("plugins/a.jar", "a jar"),
        ("b.yml", "a: 2"),
        ("copy.yml", "a: 1"),
    ];
    let (second, sent) = rig.push("lobby", &after).await.unwrap();
    assert_eq!(sent, 1);
    // The same again is no new version.
    assert_eq!(rig.push("lobby", &after).await.unwrap(), (second.clone(), 0));
    let (versions, current) = rig.templates.versions("lobby").await.unwrap();
    let listed: Vec<_> = versions.iter().map(|version| version.manifest.clone()).collect();
    assert_eq!((listed, current), (vec![second.clone(), first.clone()], 2));

    let archive: Digest = versions[1].archive.parse().unwrap();
    let bytes = rig.content.read(archive, u64::MAX).await.unwrap().unwrap();
    let into = tempfile::tempdir().unwrap();
    let unpacked = unpack(&bytes[..], into.path(), &Limits::default()).unwrap();
    assert_eq!(unpacked.archive_sha256, archive);
    assert_eq!(
        unpacked.manifest,
        rig.templates.manifest(&versions[1]).await.unwrap()
    );
    assert_eq!(fs::read_to_string(into.path().join("b.yml")).unwrap(), "a: 1");

    // What a Java controller would call these files.
    let java = Digest::of(b"b.ymla: 1copy.ymla: 1plugins/a.jara jar").to_string();
    assert_eq!(versions[1].content_hash, java);
    assert!(versions[1].is_known_as(&java) && versions[1].is_known_as(&versions[1].archive));
    assert!(!versions[0].is_known_as(&java) && !versions[1].is_known_as(""));

    let back = rig.templates.rollback("test", "lobby", None).await.unwrap();
    assert_eq!(back.manifest, first);
    let none = rig.templates.rollback("test", "lobby", None).await.unwrap_err();
    assert!(matches!(none, TemplateError::NoPrevious));
    let forth = rig
        .templates
        .rollback("test", "lobby", Some(&second))
        .await
        .unwrap();
    assert_eq!(forth.number, 2);
    let unknown = rig
        .templates
        .rollback("test", "lobby", Some("x"))
        .await
        .unwrap_err();
    assert!(matches!(unknown, TemplateError::UnknownVersion));
}

#[tokio::test]
async fn a_rollback_goes_to_the_version_that_counted_before() {
    let rig = Rig::new();
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    let mut first = String::new();
    for content in ["1", "2", "3"] {
        let (version, _) = rig.push("lobby", &[("a", content)]).await.unwrap();
        if first.is_empty() {
            first = version;
        }
    }
    let back = async |to: Option<&str>| rig.templates.rollback("test", "lobby", to).await;
    assert_eq!(back(Some(&first)).await.unwrap().number, 1);
    rig.push("lobby", &[("a", "4")]).await.unwrap();
    for number in [1, 3, 2, 1] {
        assert_eq!(back(None).await.unwrap().number, number);
    }
    assert!(matches!(back(None).await, Err(TemplateError::NoPrevious)));
}

#[tokio::test]
async fn of_two_pushes_at_once_one_wins_and_the_other_is_told() {
    let rig = Rig::new();
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    let (base, _) = rig.push("lobby", &[("a", "0")]).await.unwrap();
    for round in 0..8 {
        let base: Digest = if round == 0 {
            base.parse().unwrap()
        } else {
            rig.templates
                .find_version("lobby", "current")
                .await
                .unwrap()
                .manifest
                .parse()
                .unwrap()
        };
        let texts = [format!("{round} one"), format!("{round} two")];
        for text in &texts {
            rig.put(text).await.unwrap();
        }
        let push = |text: &str| {
            rig.templates
                .publish("test", "lobby", manifest(&[("a", text)]), Some(base))
        };
        let (one, two) = tokio::join!(push(&texts[0]), push(&texts[1]));
        let (won, lost) = match (one, two) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
            other => panic!("{other:?}"),
        };
        assert!(lost.to_string().contains(&won.version.manifest), "{lost}");
        let (_, current) = rig.templates.show("lobby").await.unwrap();
        assert_eq!(current.unwrap(), won.version);
    }
    let stale = rig
        .templates
        .publish("test", "lobby", manifest(&[("a", "0")]), None)
        .await
        .unwrap_err();
    assert!(matches!(stale, TemplateError::Conflict(_)), "{stale}");
}

#[tokio::test]
async fn what_is_not_here_or_damaged_is_not_published() {
    let rig = Rig::new();
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    let files = [("a", "not sent")];
    let missing = rig
        .templates
        .publish("test", "lobby", manifest(&files), None)
        .await
        .unwrap_err();
    assert!(
        matches!(missing, TemplateError::Missing { count: 1 }),
        "{missing}"
    );

    let name = rig.put("not sent").await.unwrap();
    fs::write(rig.blob(name), "not SENT").unwrap();
    let damaged = rig
        .templates
        .publish("test", "lobby", manifest(&files), None)
        .await
        .unwrap_err();
    assert!(
        matches!(damaged, TemplateError::Missing { count: 1 }),
        "{damaged}"
    );
    rig.push("lobby", &files).await.expect("it was sent again");

    // All that is damaged goes at once, also what is of another size.
    let several = [("a", "one"), ("b", "two"), ("c", "three")];
    for (_, content) in several {
        rig.put(content).await.unwrap();
    }
    let [one, two, three] = several.map(|(_, content)| Digest::of(content.as_bytes()));
    fs::write(rig.blob(one), "ONE").unwrap();
    fs::write(rig.blob(two), "TWO").unwrap();
    let (_, base) = rig.templates.show("lobby").await.unwrap();
    let base = base.map(|version| version.manifest.parse().unwrap());
    let damaged = rig.templates.publish("test", "lobby", manifest(&several), base);
    damaged.await.unwrap_err();
    fs::write(rig.blob(three), "shorter").unwrap();
    let lacking = rig.templates.lacking("lobby", &manifest(&several)).await.unwrap();
    assert_eq!(lacking.blobs.len(), 3, "{:?}", lacking.blobs);
    rig.push("lobby", &several).await.expect("they were sent again");
    let mut lying = manifest(&[("a", "one")]).to_json().unwrap();
    let size = lying.windows(7).position(|part| part == b"\"size\":").unwrap() + 7;
    lying[size] = b'9';
    let lying = rig.templates.parse(&lying).unwrap();
    let error = rig.templates.lacking("lobby", &lying).await.unwrap_err();
    assert!(error.to_string().contains("as the manifest says"), "{error}");

    // Zeros that no node would unpack.
    let zeros = "\0".repeat(80 << 20);
    let error = rig.push("lobby", &[("zeros", &zeros)]).await.unwrap_err();
    assert!(
        error.to_string().contains("bytes come out of each byte"),
        "{error}"
    );
    for name in ["", "A", "-a", "a/b", "..", &"a".repeat(33)] {
        let error = rig.templates.create("test", name, "", "").await.unwrap_err();
        assert!(matches!(error, TemplateError::Invalid(_)), "{name}");
        assert!(matches!(
            rig.templates.show(name).await,
            Err(TemplateError::Unknown)
        ));
    }
    let exists = rig.templates.create("test", "lobby", "", "").await.unwrap_err();
    assert!(matches!(exists, TemplateError::Exists));
}

#[tokio::test]
async fn only_what_nobody_needs_is_collected() {
    let rig = Rig::new();
    let collect = |age| rig.templates.collect_older_than(age);
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    rig.push("lobby", &[("a", "1"), ("b", "stays")]).await.unwrap();
    rig.push("lobby", &[("a", "2"), ("b", "stays")]).await.unwrap();
    let stray = rig.put("stray").await.unwrap();
    // What somebody else put into the folder is nobody's blob.
    fs::write(rig.blob(stray).with_file_name("x"), "not ours").unwrap();
    fs::write(rig.blob(stray).parent().unwrap().with_file_name("x"), "not ours").unwrap();
    assert_eq!(collect(Duration::from_secs(3600)).await.unwrap().blobs, 0);
    let pin = rig.content.pin(stray);
    assert_eq!(collect(Duration::ZERO).await.unwrap().blobs, 0);
    drop(pin);
    assert_eq!(collect(Duration::ZERO).await.unwrap().blobs, 1);
    assert!(!rig.blob(stray).exists());

    // A stream that is under way keeps its blob.
    let stray = rig.put("stray").await.unwrap();
    let stream = rig.content.stream(stray, 0).await.unwrap().unwrap();
    assert_eq!(collect(Duration::ZERO).await.unwrap().blobs, 0);
    let bytes: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(bytes.concat(), b"stray");
    assert_eq!(collect(Duration::ZERO).await.unwrap().blobs, 1);

    let (versions, _) = rig.templates.versions("lobby").await.unwrap();
    for version in &versions {
        rig.templates.manifest(version).await.unwrap();
        assert!(rig.blob(version.archive.parse().unwrap()).exists());
    }
    // A manifest that cannot be read says nothing about what may go.
    let manifest: Digest = versions[0].manifest.parse().unwrap();
    let kept = fs::read(rig.blob(manifest)).unwrap();
    fs::write(rig.blob(manifest), "{}").unwrap();
    let stray = rig.put("stray").await.unwrap();
    let error = collect(Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("lobby version 2"), "{error}");
    assert!(rig.blob(stray).exists());
    assert_eq!(rig.templates.damaged_count(), 1);
    fs::write(rig.blob(manifest), kept).unwrap();

    rig.templates.delete("test", "lobby").await.unwrap();
    assert!(matches!(
        rig.templates.show("lobby").await,
        Err(TemplateError::Unknown)
    ));
    // What was deleted a moment ago may be on its way to a node.
    assert_eq!(collect(Duration::from_secs(3600)).await.unwrap().blobs, 0);
    // Two manifests, two archives, three files, the stray.
    assert_eq!(collect(Duration::ZERO).await.unwrap().blobs, 8);
    let left = rig
        .store
        .list(prexorcloud_controller::store::Query::prefix("template"))
        .await
        .unwrap();
    assert!(left.entries.is_empty());
}

#[tokio::test]
async fn a_push_of_the_same_files_mends_an_old_version() {
    for lost in [true, false] {
        let rig = Rig::new();
        rig.templates.create("test", "lobby", "", "").await.unwrap();
        let old = [("a", "1"), ("b", "stays")];
        rig.push("lobby", &old).await.unwrap();
        rig.push("lobby", &[("a", "2"), ("b", "stays")]).await.unwrap();
        let versions = rig.templates.versions("lobby").await.unwrap().0;
        assert!(rig.templates.damaged(&versions).await.unwrap().is_empty());
        let manifest = versions[1].manifest.clone();
        let blob = rig.blob(manifest.parse().unwrap());
        if lost {
            fs::remove_file(&blob).unwrap();
        } else {
            fs::write(&blob, "{").unwrap();
        }
        let damaged = rig.templates.damaged(&versions).await.unwrap();
        assert_eq!(damaged.into_iter().collect::<Vec<_>>(), [manifest]);
        assert_eq!(rig.templates.damaged_count(), 1);
        let error = rig
            .templates
            .collect_older_than(Duration::ZERO)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("lobby version 1"), "{error}");

        rig.push("lobby", &old).await.unwrap();
        assert_eq!(rig.templates.damaged_count(), 0);
        assert!(rig.templates.damaged(&versions).await.unwrap().is_empty());
        let stray = rig.put("stray").await.unwrap();
        rig.templates.collect_older_than(Duration::ZERO).await.unwrap();
        assert!(!rig.blob(stray).exists(), "bytes go again");

        // A damaged one of a template that is gone is none any more.
        fs::remove_file(&blob).unwrap();
        rig.templates
            .collect_older_than(Duration::ZERO)
            .await
            .unwrap_err();
        rig.templates.delete("test", "lobby").await.unwrap();
        rig.templates.collect_older_than(Duration::ZERO).await.unwrap();
        assert_eq!(rig.templates.damaged_count(), 0);
    }
}

#[tokio::test]
async fn a_push_of_what_counts_asks_for_a_file_that_is_damaged_beside_its_manifest() {
    let rig = Rig::new();
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    let files = [("a", "one"), ("b", "two")];
    rig.push("lobby", &files).await.unwrap();
    let version = rig.templates.show("lobby").await.unwrap().1.unwrap();
    let blob = |name: &str| rig.blob(name.parse().unwrap());
    for lost in [&version.manifest, &version.archive] {
        fs::remove_file(blob(lost)).unwrap();
    }
    let file = rig.blob(Digest::of(b"one"));
    fs::write(&file, "0ne").unwrap();
    let damaged = rig.templates.manifest(&version).await.unwrap_err();
    assert!(matches!(&damaged, TemplateError::Damaged { versions } if versions == "lobby version 1"));

    let base = Some(version.manifest.parse().unwrap());
    let published = rig
        .templates
        .publish("test", "lobby", manifest(&files), base)
        .await;
    let error = published.unwrap_err();
    assert!(matches!(error, TemplateError::Missing { count: 1 }), "{error}");
    rig.push("lobby", &files).await.unwrap();
    assert!(
        rig.templates
            .show("lobby")
            .await
            .unwrap()
            .1
            .is_some_and(|its| its.number == 1)
    );
    for mended in [&version.manifest, &version.archive] {
        assert!(blob(mended).exists());
    }
}

#[tokio::test]
async fn old_versions_go_when_there_are_many_and_never_the_current_one() {
    let rig = Rig::new();
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    for number in 0..MAX_VERSIONS + 3 {
        rig.push("lobby", &[("a", &number.to_string())]).await.unwrap();
    }
    let (versions, current) = rig.templates.versions("lobby").await.unwrap();
    assert_eq!(versions.len(), MAX_VERSIONS);
    assert_eq!(versions[0].number, current);
    assert_eq!(versions[MAX_VERSIONS - 1].number, 4);
}

fn variable(key: &str, kind: VariableType, default: Option<&str>) -> Variable {
    Variable {
        key: key.to_owned(),
        kind,
        default: default.map(str::to_owned),
        required: false,
        scope: Scope::Group,
        visibility: "public".to_owned(),
        description: "what for".to_owned(),
        validation: Validation {
            max: Some(50),
            ..Validation::default()
        },
        was_secret: false,
    }
}

#[tokio::test]
async fn variables_are_kept_and_secrets_are_sealed() {
    let rig = Rig::new();
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    let variables = [
        variable("players", VariableType::Int, Some("20")),
        variable("password", VariableType::Secret, Some("hunter2-hunter2")),
    ];
    let set = |variables: Vec<Variable>, kept: &'static [&'static str]| {
        let templates = rig.templates.clone();
        let kept: Vec<_> = kept.iter().map(|key| (*key).to_owned()).collect();
        async move { templates.set_variables("test", "lobby", &variables, &kept).await }
    };
    set(variables.to_vec(), &[]).await.unwrap();
    assert_eq!(rig.templates.variables("lobby").await.unwrap(), variables);
    for entry in fs::read_dir(rig.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(path).unwrap();
            assert!(!bytes.windows(7).any(|part| part == b"hunter2"));
        }
    }
    // Whoever edits the others has never seen the secret.
    let unseen = vec![variable("password", VariableType::Secret, None)];
    set(unseen.clone(), &["password"]).await.unwrap();
    let found = rig.templates.variables("lobby").await.unwrap();
    assert_eq!(found[0].default.as_deref(), Some("hunter2-hunter2"));
    set(unseen, &[]).await.unwrap();
    assert_eq!(rig.templates.variables("lobby").await.unwrap()[0].default, None);

    // What was secret once is not quoted when it has become something else, nor when it was away meanwhile.
    for variables in [vec![], vec![variable("password", VariableType::Int, None)]] {
        set(variables, &[]).await.unwrap();
    }
    let now = rig.templates.variables("lobby").await.unwrap();
    let given = BTreeMap::from([("password".to_owned(), "hunter2-hunter2".to_owned())]);
    let wrong =
        prexorcloud_controller::templates::variables::resolve(&[now], &given, &BTreeMap::new()).unwrap_err();
    assert_eq!(
        wrong[0].to_string(),
        "variable password: the value is no whole number"
    );
    let wrong = variable("password", VariableType::Int, Some("hunter2-hunter2"));
    let error = set(vec![wrong], &[]).await.unwrap_err().to_string();
    assert_eq!(error, "variable password: the value is no whole number");

    let players = variable("players", VariableType::Int, Some("51"));
    let error = set(vec![players], &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "variable players: \"51\" is more than 50");
    let twice = variable("players", VariableType::Int, None);
    let error = set(vec![twice.clone(), twice], &[]).await.unwrap_err();
    assert!(error.to_string().contains("twice"), "{error}");
    assert_eq!(rig.templates.variables("lobby").await.unwrap().len(), 1);
    let none = BTreeMap::new();
    let variables = [rig.templates.variables("lobby").await.unwrap()];
    assert!(prexorcloud_controller::templates::variables::resolve(&variables, &none, &none).is_ok());
}

#[tokio::test]
async fn what_was_secret_in_a_deleted_template_is_not_quoted_by_the_next_of_its_name() {
    let rig = Rig::new();
    let set = |name: &'static str, variables: Vec<Variable>| {
        let templates = rig.templates.clone();
        async move { templates.set_variables("test", name, &variables, &[]).await }
    };
    let quoted = || async {
        let wrong = variable("password", VariableType::Int, Some("hunter2"));
        set("lobby", vec![wrong]).await.unwrap_err().to_string()
    };
    rig.templates.create("test", "lobby", "", "").await.unwrap();
    assert_eq!(
        quoted().await,
        "variable password: \"hunter2\" is no whole number",
        "it never was one"
    );
    let secret = variable("password", VariableType::Secret, Some("hunter2"));
    set("lobby", vec![secret]).await.unwrap();
    // Also when the second has no such variable, and after any number of deletions.
    for _ in 0..3 {
        rig.templates.delete("test", "lobby").await.unwrap();
        rig.templates.create("test", "lobby", "", "").await.unwrap();
        let exists = rig.templates.create("test", "lobby", "", "").await;
        assert!(matches!(exists, Err(TemplateError::Exists)), "{exists:?}");
    }
    assert_eq!(quoted().await, "variable password: the value is no whole number");
    rig.templates.create("test", "other", "", "").await.unwrap();
    let public = variable("password", VariableType::String, Some("x"));
    set("other", vec![public]).await.unwrap();
    assert!(!rig.templates.variables("other").await.unwrap()[0].was_secret);
}
