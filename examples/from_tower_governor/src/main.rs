//! `cargo run -p from-tower-governor -- after`, or `-- before`.

use std::{error::Error, net::SocketAddr};

use from_tower_governor::{after, before};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = match std::env::args().nth(1).as_deref() {
        Some("before") => before::app(),
        Some("after") => after::app()?,
        _ => return Err("write `before` or `after`".into()),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?)
}
