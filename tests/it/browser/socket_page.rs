//! The page of the socket example in a browser.

use thirtyfour::prelude::*;
use tokio_tungstenite::connect_async;

use super::Browser;
use common::{PATIENCE, Result, Server, until};

impl Browser {
    async fn click(&self, id: &str) -> Result<()> {
        Ok(self.driver.find(By::Id(id)).await?.click().await?)
    }

    /// Waits until the page says this of its socket.
    async fn says(&self, status: &str) -> Result<()> {
        let status = self.driver.query(By::Id("status")).with_text(status.to_owned());
        status.wait(PATIENCE, std::time::Duration::from_millis(20)).first().await?;
        Ok(())
    }
}

#[tokio::test]
async fn the_page_shows_what_it_is_told_and_its_socket_is_one_of_two() -> Result<()> {
    let server = Server::start("socket").await?;
    let browser = Browser::start().await?;
    browser.driver.goto(&server.address).await?;

    let url = format!("{}/ws?user=ana", server.address.replace("http", "ws"));
    let others = (connect_async(&url).await?, connect_async(&url).await?);
    browser.click("open").await?;
    browser.says("No socket was opened. Has this user two already?").await?;
    drop(others);
    until(async || {
        browser.click("open").await?;
        let opened =
            "return document.getElementById('status').textContent !== 'The socket is opening.'";
        until(async || Ok(browser.evaluate::<bool>(opened).await?.then_some(()))).await?;
        let is_open =
            "return document.getElementById('status').textContent === 'The socket is open.'";
        Ok(browser.evaluate::<bool>(is_open).await?.then_some(()))
    })
    .await?;

    // More at once than the bucket has and gets meanwhile.
    let send = "for (let nth = 0; nth < 200; nth++) document.getElementById('send').click()";
    browser.driver.execute(send, []).await?;
    browser.wait_for("#answers li.refused").await?;
    let answers: Vec<String> = browser
        .evaluate("return [...document.querySelectorAll('#answers li')].map((li) => li.innerText)")
        .await?;
    assert!(answers.iter().any(|answer| answer.starts_with("rate_limited")), "{answers:?}");

    browser.click("close").await?;
    browser.says("The socket has closed.").await?;
    browser.stop().await?;
    assert!(server.terminate().await?.success());
    Ok(())
}
