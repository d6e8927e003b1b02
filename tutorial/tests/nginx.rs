//! The chapter on replicas, proven with nginx and its configuration: what
//! clients get and what the cores do when one replica is busy, slow, stopped,
//! killed or gone. Where there is no nginx, nothing is proven and nothing fails.

mod common;

use common::chapter::read;
use common::{
    BINARY, GET, LONG, Server, answered, build_diff, fetch, find, flood,
    free_port, gated, read_to_close, scratch, status, tcp, wait_until,
};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Starts nginx in front of two replicas, as nginx.conf says but for the ports
/// and these changes. `None` if the machine has no nginx.
#[track_caller]
fn nginx(ports: [u16; 2], changes: &[[&str; 2]]) -> Option<Server> {
    let nginx = find("nginx")?;
    let mut conf = read("tutorial/nginx.conf");
    let mut change = |old: &str, new: &str| {
        assert_eq!(conf.matches(old).count(), 1, "{old} stands there once");
        conf = conf.replace(old, new);
    };
    changes.iter().for_each(|[old, new]| change(old, new));
    let port = free_port();
    for (old, new) in [(8080, port), (8888, ports[0]), (8889, ports[1])] {
        change(&format!("127.0.0.1:{old}"), &format!("127.0.0.1:{new}"));
    }
    let prefix = scratch("nginx");
    fs::create_dir_all(&prefix).expect("a folder");
    let file = prefix.join("nginx.conf");
    fs::write(&file, conf).expect("a file");

    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 1024; exec \"$0\" \"$@\""]);
    command.arg(nginx).arg("-p").arg(&prefix).arg("-c").arg(file);
    let mut server = Server::launch(&mut command, None, None);
    (server.port, server.gently) = (port, true);
    wait_until("nginx to listen", || {
        let ended = server.child.try_wait().expect("it is our child");
        assert_eq!(ended, None, "nginx said: {}", server.stderr());
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    assert!(["nginx.pid", "tmp"].iter().all(|it| prefix.join(it).exists()));
    Some(server)
}

// ----- both are up ----------------------------------------------------------

#[test]
fn twenty_requests_at_once_run_ten_and_ten() {
    let [(a, open_a), (b, open_b)] = ["10"; 2].map(gated);
    let Some(proxy) = nginx([a.port, b.port], &[]) else { return };
    let clients = flood(&proxy, 20);
    wait_until("all of them", || a.going() + b.going() == 20);
    assert_eq!((a.going(), b.going(), a.done() + b.done()), (10, 10, 0));
    open_a();
    open_b();
    assert_eq!(answered(clients), 20);
    assert!(!proxy.stderr().contains("[warn]"), "{}", proxy.stderr());
}

/// nginx has four processes there, which have to count together. Which of them
/// serves a client is a matter of the client's port.
#[test]
fn a_busy_replica_gets_nothing_while_another_is_idle() {
    let [(a, open_a), (b, open_b)] = ["10"; 2].map(gated);
    let changes = [
        ["worker_processes auto", "worker_processes 4"],
        ["127.0.0.1:8080", "127.0.0.1:8080 reuseport"],
    ];
    let Some(proxy) = nginx([a.port, b.port], &changes) else { return };
    let client = proxy.send(GET);
    wait_until("its job", || a.going() + b.going() == 1);
    let ((busy, open_busy), (idle, open_idle)) = match a.going() {
        1 => ((a, open_a), (b, open_b)),
        _ => ((b, open_b), (a, open_a)),
    };
    open_idle();
    for _ in 0..10 {
        assert_eq!(status(&proxy.url("/")), "200");
    }
    assert_eq!((busy.going(), idle.going()), (1, 10));
    open_busy();
    assert!(read_to_close(client).ends_with("msg to client 127.0.0.1"));
}

/// By itself a process may have 512 connections here, and 1,024 files.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn fifteen_hundred_clients_may_wait_behind_one_process() {
    let [(a, open_a), (b, open_b)] = ["1"; 2].map(gated);
    let change = ["worker_processes auto", "worker_processes 1"];
    let Some(proxy) = nginx([a.port, b.port], &[change]) else { return };
    let clients = flood(&proxy, 1500);
    let open = || a.sockets().len() + b.sockets().len() - 2;
    wait_until("all of them", || open() == 1500);
    open_a();
    open_b();
    assert_eq!(answered(clients), 1500);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_client_that_leaves_a_queue_behind_nginx_costs_no_worker() {
    let [(a, open_a), (b, open_b)] = ["1"; 2].map(gated);
    let Some(proxy) = nginx([a.port, b.port], &[]) else { return };
    let [first, second] = [GET; 2].map(|request| proxy.send(request));
    wait_until("two jobs", || a.going() + b.going() == 2);
    let [left, last] = [GET; 2].map(|request| proxy.send(request));
    let open = || a.sockets().len() + b.sockets().len() - 2;
    wait_until("four requests", || open() == 4);
    drop(left);
    wait_until("nginx to hang up on the replica", || open() == 3);
    open_a();
    open_b();
    for client in [first, second, last] {
        assert!(read_to_close(client).ends_with("msg to client 127.0.0.1"));
    }
    assert_eq!((a.going() + b.going(), a.done() + b.done()), (3, 3));
}

/// Else a request may cross with the replica's goodbye. The side that closes
/// first is the one that keeps the address for a while: TIME_WAIT, 06.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn nginx_hangs_up_before_the_replica_does() {
    let seconds = |path, start| {
        let text: String = read(path).split(start).nth(1).expect(start).into();
        let digits = text.split(|c: char| !c.is_ascii_digit()).next();
        digits.expect("a number").parse::<u32>().expect("a number")
    };
    let nginx_waits = seconds("tutorial/nginx.conf", "keepalive_timeout ");
    let replica_waits =
        seconds("src/main.rs", "PATIENCE: Duration = Duration::from_secs(");
    assert!(nginx_waits + 5 <= replica_waits, "5 s for a busy machine");

    let replica = Server::start(&[("SLEEP", "0")]);
    let Some(proxy) = nginx([replica.port; 2], &[]) else { return };
    assert_eq!(status(&proxy.url("/")), "200");
    let is = |state, end| {
        tcp(end, replica.port).iter().any(|connection| connection[3] == state)
    };
    assert!(is("01", 1) && is("01", 2), "it is kept");
    wait_until("the goodbye", || is("06", 1) || is("06", 2));
    assert!(is("06", 2), "the replica closed it first");
}

