#!/usr/bin/env bash
# Which binary a machine runs. Sourced after common.sh.

# target_of MACHINE: Rust's target for what `uname -m` says there.
target_of() {
    case $1 in
    x86_64 | amd64) echo x86_64-unknown-linux-musl ;;
    aarch64 | arm64) echo aarch64-unknown-linux-musl ;;
    armv7* | armv8*) echo armv7-unknown-linux-musleabihf ;;
    *) die "no binary for a machine that calls itself '$1'" 'there are x86_64, aarch64 and armv7' ;;
    esac
}
