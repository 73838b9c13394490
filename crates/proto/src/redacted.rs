//! `Debug` for the messages that carry secrets
//!
//! Join tokens, keystores, plugin tokens and resolved variables must never reach a log, and `{:?}` is how they would.
//! Code generation skips `Debug` for these messages; this module writes it by hand, with secrets as `<redacted>`.

use std::fmt;

use crate::{CreateJoinTokenResponse, ExchangeJoinTokenRequest, ExchangeJoinTokenResponse, StartInstance};

struct Redacted;

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The keys of a map whose values are secret.
struct KeysOf<'a>(&'a std::collections::HashMap<String, String>);

impl fmt::Debug for KeysOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.keys().map(|key| (key, Redacted)))
            .finish()
    }
}

impl fmt::Debug for ExchangeJoinTokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            join_token: _,
            node_id,
            certificate_request,
        } = self;
        f.debug_struct("ExchangeJoinTokenRequest")
            .field("join_token", &Redacted)
            .field("node_id", node_id)
            .field("certificate_request_bytes", &certificate_request.len())
            .finish()
    }
}

impl fmt::Debug for ExchangeJoinTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pkcs12,
            pkcs12_password: _,
            ca_certificate_pem,
            cli_token: _,
            certificate_chain_pem,
        } = self;
        f.debug_struct("ExchangeJoinTokenResponse")
            .field("pkcs12_bytes", &pkcs12.len())
            .field("pkcs12_password", &Redacted)
            .field("ca_certificate_pem", &String::from_utf8_lossy(ca_certificate_pem))
            .field("cli_token", &Redacted)
            .field("certificate_chain_pem", certificate_chain_pem)
            .finish()
    }
}

impl fmt::Debug for CreateJoinTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            token_id,
            join_token: _,
            expires_at_epoch_ms,
        } = self;
        f.debug_struct("CreateJoinTokenResponse")
            .field("token_id", token_id)
            .field("join_token", &Redacted)
            .field("expires_at_epoch_ms", expires_at_epoch_ms)
            .finish()
    }
}

impl fmt::Debug for StartInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartInstance")
            .field("instance_id", &self.instance_id)
            .field("incarnation", &self.incarnation)
            .field("group", &self.group)
            .field("port", &self.port)
            .field("memory_mb", &self.memory_mb)
            .field("jvm_args", &self.jvm_args)
            .field("env", &KeysOf(&self.env))
            .field("jar_file", &self.jar_file)
            .field("plugin_token", &Redacted)
            .field("composition_plan", &self.composition_plan)
            .field("resolved_variables", &KeysOf(&self.resolved_variables))
            .finish_non_exhaustive()
    }
}
