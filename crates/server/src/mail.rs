//! Letters to people: sent by SMTP, or written to files that only root reads.
//!
//! In: [`Mail::post`], which waits for nobody. Letters by SMTP wait in a queue in memory and are tried a few times; what a
//! crash loses is asked for again by whoever waits for it, because every letter here answers a person's click.
//! Without an SMTP server each letter becomes `DIR/letters/TIME-LETTERS-PURPOSE.txt` (0600), and the log says where, not what.
//!
//! Invariant: what a letter says, its links above all, is in no log line and no error.

use crate::auth::random_letters;
use anyhow::Context;
use ferroku_core::Millis;
use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Letters that may wait for the SMTP server; more are dropped, with a line in the log.
const QUEUE_LETTERS: usize = 1_000;
/// Pauses before a letter is tried again: long enough for greylisting servers (RFC 6647, section 2.3: some minutes).
const RETRY_PAUSES: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(900)];
/// Letters that are tried at the same time, so that one that waits for its next attempt holds up no other.
const CONCURRENT_LETTERS: usize = 32;
/// Letters kept as files; the oldest go when there are more.
const FILES_KEPT: usize = 1_000;
/// Random letters in a file's name, so that two of one millisecond differ.
const NAME_LETTERS: usize = 8;

/// How letters leave the node.
#[derive(Debug, Clone, Default)]
pub struct MailSettings {
    /// `smtp://user:password@host:587?tls=required`, `smtps://...`; None writes files.
    pub smtp_url: Option<SecretString>,
    /// What stands in `From`.
    pub from: Option<String>,
}

/// What is sent.
#[derive(Clone)]
pub struct Letter {
    pub to: String,
    pub subject: String,
    pub text: String,
    /// For logs and names of files: `sign-up`.
    pub purpose: &'static str,
}

/// Where letters are handed in.
pub struct Mail {
    way: Way,
}

enum Way {
    Smtp { letters: mpsc::Sender<Letter>, outbox: Mutex<Option<Outbox>> },
    Files(PathBuf),
}

/// The far end of the queue.
struct Outbox {
    letters: mpsc::Receiver<Letter>,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mail {
    /// By the settings; files go below `data`.
    ///
    /// # Errors
    /// The URL or the sender's address cannot be understood. The error does not repeat the URL, which has a password.
    pub fn open(settings: &MailSettings, data: &Path, domain: &str) -> anyhow::Result<Self> {
        let Some(url) = &settings.smtp_url else {
            return Ok(Self { way: Way::Files(data.join("letters")) });
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret())
            .ok()
            .context("--smtp-url is not like smtps://USER:PASSWORD@HOST or smtp://HOST:587?tls=required")?;
        let from = settings.from.clone().unwrap_or_else(|| format!("ferroku@{domain}"));
        let from = from.parse().with_context(|| format!("--mail-from {from:?} is no email address"))?;
        let (sender, letters) = mpsc::channel(QUEUE_LETTERS);
        let outbox = Mutex::new(Some(Outbox { letters, transport: builder.build(), from }));
        Ok(Self { way: Way::Smtp { letters: sender, outbox } })
    }

    /// Sends a letter soon. Gives the file that it became where there is no SMTP server.
    pub fn post(&self, letter: Letter, now: Millis) -> Option<PathBuf> {
        let (purpose, to) = (letter.purpose, letter.to.clone());
        match &self.way {
            Way::Smtp { letters, .. } => {
                if letters.try_send(letter).is_err() {
                    tracing::warn!(purpose, to, "too many letters wait for the SMTP server: one was dropped");
                }
                None
            }
            Way::Files(folder) => match write_file(folder, &letter, now) {
                Ok(path) => {
                    tracing::info!(purpose, to, path = %path.display(), "a letter was written to a file: there is no --smtp-url");
                    Some(path)
                }
                Err(error) => {
                    tracing::error!(purpose, to, error = format!("{error:#}"), "cannot write a letter");
                    None
                }
            },
        }
    }

    /// Sends what is posted, until the node ends. To be called once; without an SMTP server there is nothing to do.
    pub async fn run(&self) {
        let Way::Smtp { outbox, .. } = &self.way else { return };
        let Some(mut outbox) = outbox.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONCURRENT_LETTERS));
        while let Some(letter) = outbox.letters.recv().await {
            let place = places.clone().acquire_owned().await;
            let (transport, from) = (outbox.transport.clone(), outbox.from.clone());
            tokio::spawn(async move {
                send(&transport, from, letter).await;
                drop(place);
            });
        }
    }
}

