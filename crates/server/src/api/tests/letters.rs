//! A small SMTP server that really receives letters, and a browser that follows their links.

use crate::mail::MailSettings;
use reqwest::Method;
use reqwest::redirect::Policy;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// How long a letter may take on a machine that builds meanwhile.
const LETTER_LIMIT: Duration = Duration::from_secs(60);

/// Letters as they came over the wire, without quoted-printable.
pub struct Mailbox {
    address: SocketAddr,
    letters: mpsc::UnboundedReceiver<Received>,
}

#[derive(Debug, Clone)]
pub struct Received {
    pub to: String,
    pub subject: String,
    pub text: String,
}

impl Received {
    /// What follows the node's own URL in the letter's link.
    pub fn link(&self) -> String {
        let at = self.text.find("http://node.example:5080/web/").expect("a link");
        let link = self.text[at..].split_whitespace().next().expect("a word");
        link.strip_prefix("http://node.example:5080").expect("ours").to_owned()
    }

    pub fn token(&self) -> String {
        self.link().split_once("token=").expect("a token").1.to_owned()
    }
}

impl Mailbox {
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (sender, letters) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move { receive(stream, &sender).await });
            }
        });
        Self { address, letters }
    }

    pub fn settings(&self) -> MailSettings {
        MailSettings { smtp_url: Some(format!("smtp://{}", self.address).into()), from: None }
    }

    pub async fn next(&mut self) -> Received {
        tokio::time::timeout(LETTER_LIMIT, self.letters.recv())
            .await
            .expect("a letter in time")
            .expect("open")
    }

    /// Waits for one with this subject; others are none of the test's business.
    pub async fn next_about(&mut self, subject: &str) -> Received {
        loop {
            let letter = self.next().await;
            if letter.subject == subject {
                return letter;
            }
        }
    }

    /// Those that have come and were not asked for.
    pub fn rest(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.letters.try_recv().ok()).collect()
    }
}

/// RFC 5321, as far as a client needs it that pipelines nothing.
async fn receive(stream: TcpStream, letters: &mpsc::UnboundedSender<Received>) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut to = String::new();
    write.write_all(b"220 test\r\n").await.ok()?;
    while let Some(line) = lines.next_line().await.ok()? {
        let upper = line.to_ascii_uppercase();
        let answer: &[u8] = if upper.starts_with("RCPT TO:") {
            to = line.split(['<', '>']).nth(1)?.to_owned();
            b"250 ok\r\n"
        } else if upper == "DATA" {
            write.write_all(b"354 go on\r\n").await.ok()?;
            let (mut subject, mut text, mut in_head, mut encoded) =
                (String::new(), String::new(), true, false);
            loop {
                let line = lines.next_line().await.ok()??;
                match line.as_str() {
                    "." => break,
                    "" if in_head => in_head = false,
                    line if in_head => {
                        subject = line.strip_prefix("Subject: ").map_or(subject, str::to_owned);
                        encoded |= line.ends_with("quoted-printable");
                    }
                    line => text += &format!("{line}\n"),
                }
            }
            if encoded {
                text = text.replace("=\n", "").replace("=3D", "=");
            }
            letters.send(Received { to: to.clone(), subject, text }).ok()?;
            b"250 taken\r\n"
        } else if upper == "QUIT" {
            write.write_all(b"221 bye\r\n").await.ok()?;
            return Some(());
        } else {
            b"250 ok\r\n"
        };
        write.write_all(answer).await.ok()?;
    }
    Some(())
}

/// A browser as far as forms go: a cookie, an origin, and the hidden token of the page it looks at.
pub struct Browser {
    http: reqwest::Client,
    url: String,
    pub cookie: Option<String>,
    pub csrf: String,
}

pub struct Seen {
    pub status: u16,
    pub text: String,
    pub location: String,
    pub headers: http::HeaderMap,
}

impl Browser {
    pub fn new(url: &str) -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none()).build().expect("a client");
        Self { http, url: url.to_owned(), cookie: None, csrf: String::new() }
    }

    pub async fn get(&mut self, path: &str) -> Seen {
        self.send(Method::GET, path, None).await
    }

    /// Sends a form as a page of ours would, with the token of the last page.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Seen {
        let mut fields = fields.to_vec();
        let csrf = self.csrf.clone();
        fields.push(("csrf", &csrf));
        self.send(Method::POST, path, Some(serde_urlencoded::to_string(fields).expect("a form"))).await
    }

    async fn send(&mut self, method: Method, path: &str, form: Option<String>) -> Seen {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(cookie) = &self.cookie {
            request = request.header("Cookie", cookie);
        }
        if let Some(form) = form {
            request = request
                .header("Origin", &self.url)
                .header("Content-Type", "application/x-www-form-urlencoded")
                .body(form);
        }
        let answer = request.send().await.expect("answered");
        let headers = answer.headers().clone();
        let text =
            |name| headers.get(name).map_or("", |value: &http::HeaderValue| value.to_str().expect("text"));
        let location = text("location").to_owned();
        if let Some((cookie, _)) = text("set-cookie").split_once(';') {
            self.cookie = Some(cookie.to_owned());
        }
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a page");
        if let Some((_, rest)) = text.split_once(r#"name="csrf" value=""#) {
            self.csrf = rest.split('"').next().expect("a value").to_owned();
        }
        Seen { status, text, location, headers }
    }

    pub async fn log_in(&mut self, email: &str, password: &str) -> Seen {
        self.post("/web/login", &[("email", email), ("password", password)]).await
    }
}
