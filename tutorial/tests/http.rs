//! How the server takes HTTP that is malformed, pipelined or carries a body.

mod common;

use common::*;

/// Sends each request on a connection of its own, to the end of which it
/// reads. Each must get this status, and none may reach the core.
#[track_caller]
fn assert_refused(
    status: &str,
    requests: impl IntoIterator<Item = impl Into<String>>,
) {
    let server = Server::start(&[("SLEEP", "0")]);
    for request in requests.into_iter().map(Into::into) {
        let answer = server.exchange(request.as_bytes());
        let start = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&start), "{request:?} got {answer:?}");
        let head = answer.split("\r\n\r\n").next();
        let closes = head.is_some_and(|it| it.contains("connection: close"));
        assert!(closes, "{request:?} got {answer:?}");
    }
    assert_eq!(server.stdout(), "");
    server.assert_alive();
}

#[test]
fn a_bad_request_line_or_header_gets_400() {
    let requests = [
        "GET /\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: localhost\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "G\u{e9}T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\
         Content-Length: 2\r\n\r\nab",
        "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: x\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\u{5}hello",
    ];
    assert_refused("400", requests);
}

#[test]
fn http_1_1_needs_one_host() {
    let hosts = ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n"];
    let requests = hosts.map(|hosts| {
        format!("GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")
    });
    assert_refused("400", requests);
}

/// RFC 9112, section 3.2: `uri-host [":" port]`. Two forms of it that nobody
/// sends are refused, too: `caf%C3%A9` and `[v1.a]`.
#[test]
fn a_host_is_taken_by_its_grammar() {
    let good = "localhost localhost:8888 example.org: EXAMPLE.ORG. 1 80:80 \
        127.0.0.1 127.0.0.1:80 a-b_c~d.e xn--caf-dma.example !$&'()*+,;= \
        h:99999999999999999999 [::1] [::1]:80 [::1]: [2001:db8::1] \
        [::ffff:127.0.0.1]:8888";
    let bad = ": :80 a/b a?b a#b a\\b a\"b <a> caf\u{e9} user@h user:pw@a @h h@ \
        a:80@b:81 h:http h:80:81 h:-1 ::1 [] []:80 [zz] [::1 ::1] [::1]80 \
        [::1]] [[::1]] a[::1] [127.0.0.1] [::1]:http [fe80::1%25eth0] \
        caf%C3%A9 [v1.a]";
    let request = |host: &str| {
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    };
    let server = Server::start(&[("SLEEP", "0")]);
    for host in good.split(' ') {
        let answer = server.exchange(request(host).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{host:?} got {answer:?}");
    }
    assert_eq!(server.going(), good.split(' ').count());
    let bad = bad.split(' ').chain(["", "a b", "h:8 0"]).map(request);
    assert_refused("400", bad);
}

#[test]
fn http_1_0_needs_no_host() {
    let server = Server::start(&[("SLEEP", "0")]);
    let answer = server.exchange(b"GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert_eq!(server.going(), 1);
}

const LENGTH: &str = "Host: localhost\r\nContent-Length: 48\r\n\r\n\
    GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n\r\n";
const CHUNKED: &str = "Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The bodies look like requests, and must not be taken for such.
#[test]
fn a_body_is_never_read() {
    for (status, line) in [
        ("400", "GET / HTTP/1.1\r\n"),
        ("404", "GET /x HTTP/1.1\r\n"),
        ("404", "POST /x HTTP/1.1\r\n"),
        ("405", "POST / HTTP/1.1\r\n"),
    ] {
        let bodies = [LENGTH, CHUNKED];
        assert_refused(status, bodies.map(|body| format!("{line}{body}")));
    }
}

/// The server may close the connection before it has read all of it, and then
/// its answer can get lost.
#[test]
fn an_oversized_head_is_refused() {
    let server = Server::start(&[("SLEEP", "0")]);
    for (line, headers) in [
        (format!("/?{}", "a".repeat(70_000)), String::new()),
        ("/".into(), "A: b\r\n".repeat(200)),
        ("/".into(), format!("A: {}\r\n", "b".repeat(2_000_000))),
        ("/".into(), format!("{}: b\r\n", "a".repeat(100_000))),
    ] {
        let head = format!("GET {line} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let answer = server.exchange(head.as_bytes());
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{answer:.100}");
    }
    assert_eq!(server.stdout(), "");
    server.assert_alive();
}

#[test]
fn random_bytes_do_no_harm() {
    let server = Server::start(&[("SLEEP", "0")]);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..200 {
        // Most of them get past the request line.
        let start =
            ["", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
        let mut bytes = start[round % 3].as_bytes().to_vec();
        for _ in 0..round {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.push(random.to_le_bytes()[0]);
        }
        let stream = server.send(&bytes);
        // Or the server would wait for the rest of it.
        stream.shutdown(Shutdown::Write).ok();
        let answer = read_to_close(stream);
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{bytes:?} got {answer}");
    }
    assert_eq!(server.stdout(), "");
    server.assert_alive();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[("SLEEP", "0.05")]);
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /missing HTTP/1.1\r\nHost: a\r\n\r\n\
        DELETE / HTTP/1.1\r\nHost: a\r\n\r\n\
        GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = server.exchange(requests.as_bytes());
    let answers = answers.split("HTTP/1.1 ").skip(1);
    let statuses: Vec<_> = answers.map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404", "405", "200"]);
}

#[test]
fn an_error_page_leaves_the_connection_open() {
    let server = Server::start(&[("SLEEP", "0")]);
    let seen = "%{http_code} after %{num_connects} connects\n";
    let (root, missing) = (&server.url("/"), &server.url("/missing"));
    let all =
        [["-X", "GET", missing], ["-X", "DELETE", root], ["-X", "GET", root]];
    let all =
        all.map(|each| [&["-o/dev/null", "-w", seen], &each[..]].concat());
    let lines = fetch(&all.join(&"--next"));
    let expected = "404 after 1 connects\n405 after 0 connects\n\
                    200 after 0 connects\n";
    assert_eq!(lines, expected);
}
