#!/bin/bash
# Cargo calls this instead of rustc for the workspace's own crates. It links the programs that run beside and inside
# dynos statically, so that no library of a stack or of an upgraded host matters to them, whichever command builds them:
# cargo has no setting for the flags of one program, and with one command for all of them every dependency is built once.
# (bash, not sh: dash drops the variables CARGO_BIN_EXE_* whose names have a hyphen.)
case " $* " in
*" --crate-name dyno_init --"*" --crate-type bin "* | \
    *" --crate-name dyno_create --"*" --crate-type bin "* | \
    *" --crate-name slug_compiler --"*" --crate-type bin "*)
    exec "$@" -C target-feature=+crt-static -C relocation-model=static
    ;;
esac
exec "$@"
