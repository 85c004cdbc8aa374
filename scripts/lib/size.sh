# What scripts/bench size does: bytes and facts of the static binaries, held against a recorded table, and what they cost while they run.
# Sourced after common.sh and static.sh.

size_table=tests/bench/size.txt
size_budget=1850000      # bytes, for each target
size_growth=5            # percent over the table that are still no regression
size_seconds=20          # how long the quiet cluster is watched

size() {
    local mode='' targets dir target
    case ${1:-} in
    --check | --record) mode=$1 && shift ;;
    -*) usage >&2; exit 64 ;;
    esac
    targets=("$@")
    ((${#targets[@]})) || targets=("${static_targets[@]}")
    dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")/static
    scripts/build-static "$dir" "${targets[@]}"
    for target in "${targets[@]}"; do binary_facts "$dir/$target/kube-vip"; done
    case $mode in
    --check) size_check "$size_table" "$dir" "${targets[@]}" ;;
    --record) size_record "$dir" "${targets[@]}" >"$dir/size.txt" && mv "$dir/size.txt" "$size_table" ;;
    *) size_running "$dir/$(uname -m)-unknown-linux-musl/kube-vip" ;;
    esac
}

# Type, interpreter, shared libraries, sections: what a static binary shows of itself.
binary_facts() {
    printf '\n%s%s%s: %s bytes\n' "$bold" "$1" "$plain" "$(stat -c %s "$1")"
    readelf -hW "$1" | awk -F': *' '/Class|Type|Machine/ { printf "  %s", $2 } END { print "" }'
    printf '  interpreter: %s; shared libraries: %s\n' "$(readelf -lW "$1" | sed -n 's/.*interpreter: \(.*\)]/\1/p' | grep . || echo none)" \
        "$(readelf -dW "$1" 2>/dev/null | grep -c NEEDED || true)"
    sections "$1" | awk '{ printf "  %s %s", $1, $2 } END { print "" }'
}

# NAME BYTES of each section that the file holds.
sections() {
    local name type size
    readelf -SW "$1" | sed -n 's/^ *\[ *[0-9]*\] //p' | while read -r name type _ _ size _; do
        if [[ $name == .* && $type != NOBITS ]]; then echo "$name $((16#$size))"; fi
    done
}

# The table: one line for each target; those not named keep theirs.
size_record() {
    local dir=$1 kept target
    shift
    kept=$(grep -v '^#' "$size_table" 2>/dev/null || true)
    printf '# Bytes of the static binaries, written by scripts/bench size --record; --check allows %s %% more.\n' "$size_growth"
    printf '# target  bytes  .text  .rodata  (of Rust %s)\n' "$(rustc --version | cut -d' ' -f2)"
    for target in "${static_targets[@]}"; do
        if [[ " $* " == *" $target "* ]]; then
            echo "$target $(stat -c %s "$dir/$target/kube-vip") $(sections "$dir/$target/kube-vip" | awk '{ s[$1] = $2 } END { print s[".text"], s[".rodata"] }')"
        else
            grep "^$target " <<<"$kept" || true
        fi
    done
}

