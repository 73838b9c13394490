package me.prexorjustin.prexorcloud.interop;

import java.io.IOException;
import java.net.Socket;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.cert.CertificateException;
import java.security.cert.X509Certificate;
import java.util.Base64;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

/**
 * Trusts the authority whose certificate has the digest that a join token carries behind its dot.
 *
 * <p>A daemon that enrols has nothing else to trust. The authority has to be in the chain that the controller presents.
 */
final class Pin extends X509ExtendedTrustManager {
    private final String pin;

    private Pin(String pin) {
        this.pin = pin;
    }

    static Pin ofToken(String joinToken) {
        int dot = joinToken.indexOf('.');
        if (dot < 0) {
            throw new IllegalArgumentException("the join token carries no pin");
        }
        return new Pin(joinToken.substring(dot + 1));
    }

    /** Base64url of the SHA-256 of a certificate, without padding. */
    static String of(X509Certificate certificate) throws GeneralSecurityException {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(certificate.getEncoded());
        return Base64.getUrlEncoder().withoutPadding().encodeToString(digest);
    }

    private X509ExtendedTrustManager pinned(X509Certificate[] chain) throws CertificateException {
        try {
            for (X509Certificate certificate : chain) {
                if (of(certificate).equals(pin)) {
                    for (TrustManager manager : Keystores.trust(certificate)) {
                        if (manager instanceof X509ExtendedTrustManager extended) {
                            return extended;
                        }
                    }
                }
            }
        } catch (GeneralSecurityException | IOException error) {
            throw new CertificateException(error);
        }
        throw new CertificateException("the controller presents no certificate with the pin of the join token");
    }

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) throws CertificateException {
        pinned(chain).checkServerTrusted(chain, type, engine);
    }

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket) throws CertificateException {
        pinned(chain).checkServerTrusted(chain, type, socket);
    }

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type) throws CertificateException {
        pinned(chain).checkServerTrusted(chain, type);
    }

    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) throws CertificateException {
        throw new CertificateException("this side takes no clients");
    }

    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) throws CertificateException {
        throw new CertificateException("this side takes no clients");
    }

    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type) throws CertificateException {
        throw new CertificateException("this side takes no clients");
    }

    @Override
    public X509Certificate[] getAcceptedIssuers() {
        return new X509Certificate[0];
    }
}
