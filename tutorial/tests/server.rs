//! What the server does, row by row, seen from outside: each test starts the
//! real program on a free port.

mod common;

use common::{Server, fetch};

#[test]
fn a_get_is_answered_with_the_cores_message() {
    let server = Server::start(&[("SLEEP", "0.01")]);
    let answer = fetch(&["-i", &server.url("/?any=query")]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/html; charset=UTF-8\r\n"));
    assert!(answer.ends_with("\r\n\r\nmsg to client 127.0.0.1"), "{answer}");
    let lines = "going to sleep 127.0.0.1\ndone sleeping 127.0.0.1\n";
    assert_eq!(server.stdout(), lines);
    let listening = format!("listening on {}\n", server.url("/"));
    assert_eq!(server.stderr(), listening);
}
