# How scripts/build-static builds: the ways, and the flags that they share. Sourced after common.sh; paths are absolute.
. "${BASH_SOURCE%/*}/musl.sh"

static_targets=(aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf x86_64-unknown-linux-musl)

# Known to build this program; others may.
zig_packages=(ziglang==0.17.1 cargo-zigbuild==0.24.0)

missing=() # what each way lacked, for the last message

known_target() {
    [[ " ${static_targets[*]} " == *" $1 "* ]] || die "no recipe for the target '$1'" "one of: ${static_targets[*]}"
}

# What all builds of one run share.
prepare() {
    work=$1/work
    mkdir -p "$work"
    export CARGO_TARGET_DIR=$work/cargo
    KUBE_VIP_REVISION=$(revision)
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
    export KUBE_VIP_REVISION SOURCE_DATE_EPOCH
    unset CARGO_BUILD_TARGET RUSTFLAGS
    has_std_source=
    sysroot=$(rustc --print sysroot)
    if [[ -f $sysroot/lib/rustlib/src/rust/library/std/Cargo.toml ]] || quietly rust-src rustup component add rust-src; then
        has_std_source=1
    fi
}

# The commit, marked where what is built differs from it; empty outside git (a tarball, also one unpacked inside another repository).
revision() {
    [[ $(git rev-parse --show-toplevel 2>/dev/null) == "$PWD" ]] || return 0
    local commit
    commit=$(git rev-parse --verify --quiet HEAD) || return 0
    commit=${commit:0:10}
    [[ -z $(git status --porcelain -- src patches build.rs Cargo.toml Cargo.lock .cargo scripts/build-static scripts/lib) ]] || commit+=-dirty
    echo "$commit"
}

# quietly NAME COMMAND…: its output goes to a file; what it said last is remembered, should it fail.
quietly() {
    local log=$work/${1//[\/ ]/-}.log what=$1
    shift
    have "$1" && "$@" >"$log" 2>&1 && return 0
    if [[ -s $log ]]; then what+=": $(grep -iE '^error|^E:|not found|could not|^no | lack ' "$log" | tail -n1 | cut -c1-200) (all of it: $log)"; else what+=": no command '$1'"; fi
    missing+=("$what")
    return 1
}

# build TARGET WAY…: sets built, way, std, took.
build() {
    local target=$1 started
    shift
    for way; do
        started=$SECONDS
        if "way_$way" "$target"; then
            built=$CARGO_TARGET_DIR/$target/release/kube-vip took=$((SECONDS - started))
            check_static "$built" "$target"
            return
        fi
    done
    offer_cross "$target"
    return 1
}

# compile TARGET CARGO -- RUSTFLAG…: what all ways share; the flags after -- are for the last step, the linking, alone, so that all
# ways of one target share what they compile before.
compile() {
    local target=$1 command=("$2" rustc --release --locked --bin kube-vip --target "$1") flags
    shift 3
    std=ready-made
    if [[ $has_std_source ]]; then
        # Stable's cargo and compiler take these options only with RUSTC_BOOTSTRAP.
        export RUSTC_BOOTSTRAP=1
        command+=(-Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size)
        std=own
    fi
    printf '%s%s, way %s: %s%s\n' "$dim" "$target" "$way" "${command[*]}" "$plain" >&2
    # Nobody unwinds (panic = "abort"), and the message of a panic needs no tables. Paths of this machine stay out (cargo names those of
    # this repository relative to it).
    flags=(-Cforce-unwind-tables=no --remap-path-prefix="$sysroot/lib/rustlib/src/rust=rust"
        --remap-path-prefix="${CARGO_HOME:-$HOME/.cargo}=cargo")
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}") quietly "$target-$way" "${command[@]}" -- "$@"
}

way_rustup() {
    # Functions that are the same code are one: their addresses mean nothing here.
    local flags=(-Clinker=rust-lld -Clink-arg=--icf=all) libc=$sysroot/lib/rustlib/$1/lib/self-contained/libc.a
    [[ -d ${libc%/*} ]] || quietly "rustup target add $1" rustup target add "$1" || return 1
    # Where the program is position-independent, its relocations are packed if this musl (from 1.2.4) can unpack them.
    if [[ $1 == x86_64-* ]] && grep -aqE '1\.2\.([4-9]|[1-9][0-9])' "$libc"; then flags+=(-Clink-arg=--pack-dyn-relocs=relr); fi
    compile "$1" cargo -- "${flags[@]}"
}

way_zig() {
    local venv=$work/zig
    needs_std_source || return 1
    if [[ ! -x $venv/bin/cargo-zigbuild ]]; then
        rm -rf "$venv"
        quietly 'python3 -m venv (apt-get install python3-venv)' python3 -m venv "$venv" &&
            quietly "pip install ${zig_packages[*]}" "$venv/bin/pip" install -q "${zig_packages[@]}" || { rm -rf "$venv"; return 1; }
    fi
    # Zig brings the start files, so rustc must not look for its own.
    PATH=$venv/bin:$PATH compile "$1" cargo-zigbuild -- -Clink-self-contained=no
}

way_debian() {
    local arch objects=$work/debian/$1
    needs_std_source || return 1
    case $1 in
    aarch64-*) arch=arm64 ;;
    armv7-*) arch=armhf ;;
    x86_64-*) arch=amd64 ;;
    esac
    [[ -f $objects/libunwind.a ]] || quietly "musl-dev and libgcc-dev of $arch from Debian" unpack_musl "$arch" "$objects" || return 1
    compile "$1" cargo -- -Clinker=rust-lld -Clink-self-contained=yes -Lnative="$objects"
}

needs_std_source() {
    [[ $has_std_source ]] || { missing+=("$way: no source of the standard library: rustup component add rust-src"); return 1; }
}

# A container engine that answers opens one more way. It is only named: cross changes the toolchain before it looks for an engine.
offer_cross() {
    local engine
    for engine in docker podman; do
        if have $engine && $engine info >/dev/null 2>&1; then
            missing+=("$engine answers here: with cross (cargo install cross --locked) this builds it too: cross build --release --target $1 (cross/README.md)")
            return
        fi
    done
    missing+=("cross: neither docker nor podman answers here")
}

# Nothing of the system is needed to start it; where it can be started here, it is.
check_static() {
    local file=$1 machine=${2%%-*} runner=()
    ! readelf -lW "$file" | grep -q INTERP || die "$file asks for an interpreter: it is not static"
    ! readelf -dW "$file" 2>/dev/null | grep -q NEEDED || die "$file needs shared libraries: it is not static"
    [[ $machine != arm* ]] || machine=arm
    [[ $machine == "$(uname -m)" ]] || runner=("qemu-$machine-static")
    [[ ${#runner[@]} == 0 ]] || have "${runner[0]}" || return 0
    "${runner[@]}" "$file" version || die "$file does not start"
}
