//! The chapter on replicas, proven with nginx and its configuration: what
//! clients get and what the cores do when one replica is busy, slow, stopped,
//! killed or gone.

mod common;

use common::nginx::*;
use common::*;

const OUTGROW: &str = "tutorial/19-outgrow-it.md";

// ----- both are up ----------------------------------------------------------

#[test]
#[ignore = "takes nginx"]
fn twenty_requests_at_once_run_ten_and_ten() {
    let [(a, open_a), (b, open_b)] = ["10"; 2].map(gated);
    let proxy = nginx([a.port, b.port], &[]);
    let clients = flood(&proxy, 20);
    wait_until("all of them", || a.going() + b.going() == 20);
    assert_eq!((a.going(), b.going(), a.done() + b.done()), (10, 10, 0));
    open_a();
    open_b();
    assert_eq!(answered(clients), 20);
    assert!(!proxy.stderr().contains("[warn]"), "{}", proxy.stderr());
}

/// Starts nginx in front of two replicas and sends it a client. The replica
/// that has it goes on when the function is called, and the other one does.
#[track_caller]
fn one_busy(
    changes: &[[&str; 2]],
) -> (Server, TcpStream, [Server; 2], impl Fn() + use<>) {
    let mut both = ["10"; 2].map(gated);
    let proxy = nginx(both.each_ref().map(|it| it.0.port), changes);
    let client = proxy.send(GET);
    wait_until("its job", || both.iter().any(|it| it.0.going() == 1));
    both.sort_by_key(|it| it.0.going());
    let [(idle, open_idle), (busy, open_busy)] = both;
    open_idle();
    (proxy, client, [busy, idle], open_busy)
}

/// nginx has four processes there, which have to count together. Which of them
/// serves a client is a matter of the client's port.
#[test]
#[ignore = "takes nginx"]
fn a_busy_replica_gets_nothing_while_another_is_idle() {
    let (proxy, client, [busy, idle], open_busy) = one_busy(&[
        ["worker_processes auto", "worker_processes 4"],
        ["127.0.0.1:8080", "127.0.0.1:8080 reuseport"],
    ]);
    for _ in 0..10 {
        assert_eq!(status(&proxy.url("/")), "200");
    }
    assert_eq!((busy.going(), idle.going()), (1, 10));
    open_busy();
    assert_answered(client);
}

/// By itself a process may have 512 connections here, and 1,024 files.
#[test]
#[ignore = "takes nginx and Linux"]
fn fifteen_hundred_clients_may_wait_behind_one_process() {
    let [(a, open_a), (b, open_b)] = ["1"; 2].map(gated);
    let change = ["worker_processes auto", "worker_processes 1"];
    let proxy = nginx([a.port, b.port], &[change]);
    let clients = flood(&proxy, 1500);
    let open = || a.sockets().len() + b.sockets().len() - 2;
    wait_until("all of them", || open() == 1500);
    open_a();
    open_b();
    assert_eq!(answered(clients), 1500);
}

/// By itself, hyper does not see the second: a byte is in its way.
#[test]
#[ignore = "takes nginx and Linux"]
fn a_client_that_leaves_a_queue_behind_nginx_costs_no_worker() {
    let [(a, open_a), (b, open_b)] = ["1"; 2].map(gated);
    let proxy = nginx([a.port, b.port], &[]);
    let [first, second] = [GET; 2].map(|request| proxy.send(request));
    wait_until("two jobs", || a.going() + b.going() == 2);
    let twice = [GET, GET].concat();
    let [gone, ahead, half, last] =
        [GET, &twice, GET, GET].map(|request| proxy.send(request));
    let open = || a.sockets().len() + b.sockets().len() - 2;
    wait_until("six requests", || open() == 6);
    drop((gone, ahead));
    half.shutdown(Shutdown::Write).expect("it is open");
    wait_until("nginx to hang up on the replica", || open() == 3);
    open_a();
    open_b();
    [first, second, last].into_iter().for_each(assert_answered);
    assert_eq!(read_to_close(half), "");
    assert_eq!((a.going() + b.going(), a.done() + b.done()), (3, 3));
}

