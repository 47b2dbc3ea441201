//! `discovery.dynamo` of a pool.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::etcd::{EtcdConfig, read_etcd};
use super::nats::{NatsConfig, read_nats};
use super::pool::read_socket;
use super::reader::{At, Mistakes};
use crate::dynamo::records::Endpoint;

/// Port of a frontend beside its worker, as Dynamo's operator sets it.
const FRONTEND_PORT: u32 = 8000;

/// Workers that Dynamo's discovery service tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamoConfig {
    /// Where the records are.
    pub backend: DynamoBackend,
    /// Where the workers serve.
    pub endpoint: Endpoint,
    /// The frontend that leads to all of them; `None`: each worker has one on its own host.
    pub frontend: Option<SocketAddr>,
    /// The port of those.
    pub frontend_port: u16,
    /// The NATS servers of workers that publish their KV events there.
    pub nats: Option<NatsConfig>,
    /// Where ZMQ brokers publish the KV events of workers (their XPUB sockets); empty: as the discovery service says.
    pub brokers: Vec<String>,
    /// Whether what workers and Dynamo's routers say of load is listened to.
    pub load_events: bool,
}

/// Where the records of Dynamo's discovery service are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DynamoBackend {
    /// In a directory.
    File(PathBuf),
    /// In etcd.
    Etcd(EtcdConfig),
}

impl DynamoBackend {
    /// As in the file.
    pub fn label(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Etcd(_) => "etcd",
        }
    }
}

/// `None` if absent.
pub(super) fn read_discovery(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<DynamoConfig> {
    let [dynamo] = at.fields(mistakes, ["dynamo"]);
    if !at.is_set() {
        return None;
    }
    dynamo.require(mistakes);
    let [
        backend,
        path,
        etcd,
        namespace,
        component,
        endpoint,
        frontend,
        frontend_port,
        nats,
        brokers,
        load_events,
    ] = dynamo.fields(
        mistakes,
        [
            "backend",
            "path",
            "etcd",
            "namespace",
            "component",
            "endpoint",
            "frontend",
            "frontend_port",
            "nats",
            "brokers",
            "load_events",
        ],
    );
    let text = |at: &At<'_>, default: &str, mistakes: &mut Mistakes| at.text(mistakes).unwrap_or(default).to_owned();
    if frontend.is_set() && frontend_port.is_set() {
        mistakes.add(&frontend_port, "set", "frontend says the port already");
    }
    Some(DynamoConfig {
        backend: read_backend(&backend, &path, &etcd, directory, mistakes),
        endpoint: Endpoint {
            namespace: namespace.required_text(mistakes).unwrap_or_default().to_owned(),
            component: text(&component, "backend", mistakes),
            name: text(&endpoint, "generate", mistakes),
        },
        frontend: read_frontend(&frontend, mistakes),
        frontend_port: u16::try_from(frontend_port.integer(mistakes, 1..=65_535, FRONTEND_PORT)).unwrap_or(0),
        nats: read_nats(&nats, directory, mistakes),
        brokers: read_brokers(&brokers, mistakes),
        load_events: load_events.flag(mistakes, true),
    })
}

fn read_backend(at: &At<'_>, path: &At<'_>, etcd: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> DynamoBackend {
    let unused = |at: &At<'_>, backend: &str, mistakes: &mut Mistakes| {
        if at.is_set() {
            mistakes.add(at, "set", format!("only with backend: {backend}"));
        }
    };
    match at.required_text(mistakes) {
        Some("etcd") => {
            unused(path, "file", mistakes);
            DynamoBackend::Etcd(read_etcd(etcd, directory, mistakes))
        }
        other => {
            if let Some(other) = other.filter(|other| *other != "file") {
                let why = "must be file or etcd: other backends are not read yet";
                mistakes.add(at, format!("{other:?}"), why);
            }
            unused(etcd, "etcd", mistakes);
            let path = path.required_text(mistakes).map(|text| directory.join(text));
            DynamoBackend::File(path.unwrap_or_default())
        }
    }
}

fn read_frontend(at: &At<'_>, mistakes: &mut Mistakes) -> Option<SocketAddr> {
    let text = at.text(mistakes)?;
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    if address.is_none() {
        let why = "must be ip:port with a port above 0 (IPv6 in brackets), exactly as the gateway's cluster has it";
        mistakes.add(at, format!("{text:?}"), why);
    }
    address
}

fn read_brokers(at: &At<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    let items = at.one_or_more(mistakes);
    let sockets = items.iter().filter_map(|item| read_socket(item, mistakes));
    sockets.map(|(host, port)| format!("tcp://{host}:{port}")).collect()
}
