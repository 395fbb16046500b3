//! `ferrokud env`: the shell exports that point the Heroku CLI and git at this node.