// ----- one is down ----------------------------------------------------------

/// nginx asks the other one: also for the ten that ran when it was killed.
#[test]
fn a_replica_that_is_killed_costs_no_answer() {
    let [(mut a, _), (b, open_b)] = ["10"; 2].map(gated);
    let Some(proxy) = nginx([a.port, b.port], &[]) else { return };
    let running = flood(&proxy, 20);
    wait_until("both", || (a.going(), b.going()) == (10, 10));
    a.child.kill().expect("it runs");
    a.child.wait().expect("it is our child");
    let late = flood(&proxy, 10);
    open_b();
    assert_eq!((answered(running), answered(late)), (20, 10));
    assert_eq!((a.done(), b.going(), b.done()), (0, 30, 30));
}

/// The replica stands still, so it is killed with the request in its hands.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_post_that_has_been_sent_is_not_sent_again() {
    let [mut a, b] = [(); 2].map(|()| Server::start(&[]));
    let Some(proxy) = nginx([a.port, b.port], &[]) else { return };
    a.signal("STOP");
    let post =
        b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let client = proxy.send(post);
    wait_until("it to arrive", || a.sockets().iter().any(|(_, n)| *n > 1));
    a.child.kill().expect("it runs");
    a.child.wait().expect("it is our child");
    let answer = read_to_close(client);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let answer = proxy.exchange(post);
    assert!(answer.starts_with("HTTP/1.1 405 "), "not sent yet: {answer}");
}

