"""Certificates of the test peers, made with the `cryptography` package."""

import base64
import datetime
import hashlib
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def _name(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    """A certificate authority of our own, as a stranger would have one."""

    def __init__(self, common_name="PrexorCloud Cluster CA"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._build(common_name, self.key.public_key(), days=3650, authority=True)

    def _build(self, common_name, public_key, days, authority=False, usage=None, addresses=()):
        now = datetime.datetime.now(datetime.timezone.utc)
        issuer = _name(common_name) if authority else self.certificate.subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if addresses:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(addresses)), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def client(self, common_name):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._build(
            common_name,
            key.public_key(),
            days=365,
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            addresses=[x509.DNSName(common_name)],
        )
        return key, certificate

    def server(self):
        key = ec.generate_private_key(ec.SECP256R1())
        addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = self._build(
            "prexorcloud-controller",
            key.public_key(),
            days=365,
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            addresses=addresses,
        )
        return key, certificate

    def keystore(self, common_name, password):
        """A PKCS#12 store as a Java controller hands it out: alias `cert`, leaf, then authority."""
        key, certificate = self.client(common_name)
        encryption = serialization.BestAvailableEncryption(password.encode())
        return pkcs12.serialize_key_and_certificates(b"cert", key, certificate, [self.certificate], encryption)

    def pin(self):
        return pin(self.certificate)


def pin(certificate):
    """The pin that a join token carries: base64url SHA-256 of the authority's certificate, without padding."""
    digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def open_keystore(data, password):
    """Key, leaf and authority of a PKCS#12 store, as PEM, PEM and a certificate."""
    key, leaf, others = pkcs12.load_key_and_certificates(data, password.encode())
    return key_pem(key), pem(leaf), others[0]
