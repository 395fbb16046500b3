#!/bin/bash
# A node with a Django app on it: starts the node, pushes examples/django by git, says how to go on, and stays up until
# Ctrl-C. A second run finds its data (in target/demo) and goes on from there. `make demo` builds first, then runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
data=${FERROKU_DEMO_DATA:-$target/demo/data}
work=${FERROKU_DEMO_WORK:-$target/demo/django}
listen=${FERROKU_DEMO_LISTEN:-127.0.0.1:5080}
router=${FERROKU_DEMO_ROUTER:-127.0.0.1:8080}
app=${FERROKU_DEMO_APP:-django-demo}
server=

say() { printf '\n==> %s\n' "$*"; }

stop() {
    trap - EXIT INT TERM
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        say "stopping the node and its dynos"
        kill -TERM "$server"
        wait "$server" || true
    fi
}
trap 'stop; exit 130' INT TERM
trap stop EXIT

mkdir -p "$data"
data=$(realpath "$data")
say "starting a node on $listen (API and git) and $router (router)"
mkdir -p "$(dirname "$work")"
ready=$(dirname "$work")/ready
: >"$ready"
FERROKU_LOG=${FERROKU_LOG:-warn} "$target/release/ferrokud" server --data "$data" --listen "$listen" --router "$router" \
    --owner owner@example.com >"$ready" &
server=$!
until grep -q ^ready "$ready"; do
    # Its own message says what is wrong and what to do.
    kill -0 "$server" 2>/dev/null || { wait "$server" || true; server=; exit 1; }
    sleep 0.05
done
cat "$ready"

# Settings of the shell that started the demo must not point git and curl elsewhere.
eval "$("$target/release/ferrokud" env --data "$data")"
api=$HEROKU_HOST
git_url=https://${api#http://}/$app.git

if ! curl -sf -o /dev/null -H "Authorization: Bearer $HEROKU_API_KEY" "$api/apps/$app"; then
    say "creating the app $app"
    curl -sS --fail-with-body -o /dev/null -H "Authorization: Bearer $HEROKU_API_KEY" -H 'Content-Type: application/json' \
        -H 'Accept: application/vnd.heroku+json; version=3' -d "{\"name\":\"$app\"}" "$api/apps"
fi
if [ ! -d "$work/.git" ]; then
    rm -rf "$work"
    cp -r examples/django "$work"
    git -C "$work" init -q -b main
    git -C "$work" add .
    git -C "$work" -c user.name=Demo -c user.email=demo@example.com commit -q -m "A Django app"
    git -C "$work" remote add heroku "$git_url"
fi
git -C "$work" remote set-url heroku "$git_url"

say "git push heroku main"
git -C "$work" push heroku main

port=${router##*:}
url=http://$app.localhost:$port/
status=000
for _ in $(seq 120); do
    status=$(curl -s -o /dev/null -w '%{http_code}' -H "Host: $app.localhost" "http://127.0.0.1:$port/" || true)
    [ "$status" = 200 ] && break
    sleep 0.5
done

say "$url answers $status"
cat <<TEXT

Go on with the official Heroku CLI (npm install -g heroku) in another terminal:

    eval "\$($(realpath "$target/release/ferrokud") env --data $data)"
    cd $(realpath "$work")
    heroku apps:info -a $app
    heroku config:set GREETING=hello -a $app
    heroku ps -a $app
    heroku logs --tail -a $app
    heroku run python manage.py check -a $app
    git push heroku main

Ctrl-C stops the node and everything that it started.
TEXT
[ "$status" = 200 ] || { say "the app does not answer 200; its log is in $data/logs, the node's messages are above"; exit 1; }
# For a script that wants to see the demo succeed and have it end.
[ -z "${FERROKU_DEMO_ONCE:-}" ] || exit 0
while kill -0 "$server" 2>/dev/null; do wait "$server" || true; done
