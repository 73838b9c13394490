//! What servers do to a download, one behaviour each
//!
//! A server answers each connection with the next of its answers and keeps what it was asked.

use tokio::task::JoinHandle;

use super::*;

const FILE: &[u8] = b"0123456789";

/// What happens after the bytes of an answer
#[derive(Copy, Clone, PartialEq)]
enum Then {
    Close,
    /// Nothing more comes
    Stall,
}

struct Server {
    url: String,
    asked: JoinHandle<Vec<String>>,
}

impl Server {
    async fn new(answers: Vec<(Vec<u8>, Then)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/server.jar?key=s3cret", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut asked, mut open) = (Vec::new(), Vec::new());
            for (answer, then) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let count = stream.read(&mut request).await.unwrap();
                asked.push(String::from_utf8_lossy(&request[..count]).to_lowercase());
                stream.write_all(&answer).await.unwrap();
                if then == Then::Stall {
                    open.push(stream);
                }
            }
            asked
        });
        Self { url, asked }
    }

    /// Takes the last answer itself; the requests that came before
    async fn asked_before_a_stranger(self) -> usize {
        let address = self.url.trim_start_matches("http://").split('/').next();
        let mut stranger = tokio::net::TcpStream::connect(address.unwrap()).await.unwrap();
        stranger.write_all(b"stranger").await.unwrap();
        let asked = self.asked.await.unwrap();
        assert_eq!(asked.last().unwrap(), "stranger");
        asked.len() - 1
    }

    /// The ranges that were asked for, in order
    async fn ranges(self) -> Vec<Option<String>> {
        let range = |request: &String| {
            let line = request.lines().find_map(|line| line.strip_prefix("range: "));
            line.map(str::to_owned)
        };
        self.asked.await.unwrap().iter().map(range).collect()
    }
}

/// The head of an answer with `headers`, and `body`, of which `length` bytes were promised
fn answer(status: &str, headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn whole(headers: &str, body: &[u8]) -> (Vec<u8>, Then) {
    (answer("200 OK", headers, body.len(), body), Then::Close)
}

/// The first `count` bytes, and then the connection breaks
fn broken(headers: &str, count: usize) -> (Vec<u8>, Then) {
    (answer("200 OK", headers, FILE.len(), &FILE[..count]), Then::Close)
}

/// What is left from `at`
fn rest(headers: &str, at: usize, body: &[u8]) -> (Vec<u8>, Then) {
    let range = format!(
        "{headers}Content-Range: bytes {at}-{}/{}\r\n",
        at + body.len() - 1,
        at + body.len()
    );
    (
        answer("206 Partial Content", &range, body.len(), body),
        Then::Close,
    )
}

fn status(status: &str) -> (Vec<u8>, Then) {
    (answer(status, "", 0, b""), Then::Close)
}

struct Cache {
    folder: tempfile::TempDir,
    artifacts: Artifacts,
}

impl Cache {
    fn new() -> Self {
        Self::within(|_| {})
    }

    fn within(change: impl FnOnce(&mut DownloadLimits)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut limits = DownloadLimits {
            max_bytes: 1000,
            deadline: Duration::from_secs(20),
            stall: Duration::from_secs(5),
            ..DownloadLimits::default()
        };
        change(&mut limits);
        let artifacts = Artifacts::new(folder.path().join("cache"), limits);
        Self { folder, artifacts }
    }

    async fn get(&self, server: &Server, sha256: &str) -> Result<Vec<u8>, ArtifactError> {
        let target = self.folder.path().join("server.jar");
        let result = self.artifacts.provide(&server.url, sha256, &target).await;
        let kept = std::fs::read_dir(self.folder.path().join("cache"));
        let partial = kept
            .into_iter()
            .flatten()
            .chain(std::fs::read_dir(self.folder.path()).unwrap());
        for entry in partial {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with(".partial"), "{name} stays");
        }
        match result {
            Ok(()) => Ok(std::fs::read(target).unwrap()),
            Err(error) => {
                assert!(!target.exists(), "{error}");
                let part = self.folder.path().join(format!("cache/{sha256}.part"));
                assert!(error.is_transient() || !part.exists(), "{error}");
                assert!(!error.to_string().contains("s3cret"), "{error}");
                Err(error)
            }
        }
    }
}

const TAG: &str = "ETag: \"v1\"\r\n";