# size_check TABLE DIR TARGET…: every target is in the table, not much larger than there, and within the budget.
size_check() {
    local table=$1 dir=$2 target bytes was bad=()
    shift 2
    for target; do
        bytes=$(stat -c %s "$dir/$target/kube-vip")
        was=$(awk -v target="$target" '$1 == target { print $2 }' "$table")
        if [[ ! $was ]]; then
            bad+=("$target: no size in $table; record it: scripts/bench size --record $target")
        elif ((bytes * 100 > was * (100 + size_growth))); then
            bad+=("$target: $bytes bytes, more than $size_growth % over the $was of $table; make it smaller, or record it if it is worth it: scripts/bench size --record $target")
        elif ((bytes > size_budget)); then
            bad+=("$target: $bytes bytes, over the budget of $size_budget")
        else
            printf '%s%s: %s bytes, recorded %s%s\n' "$green" "$target" "$bytes" "$was" "$plain"
        fi
    done
    ((${#bad[@]} == 0)) || die 'a static binary is too large' "${bad[@]}"
}

#---------------------------------------------------------------- a quiet cluster of three in namespaces

size_running() {
    if [[ ! -x $1 ]]; then
        printf '\nnot measured while it runs: %s was not built\n' "$1"
        return
    fi
    need_namespaces
    unshare "${unshare_options[@]}" -- "$PWD/scripts/bench" --size-inside "$(realpath "$1")"
}

size_inside() {
    local program=$1 id number=0 peers other
    declare -ga keeper
    trap 'exit 130' INT TERM
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/netns /run/size
    cd /run/size
    ip link set lo up
    ip link add br0 type bridge stp_state 0 forward_delay 0
    ip link set br0 up
    for id in n1 n2 n3; do
        number=$((number + 1))
        ip netns add "$id"
        ip -n "$id" link set lo up
        ip link add "p$number" type veth peer name eth0 netns "$id"
        ip link set "p$number" master br0 up
        ip -n "$id" addr add "10.99.0.$number/24" dev eth0
        ip -n "$id" link set eth0 up
        peers=$(for other in 1 2 3; do ((other == number)) || printf '{id: n%s, address: 10.99.0.%s, port: 10000}, ' "$other" "$other"; done)
        printf 'localPeer: {id: %s, address: 10.99.0.%s, port: 10000}\nremotePeers: [%s]\nvip: 10.99.0.100\ninterface: eth0\n' \
            "$id" "$number" "${peers%, }" >"$id.yaml"
        printf 'gratuitousARP: true\nstateDir: /run/size/%s.state\ncontrolSocket: /run/size/%s.sock\n' "$id" "$id" >>"$id.yaml"
        printf 'loadBalancers: [{name: web, type: tcp, port: 80, bindToVip: true, backends: [{address: 10.99.0.1, port: 8080}]}]\n' >>"$id.yaml"
        ip netns exec "$id" "$program" start -c "$id.yaml" >"$id.log" 2>&1 &
        keeper[$number]=$!
    done
    size_settled "$program"
    size_watch "$program"
}

size_role() { ip netns exec "n$2" "$1" status -c "n$2.yaml" --json 2>/dev/null | sed -n 's/.*"role": *"\([a-z]*\)".*/\1/p'; }

# Until one leads and the others follow.
size_settled() {
    local end=$((SECONDS + 30))
    until [[ $(for n in 1 2 3; do size_role "$1" $n; done | sort | paste -sd' ') == 'follower follower leader' ]]; do
        ((SECONDS < end)) || { tail -n 5 n?.log >&2; die 'the three nodes did not settle within 30 s'; }
        sleep 0.2
    done
}

# Memory and wake-ups of each process over some quiet seconds.
size_watch() {
    local n daemon before=() was roles=()
    for n in 1 2 3; do
        roles[n]=$(size_role "$1" "$n")
    done
    for n in 1 2 3; do
        daemon=$(pgrep -P "${keeper[$n]}")
        before[n]="$(size_switches "${keeper[$n]}") $(size_switches "$daemon")"
    done
    sleep "$size_seconds"
    printf '\nthree nodes, quiet for %s s: RSS, PSS, private KiB; wake-ups a second\n' "$size_seconds"
    for n in 1 2 3; do
        daemon=$(pgrep -P "${keeper[$n]}")
        read -r -a was <<<"${before[n]}"
        size_line keeper "${keeper[$n]}" "${was[0]}" "${roles[n]}"
        size_line daemon "$daemon" "${was[1]}" "${roles[n]}"
    done
}

# size_line PROCESS PID SWITCHES-BEFORE ROLE: what that process has, and how often it was woken since.
size_line() {
    awk -v label="$4 $1" -v woken="$(($(size_switches "$2") - $3))" -v seconds="$size_seconds" \
        '/^Rss/ { rss = $2 } /^Pss:/ { pss = $2 } /^Private/ { own += $2 } END { printf "  %-16s %5d %5d %5d %7.1f\n", label, rss, pss, own, woken / seconds }' \
        "/proc/$2/smaps_rollup"
}

# How often the threads of a process went to sleep by themselves.
size_switches() { cat /proc/"$1"/task/*/status | awk '/^voluntary_ctxt/ { n += $2 } END { print n + 0 }'; }
