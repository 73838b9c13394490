//! A daemon whose every message is chosen by the test

use prexorcloud_proto::{
    ControllerMessage, DaemonMessage, Handshake, HandshakeAck, InstanceState, InstanceStatusUpdate, Pong,
    RunningInstance, StartInstance, StartInstanceAck, StopInstance, StopInstanceAck,
    controller_message::Payload as ToDaemon, daemon_message::Payload,
    daemon_service_client::DaemonServiceClient,
};
use prexorcloud_security::credential::Credential;
use prexorcloud_transport::Connection;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::{Cluster, within};

pub struct Puppet {
    pub connection: Connection,
    outgoing: Option<mpsc::Sender<DaemonMessage>>,
    incoming: Streaming<ControllerMessage>,
    /// That of the last message
    pub traceparent: String,
}

pub fn handshake(node: &str) -> Handshake {
    Handshake {
        node_id: node.to_owned(),
        version: "1.2.3".to_owned(),
        total_memory_mb: 4096,
        available_cpus: 2,
        protocol_version: 1,
        capabilities: prexorcloud_protocol::Capabilities::SESSION.to_wire(),
        ..Handshake::default()
    }
}

impl Puppet {
    /// Opens a stream and says nothing
    pub async fn open(cluster: &Cluster, credential: &Credential) -> Result<Self, Status> {
        let connection = cluster
            .dial(Some(credential))
            .await
            .map_err(|error| Status::unknown(error.to_string()))?;
        let (outgoing, messages) = mpsc::channel(64);
        let mut client = DaemonServiceClient::new(connection.clone());
        let incoming = within(client.connect(ReceiverStream::new(messages)))
            .await?
            .into_inner();
        Ok(Self {
            connection,
            outgoing: Some(outgoing),
            incoming,
            traceparent: String::new(),
        })
    }

    /// Opens a stream and shakes hands
    pub async fn join(cluster: &Cluster, credential: &Credential, node: &str) -> Self {
        Self::join_with(cluster, credential, node, Vec::new()).await.0
    }

    pub async fn join_with(
        cluster: &Cluster,
        credential: &Credential,
        node: &str,
        running_instances: Vec<RunningInstance>,
    ) -> (Self, HandshakeAck) {
        let mut puppet = Self::open(cluster, credential).await.unwrap();
        puppet
            .say(Payload::Handshake(Box::new(Handshake {
                running_instances,
                ..handshake(node)
            })))
            .await;
        let ack = puppet.next().await.expect("a handshake ack");
        let ToDaemon::HandshakeAck(ack) = ack else {
            panic!("the ack comes first, not {ack:?}")
        };
        assert!(ack.protocol_compatible);
        cluster.node_status_is_connected(node).await;
        (puppet, *ack)
    }

    pub async fn say(&self, payload: Payload) {
        let message = DaemonMessage {
            payload: Some(payload),
        };
        // The controller may have ended the stream; what it said last is still to be read.
        let _ = self.outgoing.as_ref().unwrap().send(message).await;
    }

    /// The next message that is not a Ping
    pub async fn next(&mut self) -> Result<ToDaemon, Status> {
        loop {
            match self.next_of_any().await? {
                ToDaemon::Ping(_) => {}
                payload => return Ok(payload),
            }
        }
    }

    /// The next message; a Ping is answered before it is told
    pub async fn next_of_any(&mut self) -> Result<ToDaemon, Status> {
        loop {
            let message = within(self.incoming.message()).await?;
            let message = message.ok_or_else(|| Status::ok("the stream ended"))?;
            self.traceparent = message.traceparent;
            let Some(payload) = message.payload else { continue };
            if let ToDaemon::Ping(ping) = &payload {
                let sequence = ping.sequence;
                self.say(Payload::Pong(Pong { sequence })).await;
            }
            return Ok(payload);
        }
    }

    /// For a task that says something of its own
    pub fn sender(&self) -> mpsc::Sender<DaemonMessage> {
        self.outgoing.clone().unwrap()
    }

    /// How the stream ends
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    pub async fn ends_with(&mut self, code: Code) -> String {
        let status = self.end().await;
        assert_eq!(status.code(), code, "{}", status.message());
        status.message().to_owned()
    }

    pub async fn start(&mut self) -> StartInstance {
        match self.next().await.unwrap() {
            ToDaemon::StartInstance(start) => *start,
            other => panic!("expected a start, got {other:?}"),
        }
    }

    pub async fn stop(&mut self) -> StopInstance {
        match self.next().await.unwrap() {
            ToDaemon::StopInstance(stop) => stop,
            other => panic!("expected a stop, got {other:?}"),
        }
    }

    pub async fn report(&self, instance: &str, incarnation: u64, state: InstanceState) {
        self.say(Payload::InstanceStatus(InstanceStatusUpdate {
            instance_id: instance.to_owned(),
            state: state.into(),
            incarnation,
            ..InstanceStatusUpdate::default()
        }))
        .await;
    }

    /// Accepts a start and brings the instance up
    pub async fn bring_up(&self, start: &StartInstance) {
        self.say(Payload::StartInstanceAck(Box::new(StartInstanceAck {
            instance_id: start.instance_id.clone(),
            accepted: true,
            incarnation: start.incarnation,
            ..StartInstanceAck::default()
        })))
        .await;
        for state in [
            InstanceState::Preparing,
            InstanceState::Starting,
            InstanceState::Running,
        ] {
            self.report(&start.instance_id, start.incarnation, state).await;
        }
    }

    /// Takes so many starts, and brings them up; in the order of their names
    pub async fn bring_up_next(&mut self, count: usize) -> Vec<StartInstance> {
        let mut starts = Vec::new();
        for _ in 0..count {
            let start = self.start().await;
            self.bring_up(&start).await;
            starts.push(start);
        }
        starts.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
        starts
    }

    /// Obeys a stop
    pub async fn bring_down(&self, stop: &StopInstance) {
        self.report(&stop.instance_id, stop.incarnation, InstanceState::Stopping)
            .await;
        self.say(Payload::StopInstanceAck(StopInstanceAck {
            instance_id: stop.instance_id.clone(),
            accepted: true,
            incarnation: stop.incarnation,
            ..StopInstanceAck::default()
        }))
        .await;
        self.report(&stop.instance_id, stop.incarnation, InstanceState::Stopped)
            .await;
    }

    /// Leaves without a word
    pub async fn vanish(self, cluster: &Cluster, node: &str) {
        self.connection.close();
        drop(self);
        cluster.node_status(node, "OFFLINE").await;
    }
}

pub fn running(start: &StartInstance, state: InstanceState) -> RunningInstance {
    RunningInstance {
        instance_id: start.instance_id.clone(),
        group: start.group.clone(),
        port: start.port,
        state: state.into(),
        incarnation: start.incarnation,
    }
}
