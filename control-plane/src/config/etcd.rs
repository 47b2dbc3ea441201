//! `discovery.dynamo.etcd` of a pool.

use std::path::Path;

use super::reader::{At, Mistakes};
use super::secret::{Secret, read_secret};
use super::tls::{TlsConfig, read_tls};

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// URLs of members of one cluster; at least one.
    pub endpoints: Vec<String>,
    /// As whom; `None`: etcd asks nobody who they are.
    pub login: Option<EtcdLogin>,
    /// For endpoints with `https`.
    pub tls: TlsConfig,
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdLogin {
    /// Name.
    pub user: String,
    /// Password.
    pub password: Secret,
}

pub(super) fn read_etcd(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> EtcdConfig {
    at.require(mistakes);
    let [endpoints, user, password, password_file, tls] =
        at.fields(mistakes, ["endpoints", "user", "password", "password_file", "tls"]);
    let urls = if at.is_set() {
        read_endpoints(&endpoints, mistakes)
    } else {
        Vec::new()
    };
    if tls.is_set() && !urls.iter().any(|url| url.starts_with("https://")) {
        mistakes.add(&tls, "set", "no endpoint begins with https://");
    }
    let secret = read_secret(&password, &password_file, directory, mistakes);
    match (user.is_set(), password.is_set() || password_file.is_set()) {
        (true, false) => password.require(mistakes),
        (false, true) => user.require(mistakes),
        _ => {}
    }
    EtcdConfig {
        endpoints: urls,
        login: user.text(mistakes).zip(secret).map(|(user, password)| EtcdLogin {
            user: user.to_owned(),
            password,
        }),
        tls: read_tls(&tls, directory, mistakes),
    }
}

fn read_endpoints(at: &At<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    at.require(mistakes);
    let items = at.one_or_more(mistakes);
    if at.is_set() && items.is_empty() {
        mistakes.add(at, "empty", "at least one endpoint is needed");
    }
    let urls = items.iter().filter_map(|item| read_endpoint(item, mistakes));
    urls.collect()
}

fn read_endpoint(at: &At<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let text = at.required_text(mistakes)?;
    let form = "must be http://host:port or https://host:port, as in ETCD_ENDPOINTS";
    // Whatever stands before an @ may be a password.
    if text.contains('@') {
        let why = format!("{form}; name and password have keys of their own (user, password)");
        mistakes.add(at, "(hidden)", why);
        return None;
    }
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let is_whole = rest
        .and_then(|rest| rest.trim_end_matches('/').rsplit_once(':'))
        .is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
    if !is_whole {
        mistakes.add(at, format!("{text:?}"), form);
    }
    is_whole.then(|| text.to_owned())
}