/// Restarts a replica under load, and then the other. Returns how many requests
/// were sent, how many got a 200, how many jobs started, and nginx's errors.
#[track_caller]
fn two_restarts(changes: &[[&str; 2]]) -> Option<([usize; 3], String)> {
    let start = |port: u16| {
        let mut command = Command::new(BINARY);
        command.envs([("SLEEP", "0.05"), ("PORT", &port.to_string())]);
        Server::spawn(&mut command)
    };
    let ports = [free_port(), free_port()];
    let mut replicas = ports.map(start);
    let proxy = nginx(ports, changes)?;
    let [sent, answered] = [const { AtomicUsize::new(0) }; 2];
    let (begin, enough) = (Instant::now(), AtomicBool::new(false));
    let client = || {
        while !enough.load(Relaxed) && begin.elapsed() < LONG {
            sent.fetch_add(1, Relaxed);
            if proxy.exchange(GET).starts_with("HTTP/1.1 200 OK\r\n") {
                answered.fetch_add(1, Relaxed);
            }
        }
    };
    let mut going = 0;
    thread::scope(|scope| {
        (0..30).for_each(|_| drop(scope.spawn(client)));
        wait_until("work", || replicas.iter().all(|it| it.done() > 50));
        for replica in &mut replicas {
            replica.signal("TERM");
            assert_eq!(replica.exit_status(), Some(0));
            going += replica.going();
            *replica = start(replica.port);
        }
        sleep(Duration::from_millis(500));
        enough.store(true, Relaxed);
    });
    going += replicas.iter().map(Server::going).sum::<usize>();
    let counts = [sent.into_inner(), answered.into_inner(), going];
    Some((counts, proxy.stderr()))
}

#[test]
fn two_restarts_in_a_row_cost_no_answer_and_start_no_job_twice() {
    let Some((counts, said)) = two_restarts(&[]) else { return };
    assert_eq!(counts, [counts[0]; 3], "sent, answered, started: {said}");
}

/// As it is where nginx.conf says nothing: set aside for ten seconds.
#[test]
fn two_restarts_in_a_row_leave_nobody_where_replicas_are_set_aside() {
    let changes = ["8888", "8889"].map(|port| {
        [format!("{port} max_fails=0"), format!("{port} max_fails=1")]
    });
    let changes = changes.each_ref().map(|[old, new]| [&old[..], &new[..]]);
    let Some((counts, said)) = two_restarts(&changes) else { return };
    assert!(counts[1] < counts[0], "sent, answered, started: {counts:?}");
    assert!(said.contains("no live upstreams"), "{said}");
}

/// Nobody accepts there, and the line is full: Linux answers no more, just as
/// a machine that has lost its power.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_machine_that_is_gone_costs_two_seconds() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = gone.local_addr().expect("it is bound");
    let knock =
        || TcpStream::connect_timeout(&address, Duration::from_millis(500));
    let line: Vec<_> = (0..10_000).map_while(|_| knock().ok()).collect();
    assert!(line.len() < 10_000, "it is still open");
    let replica = Server::start(&[("SLEEP", "0")]);
    let Some(proxy) = nginx([address.port(), replica.port], &[]) else {
        return;
    };
    let start = Instant::now();
    assert_eq!(status(&proxy.url("/")), "200");
    assert!(start.elapsed() > Duration::from_secs(1), "it was not asked");
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// With minutes made seconds.
#[test]
fn a_job_that_is_too_slow_is_started_once() {
    let [a, b] = [(); 2].map(|()| Server::start(&[("SLEEP", "60")]));
    let changes = [
        ["proxy_read_timeout 10m", "proxy_read_timeout 3s"],
        ["proxy_next_upstream_timeout 9m", "proxy_next_upstream_timeout 2s"],
    ];
    let Some(proxy) = nginx([a.port, b.port], &changes) else { return };
    assert_eq!(status(&proxy.url("/")), "504");
    assert_eq!(a.going() + b.going(), 1);
}

