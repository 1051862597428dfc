//! The socket example, line by line of its sheet, over real connections.
#![cfg(all(feature = "axum", feature = "describe"))]

use std::time::{Duration, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::advance,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};
use tower_quota::Clock;

use common::{Result, Server, until};

use super::examples::socket;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The example's server.
struct Api(String);

impl Api {
    async fn start() -> Result<Self> {
        let app = socket::app(socket::limiter(Clock::system())?)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let app = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self(address))
    }

    async fn open(&self, user: &str) -> Result<Socket> {
        Ok(connect_async(format!("ws://{}/ws?user={user}", self.0)).await?.0)
    }

    /// The status and the body of the refusal.
    async fn refusal(&self, query: &str) -> Result<(u16, Value)> {
        match connect_async(format!("ws://{}/ws{query}", self.0)).await {
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Ok((response.status().as_u16(), serde_json::from_slice(body)?))
            }
            other => Err(format!("{other:?}").into()),
        }
    }

    /// Opens a socket as soon as there is a place: the server may notice a bit later that one has closed.
    async fn open_soon(&self, user: &str) -> Result<Socket> {
        until(async || Ok(self.open(user).await.ok())).await
    }
}

async fn say(socket: &mut Socket, message: impl Into<Message>) -> Result<Value> {
    socket.send(message.into()).await?;
    loop {
        match socket.next().await.ok_or("it has closed")?? {
            Message::Text(text) => return Ok(serde_json::from_str(&text)?),
            Message::Ping(_) | Message::Pong(_) => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
}

#[tokio::test]
async fn a_user_has_two_sockets_and_the_third_is_refused() -> Result<()> {
    let api = Api::start().await?;
    let (first, _second) = (api.open("ana").await?, api.open("ana").await?);
    let refused = (429, json!({ "error": "too_many_sockets" }));
    assert_eq!(api.refusal("?user=ana").await?, refused);
    let _other = api.open("ben").await?;
    drop(first); // without a goodbye
    let _third = api.open_soon("ana").await?;
    assert_eq!(api.refusal("?user=ana").await?, refused, "only one place was free");
    Ok(())
}

#[tokio::test]
async fn a_place_is_free_again_however_a_socket_closes() -> Result<()> {
    let api = Api::start().await?;
    let _stays = api.open("ana").await?;
    for way in 0..4 {
        let mut socket = api.open_soon("ana").await?;
        match way {
            0 => socket.close(None).await?,
            1 => drop(socket),
            // Longer than the server reads.
            2 => drop(say(&mut socket, "x".repeat(70_000)).await.unwrap_err()),
            _ => match socket.get_ref() {
                MaybeTlsStream::Plain(stream) => stream.set_zero_linger()?,
                _ => unreachable!("there is no TLS"),
            },
        }
    }
    let _last = api.open_soon("ana").await?;
    Ok(())
}

#[tokio::test]
async fn what_is_no_socket_takes_no_place() -> Result<()> {
    let api = Api::start().await?;
    let url = format!("http://{}/ws?user=ana", api.0);
    let client = reqwest::Client::builder().no_proxy().build()?;
    for _ in 0..5 {
        let response = client.get(&url).send().await?;
        assert_eq!(response.status(), 400);
        assert_eq!(response.json::<Value>().await?, json!({ "error": "not_a_websocket" }));
    }
    let _two = (api.open("ana").await?, api.open("ana").await?);
    Ok(())
}

#[tokio::test]
async fn who_sends_no_name_is_limited_by_address() -> Result<()> {
    let api = Api::start().await?;
    for query in ["", "?user=", "?name=ana"].into_iter().cycle().take(60) {
        assert_eq!(api.refusal(query).await?, (401, json!({ "error": "missing_user" })));
    }
    assert_eq!(api.refusal("").await?, (429, json!({ "error": "rate_limited" })));
    assert_eq!(api.refusal("?user=a&user=b").await?, (400, json!({ "error": "bad_request" })));
    let _named = api.open("ana").await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_user_sends_twenty_messages_at_once_and_then_ten_a_second() -> Result<()> {
    let messages = socket::limiter(Clock::tokio(UNIX_EPOCH))?.policy("messages")?;
    let say = |user, text| socket::answer(&messages, user, text);
    for left in (0..20).rev() {
        assert_eq!(say("ana", Some("hi")), json!({ "echo": "hi", "remaining": left }));
    }
    let refused = |wait: u64| json!({ "error": "rate_limited", "retry_after_ms": wait });
    assert_eq!(say("ana", Some("hi")), refused(100));
    advance(Duration::from_micros(98_500)).await;
    assert_eq!(say("ana", None), refused(2), "rounded up");
    advance(Duration::from_micros(1_500)).await;
    assert_eq!(say("ana", Some("now")), json!({ "echo": "now", "remaining": 0 }));
    assert_eq!(say("ben", None), json!({ "error": "not_a_text" }));
    assert_eq!(say("ben", Some("hi"))["remaining"], 18, "what is no text counts as well");
    Ok(())
}

#[tokio::test]
async fn the_messages_of_a_user_count_over_all_sockets() -> Result<()> {
    let api = Api::start().await?;
    let (mut one, mut other) = (api.open("ana").await?, api.open("ana").await?);
    // However slow this machine is, the sockets share what is left.
    let mut left = 20;
    for nth in 0..20 {
        let socket = if nth % 2 == 0 { &mut one } else { &mut other };
        let answer = say(socket, format!("message {nth}")).await?;
        assert_eq!(answer["echo"], format!("message {nth}"));
        let remaining = answer["remaining"].as_u64().ok_or("a number")?;
        assert!(remaining < 20 && remaining + 1 >= left, "{remaining} after {left}");
        left = remaining;
    }
    let refused = async || {
        let answer = say(&mut one, "more").await?;
        Ok((answer["error"] == "rate_limited").then_some(answer))
    };
    let wait = at_once(refused).await?["retry_after_ms"].as_u64().ok_or("a number")?;
    assert!((1..=100).contains(&wait), "{wait}");
    Ok(())
}

/// Asks again without a pause, as often as no machine is too slow for.
async fn at_once<T>(mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..10_000 {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
    }
    Err("it stays as it is".into())
}

#[tokio::test]
async fn a_socket_without_a_sign_of_life_is_closed() -> Result<()> {
    let api = Api::start().await?;
    // Nothing reads from them, so no ping is answered.
    let _silent = (api.open("ana").await?, api.open("ana").await?);
    assert_eq!(api.refusal("?user=ana").await?.0, 429);
    tokio::time::pause();
    let next = at_once(async || {
        advance(Duration::from_secs(1)).await;
        Ok(api.open("ana").await.ok())
    });
    next.await?;
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_server_serves_its_page_and_stops_when_asked() -> Result<()> {
    let server = Server::start("socket").await?;
    let page = reqwest::get(&server.address).await?;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let missing = reqwest::get(format!("{}/nothing", server.address)).await?;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.json::<Value>().await?, json!({ "error": "not_found" }));
    let url = server.address.replace("http", "ws");
    let _open = connect_async(format!("{url}/ws?user=ana")).await?;
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}
