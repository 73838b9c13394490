//! One authority, one server, one node

use std::sync::Arc;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

pub fn install_provider() {
    // A second call finds the first one's provider, which is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Everything that both ends need, as text, so that it can be handed to another process
#[derive(Clone, Serialize, Deserialize)]
pub struct Pki {
    authority: String,
    server: (String, String),
    node: (String, String),
}

impl Pki {
    pub fn create() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "benchmark");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let issue = |names: &[&str], purpose| -> Result<(String, String)> {
            let key = KeyPair::generate()?;
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names)?;
            params.extended_key_usages = vec![purpose];
            Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        Ok(Self {
            server: issue(&["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth)?,
            node: issue(&["node-1"], ExtendedKeyUsagePurpose::ClientAuth)?,
            authority,
        })
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes())?)?;
        Ok(roots)
    }

    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        let (certificate, key) = read(&self.server)?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(self.roots()?))
            .allow_unauthenticated()
            .build()?;
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }

    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let (certificate, key) = read(&self.node)?;
        let config = ClientConfig::builder()
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }

    pub fn bare_server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.server.0, &self.server.1))
            .client_ca_root(Certificate::from_pem(&self.authority))
    }

    pub fn bare_client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(Identity::from_pem(&self.node.0, &self.node.1))
            .ca_certificate(Certificate::from_pem(&self.authority))
            .domain_name("localhost")
    }
}

fn read((certificate, key): &(String, String)) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    Ok((certificate, PrivateKeyDer::from_pem_slice(key.as_bytes())?))
}