#[tokio::test]
async fn a_broken_download_is_resumed_where_it_broke() {
    let date = "Last-Modified: Sat, 28 Nov 2026 12:00:00 GMT\r\n";
    for (headers, condition) in [
        (TAG, "if-range: \"v1\""),
        (date, "if-range: sat, 28 nov 2026 12:00:00 gmt"),
    ] {
        let server = Server::new(vec![
            broken(headers, 4),
            status("503 Busy"),
            (
                answer(
                    "206 Partial Content",
                    "Content-Range: bytes 4-9/10\r\n",
                    6,
                    &FILE[4..7],
                ),
                Then::Close,
            ),
            rest(headers, 7, &FILE[7..]),
        ])
        .await;
        assert_eq!(Cache::new().get(&server, &digest(FILE)).await.unwrap(), FILE);
        let asked = server.asked.await.unwrap();
        let ranges = [None, Some("bytes=4-"), Some("bytes=4-"), Some("bytes=7-")];
        for (request, range) in asked.iter().zip(ranges) {
            assert_eq!(range.is_some(), request.contains(condition), "{request}");
            let range = range.map(|range| format!("range: {range}\r\n"));
            assert!(range.is_none_or(|range| request.contains(&range)), "{request}");
        }
        assert_eq!(asked.len(), 4);
    }
}

#[tokio::test]
async fn what_a_daemon_that_was_killed_has_brought_is_gone_on_with() {
    let sha256 = digest(FILE);
    for (left, answers, ranges) in [
        (&FILE[..4], vec![rest("", 4, &FILE[4..])], vec![Some("bytes=4-")]),
        (FILE, vec![], vec![]),
        // The server knows no parts, or has a shorter file, or what came is of another content.
        (&FILE[..4], vec![whole("", FILE)], vec![Some("bytes=4-")]),
        (
            b"01234567890",
            vec![status("416 Range Not Satisfiable"), whole("", FILE)],
            vec![Some("bytes=11-"), None],
        ),
        (
            b"XXXX",
            vec![rest("", 4, &FILE[4..]), whole("", FILE)],
            vec![Some("bytes=4-"), None],
        ),
    ] {
        let cache = Cache::new();
        let folder = cache.folder.path().join("cache");
        std::fs::create_dir(&folder).unwrap();
        let part = folder.join(format!("{sha256}.part"));
        std::fs::write(&part, left).unwrap();
        let server = Server::new(answers).await;
        assert_eq!(cache.get(&server, &sha256).await.unwrap(), FILE);
        let asked = server.ranges().await;
        assert_eq!(asked.iter().map(Option::as_deref).collect::<Vec<_>>(), ranges);
        assert!(!part.exists());
    }
}

#[tokio::test]
async fn a_file_that_changed_under_resume_is_fetched_anew() {
    let other: &[u8] = b"abcdefghijkl";
    let second = "ETag: \"v2\"\r\n";
    for answers in [
        // It says so.
        vec![broken(TAG, 4), whole(second, other)],
        // It goes on with another one and names it.
        vec![broken(TAG, 4), rest(second, 4, &other[4..]), whole(second, other)],
        // It goes on elsewhere.
        vec![broken(TAG, 4), rest(TAG, 5, &other[5..]), whole(TAG, other)],
        // It is shorter than what came.
        vec![
            broken(TAG, 4),
            status("416 Range Not Satisfiable"),
            whole(second, other),
        ],
        // One name for two contents: the digest tells.
        vec![broken(TAG, 4), rest(TAG, 4, &other[4..]), whole(TAG, other)],
    ] {
        let count = answers.len();
        let server = Server::new(answers).await;
        assert_eq!(Cache::new().get(&server, &digest(other)).await.unwrap(), other);
        let ranges = server.ranges().await;
        assert_eq!(ranges.len(), count);
        assert_eq!(ranges[1].as_deref(), Some("bytes=4-"));
        assert!(count == 2 || ranges[2].is_none());
    }
}

#[tokio::test]
async fn a_file_that_nothing_verifies_is_of_one_content_too() {
    let other: &[u8] = b"abcdefghijkl";
    let second = "ETag: \"v2\"\r\n";
    for answers in [
        vec![broken(TAG, 4), rest(second, 4, &other[4..]), whole(second, other)],
        vec![broken(TAG, 4), rest(TAG, 5, &other[5..]), whole(TAG, other)],
    ] {
        let server = Server::new(answers).await;
        let cache = Cache::within(|limits| limits.allow_unverified = true);
        assert_eq!(cache.get(&server, "").await.unwrap(), other);
        assert_eq!(server.ranges().await.len(), 3);
    }
}

