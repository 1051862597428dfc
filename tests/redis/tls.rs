//! A store that speaks TLS with its server.
#![cfg(feature = "redis-tls")]

use std::{fs, path::Path, process::Command};

use common::redis::{PATIENCE, Server};
use redis::{Client, TlsCertificates};
use tempfile::TempDir;
use tower_quota::{
    Limiter, OnStoreFailure, Policy, Quota, Reason,
    store::{RedisStore, RedisStoreBuilder},
};

/// Makes a certificate that is its own authority, and its key.
fn certificate(folder: &Path, address: &str) -> Vec<u8> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=redis"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", &format!("subjectAltName=IP:{address}")])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .expect("there is openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::read(folder.join("cert.pem")).unwrap()
}

/// A server that speaks TLS on a second port, and the URL for it.
fn server(folder: &Path) -> (Server, String) {
    let path = |name| folder.join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let server = Server::start_with(&[
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        &certificate,
    ]);
    let port = server.second_port();
    server.ask::<()>(redis::cmd("CONFIG").arg(&["SET", "tls-port", &port.to_string()])).unwrap();
    (server, format!("rediss://127.0.0.1:{port}/"))
}

fn with_authority(url: &str, authority: Vec<u8>) -> RedisStoreBuilder {
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(authority) };
    RedisStore::client_builder(Client::build_with_tls(url, certificates).unwrap())
}

async fn is_counted(store: RedisStoreBuilder) -> bool {
    let store = store.connect_timeout(PATIENCE).response_timeout(PATIENCE);
    let store = store.decision_timeout(PATIENCE).secret(1).build().unwrap();
    let policy = Policy::sliding_window("p", Quota::per_hour(9));
    let policy = policy.on_store_failure(OnStoreFailure::Refuse);
    let limiter = Limiter::builder().check_only(policy).store(store).build().unwrap();
    let decision = limiter.check("p", "k").await.unwrap();
    decision.reason() != Some(Reason::StoreUnavailable)
}

/// One test, because a crypto provider is installed for the whole process, and cannot be removed.
#[tokio::test]
async fn tls_needs_a_provider_and_a_certificate_that_is_trusted_and_names_the_server() {
    let folder = TempDir::new().unwrap();
    let authority = certificate(folder.path(), "127.0.0.1");
    let (server, url) = server(folder.path());

    let error = "the Redis store: it asks for TLS, and the process has no crypto provider; install \
                 one at the beginning of `main`, as by \
                 `rustls::crypto::ring::default_provider().install_default()`";
    for store in [
        RedisStore::builder(url.as_str()),
        RedisStore::cluster_builder([url.as_str()]),
        with_authority(&url, authority.clone()),
    ] {
        assert_eq!(store.secret(1).build().unwrap_err().to_string(), error);
    }
    rustls::crypto::ring::default_provider().install_default().unwrap();

    assert!(!is_counted(RedisStore::builder(url.as_str())).await, "the system does not trust it");
    let other = TempDir::new().unwrap();
    let stranger = certificate(other.path(), "127.0.0.1");
    assert!(!is_counted(with_authority(&url, stranger)).await, "another authority");
    let renamed = url.replace("127.0.0.1", "localhost");
    assert!(!is_counted(with_authority(&renamed, authority.clone())).await, "another name");
    assert_eq!(server.calls("evalsha") + server.calls("eval"), 0, "nothing was sent");

    assert!(is_counted(with_authority(&url, authority)).await);
    assert!(!server.keys().is_empty());
}
