//! The peer that is connected to the server, as servers put it into a request's extensions:
//! [`PeerAddr`], [`UnixPeer`].

use std::net::{IpAddr, SocketAddr};

use http::request::Parts;

/// The peer's address. Put it into each request's extensions if your server is neither axum's nor
/// tonic's.
///
/// The features `axum` and `tonic` read axum's `ConnectInfo<SocketAddr>` and tonic's
/// `TcpConnectInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// A peer on a Unix socket, which has no address. Put this into each request's extensions.
///
/// A [`ClientIp`](super::ClientIp) trusts such a peer as the proxy `unix:`
/// ([`trust_proxies`](super::ClientIp::trust_proxies)) or as a hop
/// ([`trust_hops`](super::ClientIp::trust_hops)). Requests without a forwarded header all have the same
/// key. The feature `tonic` reads tonic's `UdsConnectInfo` too.
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

/// Whether the request's extensions have its peer.
#[cfg(feature = "testing")]
pub(crate) fn has_peer(request: &Parts) -> bool {
    Hop::peer(request).is_some()
}

/// A peer or a proxy that a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    Ip(IpAddr),
    /// The other side of a Unix socket.
    Unix,
}

impl Hop {
    /// The nearest hop; `None` if the server does not put the peer into the extensions.
    #[inline]
    pub(super) fn peer(request: &Parts) -> Option<Self> {
        let extensions = &request.extensions;
        if let Some(PeerAddr(peer)) = extensions.get() {
            return Some(Self::at(*peer));
        }
        if let Some(UnixPeer) = extensions.get() {
            return Some(Self::Unix);
        }
        #[cfg(feature = "axum")]
        {
            use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
            if let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>() {
                return Some(Self::at(*peer));
            }
            if let Some(MockConnectInfo(peer)) = extensions.get::<MockConnectInfo<SocketAddr>>() {
                return Some(Self::at(*peer));
            }
        }
        #[cfg(feature = "tonic")]
        {
            // tonic sets it for connections with TLS too.
            if let Some(info) = extensions.get::<tonic::transport::server::TcpConnectInfo>() {
                return info.remote_addr.map(Self::at);
            }
            #[cfg(unix)]
            if extensions.get::<tonic::transport::server::UdsConnectInfo>().is_some() {
                return Some(Self::Unix);
            }
        }
        None
    }

    fn at(peer: SocketAddr) -> Self {
        Self::Ip(peer.ip().to_canonical())
    }
}
