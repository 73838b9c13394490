//! Copies, downloads and refusals
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

mod download;

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

fn artifacts(folder: &Path) -> Artifacts {
    let limits = DownloadLimits {
        max_bytes: 1000,
        deadline: Duration::from_secs(20),
        stall: Duration::from_secs(5),
        allow_unverified: false,
        max_kept_bytes: 1000,
    };
    Artifacts::new(folder.join("cache"), limits)
}

/// Answers each connection with the next of `answers`, then refuses
async fn server(answers: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_path_and_a_file_url_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("my server.jar");
    std::fs::write(&from, "jar").unwrap();
    let target = folder.path().join("server.jar");
    let artifacts = artifacts(folder.path());
    let sha256 = digest(b"jar");
    let url = Url::from_file_path(&from).unwrap();
    for url in [from.to_str().unwrap(), url.as_str()] {
        artifacts.provide(url, &sha256, &target).await.unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"jar");
        std::fs::remove_file(&target).unwrap();
    }
    artifacts.provide(url.as_str(), "", &target).await.unwrap();
}

#[tokio::test]
async fn a_wrong_digest_says_both_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("server.jar");
    std::fs::write(&from, "jar").unwrap();
    let target = folder.path().join("workspace.jar");
    let expected = digest(b"other");
    let error = artifacts(folder.path())
        .provide(from.to_str().unwrap(), &expected, &target)
        .await
        .unwrap_err();
    assert!(!error.is_transient());
    let said = error.to_string();
    assert!(
        said.contains(&expected) && said.contains(&digest(b"jar")),
        "{said}"
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "only the source"
    );
}

#[tokio::test]
async fn a_missing_file_is_named_and_a_folder_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = artifacts(folder.path());
    let target = folder.path().join("x.jar");
    let error = artifacts
        .provide("/no/such/server.jar", "", &target)
        .await
        .unwrap_err();
    assert!(matches!(&error, ArtifactError::Missing { path } if path == Path::new("/no/such/server.jar")));
    assert!(!error.is_transient());
    let error = artifacts
        .provide(folder.path().to_str().unwrap(), "", &target)
        .await;
    assert!(matches!(error, Err(ArtifactError::NotAFile { .. })));
}

#[tokio::test]
async fn a_download_is_kept_under_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = artifacts(folder.path());
    let address = server(vec![ok("jar")]).await;
    let url = format!("http://{address}/server.jar");
    let (first, second) = (folder.path().join("1.jar"), folder.path().join("2.jar"));
    artifacts.provide(&url, &digest(b"jar"), &first).await.unwrap();
    artifacts.provide(&url, &digest(b"jar"), &second).await.unwrap();
    assert_eq!(
        std::fs::read(second).unwrap(),
        b"jar",
        "the server answered only once"
    );
}

#[tokio::test]
async fn a_damaged_kept_file_is_downloaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = artifacts(folder.path());
    let address = server(vec![ok("jar")]).await;
    std::fs::create_dir(folder.path().join("cache")).unwrap();
    std::fs::write(folder.path().join("cache").join(digest(b"jar")), "jar?").unwrap();
    let target = folder.path().join("1.jar");
    let url = format!("http://{address}/server.jar");
    artifacts.provide(&url, &digest(b"jar"), &target).await.unwrap();
    assert_eq!(std::fs::read(target).unwrap(), b"jar");
}

#[tokio::test]
async fn redirects_are_followed_and_statuses_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = artifacts(folder.path());
    let target = folder.path().join("1.jar");
    let end = server(vec![ok("jar")]).await;
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{end}/x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let start = server(vec![redirect]).await;
    artifacts
        .provide(&format!("http://{start}/"), &digest(b"jar"), &target)
        .await
        .unwrap();
    for (status, is_transient) in [(404, false), (503, true)] {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 3\r\nConnection: close\r\n\r\njar");
        let address = server(vec![answer; 3]).await;
        let error = artifacts
            .provide(&format!("http://{address}/"), &digest(b"jar2"), &target)
            .await
            .unwrap_err();
        assert!(matches!(error, ArtifactError::Status { status: got, .. } if got == status));
        assert_eq!(error.is_transient(), is_transient);
    }
}

#[tokio::test]
async fn a_refused_connection_is_transient_and_hides_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://user:hunter2@{address}/server.jar?key=hunter2");
    let error = artifacts(folder.path())
        .provide(&url, &digest(b"jar"), &folder.path().join("1.jar"))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    let said = error.to_string();
    assert!(said.contains("refused"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn endless_and_cut_downloads_end() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = artifacts(folder.path());
    let target = folder.path().join("1.jar");
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(5000));
    let address = server(vec![endless]).await;
    let error = artifacts
        .provide(&format!("http://{address}/"), &digest(b"a"), &target)
        .await;
    assert!(matches!(error, Err(ArtifactError::TooLarge { .. })), "{error:?}");
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\nonly this".to_owned();
    let address = server(vec![cut]).await;
    let error = artifacts
        .provide(&format!("http://{address}/"), &digest(b"a"), &target)
        .await;
    assert!(error.unwrap_err().is_transient());
    assert!(!target.exists());
}