/// Whoever starts nginx, in a folder that nobody else may enter.
#[test]
#[ignore = "takes nginx and root"]
fn what_is_large_gets_through_to_those_who_are_slow() {
    let replica = large();
    for user in [None, Some(65_534)] {
        let name = scratch("nginx");
        let name = name.file_name().expect("it has a name");
        let folder = std::env::temp_dir().join(name);
        let proxy = nginx_in(&folder, user, [replica.port; 2], &[]);
        let mut client = proxy.send(GET);
        let (mut piece, mut got) = ([0; 99_999], 0);
        while let Ok(n @ 1..) = client.read(&mut piece) {
            got += n;
            sleep(Duration::from_millis(1));
        }
        assert!(got > PAGE, "{user:?}: {got}: {}", proxy.stderr());
        let answer = proxy.exchange(&large_post(65_536));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{user:?}: {answer}");
        let fewer = proxy.stderr().contains("(RLIMIT_NOFILE, 4096) failed");
        assert!(fewer || user.is_none(), "it may not have 4,096 files");
        drop(proxy);
        fs::remove_dir_all(folder).expect("it is ours");
    }
}

/// With a minute made a second.
#[test]
#[ignore = "takes nginx and Linux"]
fn nginx_hangs_up_on_a_client_that_does_not_read_and_on_the_replica() {
    let replica = large();
    let change = ["access_log off;", "access_log off; send_timeout 1s;"];
    let proxy = nginx([replica.port; 2], &[change]);
    let [client, mut half] = [GET; 2].map(|request| proxy.send(request));
    half.read_exact(&mut [0; 1000]).expect("it begins");
    half.shutdown(Shutdown::Write).expect("it is open");
    assert!(read_to_close(half).len() < PAGE - 1000, "it reads, in vain");
    wait_until("its job", || replica.done() == 2);
    wait_until("nginx to hang up", || replica.sockets().len() == 1);
    let got = read_to_close(client).len();
    assert!(got < PAGE, "it was cut");
}

/// The replica hangs up after its answer. nginx has that, unless it was about
/// to send more.
#[test]
#[ignore = "takes nginx"]
fn a_large_post_that_is_refused_unread_gets_an_answer() {
    let replica = Server::start(&[]);
    let proxy = nginx([replica.port; 2], &[]);
    let answer = proxy.exchange(&large_post((1 << 20) + 1));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let change =
        ["_buffer_size 2m;", "_buffer_size 9m; client_max_body_size 9m;"];
    let proxy = nginx([replica.port; 2], &[change]);
    one_crosses(&proxy, &large_post(5_000_000), "405");
    assert_eq!(replica.stdout(), "");
}

/// Else a request may cross with the replica's goodbye. The side that closes
/// first is the one that keeps the address for a while: TIME_WAIT, 06.
#[test]
#[ignore = "takes nginx and Linux"]
fn nginx_hangs_up_before_the_replica_does() {
    let nginx_waits =
        number_behind("tutorial/nginx.conf", "keepalive_timeout ");
    assert!(nginx_waits + 5 <= patience(), "5 s for a busy machine");

    let replica = Server::start(&[("SLEEP", "0")]);
    let proxy = nginx([replica.port; 2], &[]);
    assert_eq!(status(&proxy.url("/")), "200");
    let is =
        |state, end| tcp(end, replica.port).iter().any(|it| it[3] == state);
    assert!(is("01", 1) && is("01", 2), "it is kept");
    wait_until("the goodbye", || is("06", 1) || is("06", 2));
    assert!(is("06", 2), "the replica closed it first");
}

// ----- one is down ----------------------------------------------------------

/// nginx asks the other one: also for the ten that ran when it was killed.
#[test]
#[ignore = "takes nginx"]
fn a_replica_that_is_killed_costs_no_answer() {
    let [(mut a, _), (b, open_b)] = ["10"; 2].map(gated);
    let proxy = nginx([a.port, b.port], &[]);
    let running = flood(&proxy, 20);
    wait_until("both", || (a.going(), b.going()) == (10, 10));
    a.kill();
    let late = flood(&proxy, 10);
    open_b();
    assert_eq!((answered(running), answered(late)), (20, 10));
    assert_eq!((a.done(), b.going(), b.done()), (0, 30, 30));
}

#[test]
#[ignore = "takes nginx"]
fn what_a_stop_leaves_undone_starts_again_at_the_other_replica() {
    let (_proxy, client, [mut busy, idle], _) = one_busy(&[]);
    busy.signal("TERM");
    assert_eq!(busy.exit_status(), Some(1), "after its 30 seconds");
    assert_answered(client);
    assert_eq!((busy.done(), idle.done()), (0, 1));
}

/// nginx holds only some of what this client does not read.
#[test]
#[ignore = "takes nginx"]
fn a_page_that_has_begun_ends_with_its_replica() {
    let mut replica = large();
    let proxy = nginx([replica.port; 2], &[]);
    let mut client = proxy.send(GET);
    client.read_exact(&mut [0; 1000]).expect("it begins");
    sleep(Duration::from_millis(300));
    replica.kill();
    assert!(read_to_close(client).len() < PAGE - 1000);
}

