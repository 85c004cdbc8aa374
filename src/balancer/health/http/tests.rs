use super::*;

const USUAL: (u16, u16) = (200, 399);

/// What the judge says of a whole answer that ends there.
fn judged(answer: &[u8], status: (u16, u16), text: Option<&str>) -> Verdict {
    let needle = text.and_then(Needle::new);
    let mut judge = Judge::new(status, needle.as_ref());
    judge.push(answer).unwrap_or_else(|| judge.end())
}

/// The same of its pieces.
fn judged_in_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>, text: Option<&str>) -> Verdict {
    let needle = text.and_then(Needle::new);
    let mut judge = Judge::new(USUAL, needle.as_ref());
    for piece in pieces {
        if let Some(verdict) = judge.push(piece) {
            return verdict;
        }
    }
    judge.end()
}

fn bad(why: &str) -> Verdict {
    Err(why.into())
}

#[test]
fn the_request_is_what_servers_expect() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        request("/healthz?full=1", "api.lan:8080"),
        format!(
            "GET /healthz?full=1 HTTP/1.1\r\nHost: api.lan:8080\r\nUser-Agent: kube-vip/{version}\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        )
    );
}

#[test]
fn the_status_line_decides_where_no_text_is_wanted() {
    for (answer, verdict) in [
        (&b"HTTP/1.1 200 OK\r\n"[..], Ok(())),
        (b"HTTP/1.0 200\r\n", Ok(())),
        (b"HTTP/1.1 204 \n", Ok(())),
        (b"HTTP/1.1 399 Odd\r\n", Ok(())),
        (b"HTTP/1.1 503 Service Unavailable\r\n", bad("status 503")),
        (b"HTTP/1.1 400 Bad Request\r\n", bad("status 400")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 500 No\r\n", bad("status 500")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", Ok(())),
        (b"HTTP/1.1 101 Switching Protocols\r\n", bad("status 101")),
        (b"HTTP/1.1 100 Continue\r\n\r\n", bad("the answer ends in its head")),
        (b"", bad("closed without an answer")),
        (b"HTTP/1.1 20", bad("the answer ends in its head")),
        (b"HT", bad("the answer ends in its head")),
        (b"220 mail.lan ESMTP\r\n", bad(r#"not HTTP: "220 mail.lan ESMTP""#)),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2", bad(r#"not HTTP: "SSH-2.0-OpenSSH_9.2p1 De""#)),
        (b"\x15\x03\x01\x00\x02\x02F", bad(r#"not HTTP: "\x15\x03\x01\x00\x02\x02F""#)),
        (b"\r\n", bad(r#"a malformed status line """#)),
        (b"HTTP/2.0 200 OK\r\n", bad(r#"not HTTP/1.0 or 1.1: "HTTP/2.0 200 OK""#)),
        (b"HTTP/1.1\r\n", bad(r#"a malformed status line "HTTP/1.1""#)),
        (b"HTTP/1.1  200 OK\r\n", bad(r#"a malformed status line "HTTP/1.1  200 OK""#)),
        (b"HTTP/1.1 2000\r\n", bad(r#"a malformed status line "HTTP/1.1 2000""#)),
        (b"HTTP/1.1 20\r\n", bad(r#"a malformed status line "HTTP/1.1 20""#)),
        (b"HTTP/1.1 02x\r\n", bad(r#"a malformed status line "HTTP/1.1 02x""#)),
    ] {
        assert_eq!(judged(answer, USUAL, None), verdict, "{}", answer.escape_ascii());
    }
}

#[test]
fn the_range_of_good_statuses_counts_with_both_ends() {
    for (status, range, good) in
        [(200, (200, 200), true), (201, (200, 200), false), (503, (503, 503), true), (404, (200, 499), true)]
    {
        assert_eq!(judged(format!("HTTP/1.1 {status} x\r\n").as_bytes(), range, None).is_ok(), good, "{status} in {range:?}");
    }
}

#[test]
fn the_text_is_found_in_bodies_of_every_kind() {
    let head = "HTTP/1.1 200 OK\r\nServer: x\r\n";
    for (rest, good) in [
        ("\r\nall is ok", true),
        ("Content-Length: 9\r\n\r\nall is ok", true),
        ("content-length:2\r\n\r\nok", true),
        ("Content-Length: 1\r\n\r\nok", false), // the k is not its own
        ("Content-Length: 0\r\n\r\nok", false),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nall\r\n4;x=\"y\"\r\n ok!\r\n0\r\n\r\n", true),
        ("Transfer-Encoding: Chunked\r\n\r\n4\r\nis o\r\n1\r\nk\r\n", true),
        ("TRANSFER-ENCODING: gzip , chunked\n\n1\no\n1\nk\n0\n\n", true),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0002\r\nok\r\n", true),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nall\r\n0\r\n\r\nok", false),
        ("Transfer-Encoding: chunked, gzip\r\n\r\nok", true), // then it ends with the connection
        ("\r\no\r\nk", false),
        ("\r\n", false),
        ("X-Text: ok\r\n\r\n", false),
    ] {
        let expected = if good { Ok(()) } else { bad("body lacks \"ok\"") };
        assert_eq!(judged(format!("{head}{rest}").as_bytes(), USUAL, Some("ok")), expected, "{rest:?}");
    }
    assert_eq!(judged(b"HTTP/1.1 204 No Content\r\n\r\nok", USUAL, Some("ok")), bad("body lacks \"ok\""));
    let interim = b"HTTP/1.1 103 Early\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nok";
    assert_eq!(judged(interim, USUAL, Some("ok")), Ok(()), "an interim answer has no body, and says nothing of the next one's");
}

#[test]
fn malformed_framing_has_its_names() {
    for (rest, why) in [
        ("Content-Length: many\r\n\r\nok", "a malformed Content-Length"),
        ("Content-Length: -1\r\n\r\nok", "a malformed Content-Length"),
        ("Transfer-Encoding: chunked\r\n\r\nok\r\n", "a malformed chunked body"),
        ("Transfer-Encoding: chunked\r\n\r\n\r\n", "a malformed chunked body"),
        ("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "a malformed chunked body"),
        ("Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n", "a malformed chunked body"),
        ("Transfer-Enc", "the answer ends in its head"),
    ] {
        assert_eq!(judged(format!("HTTP/1.1 200 OK\r\n{rest}").as_bytes(), USUAL, Some("ok")), bad(why), "{rest:?}");
    }
}

#[test]
fn nothing_goes_on_for_ever() {
    let endless = |begin: &str, more: &str, status| {
        let needle = Needle::new("ok");
        let mut judge = Judge::new(status, needle.as_ref());
        let mut pushed = 0;
        let mut verdict = judge.push(begin.as_bytes());
        while verdict.is_none() {
            verdict = judge.push(more.as_bytes());
            pushed += more.len();
            assert!(pushed < 1 << 20, "{begin:?} {more:?}");
        }
        verdict.expect("said").expect_err("never good")
    };
    let head = "HTTP/1.1 200 OK\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(endless(head, "X: y\r\n", USUAL), "a head longer than 16 KiB");
    assert_eq!(endless(head, "x", USUAL), "a head longer than 16 KiB");
    assert_eq!(endless("", "HTTP/", USUAL), "a head longer than 16 KiB");
    assert_eq!(endless("", "HTTP/1.1 100 Continue\r\n\r\n", USUAL), "a head longer than 16 KiB");
    for (begin, more) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "no"),
        (chunked, "1\r\nx\r\n"),
        (chunked, "1;x=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\nx\r\n"),
        (&format!("{chunked}ffffffff\r\n"), "no"),
        (&format!("{chunked}1;"), "no"),
    ] {
        assert_eq!(endless(begin, more, USUAL), "body lacks \"ok\" in its first 64 KiB", "{begin:?} {more:?}");
    }
    let just = |n: usize| format!("HTTP/1.1 200 OK\r\n\r\n{}ok", "x".repeat(n));
    assert!(judged(just(BODY - 2).as_bytes(), USUAL, Some("ok")).is_ok());
    assert!(judged(just(BODY - 1).as_bytes(), USUAL, Some("ok")).is_err());
}

const ANSWERS: [&[u8]; 8] = [
    b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 9\r\n\r\nall is ok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n4;x=\"y\"\r\n ok!\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nnothing here is o-k",
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxyz\r\n",
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    b"HTTP/1.1 2x0 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
];

#[test]
fn how_an_answer_is_cut_into_pieces_does_not_matter() {
    for answer in ANSWERS {
        for text in [None, Some("ok")] {
            let whole = judged(answer, USUAL, text);
            assert_eq!(judged_in_pieces(answer.chunks(1), text), whole, "{}", answer.escape_ascii());
            for at in 0..=answer.len() {
                let (a, b) = answer.split_at(at);
                assert_eq!(judged_in_pieces([a, b].into_iter(), text), whole, "{} at {at}", answer.escape_ascii());
                let _ = judged(a, USUAL, text); // an answer that ends early gets some verdict, and no panic
            }
        }
    }
}

/// Random bytes, and true answers with some bytes changed, inserted and removed: no panic, and the same verdict in any pieces.
#[test]
fn whatever_comes_gets_one_verdict() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % n
    };
    const LIKELY: &[u8] = b"\r\n\r\n: ;0129afxHTTP/1.ok\0\xff";
    for round in 0..30_000 {
        let mut answer = ANSWERS[random(ANSWERS.len())].to_vec();
        if round % 3 == 0 {
            answer = (0..random(80)).map(|_| LIKELY[random(LIKELY.len())]).collect();
        }
        for _ in 0..random(6) {
            let at = random(answer.len() + 1);
            match random(3) {
                0 => answer.insert(at, LIKELY[random(LIKELY.len())]),
                1 if at < answer.len() => drop(answer.remove(at)),
                _ => answer.truncate(at.max(answer.len() / 2)),
            }
        }
        let text = [None, Some("ok"), Some("all is ok")][random(3)];
        let whole = judged(&answer, USUAL, text);
        let size = 1 + random(9);
        assert_eq!(judged_in_pieces(answer.chunks(size), text), whole, "{} by {size}", answer.escape_ascii());
        if let Err(why) = whole {
            assert!(!why.is_empty() && why.len() < 200 && !why.contains(char::is_control), "{why:?}");
        }
    }
}
