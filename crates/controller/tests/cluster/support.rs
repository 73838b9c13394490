//! A controller on free ports with a temporary data folder, and clients of it

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prexorcloud_controller::{Controller, RunningController, config::ControllerConfig};
use prexorcloud_proto::{
    ExchangeJoinTokenRequest, ExchangeJoinTokenResponse, admin_service_client::AdminServiceClient,
    bootstrap_service_client::BootstrapServiceClient,
};
use prexorcloud_security::{
    authority::{Authority, AuthorityPolicy},
    credential::Credential,
    keystore::{self, KeystorePassword},
    tls::ClientTls,
    trust::TrustAnchors,
};
use prexorcloud_transport::{Connection, DialError, DialOptions, Dialer, Target};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Status;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("an answer in time")
}

/// Asks again and again until the answer is there
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A folder that is gone with the test, also where its controller is still putting its things in order
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let is_gone = || !self.path().exists();
        while std::fs::remove_dir_all(self.path()).is_err() && !is_gone() {
            assert!(
                std::time::Instant::now() < deadline,
                "{} stays",
                self.path().display()
            );
            std::thread::yield_now();
        }
    }
}

pub struct Cluster {
    pub controller: Option<RunningController>,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub config: ControllerConfig,
    pub admin: String,
    pub anchors: TrustAnchors,
    pub folder: Folder,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ControllerConfig)) -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        let data_dir = folder.path().join("data");
        let mut config = ControllerConfig {
            data_dir,
            ..ControllerConfig::default()
        };
        config.grpc.listen = "127.0.0.1:0".parse().unwrap();
        config.http.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let controller = within(Controller::start(config.clone())).await.unwrap();
        let admin = std::fs::read_to_string(config.data_dir.join("admin.token"))
            .unwrap()
            .trim()
            .to_owned();
        let pem = std::fs::read_to_string(config.data_dir.join("ca/ca.pem")).unwrap();
        let anchors = TrustAnchors::from_pem(&pem).unwrap();
        let (grpc, http) = (controller.grpc_addr(), controller.http_addr());
        Self {
            controller: Some(controller),
            grpc,
            http,
            config,
            admin,
            anchors,
            folder,
        }
    }

    pub fn running(&self) -> &RunningController {
        self.controller.as_ref().unwrap()
    }

    pub async fn stop(&mut self) {
        within(self.controller.take().unwrap().shutdown()).await;
    }

    /// Stops the controller and starts another on the same data folder, on other ports
    pub async fn restart(&mut self) {
        if self.controller.is_some() {
            self.stop().await;
        }
        let controller = within(Controller::start(self.config.clone())).await.unwrap();
        (self.grpc, self.http) = (controller.grpc_addr(), controller.http_addr());
        self.controller = Some(controller);
    }

    pub fn authority(&self) -> Authority {
        authority_of(&self.config.data_dir)
    }

    pub async fn dial(&self, credential: Option<&Credential>) -> Result<Connection, DialError> {
        let mut tls = ClientTls::new(&self.anchors);
        if let Some(credential) = credential {
            tls = tls.identity(credential);
        }
        let dialer = Dialer::with_config(tls.build().unwrap(), DialOptions::default());
        within(dialer.dial(&self.target())).await
    }

    pub fn target(&self) -> Target {
        self.grpc.to_string().parse().unwrap()
    }

    pub async fn bootstrap(&self) -> BootstrapServiceClient<Connection> {
        BootstrapServiceClient::new(self.dial(None).await.unwrap())
    }

    pub async fn admin_client(&self, credential: Option<&Credential>) -> AdminServiceClient<Connection> {
        AdminServiceClient::new(self.dial(credential).await.unwrap())
    }

    pub async fn exchange(&self, token: &str, node: &str) -> Result<ExchangeJoinTokenResponse, Status> {
        let request = ExchangeJoinTokenRequest {
            join_token: token.to_owned(),
            node_id: node.to_owned(),
            ..Default::default()
        };
        within(self.bootstrap().await.exchange_join_token(request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn join_token(&self, node: Option<&str>) -> String {
        let minted = self.running().create_join_token(node, None).await.unwrap();
        minted.token.expose().to_owned()
    }

    /// Enrols a node over the network
    pub async fn enrol(&self, node: &str) -> Credential {
        let token = self.join_token(Some(node)).await;
        let reply = self.exchange(&token, node).await.unwrap();
        keystore::read(
            &reply.pkcs12,
            &KeystorePassword::new(&reply.pkcs12_password).unwrap(),
        )
        .unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None).await
    }

    /// A page of a list, with what the next one is asked for with
    pub async fn page(&self, path: &str) -> (Option<String>, Value) {
        let text = within(self.raw(Some(&self.admin), "GET", path, None)).await;
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
        assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
        let next = head.lines().find_map(|line| line.strip_prefix("x-next-cursor: "));
        (next.map(str::to_owned), serde_json::from_str(body).expect(body))
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("POST", path, Some(&body.to_string())).await
    }

    pub async fn act(&self, path: &str) -> (u16, Value) {
        self.call("POST", path, None).await
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        self.call_as(Some(&self.admin), method, path, body).await
    }

    pub async fn call_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> (u16, Value) {
        let text = within(self.raw(token, method, path, body)).await;
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(body).expect(body)
        };
        (status, body)
    }

    /// Status, `ETag` and body of an answer to a request with further headers, each ended by CR LF
    pub async fn call_with(
        &self,
        headers: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> (u16, Option<String>, Value) {
        let mut stream = self
            .open(Some(&self.admin), method, path, Some(body), headers)
            .await;
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        (status, tag.map(str::to_owned), body)
    }

    /// What a plugin is answered at a path that is not an operator's
    pub async fn plugin(&self, path: &str, token: Option<&str>, sequence: Option<&str>) -> (u16, Value) {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let sequence = sequence.map(|sequence| format!("X-Prexor-Sequence: {sequence}\r\n"));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{}{}Content-Length: 0\r\n\r\n",
            token.unwrap_or_default(),
            sequence.unwrap_or_default()
        );
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).expect(body))
    }

    /// What `/metrics` answers, without a token
    pub async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }

    async fn raw(&self, token: Option<&str>, method: &str, path: &str, body: Option<&str>) -> String {
        let mut stream = self.open(token, method, path, body, "").await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn open(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &str,
    ) -> TcpStream {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let authorization = token
            .map(|token| format!("Authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        let body = body.unwrap_or_default();
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{authorization}{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Sends the head of a request whose body never comes
    pub async fn announce(&self, path: &str, bytes: usize) -> Events {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!(
            "POST /api/v1{path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: multipart/form-data; \
             boundary=b\r\nContent-Length: {bytes}\r\n\r\n",
            self.admin
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        Events {
            stream,
            text: String::new(),
        }
    }

    /// Follows a console
    pub async fn console(&self, instance: &str, query: &str) -> Events {
        let path = format!("/instances/{instance}/console{query}");
        Events {
            stream: self.open(Some(&self.admin), "GET", &path, None, "").await,
            text: String::new(),
        }
    }

    /// Watches what happens, with further headers, each ended by CR LF
    pub async fn events(&self, query: &str, headers: &str) -> Events {
        let path = format!("/events/stream{query}");
        Events {
            stream: self.open(Some(&self.admin), "GET", &path, None, headers).await,
            text: String::new(),
        }
    }

    /// The same for whoever has nothing but a ticket
    pub async fn events_by_ticket(&self, ticket: &str) -> Events {
        self.stream_without_token(&format!("/events/stream?ticket={ticket}"))
            .await
    }

    /// Any stream, by nothing but what is in its path
    pub async fn stream_without_token(&self, path: &str) -> Events {
        Events {
            stream: self.open(None, "GET", path, None, "").await,
            text: String::new(),
        }
    }

    pub async fn node(&self, node: &str) -> Value {
        let (status, body) = self.get(&format!("/nodes/{node}")).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub async fn node_status(&self, node: &str, wanted: &str) {
        eventually(&format!("{node} is {wanted}"), async || {
            (self.node(node).await["status"] == wanted).then_some(())
        })
        .await;
    }

    pub async fn instance(&self, instance: &str) -> Value {
        let (status, body) = self.get(&format!("/instances/{instance}")).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub async fn instance_state(&self, instance: &str, wanted: &str) -> Value {
        eventually(&format!("{instance} is {wanted}"), async || {
            let seen = self.instance(instance).await;
            (seen["state"] == wanted).then_some(seen)
        })
        .await
    }
}

/// A stream of server-sent events
pub struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    /// Reads until `text` came; gives everything so far
    pub async fn until(&mut self, text: &str) -> &str {
        let mut buffer = [0; 4096];
        while !self.text.contains(text) {
            let read = within(self.stream.read(&mut buffer)).await.unwrap();
            assert!(read > 0, "the stream ended before {text:?} came: {}", self.text);
            self.text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        &self.text
    }

    /// Reads until the server ends the stream
    pub async fn rest(mut self) -> String {
        let mut rest = Vec::new();
        within(self.stream.read_to_end(&mut rest)).await.unwrap();
        self.text + &String::from_utf8(rest).unwrap()
    }
}

pub fn authority_of(data_dir: &Path) -> Authority {
    Authority::load_or_create(
        &data_dir.join("ca"),
        &AuthorityPolicy::default(),
        SystemTime::now(),
    )
    .unwrap()
    .0
}

pub fn stranger() -> Arc<Authority> {
    Arc::new(Authority::create(&AuthorityPolicy::default(), SystemTime::now()).unwrap())
}

impl Cluster {
    /// Waits until the controller has made up its mind about a node that was acknowledged
    pub async fn node_status_is_connected(&self, node: &str) {
        eventually(&format!("{node} is connected"), async || {
            (self.node(node).await["connected"] == true).then_some(())
        })
        .await;
    }
}

impl Cluster {
    /// Like `instance_state`, for an instance that may not be recorded yet
    pub async fn instance_state_when_known(&self, instance: &str, wanted: &str) -> Value {
        eventually(&format!("{instance} is {wanted}"), async || {
            let (_, seen) = self.get(&format!("/instances/{instance}")).await;
            (seen["state"] == wanted).then_some(seen)
        })
        .await
    }
}