/// The replica stands still, so it is killed with the request in its hands. On
/// a connection that nginx had kept, as when a replica closes one by itself, or
/// on one that the replica has not accepted yet. A PUT is sent again.
#[test]
#[ignore = "takes nginx and Linux"]
fn a_post_that_has_been_sent_is_not_sent_again() {
    for (method, kept, lost) in [
        ("POST", true, "502"),
        ("POST", false, "502"),
        ("PATCH", true, "502"),
        ("LOCK", true, "502"),
        ("PUT", true, "405"),
    ] {
        let [mut a, b] = [(); 2].map(|()| Server::start(&[("SLEEP", "0")]));
        let proxy = nginx([a.port, b.port], &[ALONE]);
        for _ in 0..2 * usize::from(kept) {
            assert_eq!(status(&proxy.url("/")), "200");
        }
        a.signal("STOP");
        let state = || known(a.child.id(), "State");
        wait_until("it to stand still", || state().starts_with('T'));
        let request = String::from_utf8_lossy(POST).replace("POST", method);
        let clients = [(); 2].map(|()| proxy.send(request.as_bytes()));
        wait_until("one to arrive", || a.sockets().iter().any(|it| it.1 > 1));
        a.kill();
        let mut answers = clients.map(|it| read_to_close(it)[9..12].to_owned());
        answers.sort();
        assert_eq!(answers, ["405", lost], "{method}, kept: {kept}");
        let answer = proxy.exchange(POST);
        assert!(answer.starts_with("HTTP/1.1 405 "), "not sent yet: {answer}");
    }
}

fn replica(port: u16) -> Server {
    Server::of(BINARY, &[("SLEEP", "0.05"), ("PORT", &port.to_string())])
}

/// Restarts a replica by SIGTERM, then the other, then the first again, under
/// load: each goes while the other may be set aside. Returns how many GETs and
/// how many jobs there were, which answers were not a replica's, and what nginx
/// said.
#[track_caller]
fn restarts(changes: &[[&str; 2]]) -> (usize, usize, Vec<String>, String) {
    let mut replicas = [(); 2].map(|()| replica(free_port()));
    let proxy = nginx(replicas.each_ref().map(|it| it.port), changes);
    let mut going = 0;
    // None of the clients asks nginx to close.
    let (gets, lost) = under_load(proxy.port, "", || {
        wait_until("work", || replicas.iter().all(|it| it.done() > 50));
        for i in [0, 1, 0] {
            let it = &mut replicas[i];
            it.stop();
            going += it.going();
            *it = replica(it.port);
        }
    });
    going += replicas.iter().map(Server::going).sum::<usize>();
    (gets, going, lost, proxy.stderr())
}

/// To a POST, 502 is a possible answer: a replica may close a connection in the
/// moment in which nginx sends on it.
#[test]
#[ignore = "takes nginx"]
fn restarts_in_a_row_cost_no_get_its_answer_and_start_no_job_twice() {
    let (gets, going, mut lost, said) = restarts(&[]);
    lost.retain(|it| it != "POST: HTTP/1.1 502 Bad Gateway");
    assert!(lost.is_empty(), "{lost:?}: {said}");
    assert_eq!(going, gets, "{said}");
}

/// As it is where nginx.conf says nothing: set aside for ten seconds.
#[test]
#[ignore = "takes nginx"]
fn restarts_in_a_row_leave_nobody_where_replicas_are_set_aside() {
    let (_, _, lost, said) = restarts(&[
        ["8888 max_fails=0", "8888 max_fails=1"],
        ["8889 max_fails=0", "8889 max_fails=1"],
    ]);
    assert!(lost.iter().any(|it| it.starts_with("GET: ")), "{lost:?}");
    assert!(said.contains("no live upstreams"), "{said}");
}

