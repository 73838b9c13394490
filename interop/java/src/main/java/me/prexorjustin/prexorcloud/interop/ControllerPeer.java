package me.prexorjustin.prexorcloud.interop;

import com.google.gson.JsonObject;
import com.google.protobuf.ByteString;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.ServerInterceptors;
import io.grpc.Status;
import io.grpc.TlsServerCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.SSLPeerUnverifiedException;
import javax.net.ssl.SSLSession;
import me.prexorjustin.prexorcloud.protocol.BootstrapServiceGrpc;
import me.prexorjustin.prexorcloud.protocol.ControllerMessage;
import me.prexorjustin.prexorcloud.protocol.DaemonMessage;
import me.prexorjustin.prexorcloud.protocol.DaemonServiceGrpc;
import me.prexorjustin.prexorcloud.protocol.ExchangeJoinTokenRequest;
import me.prexorjustin.prexorcloud.protocol.ExchangeJoinTokenResponse;

/**
 * A controller that says what it is told to say, over the connections that the Java controller takes.
 *
 * <p>Orders: {@code serve {folder}}, {@code send {stream, message}} and {@code end {stream}}. News: {@code serving {port,
 * join_token}}, {@code exchanged {node_id}}, {@code opened {stream, subject}}, {@code received {stream, message}} and
 * {@code ended {stream, code, details}}. A message is in the JSON of protobuf.
 */
public final class ControllerPeer {
    private static final String LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789";
    private static final Context.Key<String> SUBJECT = Context.key("subject");

    private final Lines lines = new Lines();
    private final Map<Integer, StreamObserver<ControllerMessage>> streams = new ConcurrentHashMap<>();
    private final AtomicInteger opened = new AtomicInteger();
    private Authority authority;
    private String joinToken;
    private Server server;

    private ControllerPeer() {}

    public static void main(String[] arguments) throws Exception {
        ControllerPeer peer = new ControllerPeer();
        try {
            peer.lines.follow(Map.of(
                    "serve", peer::serve,
                    "send", peer::send,
                    "end", body -> peer.streams.remove(body.get("stream").getAsInt()).onCompleted()));
        } finally {
            if (peer.server != null) {
                peer.server.shutdownNow().awaitTermination(Settings.DEADLINE_SECONDS, TimeUnit.SECONDS);
            }
        }
    }

    private static String secret(String prefix) {
        SecureRandom random = new SecureRandom();
        StringBuilder secret = new StringBuilder(prefix);
        random.ints(32, 0, LETTERS.length()).mapToObj(LETTERS::charAt).forEach(secret::append);
        return secret.toString();
    }