/// Each has room for twelve, by the change of another chapter.
#[test]
fn a_full_replica_passes_its_clients_on_until_both_are_full() {
    let chapter = "tutorial/15-make-it-better.md";
    let program = build_diff("room", chapter, "## Send people away");
    let [a, b] = [(); 2]
        .map(|()| Server::spawn(Command::new(&program).env("SLEEP", "60")));
    let asked = "proxy_next_upstream error timeout";
    let changes = [
        [asked, &format!("{asked} http_503")],
        // Or they would fill up side by side.
        ["least_conn;", ""],
        ["127.0.0.1:8888 max_fails=0", "127.0.0.1:8888 max_fails=0 weight=99"],
    ];
    let Some(proxy) = nginx([a.port, b.port], &changes) else { return };
    let _clients = [GET; 24].map(|request| proxy.send(request));
    wait_until("both to be at work", || a.going() + b.going() == 20);
    a.settle();
    b.settle();
    let answer = fetch(&["-i", &proxy.url("/")]);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nretry-after: 10\r\n"));
    assert_eq!((a.going(), b.going()), (10, 10));
}

// ----- who asks -------------------------------------------------------------

/// What comes to the replica names the client, and not what it claims to be.
#[test]
fn nginx_throws_away_whom_a_client_claims_to_be() {
    let replica = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = replica.local_addr().expect("it is bound").port();
    let Some(proxy) = nginx([port; 2], &[]) else { return };
    let claim =
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n";
    let _client = proxy.send(claim);
    replica.set_nonblocking(true).expect("it is bound");
    let mut asked = Err(ErrorKind::WouldBlock.into());
    wait_until("nginx to ask", || {
        asked = replica.accept();
        asked.is_ok()
    });
    let (stream, _) = asked.expect("it is accepted");
    stream.set_nonblocking(false).expect("it is open");
    stream.set_read_timeout(Some(LONG)).expect("LONG is not zero");
    let lines = BufReader::new(stream).lines().map(|line| line.expect("text"));
    let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let head = head.join("\n");
    assert!(head.contains("\nX-Forwarded-For: 127.0.0.1"), "{head}");
    assert!(!head.contains("192.0.2.9"), "{head}");
}

/// 127.0.0.1 is the proxy: it is believed. 127.0.0.3 is a client.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn the_core_is_told_the_clients_address_and_no_lie() {
    let chapter = "tutorial/19-outgrow-it.md";
    let changed = build_diff("forwarded", chapter, "## Who asks");
    let replica = Server::spawn(Command::new(&changed).env("SLEEP", "0"));
    let none = "X-None: 0";
    for (headers, seen) in [
        (["X-Forwarded-For: 127.0.0.9, 127.0.0.5", none], "127.0.0.5"),
        (["X-Forwarded-For: 127.0.0.9", "X-Forwarded-For: ::1"], "::1"),
        (["X-Forwarded-For: ::ffff:127.0.0.5", none], "127.0.0.5"),
        (["X-Forwarded-For: 127.0.0.5, who", none], "127.0.0.1"),
        (["X-Forwarded-For;", none], "127.0.0.1"),
        (["X-Forwarded-For: 127.0.0.\u{e9}", none], "127.0.0.1"),
    ] {
        let [first, last] = headers;
        let told = fetch(&["-H", first, "-H", last, &replica.url("/")]);
        assert_eq!(told, format!("msg to client {seen}"), "{headers:?}");
    }
    for (program, behind) in [(BINARY.as_ref(), 1), (changed.as_path(), 3)] {
        let replica = Server::spawn(Command::new(program).env("SLEEP", "0"));
        let Some(proxy) = nginx([replica.port; 2], &[]) else { return };
        for (url, seen) in [(proxy.url("/"), behind), (replica.url("/"), 3)] {
            for header in [none, "X-Forwarded-For: 127.0.0.9"] {
                let address = format!("127.0.0.{seen}");
                let told =
                    fetch(&["--interface", "127.0.0.3", "-H", header, &url]);
                assert_eq!(told, format!("msg to client {address}"));
                let last = format!("done sleeping {address}\n");
                assert!(replica.stdout().ends_with(&last));
            }
        }
    }
}
