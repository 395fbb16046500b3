#!/bin/bash
# exec_ssh.sh APP: OpenSSH's clients against the exec API, and what strangers may try. Run by `port80`.
set -u
app=$1
api=https://localhost:${HEROKU_HOST##*:}/api/v2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
ask() { curl -sS --cacert "$NODE_EXTRA_CA_CERTS" -H 'Content-Type: application/json' "$@"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1], ""))' "$1"; }

# Says who it is and nothing more; until the node has had enough of it.
{ exec 3<>/dev/tcp/127.0.0.1/80; printf 'SSH-2.0-silence\r\n' >&3; timeout 60 cat <&3 >/dev/null 2>&1; } & silent=$!

for key in rsa ed25519 other; do
    ssh-keygen -q -N '' -t "${key/other/ed25519}" -f "$key"
done
# Registers a key and writes what SSH needs to know.
register() {
    ask -X PUT -u "$app:$HEROKU_API_KEY" -d "{\"client_key\": \"$(cat "$1.pub")\"}" "$api/web.1" >"$1.json"
    field client_user <"$1.json" >"$1.user"
    echo "[localhost]:80 $(field proxy_public_key <"$1.json")" >known_hosts
    echo "localhost $(field proxy_public_key <"$1.json")" >>known_hosts
}
options=(-F none -o UserKnownHostsFile=known_hosts -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o BatchMode=yes -o LogLevel=ERROR)
enter() { local key=$1 user=$2; shift 2; timeout 60 ssh "${options[@]}" -i "$key" -p 80 "$user@localhost" "$@"; }

echo "== a command, its streams and its status, by RSA and by Ed25519"
for key in rsa ed25519; do
    register $key
    enter $key "$(cat $key.user)" 'echo out; echo err >&2; exit 7' 2>err
    echo "status $?, $(cat err)"
done
echo "== three million bytes both ways"
head -c 3000000 /dev/urandom >sent
enter rsa "$(cat rsa.user)" cat <sent >came
cmp sent came && echo the same
echo "== files both ways, and none of the node's"
printf 'put sent up\nget up down\nget /etc/shadow shadow\n' | timeout 60 sftp "${options[@]}" -i rsa -P 80 -b - "$(cat rsa.user)@localhost" 2>&1 | grep -v '^sftp>'
timeout 60 sftp "${options[@]}" -i rsa -P 80 -q "$(cat rsa.user)@localhost:up" down >/dev/null 2>&1
cmp sent down && echo the same; ls shadow 2>&1
echo "== the client goes, and so does its command"
sleeping() { enter rsa "$(cat rsa.user)" 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\0" " " | grep -o "sleep 777[7]" | wc -l'; }
ssh "${options[@]}" -i rsa -p 80 "$(cat rsa.user)@localhost" 'exec sleep 7777' & gone=$!
until [ "$(sleeping)" = 1 ]; do sleep 0.2; done
{ kill -9 $gone; wait $gone; } 2>/dev/null
until [ "$(sleeping)" = 0 ]; do sleep 0.5; done
echo "gone"
echo "== refused"
enter other "$(cat rsa.user)" id 2>/dev/null; echo "another key: $?"
enter rsa nobody id 2>/dev/null; echo "another user: $?"
enter rsa "$(cat ed25519.user)" id 2>/dev/null; echo "another registration's user: $?"
timeout 60 ssh "${options[@]}" -o PreferredAuthentications=password -p 80 "$(cat rsa.user)@localhost" id 2>/dev/null; echo "a password: $?"
timeout 60 ssh "${options[@]}" -i rsa -p 80 -N -R 9999:localhost:80 -o ExitOnForwardFailure=yes "$(cat rsa.user)@localhost"; echo "a port of the node: $?"
garbage() { printf 'SSH-2.0-garbage\r\n'; head -c 40000 /dev/zero | tr '\0' A; }
exec 4<>/dev/tcp/127.0.0.1/80; garbage >&4 2>/dev/null; timeout 90 head -c 15 <&4; echo; timeout 90 cat <&4 >/dev/null; echo "garbage: $?"
wait $silent; echo "silence: $?"
echo "== bad requests"
ask -X PUT -u "$app:wrong" -d '{"client_key": "x"}' "$api/web.1"; echo
ask -X PUT -u "nosuch:$HEROKU_API_KEY" -d '{"client_key": "x"}' "$api/web.1"; echo
ask -X PUT -H "Authorization: Bearer $HEROKU_API_KEY" -d '{"client_key": "x"}' "$api/web.1"; echo
ask -X PUT -u "$app:$HEROKU_API_KEY" -d '{"client_key": "x"}' "$api/web.9"; echo
ask -X PUT -u "$app:$HEROKU_API_KEY" -d '{"client_key": "x"}' "$api/web.1"; echo
ask -X PUT -u "$app:$HEROKU_API_KEY" -d '{}' "$api/web.1"; echo
ssh-keygen -q -N '' -t rsa -b 1024 -f short
ask -X PUT -u "$app:$HEROKU_API_KEY" -d "{\"client_key\": \"$(cat short.pub)\"}" "$api/web.1"; echo
{ printf '{"client_key": "ssh-rsa '; head -c 1000000 /dev/zero | tr '\0' A; printf '"}'; } >large
ask -X PUT -u "$app:$HEROKU_API_KEY" --data-binary @large "$api/web.1"; echo