    private void serve(JsonObject body) throws Exception {
        Path folder = Files.createDirectories(Path.of(body.get("folder").getAsString()));
        authority = new Authority(folder, secret(""));
        joinToken = secret("pxr_") + "." + Pin.of(authority.certificate());
        TlsServerCredentials.Builder credentials = TlsServerCredentials.newBuilder()
                .keyManager(Keystores.keys(authority.server(), authority.password()))
                .trustManager(Keystores.trust(authority.certificate()))
                .clientAuth(TlsServerCredentials.ClientAuth.OPTIONAL);
        server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0), credentials.build())
                .maxInboundMessageSize(Settings.MAX_MESSAGE_BYTES)
                .keepAliveTime(Settings.KEEPALIVE_SECONDS, TimeUnit.SECONDS)
                .keepAliveTimeout(Settings.KEEPALIVE_TIMEOUT_SECONDS, TimeUnit.SECONDS)
                .permitKeepAliveTime(Settings.PERMITTED_KEEPALIVE_SECONDS, TimeUnit.SECONDS)
                .permitKeepAliveWithoutCalls(true)
                .addService(new Bootstrap())
                .addService(ServerInterceptors.intercept(new Streams(), new CertificateRequired()))
                .build()
                .start();
        JsonObject news = new JsonObject();
        news.addProperty("port", server.getPort());
        news.addProperty("join_token", joinToken);
        lines.tell("serving", news);
    }

    private void send(JsonObject body) throws Exception {
        StreamObserver<ControllerMessage> stream = streams.get(body.get("stream").getAsInt());
        if (stream != null) {
            stream.onNext(Lines.fill(ControllerMessage.newBuilder(), body.getAsJsonObject("message")).build());
        }
    }

    /** Gives a node its certificate for the join token. */
    private final class Bootstrap extends BootstrapServiceGrpc.BootstrapServiceImplBase {
        @Override
        public void exchangeJoinToken(
                ExchangeJoinTokenRequest request, StreamObserver<ExchangeJoinTokenResponse> reply) {
            if (!request.getJoinToken().equals(joinToken)) {
                reply.onError(Status.UNAUTHENTICATED
                        .withDescription("Invalid or expired join token")
                        .asRuntimeException());
                return;
            }
            try {
                reply.onNext(ExchangeJoinTokenResponse.newBuilder()
                        .setPkcs12(ByteString.copyFrom(authority.bytes(authority.node(request.getNodeId()))))
                        .setPkcs12Password(authority.password())
                        .setCaCertificatePem(ByteString.copyFrom(authority.pem()))
                        .build());
                reply.onCompleted();
                JsonObject news = new JsonObject();
                news.addProperty("node_id", request.getNodeId());
                lines.tell("exchanged", news);
            } catch (Exception error) {
                reply.onError(Status.INTERNAL
                        .withDescription("Bootstrap failed: " + error.getMessage())
                        .asRuntimeException());
            }
        }
    }

    /** Lets only those through who have a certificate of the authority. */
    private static final class CertificateRequired implements ServerInterceptor {
        @Override
        public <A, B> ServerCall.Listener<A> interceptCall(
                ServerCall<A, B> call, Metadata headers, ServerCallHandler<A, B> next) {
            SSLSession session = call.getAttributes().get(Grpc.TRANSPORT_ATTR_SSL_SESSION);
            try {
                X509Certificate certificate = (X509Certificate) session.getPeerCertificates()[0];
                String subject = certificate.getSubjectX500Principal().getName();
                Context context = Context.current().withValue(SUBJECT, subject);
                return Contexts.interceptCall(context, call, headers, next);
            } catch (SSLPeerUnverifiedException error) {
                call.close(
                        Status.UNAUTHENTICATED.withDescription("mTLS required — client certificate not verified"),
                        new Metadata());
                return new ServerCall.Listener<A>() {};
            }
        }
    }

    /** Numbers the streams of daemons and tells what they say. */
    private final class Streams extends DaemonServiceGrpc.DaemonServiceImplBase {
        @Override
        public StreamObserver<DaemonMessage> connect(StreamObserver<ControllerMessage> out) {
            int number = opened.incrementAndGet();
            streams.put(number, out);
            JsonObject news = about(number);
            news.addProperty("subject", SUBJECT.get());
            lines.tell("opened", news);
            return new StreamObserver<DaemonMessage>() {
                @Override
                public void onNext(DaemonMessage message) {
                    JsonObject news = about(number);
                    news.add("message", Lines.json(message));
                    lines.tell("received", news);
                }

                @Override
                public void onError(Throwable error) {
                    streams.remove(number);
                    end(Status.fromThrowable(error));
                }

                @Override
                public void onCompleted() {
                    StreamObserver<ControllerMessage> open = streams.remove(number);
                    if (open != null) {
                        open.onCompleted();
                    }
                    end(Status.OK);
                }

                private void end(Status status) {
                    JsonObject news = about(number);
                    news.addProperty("code", status.getCode().name());
                    news.addProperty("details", String.valueOf(status.getDescription()));
                    lines.tell("ended", news);
                }
            };
        }

        private JsonObject about(int number) {
            JsonObject news = new JsonObject();
            news.addProperty("stream", number);
            return news;
        }
    }
}
