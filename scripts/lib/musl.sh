# Debian's musl for another machine. Sourced by bash, after common.sh.

# unpack_musl ARCH INTO: what a static program is linked with, out of Debian's packages for ARCH (arm64, armhf, amd64): start files, libc
# and the unwinder. apt works in directories of its own: no root needed, and this machine's packages, lists and architectures stay as
# they are. What it does goes to standard error; fails where something is lacking, and leaves INTO as it was then.
unpack_musl() {
    local arch=$1 into=$2 work options
    have apt-get && have dpkg-deb || { echo 'no apt-get and dpkg-deb here' >&2; return 1; }
    mkdir -p "${into%/*}"
    work=$(mktemp -d "$into.XXXXXX")
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial,root,lib}
    : >"$work/status"
    options=(-qq -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o "Dir::State=$work/state" -o "Dir::State::status=$work/status"
        -o "Dir::Cache=$work/cache" -o APT::Sandbox::User="$(id -un)")
    if (
        cd "$work" || exit
        apt-get "${options[@]}" update || true # an index less may do; the next line tells
        libgcc=$(apt-cache "${options[@]}" search --names-only '^libgcc-[0-9]+-dev$' | cut -d' ' -f1 | sort -V | tail -n1)
        [[ $libgcc ]] || { echo "no libgcc-N-dev for $arch in the package lists"; exit 1; }
        apt-get "${options[@]}" download musl-dev "$libgcc" || exit
        for package in ./*.deb; do dpkg-deb -x "$package" root || exit; done
        find root -path '*musl*' \( -name '*crt*.o' -o -name 'lib*.a' \) -exec cp {} lib/ \;
        find root -path '*/gcc/*' \( -name 'crtbegin*.o' -o -name 'crtend*.o' \) -exec cp {} lib/ \;
        find root -name libgcc_eh.a -exec cp {} lib/libunwind.a \;
        for file in crt1.o libc.a crtbegin.o libunwind.a; do
            [[ -e lib/$file ]] || { echo "the packages of musl and libgcc for $arch lack $file"; exit 1; }
        done
    ) >&2; then
        rm -rf "$into"
        mv "$work/lib" "$into"
        rm -rf "$work"
    else
        rm -rf "$work"
        return 1
    fi
}
