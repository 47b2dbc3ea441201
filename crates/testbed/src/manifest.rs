//! The shipped configurations, with what differs here put in: ports, paths, workers.
//!
//! Both are read as YAML and written as JSON, which is YAML too. Whatever is not found where it should be is an error:
//! a manifest that changes shape must not silently go untested.

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::artefacts;
use crate::engine::Engine;
use crate::envoy::{EnvoyOptions, Mode};

const HTTP_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const WASM_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const BUFFER_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";

/// Ports to listen on; 0: any free one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EnvoyPorts {
    pub(crate) listener: u16,
    pub(crate) admin: u16,
}

/// Envoy's bootstrap for one mode.
pub(crate) fn envoy(options: &EnvoyOptions, engines: &[Engine], sync: &str, ports: EnvoyPorts) -> Result<Value> {
    let mut config = read("envoy.yaml")?;
    set_port(
        at(&mut config, "/admin/address/socket_address")?,
        "127.0.0.1",
        ports.admin,
    );
    set_port(
        at(&mut config, "/static_resources/listeners/0/address/socket_address")?,
        "127.0.0.1",
        ports.listener,
    );

    let manager = http_manager(&mut config)?;
    let workers_cluster = route_cluster(manager)?;
    let filters = at(manager, "/http_filters")?.as_array_mut().context("http_filters")?;
    let place = filters.iter().position(is_wasm).context("envoy.yaml: no wasm filter")?;
    let plugin = at(&mut filters[place], "/typed_config/config")?;
    let control_plane_cluster = edit_plugin(plugin, options)?;
    match options.mode {
        Mode::Warmpath => {}
        Mode::RoundRobin => {
            filters.remove(place);
        }
        Mode::Buffered => {
            filters[place] = json!({
                "name": "envoy.filters.http.buffer",
                "typed_config": {"@type": BUFFER_TYPE, "max_request_bytes": 64 << 20},
            });
        }
    }

    let endpoints = engines
        .iter()
        .map(|engine| lb_endpoint(engine.endpoint()))
        .collect::<Result<Vec<_>>>()?;
    let workers = cluster(&mut config, &workers_cluster)?;
    set_endpoints(workers, endpoints)?;
    if options.mode != Mode::Warmpath {
        workers.remove("load_balancing_policy");
        workers.insert("lb_policy".to_owned(), "ROUND_ROBIN".into());
    }
    set_endpoints(cluster(&mut config, &control_plane_cluster)?, vec![lb_endpoint(sync)?])?;
    Ok(config)
}

/// Makes an Envoy listen where it did before.
pub(crate) fn set_envoy_ports(config: &mut Value, listener: &str, admin: &str) -> Result<()> {
    for (address, pointer) in [
        (admin, "/admin/address/socket_address"),
        (listener, "/static_resources/listeners/0/address/socket_address"),
    ] {
        let (_, port) = address.rsplit_once(':').context("an address without a port")?;
        set_port(at(config, pointer)?, "127.0.0.1", port.parse()?);
    }
    Ok(())
}

/// The control plane's configuration.
pub(crate) fn control_plane(engines: &[Engine], changes: &Map<String, Value>, listen: [&str; 2]) -> Result<Value> {
    let mut config = read("control-plane.yaml")?;
    let [sync, admin] = listen;
    *at(&mut config, "/listen/sync")? = sync.into();
    *at(&mut config, "/listen/admin")? = admin.into();
    let pool = at(&mut config, "/pools/0")?.as_object_mut().context("pools[0]")?;
    pool.insert("models".to_owned(), json!([crate::MODEL]));
    pool.insert("model_dir".to_owned(), artefacts::model_dir()?.to_string_lossy().into());
    if let Some(first) = engines.first() {
        pool.insert("block_size".to_owned(), first.options().block_size.into());
        pool.insert("loras".to_owned(), json!(first.options().loras));
    }
    pool.insert("workers".to_owned(), engines.iter().map(worker).collect());
    for (path, value) in changes {
        *at_or_new(&mut config, path)? = value.clone();
    }
    Ok(config)
}

fn worker(engine: &Engine) -> Value {
    let mut worker = json!({
        "endpoint": engine.endpoint(),
        "data_parallel_size": engine.options().data_parallel_size,
    });
    if !engine.kv_events().is_empty() {
        worker["kv_events"] = json!(engine.kv_events());
        worker["replay"] = json!(engine.replay());
    }
    worker
}

