//! What the letters say.

use crate::mail::Letter;
use secrecy::{ExposeSecret, SecretString};

/// Who asked, for whoever gets a letter that they did not ask for.
fn asked_from(remote_address: &str) -> String {
    match remote_address {
        "" => "If it was not you, do nothing.".to_owned(),
        address => format!("It was asked for from {address}. If it was not you, do nothing."),
    }
}

fn letter(to: &str, purpose: &'static str, subject: &str, text: String) -> Letter {
    Letter { to: to.to_owned(), subject: subject.to_owned(), text, purpose }
}

/// `PUBLIC_URL/web/PAGE?token=TOKEN`.
fn link(public_url: &str, page: &str, token: &SecretString) -> String {
    format!("{public_url}/web/{page}?token={}", token.expose_secret())
}

pub fn sign_up(to: &str, public_url: &str, token: &SecretString, remote_address: &str) -> Letter {
    let link = link(public_url, "welcome", token);
    let text = format!(
        "Somebody, you we hope, wants to have an account at {public_url} with this address.\n\n\
         Open this link within 24 hours to choose a password:\n\n{link}\n\n{}\n",
        asked_from(remote_address)
    );
    letter(to, "sign-up", "Confirm your address", text)
}

pub fn known(to: &str, public_url: &str, remote_address: &str) -> Letter {
    let text = format!(
        "Somebody, you we hope, wants to have an account at {public_url} with this address. There is one already.\n\n\
         Log in at {public_url}/web/login, or choose a new password at {public_url}/web/password-reset.\n\n{}\n",
        asked_from(remote_address)
    );
    letter(to, "known", "You have an account already", text)
}

pub fn invitation(to: &str, public_url: &str, token: &SecretString, by: &str) -> Letter {
    let link = link(public_url, "welcome", token);
    let text = format!(
        "{by} invites you to {public_url}.\n\nOpen this link within 7 days to choose a password:\n\n{link}\n"
    );
    letter(to, "invitation", "You are invited", text)
}

pub fn password_reset(to: &str, public_url: &str, token: &SecretString, remote_address: &str) -> Letter {
    let link = link(public_url, "password-reset/finish", token);
    let text = format!(
        "Open this link within an hour to choose a new password for your account at {public_url}:\n\n{link}\n\n{}\n",
        asked_from(remote_address)
    );
    letter(to, "password-reset", "Choose a new password", text)
}

pub fn email_change(to: &str, public_url: &str, token: &SecretString) -> Letter {
    let link = link(public_url, "email", token);
    let text = format!(
        "Open this link within 24 hours to make this the address of your account at {public_url}:\n\n{link}\n\n\
         If you did not ask for it, do nothing.\n"
    );
    letter(to, "email-change", "Confirm your new address", text)
}

pub fn email_changed(to: &str, public_url: &str, new: &str) -> Letter {
    let text = format!(
        "The address of your account at {public_url} is now {new}.\n\n\
         If it was not you, tell the node's admin at once.\n"
    );
    letter(to, "email-changed", "Your address was changed", text)
}

pub fn password_changed(to: &str, public_url: &str) -> Letter {
    let text = format!(
        "The password of your account at {public_url} was changed, and every other login has ended.\n\n\
         If it was not you, choose another at {public_url}/web/password-reset and look through your authorizations \
         (heroku authorizations).\n"
    );
    letter(to, "password-changed", "Your password was changed", text)
}