#[tokio::test]
async fn what_nothing_names_is_not_resumed() {
    for headers in ["", "ETag: W/\"v1\"\r\n"] {
        let server = Server::new(vec![broken(headers, 9), whole(headers, FILE)]).await;
        assert_eq!(Cache::new().get(&server, &digest(FILE)).await.unwrap(), FILE);
        assert_eq!(server.ranges().await, [None, None]);
    }
}

#[tokio::test]
async fn a_part_that_nobody_asked_for_is_no_file() {
    let server = Server::new(vec![rest(TAG, 4, &FILE[4..])]).await;
    let error = Cache::new().get(&server, &digest(FILE)).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Status { status: 206, .. }),
        "{error}"
    );
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_download_that_stalls_at_its_end_is_resumed() {
    let stalled = (answer("200 OK", TAG, FILE.len(), &FILE[..9]), Then::Stall);
    let cache = Cache::within(|limits| limits.stall = Duration::from_millis(200));
    let server = Server::new(vec![stalled, rest(TAG, 9, &FILE[9..])]).await;
    assert_eq!(cache.get(&server, &digest(FILE)).await.unwrap(), FILE);
    assert_eq!(server.ranges().await, [None, Some("bytes=9-".to_owned())]);
}

#[tokio::test]
async fn a_download_that_stalls_for_ever_ends() {
    let stalled = |bytes: &[u8]| (bytes.to_vec(), Then::Stall);
    let cache = Cache::within(|limits| limits.stall = Duration::from_millis(100));
    // The last answer is for nobody and keeps the others open.
    let answers = [b"".as_slice(), b"HTTP/1.1 200 OK\r\n", b"", b""];
    let server = Server::new(answers.map(stalled).to_vec()).await;
    let error = cache.get(&server, &digest(FILE)).await.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("timed out"),
        "{error}"
    );
    server.asked.abort();
    // The deadline is for all attempts together.
    let cache = Cache::within(|limits| limits.deadline = Duration::from_millis(300));
    let server = Server::new(vec![stalled(b"HTTP/1.1 200 OK\r\n\r\n0"); 2]).await;
    let error = cache.get(&server, &digest(FILE)).await.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("not complete within"),
        "{error}"
    );
    server.asked.abort();
}

#[tokio::test]
async fn a_server_that_breaks_off_for_ever_is_given_up() {
    let server = Server::new(vec![broken("", 4); 4]).await;
    let error = Cache::new().get(&server, &digest(FILE)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    server.asked.abort();
    // A byte at a time: what comes counts, but not without end.
    let long = "x".repeat(100);
    let byte = |at: usize| {
        let range = format!("{TAG}Content-Range: bytes {at}-99/100\r\n");
        let status = if at == 0 { "200 OK" } else { "206 Partial Content" };
        let headers = if at == 0 { TAG } else { &range };
        (answer(status, headers, 100 - at, b"x"), Then::Close)
    };
    let server = Server::new((0..11).map(byte).collect()).await;
    let started = tokio::time::Instant::now();
    let error = Cache::new()
        .get(&server, &digest(long.as_bytes()))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    // The eleventh request is not one of the download.
    assert_eq!(server.asked_before_a_stranger().await, 10);
}

#[tokio::test]
async fn another_address_of_a_content_does_not_wait_for_one_that_stalls() {
    let mut cache = Cache::new();
    cache.artifacts.patience = Duration::ZERO;
    let cache = &cache;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stalling = format!("http://{}/server.jar", listener.local_addr().unwrap());
    let target = |name: &str| cache.folder.path().join(name);
    let (first, second) = (target("first"), target("second"));
    let sha256 = digest(FILE);
    let from_it = async { cache.artifacts.provide(&stalling, &sha256, &first).await };
    let from_another = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(&answer("200 OK", "", FILE.len(), &FILE[..9]))
            .await
            .unwrap();
        let server = Server::new(vec![status("503 Busy"), whole("", FILE)]).await;
        cache
            .artifacts
            .provide(&server.url, &sha256, &second)
            .await
            .unwrap();
        assert_eq!(server.asked.await.unwrap().len(), 2);
        // It stands still until the other one is there as well.
        stream
    };
    let (provided, stream) = tokio::join!(from_it, from_another);
    provided.unwrap();
    drop((stream, listener));
    for path in [first, second] {
        assert_eq!(std::fs::read(path).unwrap(), FILE);
    }
    let left = std::fs::read_dir(target("cache")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [sha256.as_str()], "one file, and nothing of the other");
}

