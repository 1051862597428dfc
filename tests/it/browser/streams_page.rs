//! Streams of the completions example in a browser: it reads the events, and the fifth is refused.

use serde::Deserialize;
use serde_json::Value;

use super::Browser;
use common::{Result, Server};

/// Reads four streams, asks for a fifth meanwhile, and returns what it saw. Then it leaves the page.
const STREAMS: &str = r#"
const ask = () => fetch('/v1/completions', {
  method: 'POST',
  headers: { authorization: 'Bearer sk_acme_ana', 'content-type': 'application/json' },
  body: JSON.stringify({ max_tokens: 2000, tokens: 2000, stream: true, pace_ms: 10 }),
});
return (async () => {
  const streams = await Promise.all([ask(), ask(), ask(), ask()]);
  const first = await Promise.all(streams.map(async (stream) => {
    const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
    return (await reader.read()).value;
  }));
  const fifth = await ask();
  return {
    first, status: fifth.status, wait: fifth.headers.get('retry-after'), problem: await fifth.json(),
  };
})();
"#;

#[derive(Deserialize)]
struct Seen {
    first: Vec<String>,
    status: u16,
    wait: Option<String>,
    problem: Value,
}

#[tokio::test]
async fn a_page_reads_four_streams_and_is_refused_the_fifth() -> Result<()> {
    let server = Server::start("completions").await?;
    let browser = Browser::start().await?;
    // Any page of the same origin.
    browser.driver.goto(format!("{}/v1/usage", server.address)).await?;
    let Seen { first, status, wait, problem } = browser.evaluate(STREAMS).await?;
    assert_eq!(first.len(), 4);
    assert!(first.iter().all(|event| event.starts_with("data: {\"index\":0}\n\n")), "{first:?}");
    assert_eq!((status, wait), (429, None));
    assert_eq!(problem["violated-policies"][0], "streams");
    // The page's end ends its streams.
    browser.driver.goto("about:blank").await?;
    browser.stop().await?;
    assert!(server.terminate().await?.success());
    Ok(())
}
