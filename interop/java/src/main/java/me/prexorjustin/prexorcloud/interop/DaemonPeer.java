package me.prexorjustin.prexorcloud.interop;

import com.google.gson.JsonObject;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.StreamObserver;
import java.security.KeyStore;
import java.security.cert.X509Certificate;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import me.prexorjustin.prexorcloud.protocol.BootstrapServiceGrpc;
import me.prexorjustin.prexorcloud.protocol.ControllerMessage;
import me.prexorjustin.prexorcloud.protocol.DaemonMessage;
import me.prexorjustin.prexorcloud.protocol.DaemonServiceGrpc;
import me.prexorjustin.prexorcloud.protocol.ExchangeJoinTokenRequest;
import me.prexorjustin.prexorcloud.protocol.ExchangeJoinTokenResponse;

/**
 * A daemon that says what it is told to say, over the connection that the Java daemon makes.
 *
 * <p>Orders: {@code enrol {address, join_token, node_id}}, {@code connect {}}, {@code send MESSAGE} and {@code close {}}. News:
 * {@code enrolled {alias, subject, issuer}}, {@code received MESSAGE} and {@code ended {code, details}}. A message is a
 * DaemonMessage or a ControllerMessage in the JSON of protobuf.
 */
public final class DaemonPeer {
    private final Lines lines = new Lines();
    private ManagedChannel channel;
    private StreamObserver<DaemonMessage> stream;

    private DaemonPeer() {}

    public static void main(String[] arguments) throws Exception {
        DaemonPeer peer = new DaemonPeer();
        try {
            peer.lines.follow(Map.of(
                    "enrol", peer::enrol,
                    "connect", body -> peer.connect(),
                    "send", body -> peer.stream.onNext(Lines.fill(DaemonMessage.newBuilder(), body).build()),
                    "close", body -> peer.stream.onCompleted()));
        } finally {
            if (peer.channel != null) {
                peer.channel.shutdownNow();
            }
        }
    }

    private void enrol(JsonObject body) throws Exception {
        String address = body.get("address").getAsString();
        String token = body.get("join_token").getAsString();
        ExchangeJoinTokenResponse reply = exchange(address, token, body.get("node_id").getAsString());
        KeyStore store = Keystores.open(reply.getPkcs12().toByteArray(), reply.getPkcs12Password());
        String alias = store.aliases().nextElement();
        ChannelCredentials credentials = TlsChannelCredentials.newBuilder()
                .keyManager(Keystores.keys(store, reply.getPkcs12Password()))
                .trustManager(Keystores.trust(Keystores.certificate(reply.getCaCertificatePem().toByteArray())))
                .build();
        channel = Grpc.newChannelBuilder(address, credentials)
                .maxInboundMessageSize(Settings.MAX_MESSAGE_BYTES)
                .keepAliveTime(Settings.KEEPALIVE_SECONDS, TimeUnit.SECONDS)
                .keepAliveTimeout(Settings.KEEPALIVE_TIMEOUT_SECONDS, TimeUnit.SECONDS)
                .keepAliveWithoutCalls(true)
                .idleTimeout(Settings.IDLE_SECONDS, TimeUnit.SECONDS)
                .build();
        X509Certificate certificate = (X509Certificate) store.getCertificate(alias);
        JsonObject news = new JsonObject();
        news.addProperty("alias", alias);
        news.addProperty("subject", certificate.getSubjectX500Principal().getName());
        news.addProperty("issuer", certificate.getIssuerX500Principal().getName());
        lines.tell("enrolled", news);
    }

    private static ExchangeJoinTokenResponse exchange(String address, String token, String nodeId) {
        ChannelCredentials credentials =
                TlsChannelCredentials.newBuilder().trustManager(Pin.ofToken(token)).build();
        ManagedChannel channel = Grpc.newChannelBuilder(address, credentials).build();
        try {
            return BootstrapServiceGrpc.newBlockingStub(channel)
                    .withDeadlineAfter(Settings.DEADLINE_SECONDS, TimeUnit.SECONDS)
                    .exchangeJoinToken(ExchangeJoinTokenRequest.newBuilder()
                            .setJoinToken(token)
                            .setNodeId(nodeId)
                            .build());
        } finally {
            channel.shutdownNow();
        }
    }

    private void connect() {
        stream = DaemonServiceGrpc.newStub(channel).connect(new StreamObserver<ControllerMessage>() {
            @Override
            public void onNext(ControllerMessage message) {
                lines.tell("received", Lines.json(message));
            }

            @Override
            public void onError(Throwable error) {
                end(Status.fromThrowable(error));
            }

            @Override
            public void onCompleted() {
                end(Status.OK);
            }
        });
    }

    private void end(Status status) {
        JsonObject news = new JsonObject();
        news.addProperty("code", status.getCode().name());
        news.addProperty("details", String.valueOf(status.getDescription()));
        lines.tell("ended", news);
    }
}
