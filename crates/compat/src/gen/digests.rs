// Written by `cargo xtask contract accept`.

/// SHA-256 of the contract without comments, order and formatting, in lower-case hex
///
/// Two builds with the same digest send and understand the same messages.
pub const WIRE_DIGEST: &str = "499ac3144556c19f511fda3fbfdee63d1898fc374bf08eb352caa1f449cc99e1";

/// The `.proto` files of the contract: path from the repository root, and SHA-256 of the bytes in lower-case hex
pub const FILES: &[(&str, &str)] = &[
    ("proto/prexorcloud/admin_service.proto", "0bded5c77881284b221f23a0b77a5292c1632daef04340ab8058af47661c9533"),
    ("proto/prexorcloud/artifact_service.proto", "164d0886eee615a5ce47e0a59d9d85c82f8fff5c394f6c73c5d7273196c41be0"),
    ("proto/prexorcloud/bootstrap_service.proto", "70cbf839a6179518ba07ecd42e6f5b21ced4e161cbc6d470adcff688235cc861"),
    ("proto/prexorcloud/daemon_service.proto", "4a49263e06d5262d5cd23f431dfb065b3f0bc1318d41c510445f1f4abec73810"),
];