/// By the chapter's own commands: each replica first by another beside it, and
/// then in its place.
#[test]
#[ignore = "takes nginx and pgrep"]
fn new_versions_cost_no_get_and_no_post_its_answer() {
    let mut replicas = [(); 2].map(|()| replica(free_port()));
    let folder = scratch("nginx");
    let ports = replicas.each_ref().map(|it| it.port);
    let proxy = nginx_in(&folder, None, ports, &[]);
    let commands = blocks(OUTGROW, "## A new version", "sh")[1].text();
    let commands = commands.replace("target", &folder.to_string_lossy());
    let sed = |what: String| {
        let what = format!("'{what}'");
        printed(&mut bash(&replaced(&commands, "s/8888/8890/", &what)));
    };
    let mut going = 0;
    let (gets, lost) = under_load(proxy.port, "", || {
        for it in &mut replicas {
            wait_until("work", || it.done() > 50);
            let new = replica(free_port());
            sed(format!("s/{}/{}/", it.port, new.port));
            it.stop();
            going += it.going();
            *it = new;
        }
        for it in &mut replicas {
            wait_until("work", || it.done() > 50);
            sed(format!("s/server .*:{}/# &/", it.port));
            it.stop();
            going += it.going();
            *it = replica(it.port);
            sed("s/# server/server/".to_owned());
        }
    });
    going += replicas.iter().map(Server::going).sum::<usize>();
    assert!(!proxy.stderr().contains("[error]"), "{}", proxy.stderr());
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    assert_eq!(going, gets, "each starts once");
}

/// Nobody accepts there, and the line is full: Linux answers no more, just as
/// a machine that has lost its power.
#[test]
#[ignore = "takes nginx and Linux"]
fn a_machine_that_is_gone_costs_two_seconds() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = gone.local_addr().expect("it is bound");
    let knock =
        || TcpStream::connect_timeout(&address, Duration::from_millis(500));
    let line: Vec<_> = (0..10_000).map_while(|_| knock().ok()).collect();
    assert!(line.len() < 10_000, "it is still open");
    let replica = Server::start(&[("SLEEP", "0")]);
    let proxy = nginx([address.port(), replica.port], &[]);
    let start = Instant::now();
    assert_eq!(status(&proxy.url("/")), "200");
    assert!(start.elapsed() > Duration::from_secs(1), "it was not asked");
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// With minutes made seconds. A machine that goes with a request in its hands
/// is as silent as one that stands still.
#[test]
#[ignore = "takes nginx"]
fn a_job_that_is_too_slow_is_started_once_and_a_machine_may_go_under_it() {
    let [a, b] = [(); 2].map(|()| Server::start(&[("SLEEP", "60")]));
    let changes = [
        ["proxy_read_timeout 10m", "proxy_read_timeout 3s"],
        ["proxy_next_upstream_timeout 9m", "proxy_next_upstream_timeout 2s"],
    ];
    let proxy = nginx([a.port, b.port], &changes);
    assert_eq!(status(&proxy.url("/")), "504");
    assert_eq!(a.going() + b.going(), 1);
    a.signal("STOP");
    b.signal("STOP");
    assert_eq!(status(&proxy.url("/")), "504");
}

/// Each has room for twelve, by the change of another chapter. A POST is made
/// a GET on its way, so that it gets there.
#[test]
#[ignore = "takes nginx"]
fn a_full_replica_passes_its_clients_on_until_both_are_full() {
    let chapter = "tutorial/15-make-it-better.md";
    let room = build("room", &with_diff(chapter, "## Send people away"));
    let [a, b] = [(); 2].map(|()| Server::of(&room, &[("SLEEP", "60")]));
    let asked = "proxy_next_upstream error timeout";
    let changes = [
        [asked, &format!("{asked} http_503")],
        // Or they would fill up side by side.
        ["least_conn;", ""],
        ["127.0.0.1:8888 max_fails=0", "127.0.0.1:8888 max_fails=0 weight=99"],
        ["proxy_http_version", "proxy_method GET; proxy_http_version"],
    ];
    let proxy = nginx([a.port, b.port], &changes);
    let _first = [GET; 12].map(|request| proxy.send(request));
    wait_until("one to be at work", || a.going() == 10);
    a.settle();
    assert!(proxy.exchange(POST).starts_with("HTTP/1.1 503 "), "not b");
    let _rest = [GET; 12].map(|request| proxy.send(request));
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
#[ignore = "takes nginx"]
fn nginx_throws_away_whom_a_client_claims_to_be() {
    let replica = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = replica.local_addr().expect("it is bound").port();
    let proxy = nginx([port; 2], &[]);
    let claim =
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n";
    let _client = proxy.send(claim);
    replica.set_nonblocking(true).expect("it is bound");
    let mut asked = None;
    wait_until("nginx to ask", || {
        asked = replica.accept().ok();
        asked.is_some()
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
#[ignore = "takes nginx and Linux"]
fn the_core_is_told_the_clients_address_and_no_lie() {
    let changed = build("forwarded", &with_diff(OUTGROW, "## Who asks"));
    let replica = Server::of(&changed, &[("SLEEP", "0")]);
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
        let replica = Server::of(program, &[("SLEEP", "0")]);
        let proxy = nginx([replica.port; 2], &[]);
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
