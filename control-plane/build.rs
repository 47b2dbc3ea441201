//! Generates the server's side of `service Sync` (`crates/proto/proto/sync.proto`), by hand instead of from the file,
//! because its answers are encoded once for all subscribers and need a codec of our own; and a client of etcd
//! (`proto/etcd.proto`). `protox` is a compiler in Rust, so no `protoc` is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
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

    let etcd = protox::compile(["proto/etcd.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(etcd)?;
    Ok(())
}