#[tokio::test]
async fn sources_that_cannot_be_trusted_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = artifacts(folder.path());
    let target = folder.path().join("1.jar");
    let refused = async |url: &str, sha256: &str| artifacts.provide(url, sha256, &target).await.unwrap_err();
    assert!(matches!(
        refused("http://127.0.0.1:1/x", "").await,
        ArtifactError::NoDigest { .. }
    ));
    assert!(matches!(refused("", "").await, ArtifactError::NoSource));
    assert!(matches!(
        refused("/x", "abc").await,
        ArtifactError::MalformedDigest { .. }
    ));
    for url in [
        "ftp://x/y",
        "server.jar",
        "../server.jar",
        "file://elsewhere/x",
        "jar:file:/x",
    ] {
        assert!(
            matches!(refused(url, "").await, ArtifactError::UnsupportedUrl { .. }),
            "{url}"
        );
    }
}

#[tokio::test]
async fn a_path_stays_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target.jar");
    let artifacts = artifacts(folder.path());
    for name in [
        "%41.jar",
        "a?b.jar",
        "a#b c.jar",
        "100%.jar",
        "ä b.jar",
        "a%20b.jar",
        "x://y.jar",
        "a\\b.jar",
    ] {
        let from = folder.path().join(name);
        std::fs::create_dir_all(from.parent().unwrap()).unwrap();
        std::fs::write(&from, name).unwrap();
        let path = from.to_str().unwrap().to_owned();
        let encoded = path.replace('%', "%25");
        for url in [
            path,
            format!("file://{encoded}"),
            Url::from_file_path(&from).unwrap().into(),
        ] {
            artifacts
                .provide(&url, &digest(name.as_bytes()), &target)
                .await
                .unwrap();
            assert_eq!(std::fs::read(&target).unwrap(), name.as_bytes(), "{url}");
        }
    }
}

#[tokio::test]
async fn a_file_comes_as_it_is_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = artifacts(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/server.jar", listener.local_addr().unwrap());
    let serve = tokio::spawn(async move {
        let mut asked = Vec::new();
        for encoding in ["gzip", "identity, x-\u{7f}br", "identity", ""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            asked.push(String::from_utf8_lossy(&request[..count]).to_lowercase());
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: 3\r\nConnection: close\r\n\r\njar"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    let target = folder.path().join("x.jar");
    let error = artifacts
        .provide(&url, &digest(b"jar"), &target)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("packed (gzip)"), "{error}");
    assert!(!error.is_transient() && !target.exists());
    // Header values hold no such character, so the answer is broken and is better next time.
    artifacts.provide(&url, &digest(b"jar"), &target).await.unwrap();
    std::fs::remove_file(folder.path().join("cache").join(digest(b"jar"))).unwrap();
    artifacts.provide(&url, &digest(b"jar"), &target).await.unwrap();
    let asked = serve.await.unwrap();
    assert!(
        asked
            .iter()
            .all(|request| request.contains("accept-encoding: identity\r\n")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_folder_in_the_place_of_the_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from.jar");
    std::fs::write(&from, "jar").unwrap();
    let error = artifacts(folder.path())
        .provide(from.to_str().unwrap(), "", folder.path())
        .await
        .unwrap_err();
    assert!(matches!(error, ArtifactError::NotAFile { .. }) && !error.is_transient());
}

#[tokio::test]
async fn what_is_no_file_is_named_and_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = artifacts(folder.path());
    let path = |name: &str| folder.path().join(name);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("pipe.jar"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket.jar")).unwrap();
    std::os::unix::fs::symlink("loop.jar", path("loop.jar")).unwrap();
    let sparse = File::create(path("sparse.jar")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let target = path("target");
    for (name, said) in [
        ("pipe.jar", "pipe.jar is not a regular file"),
        ("socket.jar", "socket.jar is not a regular file"),
        ("sparse.jar", "sparse.jar is larger than 1000 bytes"),
        ("loop.jar", "loop.jar: Too many levels of symbolic links"),
    ] {
        let error = artifacts
            .provide(path(name).to_str().unwrap(), "", &target)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(!target.exists());
    }
    let error = artifacts.provide("/dev/zero", "", &target).await.unwrap_err();
    assert!(matches!(error, ArtifactError::NotAFile { .. }));
}

#[tokio::test]
async fn what_is_kept_is_bounded_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let bodies = ["x".repeat(400), "y".repeat(400), "z".repeat(400)];
    let address = server(bodies.iter().map(|body| ok(body)).collect()).await;
    let artifacts = artifacts(folder.path());
    let url = format!("http://{address}/server.jar");
    let description = |version: &str| Description {
        platform: "PAPER".into(),
        version: version.into(),
        file: "server.jar".into(),
    };
    for (body, version) in bodies.iter().zip(["1", "2", "3"]) {
        let sha256 = digest(body.as_bytes());
        artifacts.keep(&url, &sha256).await.unwrap();
        // A second time needs no download, and nobody would answer.
        artifacts.keep(&url, &sha256).await.unwrap();
        artifacts.describe(&sha256, &description(version));
    }
    assert_eq!(artifacts.kept_bytes(), 800);
    let jars = artifacts.kept_jars();
    assert_eq!(jars.len(), 2);
    assert!(
        jars.iter()
            .all(|jar| jar.platform == "PAPER" && jar.size_bytes == 400)
    );
    let newest = digest(bodies[2].as_bytes());
    assert!(jars.iter().any(|jar| jar.sha256 == newest && jar.version == "3"));
    // Damaged: found, and there is nobody to download it from.
    std::fs::write(folder.path().join("cache").join(&newest), "damaged").unwrap();
    assert!(artifacts.keep(&url, &newest).await.unwrap_err().is_transient());
    let error = artifacts.keep(&url, "").await.unwrap_err();
    assert!(matches!(error, ArtifactError::NoDigest { .. }), "{error}");
    artifacts.describe("../x", &description("1"));
    assert!(!folder.path().join("x.json").exists());
}
