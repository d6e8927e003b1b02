//! What the server makes of its settings, and how it fails to start.

mod common;

use common::*;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Starts a server that must end at once with this status and one line on
/// stderr, which is returned.
#[track_caller]
fn refused(code: i32, settings: &[(&str, &OsStr)]) -> String {
    let mut command = Command::new(BINARY);
    command.envs(settings.iter().copied());
    let (status, stdout, said) = output(&mut command);
    assert_eq!(status, Some(code), "{settings:?}: {said}");
    assert_eq!(stdout, "");
    assert!(said.ends_with('\n') && said.lines().count() == 1, "{said}");
    said
}

#[test]
fn a_bad_setting_is_named_in_one_line() {
    let numbers = ["", "abc", "-1", " 1", "1 ", "1e9", "inf", "nan", "0x10"];
    let not_text = OsStr::from_bytes(b"\xff");
    for (name, allowed, values) in [
        ("SLEEP", "0 to 86400 seconds", &["86401", "-0.1", "-inf"][..]),
        ("WORKERS", "1 to 10000", &["0", "10001", "1.5"]),
        ("PORT", "0 (any) to 65535", &["65536", "80.0", "http"]),
        ("HOST", "an IP address", &["localhost", "127.0.0.1:80", "[::1]"]),
    ] {
        let values = numbers.iter().chain(values).map(OsStr::new);
        for value in values.chain([not_text]) {
            let said = refused(2, &[(name, value)]);
            let start = format!("{name}={value:?} is not allowed");
            assert!(said.starts_with(&start), "{said}");
            assert!(said.contains(allowed), "{said}");
        }
    }
}

#[test]
fn the_limits_themselves_are_allowed() {
    for setting in [
        ("SLEEP", "0"),
        ("SLEEP", "0.5"),
        ("WORKERS", "1"),
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
    ] {
        let server = Server::start(&[setting]);
        assert_eq!(status(&server.url("/missing")), "404");
    }
    let server = Server::start(&[("SLEEP", "86400"), ("WORKERS", "2")]);
    let waiting = server.send(GET);
    wait_until("the job", || server.going() == 1);
    drop(waiting);
}

#[test]
#[ignore = "takes a system that allows 10,000 threads"]
fn ten_thousand_workers_are_allowed() {
    let server = Server::start(&[("WORKERS", "10000"), ("SLEEP", "0")]);
    assert_eq!(status(&server.url("/")), "200");
}

/// Whether or not something else has the port, the server names it.
#[test]
fn without_settings_it_is_port_8888_of_this_machine() {
    let mut command = Command::new(BINARY);
    let server = Server::launch(command.env_remove("PORT"), None, None);
    wait_until("the first line", || server.stderr().contains('\n'));
    assert!(server.stderr().contains("127.0.0.1:8888"), "{}", server.stderr());
}

#[test]
fn a_taken_port_is_named_with_cause_and_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let port = OsString::from(address.port().to_string());
    let said = refused(1, &[("PORT", &port)]);
    assert!(said.contains(&address.to_string()), "{said}");
    assert!(said.contains("in use"), "{said}");
    assert!(said.contains("change HOST or PORT"), "{said}");
}

#[test]
fn an_address_of_another_machine_is_named_with_the_cause() {
    let said = refused(1, &[("HOST", OsStr::new("192.0.2.1"))]);
    assert!(said.contains("192.0.2.1:0"), "{said}");
    assert!(said.contains("assign requested address"), "{said}");
}

/// The server closes the connection first, so the system remembers it on the
/// server's port for a while.
#[test]
fn a_restarted_server_gets_its_port_back() {
    let mut first = Server::start(&[("SLEEP", "0")]);
    first.exchange(GET);
    first.stop();
    let port = first.port.to_string();
    let second = Server::start(&[("SLEEP", "0"), ("PORT", &port)]);
    assert_eq!(second.port, first.port);
    assert_eq!(status(&second.url("/")), "200");
}

#[test]
#[ignore = "takes IPv6"]
fn one_server_serves_ipv4_and_ipv6_and_shows_plain_addresses() {
    let server = Server::start(&[("HOST", "::"), ("SLEEP", "0")]);
    let listening = format!("listening on http://[::]:{}/\n", server.port);
    assert_eq!(server.stderr(), listening);
    for (host, ip) in [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
        let url = format!("http://{host}:{}/", server.port);
        assert_eq!(fetch(&["-g", &url]), format!("msg to client {ip}"));
        let lines = format!("going to sleep {ip}\ndone sleeping {ip}\n");
        assert!(server.stdout().ends_with(&lines), "{}", server.stdout());
    }
}

#[test]
fn a_bad_number_of_loop_threads_is_named_in_one_line() {
    for value in ["0", "", "many"] {
        let said = refused(1, &[("TOKIO_WORKER_THREADS", OsStr::new(value))]);
        let start = "cannot start the loop: \"TOKIO_WORKER_THREADS\" ";
        assert!(said.starts_with(start), "{said}");
        assert!(said.ends_with("; set it to 1 or more\n"), "{said}");
    }
}

/// How a server starts that may have only so many files or threads: it serves,
/// or it says why not and ends. It never does neither. Root may have as many
/// threads as it likes, so then this is done as somebody else.
#[test]
fn a_start_with_too_little_says_so_and_ends() {
    // Somebody else may not be let into the folder of the project.
    let program =
        std::env::temp_dir().join(scratch("program").file_name().unwrap());
    fs::copy(BINARY, &program).expect("a copy");
    let is_root = fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
    let (mut served, mut refused) = (0, 0);
    let threads = (3..=40).map(|limit| ("-u", limit));
    let files = (4..=20).map(|limit| ("-n", limit));
    for (flag, limit) in threads.chain(files) {
        let port = free_port();
        let mut command = Command::new("bash");
        if is_root {
            command.uid(65_534);
        }
        let limited = format!("ulimit {flag} {limit}; exec \"$0\"");
        command.args(["-c", &limited]).arg(&program);
        command.env("PORT", port.to_string()).current_dir("/");
        command.env("TOKIO_WORKER_THREADS", "2");
        let mut server = Server::launch(&mut command, None, None);
        server.port = port;
        let (mut ended, mut serves) = (None, false);
        wait_until(&format!("an end or an answer, {limited}"), || {
            ended = server.child.try_wait().expect("it is our child");
            let deaf = server.stderr().contains("cannot accept a connection");
            let url = server.url("/missing");
            let answer = fetch(&["-i", "--max-time", "1", &url]);
            serves = deaf || answer.starts_with("HTTP/1.1 404");
            ended.is_some() || serves
        });
        let said = server.stderr();
        if let Some(status) = ended {
            assert_eq!(status.code(), Some(1), "{limited}: {said}");
            assert_eq!(said.lines().count(), 1, "{limited}: {said}");
            let (_, remedy) = said.rsplit_once("; ").expect("a remedy");
            let fits = remedy.contains(&format!("ulimit {flag}"));
            assert!(fits, "{limited}: {said}");
            refused += 1;
        } else {
            served += 1;
        }
    }
    fs::remove_file(program).expect("the copy");
    assert!(served > 10 && refused > 10, "{served} and {refused}");
}