#[tokio::test]
async fn an_address_that_fails_beside_another_takes_what_that_brings() {
    let mut cache = Cache::new();
    cache.artifacts.patience = Duration::ZERO;
    let cache = &cache;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = format!("http://{}/server.jar", listener.local_addr().unwrap());
    let (first, second) = (
        cache.folder.path().join("first"),
        cache.folder.path().join("second"),
    );
    let sha256 = digest(FILE);
    let missing = Server::new(vec![status("404 Not Found")]).await;
    let url = missing.url.clone();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let beside = cache.artifacts.provide(&url, &sha256, &second);
        let finish = async {
            // The other address has been asked and has nothing.
            assert_eq!(missing.asked.await.unwrap().len(), 1);
            stream
                .write_all(&answer("200 OK", "", FILE.len(), FILE))
                .await
                .unwrap();
        };
        tokio::join!(beside, finish).0
    };
    let (provided, beside) = tokio::join!(cache.artifacts.provide(&slow, &sha256, &first), serve);
    provided.unwrap();
    beside.unwrap();
    assert_eq!(std::fs::read(second).unwrap(), FILE);
}

#[tokio::test]
async fn nothing_is_left_of_an_address_that_was_too_slow() {
    let mut cache = Cache::new();
    cache.artifacts.patience = Duration::ZERO;
    let cache = &cache;
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = |listener: &TcpListener| format!("http://{}/server.jar", listener.local_addr().unwrap());
    let target = |name: &str| cache.folder.path().join(name);
    let sha256 = digest(FILE);
    let names = || {
        let entries = std::fs::read_dir(target("cache")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    let (first_url, second_url) = (url(&first), url(&second));
    let (a, b) = (target("a"), target("b"));
    let serve = async {
        let (mut stream, _) = first.accept().await.unwrap();
        let beside = cache.artifacts.provide(&second_url, &sha256, &b);
        let finish = async {
            let (mut stalling, _) = second.accept().await.unwrap();
            let part = answer("200 OK", "", FILE.len(), &FILE[..9]);
            stalling.write_all(&part).await.unwrap();
            while !names()
                .iter()
                .any(|name| name.to_string_lossy().starts_with(&format!("{sha256}-")))
            {
                tokio::task::yield_now().await;
            }
            let whole = answer("200 OK", "", FILE.len(), FILE);
            stream.write_all(&whole).await.unwrap();
            stalling
        };
        tokio::join!(beside, finish).0
    };
    let (provided, beside) = tokio::join!(cache.artifacts.provide(&first_url, &sha256, &a), serve);
    provided.unwrap();
    beside.unwrap();
    for path in [a, b] {
        assert_eq!(std::fs::read(path).unwrap(), FILE);
    }
    assert_eq!(names(), [sha256.as_str()]);
}

#[tokio::test]
async fn who_waited_for_a_download_takes_part_in_its_failure() {
    let stalled = (answer("200 OK", "", FILE.len(), &FILE[..9]), Then::Stall);
    let cache = Cache::within(|limits| limits.stall = Duration::from_millis(100));
    // One more than one download asks for, which is left over.
    let server = Server::new(vec![stalled; 4]).await;
    let targets = ["1", "2", "3"].map(|name| cache.folder.path().join(name));
    let sha256 = digest(FILE);
    let all = targets
        .iter()
        .map(|target| cache.artifacts.provide(&server.url, &sha256, target));
    for result in futures_util::future::join_all(all).await {
        let error = result.unwrap_err();
        assert!(
            error.is_transient() && error.to_string().contains("timed out"),
            "{error}"
        );
    }
    assert_eq!(server.asked_before_a_stranger().await, 3);
    // Whoever asks afterwards tries.
    let server = Server::new(vec![whole("", FILE)]).await;
    assert_eq!(cache.get(&server, &sha256).await.unwrap(), FILE);
}

#[tokio::test]
async fn a_kept_file_that_grew_is_fetched_again() {
    let cache = Cache::new();
    let sha256 = digest(FILE);
    for _ in 0..2 {
        let server = Server::new(vec![whole("", FILE)]).await;
        assert_eq!(cache.get(&server, &sha256).await.unwrap(), FILE);
        assert_eq!(server.ranges().await.len(), 1);
        let kept = cache.folder.path().join("cache").join(&sha256);
        std::fs::write(kept, vec![0; 5000]).unwrap();
    }
}

#[tokio::test]
async fn redirects_that_lead_nowhere_are_a_clear_and_permanent_error() {
    let redirect = |to: &str| {
        (
            answer("302 Found", &format!("Location: {to}\r\n"), 0, b""),
            Then::Close,
        )
    };
    let circle = Server::new(vec![
        redirect("/other?key=s3cret"),
        redirect("/server.jar?key=s3cret"),
    ])
    .await;
    let error = Cache::new().get(&circle, &digest(FILE)).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Redirect { .. }) && !error.is_transient());
    assert!(
        error.to_string().contains("in a circle to http://127.0.0.1"),
        "{error}"
    );
    let far: Vec<_> = (0..9).map(|number| redirect(&format!("/{number}"))).collect();
    let server = Server::new(far).await;
    let error = Cache::new().get(&server, &digest(FILE)).await.unwrap_err();
    assert!(error.to_string().contains("more than 8 redirects"), "{error}");
    assert!(!error.is_transient());
}

