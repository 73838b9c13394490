package me.prexorjustin.prexorcloud.interop;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.Key;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.TimeUnit;

/**
 * A certificate authority whose certificates and stores are made by the JDK, as those of the Java controller are.
 *
 * <p>The JDK signs certificates in its {@code keytool} only, so that is what makes them.
 */
final class Authority {
    private static final String NAME = "authority";
    private static final String PASSWORD_VARIABLE = "PREXORCLOUD_INTEROP_STORE";

    private final Path file;
    private final String password;

    Authority(Path folder, String password) throws Exception {
        this.file = folder.resolve("authority.p12");
        this.password = password;
        generate(NAME, "CN=PrexorCloud Cluster CA", List.of("-ext", "BC:c=ca:true", "-ext", "KU:c=keyCertSign,cRLSign"));
    }

    X509Certificate certificate() throws GeneralSecurityException, IOException {
        return (X509Certificate) load().getCertificate(NAME);
    }

    byte[] pem() throws GeneralSecurityException, IOException {
        Base64.Encoder encoder = Base64.getMimeEncoder(64, new byte[] {'\n'});
        String body = encoder.encodeToString(certificate().getEncoded());
        return ("-----BEGIN CERTIFICATE-----\n" + body + "\n-----END CERTIFICATE-----\n").getBytes();
    }

    KeyStore server() throws Exception {
        return issue("server", "CN=prexorcloud-controller", "SAN=dns:localhost,ip:127.0.0.1", "EKU=serverAuth");
    }

    KeyStore node(String nodeId) throws Exception {
        return issue(nodeId, "CN=" + nodeId, "SAN=dns:" + nodeId, "EKU=clientAuth");
    }

    /** The bytes of a store, as a controller hands them out. */
    byte[] bytes(KeyStore store) throws GeneralSecurityException, IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        store.store(bytes, password.toCharArray());
        return bytes.toByteArray();
    }

    String password() {
        return password;
    }

    /** A store with the key and the chain of a certificate under the alias {@code cert}. */
    private KeyStore issue(String alias, String subject, String names, String usage) throws Exception {
        generate(alias, subject, List.of(
                "-signer", NAME, "-ext", names, "-ext", usage, "-ext", "KU:c=digitalSignature,keyEncipherment"));
        KeyStore all = load();
        Key key = all.getKey(alias, password.toCharArray());
        Certificate[] chain = {all.getCertificate(alias), certificate()};
        KeyStore store = Keystores.empty();
        store.setKeyEntry("cert", key, password.toCharArray(), chain);
        return store;
    }

    private KeyStore load() throws GeneralSecurityException, IOException {
        return Keystores.open(Files.readAllBytes(file), password);
    }

    private void generate(String alias, String subject, List<String> more) throws Exception {
        Path keytool = Path.of(System.getProperty("java.home"), "bin", "keytool");
        List<String> command = new ArrayList<>(List.of(
                keytool.toString(), "-genkeypair", "-alias", alias, "-dname", subject, "-validity", "365",
                "-keyalg", "EC", "-groupname", "secp256r1", "-sigalg", "SHA256withECDSA",
                "-storetype", "PKCS12", "-keystore", file.toString(), "-storepass:env", PASSWORD_VARIABLE));
        command.addAll(more);
        ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
        builder.environment().put(PASSWORD_VARIABLE, password);
        Process process = builder.start();
        String output;
        try (InputStream stream = process.getInputStream()) {
            output = new String(stream.readAllBytes());
        }
        if (!process.waitFor(Settings.DEADLINE_SECONDS, TimeUnit.SECONDS) || process.exitValue() != 0) {
            process.destroyForcibly();
            throw new IOException("keytool made no certificate for " + subject + ": " + output);
        }
    }
}
