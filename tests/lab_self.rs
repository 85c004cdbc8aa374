//! The lab itself: its namespaces are private, and its observers see what they claim to see. No daemon takes part.
mod lab;

use lab::net::{VIP4, VIP6, mac_text};
use lab::packet::{Arp, BROADCAST, PacketSocket, unsolicited_na};
use lab::{ArpWatch, Backend, Capture, Kind, Lab, Prober, isolated, ms, secs, sh, wait_until};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

#[test]
fn namespaces_are_private() {
    isolated("namespaces_are_private", || {
        sh("ip link set lo up; ip link add br0 type bridge; ip link add v0 type veth peer name v1");
        assert_eq!(sh("ip -o link | wc -l").trim(), "4", "only lo, br0, v0 and v1 exist here");
        for dir in ["/run/lab", "/run/kube-vip", "/var/lib/kube-vip"] {
            assert_eq!(sh(&format!("ls -A {dir}; stat -f -c %T {dir}")).trim(), "tmpfs", "{dir} is this test's own and empty");
        }
    });
}

#[test]
fn arp_watch_tells_one_holder_from_two() {
    isolated("arp_watch_tells_one_holder_from_two", || {
        let lab = Lab::new();
        let (a, b, client) = (lab.host("a"), lab.host("b"), lab.host("client"));
        let watch = ArpWatch::start(&client, VIP4);
        watch.wait_silence(5, secs(5));
        a.sh(&format!("ip addr add {VIP4}/32 dev eth0"));
        watch.wait_answer_by(&a, secs(5));
        assert!(a.has(VIP4) && !b.has(VIP4));
        watch.assert_one_holder();
        b.sh(&format!("ip addr add {VIP4}/32 dev eth0"));
        wait_until("both are seen", secs(5), || !watch.doubles().is_empty());
        assert_eq!(watch.doubles()[0].1.len(), 2);
        a.sh(&format!("ip addr del {VIP4}/32 dev eth0"));
        watch.wait_answer_by(&b, secs(5));
        b.detach();
        watch.wait_silence(5, secs(5));
        b.attach();
        watch.wait_answer_by(&b, secs(5));
        b.unplug();
        watch.wait_silence(5, secs(5));
        b.plug();
        watch.wait_answer_by(&b, secs(5));
        assert!(watch.story().lines().count() >= 4, "{}", watch.story());
    });
}

#[test]
fn a_port_can_lose_the_frames_of_one_sender() {
    isolated("a_port_can_lose_the_frames_of_one_sender", || {
        let lab = Lab::new();
        let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name));
        let pings = |from: &lab::Host, to: &lab::Host| {
            Prober::start(from, to.ip4()).wait_answer(secs(5)); // the way is known and open
        };
        pings(&a, &b);
        let watch = ArpWatch::start(&c, b.ip4());
        let deaf = Prober::start(&a, b.ip4());
        deaf.wait_answer(secs(5));
        b.stop_hearing(&a);
        b.stop_hearing(&c);
        watch.wait_silence(5, secs(5));
        b.hear_all();
        b.stop_hearing(&a);
        let since = std::time::Instant::now();
        watch.wait_answer_by(&b, secs(5));
        pings(&c, &b);
        assert_eq!(deaf.first_answer_after(since), None, "a's frames reached b");
        b.hear_all();
        pings(&a, &b);
    });
}

#[test]
fn prober_measures_outages() {
    isolated("prober_measures_outages", || {
        let lab = Lab::new();
        let (a, client) = (lab.host("a"), lab.host("client"));
        for vip in [VIP4.into(), VIP6.into()] {
            measure_outage(&a, &client, vip);
        }
    });
}

fn measure_outage(a: &lab::Host, client: &lab::Host, vip: std::net::IpAddr) {
    let prefix = if vip.is_ipv4() { "32" } else { "128 nodad" };
    a.sh(&format!("ip addr add {vip}/{prefix} dev eth0"));
    let prober = Prober::start(client, vip);
    prober.wait_answer(secs(5));
    let gone = std::time::Instant::now();
    a.detach();
    let until = gone + ms(150);
    wait_until("150 ms have passed", secs(5), || std::time::Instant::now() > until);
    a.attach();
    prober.wait_answer(secs(5));
    let outage = prober.longest_outage();
    assert!(outage > ms(120), "{vip}: a silence of 150 ms was measured as {outage:?}");
    assert!(outage < secs(5), "{vip}: a silence of 150 ms was measured as {outage:?}");
    println!("{vip}: {outage:?} of 150 ms, {} probes", prober.probes().len());
}

#[test]
fn announcements_are_captured_and_believed() {
    isolated("announcements_are_captured_and_believed", || {
        let lab = Lab::new();
        let (a, b, client) = (lab.host("a"), lab.host("b"), lab.host("client"));
        a.sh(&format!("ip addr add {VIP4}/32 dev eth0; ip addr add {VIP6}/128 dev eth0 nodad"));
        for (vip, prober) in [(VIP4.into(), Prober::start(&client, VIP4)), (VIP6.into(), Prober::start(&client, VIP6))] {
            prober.wait_answer(secs(5));
            let vip: std::net::IpAddr = vip;
            assert_eq!(client.neighbour(vip), mac_text(a.mac()));
        }
        let capture = Capture::start(&client);
        let request = Arp { op: 1, sha: b.mac(), spa: VIP4, tha: [0; 6], tpa: VIP4 }.frame(BROADCAST, b.mac());
        let na = unsolicited_na(b.mac(), VIP6, VIP6);
        assert_eq!((request.len(), na.len()), (42, 86));
        b.enter(|| {
            let socket = PacketSocket::open();
            socket.send(&request);
            socket.send(&na);
        });
        capture.wait_frame("gratuitous ARP request", &request, secs(5));
        capture.wait_frame("neighbour advertisement", &na, secs(5));
        wait_until("the client believes both", secs(5), || {
            client.neighbour(VIP4) == mac_text(b.mac()) && client.neighbour(VIP6) == mac_text(b.mac())
        });
    });
}

#[test]
fn backends_do_what_they_say() {
    isolated("backends_do_what_they_say", || {
        let lab = Lab::new();
        let (a, client) = (lab.host("a"), lab.host("client"));
        let connect = |b: &Backend| client.enter(|| TcpStream::connect(b.address())).expect("a backend listens");
        let text = |mut s: TcpStream| {
            let mut text = String::new();
            s.read_to_string(&mut text).map(|_| text)
        };
        let named = Backend::start(&a, 0, Kind::Name);
        assert_eq!(text(connect(&named)).expect("a clean end"), "a\n");
        for kind in [Kind::Sum, Kind::EndFirst] {
            let backend = Backend::start(&a, 0, kind);
            let mut stream = connect(&backend);
            std::io::copy(&mut lab::backend::Pattern::new(300_001), &mut stream).expect("all is taken");
            stream.shutdown(Shutdown::Write).expect("half-close");
            let answer = text(stream).expect("a clean end");
            wait_until("the sum is kept", secs(5), || backend.sums().len() == 1);
            let own = lab::backend::Sum::of(&mut lab::backend::Pattern::new(300_001)).expect("memory");
            assert_eq!(backend.sums(), [own]);
            assert_eq!(answer, if kind == Kind::Sum { own.text() } else { "bye\n".to_owned() });
        }
        let reset = Backend::start(&a, 0, Kind::Reset);
        let mut stream = connect(&reset);
        stream.write_all(b"x").expect("one byte goes out");
        assert_eq!(text(stream).expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
        named.kill(&a);
    });
}
