//! Clients and servers: tonic-build writes them from what prost-build says about a service
//!
//! tonic-build knows no protobuf and prost-build knows no gRPC; [`Generator`] is the bridge. Both halves of a service stand
//! behind the feature of their name, and neither dials or listens: the rpc is called Connect, which is also the name of
//! the method that would dial, and `prexorcloud-transport` owns the sockets.

use proc_macro2::TokenStream;
use tonic_build::{Attributes, CodeGenBuilder};

/// Where the modules of clients and servers find the messages.
const MESSAGES: &str = "super";

/// Adds the client and the server of each service to the code of its package.
pub(super) struct Generator;

impl prost_build::ServiceGenerator for Generator {
    fn generate(&mut self, service: prost_build::Service, code: &mut String) {
        let service = Service {
            methods: service.methods.iter().cloned().map(Method).collect(),
            described: service,
        };
        let mut client = Attributes::default();
        client.push_mod(".", "#[cfg(feature = \"client\")]");
        let mut server = Attributes::default();
        server.push_mod(".", "#[cfg(feature = \"server\")]");

        let mut builder = CodeGenBuilder::new();
        builder.build_transport(false).attributes(client);
        code.push_str(&builder.generate_client(&service, MESSAGES).to_string());
        builder.attributes(server);
        code.push_str(&builder.generate_server(&service, MESSAGES).to_string());
    }
}

/// A service of prost-build, with its methods in the form that tonic-build borrows.
struct Service {
    described: prost_build::Service,
    methods: Vec<Method>,
}

impl tonic_build::Service for Service {
    type Comment = String;
    type Method = Method;

    fn name(&self) -> &str {
        &self.described.name
    }

    fn package(&self) -> &str {
        &self.described.package
    }

    fn identifier(&self) -> &str {
        &self.described.proto_name
    }

    fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn comment(&self) -> &[String] {
        &self.described.comments.leading
    }
}

struct Method(prost_build::Method);

impl tonic_build::Method for Method {
    type Comment = String;

    fn name(&self) -> &str {
        &self.0.name
    }

    fn identifier(&self) -> &str {
        &self.0.proto_name
    }

    fn codec_path(&self) -> &str {
        "tonic_prost::ProstCodec"
    }

    fn client_streaming(&self) -> bool {
        self.0.client_streaming
    }

    fn server_streaming(&self) -> bool {
        self.0.server_streaming
    }

    fn comment(&self) -> &[String] {
        &self.0.comments.leading
    }

    fn deprecated(&self) -> bool {
        self.0.options.deprecated()
    }

    fn request_response_name(&self, messages: &str, _: bool) -> (TokenStream, TokenStream) {
        (
            path(messages, &self.0.input_type),
            path(messages, &self.0.output_type),
        )
    }
}

/// The Rust path of a message, from inside the module of a client or server.
fn path(messages: &str, name: &str) -> TokenStream {
    // A message of another crate comes as an absolute path, google.protobuf.Empty as the unit type.
    let path = if name.starts_with("::") || name == "()" {
        name.to_owned()
    } else {
        format!("{messages}::{name}")
    };
    #[expect(
        clippy::expect_used,
        reason = "identifiers, colons and parentheses always lex"
    )]
    path.parse().expect("a path is not made of tokens")
}