#[test]
fn a_redirect_stays_with_tls() {
    let url = |text: &str| Url::parse(text).unwrap();
    let problem = |from: &str, to: &str| super::super::download::redirect_problem(&[url(from)], &url(to));
    let leaves = problem("https://a.example/", "http://u:s3cret@b.example/x?key=s3cret").unwrap();
    assert_eq!(leaves, "the redirect to http://b.example/x leaves https");
    assert_eq!(problem("https://a.example/", "https://b.example/"), None);
    assert_eq!(problem("http://a.example/", "https://b.example/"), None);
    assert_eq!(problem("http://a.example/", "http://b.example/"), None);
}

#[tokio::test]
async fn a_web_page_is_told_as_one() {
    let page = || {
        whole(
            "Content-Type: Text/HTML; charset=utf-8\r\n",
            b"<html>Sign in</html>",
        )
    };
    let server = Server::new(vec![page()]).await;
    let error = Cache::new().get(&server, &digest(FILE)).await.unwrap_err();
    assert!(matches!(error, ArtifactError::WebPage { .. }) && !error.is_transient());
    assert!(error.to_string().contains("a web page"), "{error}");
    let server = Server::new(vec![page()]).await;
    let cache = Cache::within(|limits| limits.allow_unverified = true);
    let error = cache.get(&server, "").await.unwrap_err();
    assert!(matches!(error, ArtifactError::WebPage { .. }), "{error}");
    // A server that takes a jar for a page still has the jar.
    let server = Server::new(vec![whole("Content-Type: text/html\r\n", FILE)]).await;
    assert_eq!(Cache::new().get(&server, &digest(FILE)).await.unwrap(), FILE);
}

#[tokio::test]
async fn a_size_is_checked_before_and_while_it_comes() {
    let long = vec![b'x'; 2000];
    let promised = (answer("200 OK", "", long.len(), b""), Then::Close);
    let endless = (
        [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &long].concat(),
        Then::Close,
    );
    let rest = (
        answer(
            "206 Partial Content",
            "Content-Range: bytes 4-2003/2004\r\n",
            2000,
            b"",
        ),
        Then::Close,
    );
    for answers in [vec![promised], vec![endless], vec![broken(TAG, 4), rest]] {
        let server = Server::new(answers).await;
        let error = Cache::new().get(&server, &digest(FILE)).await.unwrap_err();
        assert!(
            matches!(error, ArtifactError::TooLarge { limit: 1000, .. }),
            "{error}"
        );
        assert!(!error.is_transient());
    }
}

/// The tests of the Java daemon pin the same numbers for its retry helper
#[tokio::test]
async fn retry_helper_two_failures_then_success_are_three_attempts() {
    let server = Server::new(vec![
        (Vec::new(), Then::Close),
        status("502 Bad Gateway"),
        whole("", FILE),
    ])
    .await;
    assert_eq!(Cache::new().get(&server, &digest(FILE)).await.unwrap(), FILE);
    assert_eq!(server.ranges().await.len(), 3);
}

#[tokio::test]
async fn retry_helper_what_cannot_get_better_is_one_attempt() {
    for answer in [
        whole("", b"another"),
        status("404 Not Found"),
        whole("Content-Encoding: br\r\n", FILE),
    ] {
        let server = Server::new(vec![answer]).await;
        let error = Cache::new().get(&server, &digest(FILE)).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        assert_eq!(server.ranges().await.len(), 1);
    }
}
