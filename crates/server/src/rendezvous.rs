//! Rendezvous: where `heroku run` meets the one-off dyno it started.