/// Puts the module's path and the plugin settings in; returns the name of the control plane's cluster.
fn edit_plugin(plugin: &mut Value, options: &EnvoyOptions) -> Result<String> {
    let module = at(plugin, "/vm_config/code/local/filename")?;
    *module = artefacts::module(options.module).map_or_else(|_| Value::Null, |path| path.to_string_lossy().into());
    let text = at(plugin, "/configuration/value")?;
    let mut settings: Map<String, Value> =
        serde_json::from_str(text.as_str().context("plugin configuration: not a string")?)
            .context("plugin configuration in envoy.yaml")?;
    settings.extend(options.plugin.clone());
    let cluster = settings
        .get("control_plane_cluster")
        .and_then(Value::as_str)
        .map(str::to_owned);
    *text = Value::Object(settings).to_string().into();
    cluster.context("plugin configuration: no control_plane_cluster")
}

fn http_manager(config: &mut Value) -> Result<&mut Value> {
    let filters = at(config, "/static_resources/listeners/0/filter_chains/0/filters")?;
    let mut managers = filters
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter(|filter| filter["name"] == HTTP_MANAGER);
    at(
        managers.next().context("envoy.yaml: no HTTP connection manager")?,
        "/typed_config",
    )
}

/// The cluster that requests are routed to: the only one that any route names.
fn route_cluster(manager: &Value) -> Result<String> {
    let hosts = manager["route_config"]["virtual_hosts"]
        .as_array()
        .context("envoy.yaml: no virtual hosts")?;
    let routes = hosts.iter().filter_map(|host| host["routes"].as_array()).flatten();
    let mut names: Vec<_> = routes.filter_map(|route| route["route"]["cluster"].as_str()).collect();
    names.dedup();
    match names[..] {
        [name] => Ok(name.to_owned()),
        _ => bail!("envoy.yaml: expected routes to one cluster, found {names:?}"),
    }
}

fn is_wasm(filter: &Value) -> bool {
    filter["typed_config"]["@type"] == WASM_TYPE
}

fn cluster<'a>(config: &'a mut Value, name: &str) -> Result<&'a mut Map<String, Value>> {
    let clusters = at(config, "/static_resources/clusters")?
        .as_array_mut()
        .into_iter()
        .flatten();
    let found = clusters
        .filter_map(Value::as_object_mut)
        .find(|cluster| cluster.get("name").is_some_and(|n| n == name));
    found.with_context(|| format!("envoy.yaml: no cluster {name}"))
}

fn set_endpoints(cluster: &mut Map<String, Value>, endpoints: Vec<Value>) -> Result<()> {
    let assignment = cluster
        .get_mut("load_assignment")
        .context("cluster without load_assignment")?;
    *at(assignment, "/endpoints")? = json!([{"lb_endpoints": endpoints}]);
    Ok(())
}

fn lb_endpoint(endpoint: &str) -> Result<Value> {
    let (host, port) = endpoint
        .rsplit_once(':')
        .with_context(|| format!("endpoint {endpoint}: no port"))?;
    let port: u16 = port.parse().with_context(|| format!("endpoint {endpoint}: port"))?;
    Ok(json!({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}))
}

fn set_port(socket_address: &mut Value, host: &str, port: u16) {
    *socket_address = json!({"address": host, "port_value": port});
}

fn read(name: &str) -> Result<Value> {
    let path = artefacts::manifest(name)?;
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

fn at<'a>(value: &'a mut Value, pointer: &str) -> Result<&'a mut Value> {
    value
        .pointer_mut(pointer)
        .with_context(|| format!("manifest: nothing at {pointer}"))
}

/// As [`at`], but the last step may be new.
fn at_or_new<'a>(value: &'a mut Value, pointer: &str) -> Result<&'a mut Value> {
    let (parent, name) = pointer
        .rsplit_once('/')
        .with_context(|| format!("not a JSON pointer: {pointer}"))?;
    let parent = at(value, parent)?
        .as_object_mut()
        .with_context(|| format!("manifest: no mapping above {pointer}"))?;
    Ok(parent.entry(name).or_insert(Value::Null))
}
