//! `discovery.dynamo.nats` of a pool.

use std::path::Path;

use async_nats::{ConnectOptions, ServerAddr};

use super::reader::{At, Mistakes};
use super::secret::{Secret, read_secret, read_secret_file};
use super::tls::{TlsConfig, read_tls_files};

/// The NATS servers that carry KV events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// At least one of a cluster; without user and password in them.
    pub servers: Vec<String>,
    /// Who we are.
    pub login: NatsLogin,
    /// Whether TLS must be used, whatever the servers say.
    pub require_tls: bool,
    /// The files that TLS needs.
    pub tls: TlsConfig,
}

/// Who we are to a NATS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsLogin {
    /// Nobody in particular.
    Anonymous,
    /// By name.
    Password {
        /// Name.
        user: String,
        /// Password.
        password: Secret,
    },
    /// By a token.
    Token(Secret),
    /// By the seed of an nkey.
    Nkey(Secret),
    /// By a JWT and the seed of its nkey: the content of a `.creds` file.
    Credentials(Secret),
}

/// `None` if absent.
pub(super) fn read_nats(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<NatsConfig> {
    let [
        servers,
        user,
        password,
        password_file,
        token,
        token_file,
        nkey,
        nkey_file,
        credentials_file,
        tls,
    ] = at.fields(
        mistakes,
        [
            "servers",
            "user",
            "password",
            "password_file",
            "token",
            "token_file",
            "nkey",
            "nkey_file",
            "credentials_file",
            "tls",
        ],
    );
    if !at.is_set() {
        return None;
    }
    let named = read_user(&user, &password, &password_file, directory, mistakes);
    let logins = [
        (&user, named),
        (
            &token,
            read_secret(&token, &token_file, directory, mistakes).map(NatsLogin::Token),
        ),
        (&nkey, read_nkey(&nkey, &nkey_file, directory, mistakes)),
        (
            &credentials_file,
            read_credentials(&credentials_file, directory, mistakes),
        ),
    ];
    let mut given = logins
        .into_iter()
        .filter_map(|(at, login)| login.map(|login| (at, login)));
    let login = given.next().map_or(NatsLogin::Anonymous, |(_, login)| login);
    for (at, _) in given {
        let why = "there is another login already: user and password, a token, an nkey or credentials, one of them";
        mistakes.add(at, "set", why);
    }
    let [require, ca, cert, key] = tls.fields(mistakes, ["require", "ca", "cert", "key"]);
    Some(NatsConfig {
        servers: read_servers(&servers, mistakes),
        login,
        require_tls: require.flag(mistakes, false),
        tls: read_tls_files([&ca, &cert, &key], directory, mistakes),
    })
}

fn read_servers(at: &At<'_>, mistakes: &mut Mistakes) -> Vec<String> {
    at.require(mistakes);
    let items = at.one_or_more(mistakes);
    if at.is_set() && items.is_empty() {
        mistakes.add(at, "empty", "at least one server is needed");
    }
    items.iter().filter_map(|item| read_server(item, mistakes)).collect()
}

fn read_server(at: &At<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let text = at.required_text(mistakes)?;
    let form = "must be nats://host:port or tls://host:port";
    // Whatever stands before an @ may be a password.
    if text.contains('@') {
        let why = format!("{form}; name and password have keys of their own (user, password)");
        mistakes.add(at, "(hidden)", why);
        return None;
    }
    let server = text
        .parse::<ServerAddr>()
        .ok()
        .filter(|server| matches!(server.scheme(), "nats" | "tls") && !server.host().is_empty());
    if server.is_none() {
        mistakes.add(at, format!("{text:?}"), form);
    }
    server.map(|_| text.to_owned())
}

fn read_user(
    user: &At<'_>,
    password: &At<'_>,
    password_file: &At<'_>,
    directory: &Path,
    mistakes: &mut Mistakes,
) -> Option<NatsLogin> {
    let secret = read_secret(password, password_file, directory, mistakes);
    match (user.text(mistakes), secret) {
        (Some(user), Some(password)) => Some(NatsLogin::Password {
            user: user.to_owned(),
            password,
        }),
        (Some(_), None) if !password.is_set() && !password_file.is_set() => {
            password.require(mistakes);
            None
        }
        (None, Some(_)) => {
            user.require(mistakes);
            None
        }
        _ => None,
    }
}

fn read_nkey(at: &At<'_>, file: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<NatsLogin> {
    let secret = read_secret(at, file, directory, mistakes)?;
    // The prefix of a user's seed; a public key is longer by nothing and begins with U.
    if !secret.reveal().starts_with("SU") {
        let at = if at.is_set() { at } else { file };
        mistakes.add(at, "(hidden)", "must be a user's seed, which begins with SU");
    }
    Some(NatsLogin::Nkey(secret))
}

fn read_credentials(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<NatsLogin> {
    let secret = read_secret_file(at, directory, mistakes)?;
    if ConnectOptions::with_credentials(secret.reveal()).is_err() {
        let why = "must have the JWT and the seed of a user, as `nsc generate creds` writes them";
        mistakes.add(at, "(hidden)", why);
    }
    Some(NatsLogin::Credentials(secret))
}
