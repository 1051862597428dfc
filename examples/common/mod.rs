//! What all example servers share: where they listen, and how they stop.

use std::{env, error::Error, net::SocketAddr};

use axum::Router;
use tokio::{net::TcpListener, signal};

/// Serves `app` on `127.0.0.1:$PORT` (default 3000; 0 lets the system choose) until Ctrl-C or
/// SIGTERM. Then it finishes the requests that have begun.
#[allow(dead_code, reason = "the tests call the router")]
pub async fn serve(app: Router) -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let port: u16 = port.parse().map_err(|_| format!("PORT is `{port}`; write 0 to 65535"))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    // The limiter counts by the peer's address, which axum then puts into each request.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    Ok(axum::serve(listener, app).with_graceful_shutdown(stop).await?)
}

/// The secret by which all servers that share a Redis make the same fingerprints: `$QUOTA_SECRET`, which
/// `openssl rand -hex 16` prints.
#[allow(dead_code, reason = "some examples share nothing")]
pub fn shared_secret() -> Result<u128, Box<dyn Error>> {
    match env::var("QUOTA_SECRET") {
        Ok(hex) => Ok(u128::from_str_radix(&hex, 16)
            .map_err(|_| "QUOTA_SECRET is no number; write what `openssl rand -hex 16` prints")?),
        Err(_) => Ok(0x6a09_e667_f3bc_c908_b2fb_1366_ea95_7d3e), // for trying it out only
    }
}
