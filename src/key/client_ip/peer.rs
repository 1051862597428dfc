//! The peer that has connected to the server: [`PeerAddr`], [`UnixPeer`], and what servers put into a
//! request's extensions.

use std::net::{IpAddr, SocketAddr};

use http::request::Parts;

/// The peer's address, for servers other than axum's and tonic's: put it into the request's
/// extensions.
///
/// With the feature `axum`, axum's `ConnectInfo<SocketAddr>` is read as well; with the feature
/// `tonic`, tonic's `TcpConnectInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// A peer on a Unix socket, which has no address: put this into the request's extensions.
///
/// A [`ClientIp`](super::ClientIp) trusts such a peer as the proxy `unix:`
/// ([`trust_proxies`](super::ClientIp::trust_proxies)) or as a hop
/// ([`trust_hops`](super::ClientIp::trust_hops)). Without a forwarded header, all its requests share
/// one key. With the feature `tonic`, tonic's `UdsConnectInfo` means the same.
///
/// ```
/// use axum::{Extension, Router, routing::get};
/// use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, key::{ClientIp, UnixPeer}};
///
/// let behind_nginx = ClientIp::new().trust_proxies(["unix:"]);
/// let limiter = Limiter::builder()
///     .policy(Policy::token_bucket("each", Quota::per_minute(60)).key(behind_nginx).or_refuse())
///     .build()?;
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hi" }))
///     .layer(RateLimitLayer::new(limiter))
///     .layer(Extension(UnixPeer));
/// # let _ = app;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixPeer;

/// A peer or proxy on the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    Ip(IpAddr),
    /// The other side of a Unix socket.
    Unix,
}

impl Hop {
    /// The nearest hop; `None` where the server does not pass the peer on.
    pub(super) fn peer(request: &Parts) -> Option<Self> {
        let extensions = &request.extensions;
        if let Some(PeerAddr(peer)) = extensions.get() {
            return Some(Self::of(*peer));
        }
        if let Some(UnixPeer) = extensions.get() {
            return Some(Self::Unix);
        }
        #[cfg(feature = "axum")]
        {
            use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
            if let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>() {
                return Some(Self::of(*peer));
            }
            if let Some(MockConnectInfo(peer)) = extensions.get::<MockConnectInfo<SocketAddr>>() {
                return Some(Self::of(*peer));
            }
        }
        #[cfg(feature = "tonic")]
        {
            // tonic puts it there under TLS as well.
            if let Some(info) = extensions.get::<tonic::transport::server::TcpConnectInfo>() {
                return info.remote_addr.map(Self::of);
            }
            #[cfg(unix)]
            if extensions.get::<tonic::transport::server::UdsConnectInfo>().is_some() {
                return Some(Self::Unix);
            }
        }
        None
    }

    fn of(peer: SocketAddr) -> Self {
        Self::Ip(peer.ip().to_canonical())
    }
}
