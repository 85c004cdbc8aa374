# Building and running the tests for another machine under QEMU. Sourced by bash, after common.sh.

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
    local musl
    musl=$(musl_armhf)
    export RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=std,panic_abort
    export "$(cargo_name "$1" RUSTFLAGS)=-Clink-self-contained=yes -Lnative=$musl"
}

# Debian's musl and libgcc for armhf, unpacked below target; apt works in directories of its own, so the machine stays as it is.
musl_armhf() {
    local into=$PWD/target/musl-armhf work options
    [[ ! -e $into/libunwind.a ]] || { echo "$into"; return; }
    have apt-get || die 'musl for armhf comes from Debian packages, and there is no apt-get here' \
        'use rustup target add armv7-unknown-linux-musleabihf'
    mkdir -p target
    work=$(mktemp -d "$PWD/target/musl-armhf.XXXXXX")
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial,root,lib}
    : >"$work/status"
    options=(-qq -o APT::Architecture=armhf -o APT::Architectures=armhf -o "Dir::State=$work/state" -o "Dir::State::status=$work/status"
        -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    (
        cd "$work" || exit
        apt-get "${options[@]}" update || true # an index less may do; the next line tells
        libgcc=$(apt-cache "${options[@]}" search --names-only '^libgcc-[0-9]+-dev$' | cut -d' ' -f1 | sort -V | tail -n1)
        apt-get "${options[@]}" download musl-dev "${libgcc:?no libgcc-N-dev for armhf in the package lists}"
        for package in ./*.deb; do dpkg -x "$package" root; done
        find root -path '*musl*' \( -name 'crt[1in].o' -o -name 'lib*.a' \) -exec cp {} lib/ \;
        find root \( -name crtbegin.o -o -name crtend.o \) -exec cp {} lib/ \;
        find root -name libgcc_eh.a -exec cp {} lib/libunwind.a \;
    ) >&2
    [[ -e $work/lib/libunwind.a && -e $work/lib/libc.a ]] || die "the packages of musl and libgcc for armhf lack a library: see $work"
    rm -rf "$into"
    mv "$work/lib" "$into"
    rm -rf "$work"
    echo "$into"
}

# need_emulator TARGET: QEMU for it. How a foreign program starts another one: scripts/lib/run-foreign, cargo's runner for these targets.
need_emulator() {
    case $1 in
        aarch64-*) need qemu-aarch64-static=qemu-user-static ;;
        arm*) need qemu-arm-static=qemu-user-static ;;
    esac
}
