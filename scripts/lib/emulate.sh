# Building and running the tests for another machine under QEMU. Sourced by bash, after common.sh.
. "${BASH_SOURCE%/*}/musl.sh"

# target_env TARGET: sets up cargo's environment to build TARGET's tests: with its standard library from rustup, or where rustup
# has none to give, with one built from source (component rust-src) against Debian's musl.
target_env() {
    local target=$1
    case $target in
        aarch64-unknown-linux-musl | armv7-unknown-linux-musleabihf) ;;
        *) die "can't run $target here" 'targets: aarch64-unknown-linux-musl, armv7-unknown-linux-musleabihf' ;;
    esac
    export CARGO_BUILD_TARGET=$target
    export "$(cargo_name "$target" LINKER)=rust-lld"
    has_std "$target" || rustup target add "$target" >/dev/null 2>&1 || build_std "$target"
}

# cargo_name TARGET KEY: how cargo calls the target's setting in the environment.
cargo_name() { printf 'CARGO_TARGET_%s_%s' "$(tr 'a-z-' 'A-Z_' <<<"$1")" "$2"; }

has_std() { compgen -G "$(rustc --print target-libdir --target "$1")/libstd-*.rlib" >/dev/null; }

build_std() {
    [[ $1 == armv7-* ]] || die "no standard library for $1" "install it: rustup target add $1"
    [[ -d $(rustc --print sysroot)/lib/rustlib/src/rust/library ]] || rustup component add rust-src ||
        die "neither a standard library for $1 nor its source" "install one: rustup target add $1, or rustup component add rust-src"
    local musl=$PWD/target/musl-armhf
    [[ -e $musl/libunwind.a ]] || unpack_musl armhf "$musl" ||
        die 'musl for armhf comes from Debian packages, which can not be had here (see above)' 'use rustup target add armv7-unknown-linux-musleabihf'
    export RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=std,panic_abort
    export "$(cargo_name "$1" RUSTFLAGS)=-Clink-self-contained=yes -Lnative=$musl"
}

# need_emulator TARGET: QEMU for it. How a foreign program starts another one: scripts/lib/run-foreign, cargo's runner for these targets.
need_emulator() {
    case $1 in
        aarch64-*) need qemu-aarch64-static=qemu-user-static ;;
        arm*) need qemu-arm-static=qemu-user-static ;;
    esac
}
