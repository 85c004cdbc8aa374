//! The lab itself: a test's namespaces are private.
mod lab;

#[test]
fn namespaces_are_private() {
    lab::isolated("namespaces_are_private", || {
        lab::sh("ip link set lo up; ip link add br0 type bridge; ip link add v0 type veth peer name v1");
        let links = lab::sh("ip -o link | wc -l");
        assert_eq!(links.trim(), "4", "only lo, br0, v0 and v1 exist here");
    });
}