async fn send(transport: &AsyncSmtpTransport<Tokio1Executor>, from: Mailbox, letter: Letter) {
    let (purpose, to) = (letter.purpose, letter.to.clone());
    let message = match message(from, letter) {
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(purpose, to, error = format!("{error:#}"), "a letter cannot be sent");
            return;
        }
    };
    for pause in RETRY_PAUSES.iter().map(Some).chain([None]) {
        let Err(error) = transport.send(message.clone()).await else { return };
        let Some(pause) = pause.filter(|_| !error.is_permanent()) else {
            tracing::warn!(
                purpose,
                to,
                error = &error as &dyn std::error::Error,
                "a letter was not accepted"
            );
            return;
        };
        tracing::info!(
            purpose,
            to,
            error = &error as &dyn std::error::Error,
            "a letter is tried again later"
        );
        tokio::time::sleep(*pause).await;
    }
}

fn message(from: Mailbox, letter: Letter) -> anyhow::Result<Message> {
    Ok(Message::builder()
        .from(from)
        .to(Mailbox::new(None, letter.to.parse().context("the address cannot be understood")?))
        .subject(letter.subject)
        // So that out-of-office programs do not answer (RFC 3834, section 5).
        .header(AutoSubmitted)
        .body(letter.text)?)
}

#[derive(Debug, Clone)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn write_file(folder: &Path, letter: &Letter, now: Millis) -> anyhow::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).context("cannot make the folder")?;
    let mut old: Vec<PathBuf> = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    old.sort();
    for path in old.iter().rev().skip(FILES_KEPT - 1) {
        fs::remove_file(path).context("cannot remove an old letter")?;
    }
    // By its name the oldest comes first.
    let path = folder.join(format!("{now:015}-{}-{}.txt", random_letters(NAME_LETTERS), letter.purpose));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .context("cannot make the file")?;
    let Letter { to, subject, text, .. } = letter;
    write!(file, "To: {to}\nSubject: {subject}\n\n{text}").context("cannot write")?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn letter(text: &str) -> Letter {
        Letter { to: "a@example.com".into(), subject: "S".into(), text: text.into(), purpose: "test" }
    }

    #[test]
    fn letters_without_a_server_are_files_for_root_alone_and_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let mail = Mail::open(&MailSettings::default(), folder.path(), "localhost").expect("opened");
        let paths: Vec<PathBuf> = (0..FILES_KEPT + 2)
            .map(|number| mail.post(letter(&number.to_string()), number as Millis).expect("written"))
            .collect();
        assert!(!paths[1].exists() && paths[2].exists(), "the oldest went");
        let last = paths.last().expect("some");
        assert_eq!(
            fs::read_to_string(last).expect("read"),
            format!("To: a@example.com\nSubject: S\n\n{}", FILES_KEPT + 1)
        );
        assert_eq!(fs::metadata(last).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(folder.path().join("letters")).expect("there").permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_url_that_cannot_be_is_refused_without_repeating_its_password() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = MailSettings { smtp_url: Some("smpt://me:hunter2@host".into()), from: None };
        let error =
            format!("{:#}", Mail::open(&settings, folder.path(), "localhost").err().expect("refused"));
        assert!(error.contains("--smtp-url") && !error.contains("hunter2"), "{error}");
        let settings = MailSettings { smtp_url: Some("smtp://host".into()), from: Some("nobody".into()) };
        assert!(Mail::open(&settings, folder.path(), "localhost").is_err());
    }
}
