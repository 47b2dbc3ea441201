//! Generates the server's side of `service Sync` (`crates/proto/proto/sync.proto`). By hand instead of from the file,
//! because its answers are encoded once for all subscribers and need a codec of our own.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let connect = Method::builder()
        .name("connect")
        .route_name("Connect")
        .input_type("::proto::v1::FromFilter")
        .output_type("crate::sync::codec::Encoded")
        .codec_path("crate::sync::codec::SyncCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let sync = Service::builder()
        .name("Sync")
        .package("warmpath.sync.v1")
        .method(connect)
        .build();
    Builder::new().build_client(false).compile(&[sync]);
}
