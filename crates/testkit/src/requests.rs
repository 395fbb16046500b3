//! Requests to a node's API and to its apps by curl, which starts in a hundredth of the CLI's time.

use crate::TestNode;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A first dyno boots in seconds; a machine that builds meanwhile is given more.
const UP_LIMIT: Duration = Duration::from_secs(90);

/// The command line of one call of the API; it fails for a status of 400 and above.
pub fn call(method: &str, path: &str, body: &str) -> String {
    format!(
        "curl -sS --fail-with-body -m 60 -X {method} -H \"Authorization: Bearer $HEROKU_API_KEY\" \
         -H 'Accept: application/vnd.heroku+json; version=3' -H 'Content-Type: application/json' -d '{body}' \
         \"$HEROKU_HOST{path}\""
    )
}

/// The command line that fails unless a call ends in a given HTTP status.
pub fn expect_status(method: &str, path: &str, status: &str) -> String {
    format!(
        "[ \"$(curl -sS -m 60 -o /dev/null -w '%{{http_code}}' -X {method} -H \"Authorization: Bearer $HEROKU_API_KEY\" \
         \"$HEROKU_HOST{path}\")\" = {status} ]"
    )
}

impl TestNode {
    /// Calls the API; gives the HTTP status (0: no answer) and the body (null: none that is JSON).
    ///
    /// # Panics
    /// The answer breaks the API's schema.
    pub fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let line =
            call(method, path, body).replacen("curl -sS --fail-with-body", "curl -s -w '\\n%{http_code}'", 1);
        let text = self.run_unchecked(&line).text;
        let (body, status) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
        (status.parse().unwrap_or(0), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// The body of a GET that succeeds.
    ///
    /// # Panics
    /// It does not.
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, "");
        assert!((200..300).contains(&status), "GET {path}: {status} {body}; the node said:\n{}", self.log());
        body
    }

    /// The HTTP status that an app answers `GET /` with.
    pub fn status_of(&self, app: &str) -> String {
        let line = format!(
            "curl -s -m 10 -o /dev/null -w '%{{http_code}}' -H 'Host: {app}.localhost' http://127.0.0.1:$ROUTER_PORT/"
        );
        self.run_unchecked(&line).text
    }

    /// Waits until an app answers.
    ///
    /// # Panics
    /// It does not in time.
    pub fn wait_until_up(&self, app: &str) {
        let deadline = Instant::now() + UP_LIMIT;
        loop {
            let status = self.status_of(app);
            if status == "200" {
                return;
            }
            assert!(Instant::now() < deadline, "{app} answers {status}; the node said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
