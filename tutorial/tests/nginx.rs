//! The chapter on replicas, proven with nginx and its configuration: what
//! clients get and what the cores do when one replica is busy, slow, stopped,
//! killed or gone. Where there is no nginx, nothing is proven and nothing fails.

mod common;

use common::chapter::{Part, parts, read};
use common::{
    BINARY, GET, LONG, ROOT, Server, answered, build_changed, build_diff,
    fetch, find, flood, free_port, gated, output, read_to_close, scratch,
    status, tcp, wait_until,
};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// A `POST /` without a body. The replica answers 405.
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

/// Starts nginx in front of two replicas, as nginx.conf says but for the ports
/// and these changes. `None` if the machine has no nginx.
#[track_caller]
fn nginx(ports: [u16; 2], changes: &[[&str; 2]]) -> Option<Server> {
    nginx_in(&scratch("nginx"), None, ports, changes)
}

/// The same in this new folder, by another user, with few files and no more.
/// Nobody else may enter it, not even nginx's own processes if root starts it.
#[track_caller]
fn nginx_in(
    folder: &Path,
    user: Option<u32>,
    ports: [u16; 2],
    changes: &[[&str; 2]],
) -> Option<Server> {
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
    fs::create_dir_all(folder).expect("a folder");
    fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("ours");
    fs::write(folder.join("nginx.conf"), conf).expect("a file");

    let mut command = Command::new("sh");
    let limit = user.map_or("-Sn", |_| "-n");
    let script = format!("ulimit {limit} 1024; exec \"$0\" \"$@\"");
    command.args(["-c", &script]);
    command.arg(nginx).arg("-p").arg(folder).args(["-c", "nginx.conf"]);
    if let Some(user) = user {
        chown(folder, Some(user), None).expect("we are root");
        command.uid(user);
    }
    let server = Server::other(&mut command, port);
    wait_until("nginx's files", || {
        ["nginx.pid", "nginx"].iter().all(|it| folder.join(it).exists())
    });
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

/// By itself, hyper does not see the second: a byte is in its way.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_client_that_leaves_a_queue_behind_nginx_costs_no_worker() {
    let [(a, open_a), (b, open_b)] = ["1"; 2].map(gated);
    let Some(proxy) = nginx([a.port, b.port], &[]) else { return };
    let [first, second] = [GET; 2].map(|request| proxy.send(request));
    wait_until("two jobs", || a.going() + b.going() == 2);
    let twice = [GET, GET].concat();
    let [gone, ahead, half, last] =
        [GET, &twice, GET, GET].map(|request| proxy.send(request));
    let open = || a.sockets().len() + b.sockets().len() - 2;
    wait_until("six requests", || open() == 6);
    drop(gone);
    drop(ahead);
    half.shutdown(Shutdown::Write).expect("it is open");
    wait_until("nginx to hang up on the replica", || open() == 3);
    open_a();
    open_b();
    for client in [first, second, last] {
        assert!(read_to_close(client).ends_with("msg to client 127.0.0.1"));
    }
    assert_eq!(read_to_close(half), "");
    assert_eq!((a.going() + b.going(), a.done() + b.done()), (3, 3));
}

/// A page of 50 MB is more than the buffers on its way hold together.
const PAGE: usize = 50_000_000;

/// A replica with such pages.
fn large() -> Server {
    let page = "format!(\"msg to client {remote_ip}\")";
    let large = build_changed("large", page, &format!("\"x\".repeat({PAGE})"));
    Server::spawn(Command::new(large).env("SLEEP", "0"))
}

/// A POST with a body of that many bytes.
fn large_post(size: usize) -> Vec<u8> {
    let length = format!("Content-Length: {size}");
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n");
    (head + &"x".repeat(size)).into_bytes()
}

/// Whoever starts nginx, in a folder that nobody else may enter.
#[test]
fn what_is_large_gets_through_to_those_who_are_slow() {
    let replica = large();
    let root = fs::metadata(ROOT).expect("it is there").uid() == 0;
    for user in &[None, Some(65_534)][..=usize::from(root)] {
        let name = scratch("nginx");
        let name = name.file_name().expect("it has a name");
        let folder = std::env::temp_dir().join(name);
        let ports = [replica.port; 2];
        let proxy = nginx_in(&folder, *user, ports, &[]);
        let Some(proxy) = proxy else { return };
        let (mut client, mut piece, mut got) =
            (proxy.send(GET), [0; 99_999], 0);
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
#[cfg_attr(not(target_os = "linux"), ignore)]
fn nginx_hangs_up_on_a_client_that_does_not_read_and_on_the_replica() {
    let replica = large();
    let change = ["access_log off;", "access_log off; send_timeout 1s;"];
    let Some(proxy) = nginx([replica.port; 2], &[change]) else { return };
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
fn a_large_post_that_is_refused_unread_gets_an_answer() {
    let replica = Server::start(&[]);
    let ports = [replica.port; 2];
    let Some(proxy) = nginx(ports, &[]) else { return };
    let answer = proxy.exchange(&large_post((1 << 20) + 1));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let change =
        ["_buffer_size 2m;", "_buffer_size 9m; client_max_body_size 9m;"];
    let Some(proxy) = nginx(ports, &[change]) else { return };
    let post = large_post(5_000_000);
    wait_until("a 502", || {
        let answer = proxy.exchange(&post);
        let [refused, bad] =
            ["405", "502"].map(|it| answer[..12].ends_with(it));
        assert!(refused || bad, "{answer}");
        bad
    });
    assert_eq!(replica.stdout(), "");
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

#[test]
fn what_a_stop_leaves_undone_starts_again_at_the_other_replica() {
    let [(a, open_a), (b, open_b)] = ["1"; 2].map(gated);
    let Some(proxy) = nginx([a.port, b.port], &[]) else { return };
    let client = proxy.send(GET);
    wait_until("its job", || a.going() + b.going() == 1);
    let (mut busy, idle, open_idle): (_, _, &dyn Fn()) = match a.going() {
        1 => (a, b, &open_b),
        _ => (b, a, &open_a),
    };
    open_idle();
    busy.signal("TERM");
    assert_eq!(busy.exit_status(), Some(1), "after its 30 seconds");
    assert!(read_to_close(client).ends_with("msg to client 127.0.0.1"));
    assert_eq!((busy.done(), idle.done()), (0, 1));
}

/// nginx holds only some of what this client does not read.
#[test]
fn a_page_that_has_begun_ends_with_its_replica() {
    let mut replica = large();
    let Some(proxy) = nginx([replica.port; 2], &[]) else { return };
    let mut client = proxy.send(GET);
    client.read_exact(&mut [0; 1000]).expect("it begins");
    sleep(Duration::from_millis(300));
    replica.child.kill().expect("it runs");
    assert!(read_to_close(client).len() < PAGE - 1000);
}

/// The replica stands still, so it is killed with the request in its hands. On
/// a connection that nginx had kept, as when a replica closes one by itself, or
/// on one that the replica has not accepted yet. A PUT is sent again.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_post_that_has_been_sent_is_not_sent_again() {
    for (method, kept, lost) in [
        ("POST", true, "502"),
        ("POST", false, "502"),
        ("PATCH", true, "502"),
        ("LOCK", true, "502"),
        ("PUT", true, "405"),
    ] {
        let [mut a, b] = [(); 2].map(|()| Server::start(&[("SLEEP", "0")]));
        let Some(proxy) = nginx([a.port, b.port], &[]) else { return };
        for _ in 0..2 * usize::from(kept) {
            assert_eq!(status(&proxy.url("/")), "200");
        }
        a.signal("STOP");
        let request = String::from_utf8_lossy(POST).replace("POST", method);
        let clients = [(); 2].map(|()| proxy.send(request.as_bytes()));
        wait_until("one to arrive", || a.sockets().iter().any(|it| it.1 > 1));
        a.child.kill().expect("it runs");
        a.child.wait().expect("it is our child");
        let mut answers = clients.map(|it| read_to_close(it)[9..12].to_owned());
        answers.sort();
        assert_eq!(answers, ["405", lost], "{method}, kept: {kept}");
        let answer = proxy.exchange(POST);
        assert!(answer.starts_with("HTTP/1.1 405 "), "not sent yet: {answer}");
    }
}

/// What clients saw: GETs and answers to them, POSTs and answers to them, and
/// how often nginx said that it had none, 502.
type Seen = [usize; 5];

/// Asks all the time while replicas are changed.
#[track_caller]
fn under_load(proxy: &Server, change: impl FnOnce()) -> Seen {
    let seen = [const { AtomicUsize::new(0) }; 5];
    let (begin, enough) = (Instant::now(), AtomicBool::new(false));
    let ask = |request, status: &str, i: usize| {
        // None of them asks nginx to close.
        let answer = proxy.exchange(request);
        let is = |status| usize::from(answer.starts_with(status));
        seen[i].fetch_add(1, Relaxed);
        seen[i + 1].fetch_add(is(status), Relaxed);
        seen[4].fetch_add(is("HTTP/1.1 502 "), Relaxed);
    };
    let client = || {
        while !enough.load(Relaxed) && begin.elapsed() < 2 * LONG {
            ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 ", 0);
            ask(POST, "HTTP/1.1 405 ", 2);
        }
    };
    thread::scope(|scope| {
        (0..30).for_each(|_| drop(scope.spawn(client)));
        change();
        sleep(Duration::from_millis(500));
        enough.store(true, Relaxed);
    });
    assert!(begin.elapsed() < 2 * LONG, "the clients had gone before the end");
    seen.map(AtomicUsize::into_inner)
}

fn replica(port: u16) -> Server {
    let mut command = Command::new(BINARY);
    command.envs([("SLEEP", "0.05"), ("PORT", &port.to_string())]);
    Server::spawn(&mut command)
}

/// Stops it by SIGTERM. Returns how many jobs it started.
fn stop(replica: &mut Server) -> usize {
    replica.signal("TERM");
    assert_eq!(replica.exit_status(), Some(0));
    replica.going()
}

/// Restarts a replica by SIGTERM, and then the other. Returns what clients saw,
/// how many jobs started, and what nginx said.
#[track_caller]
fn two_restarts(changes: &[[&str; 2]]) -> Option<(Seen, usize, String)> {
    let mut replicas = [(); 2].map(|()| replica(free_port()));
    let proxy = nginx(replicas.each_ref().map(|it| it.port), changes)?;
    let mut going = 0;
    let seen = under_load(&proxy, || {
        wait_until("work", || replicas.iter().all(|it| it.done() > 50));
        for it in &mut replicas {
            going += stop(it);
            *it = replica(it.port);
        }
    });
    going += replicas.iter().map(Server::going).sum::<usize>();
    Some((seen, going, proxy.stderr()))
}

/// To a POST, 502 is a possible answer: a replica may close a connection in the
/// moment in which nginx sends on it.
#[test]
fn two_restarts_in_a_row_cost_no_get_its_answer_and_start_no_job_twice() {
    let Some((seen, going, said)) = two_restarts(&[]) else { return };
    let [gets, ok, posts, refused, bad] = seen;
    assert_eq!([ok, going], [gets; 2], "{seen:?}: {said}");
    assert_eq!(refused + bad, posts, "{seen:?}: {said}");
}

/// As it is where nginx.conf says nothing: set aside for ten seconds.
#[test]
fn two_restarts_in_a_row_leave_nobody_where_replicas_are_set_aside() {
    let changes = ["8888", "8889"].map(|port| {
        [format!("{port} max_fails=0"), format!("{port} max_fails=1")]
    });
    let changes = changes.each_ref().map(|[old, new]| [&old[..], &new[..]]);
    let Some((seen, _, said)) = two_restarts(&changes) else { return };
    assert!(seen[1] < seen[0], "GETs, and answers: {seen:?}");
    assert!(said.contains("no live upstreams"), "{said}");
}

/// By the chapter's own commands: each replica first by another beside it, and
/// then in its place.
#[test]
fn new_versions_cost_no_get_and_no_post_its_answer() {
    let (Some(path), Some(_)) = (find("nginx"), find("pgrep")) else { return };
    let mut below = parts("tutorial/19-outgrow-it.md").into_iter();
    let is_it = |part: &Part| part.lines.join("\n").contains("-s reload");
    let shown = below.find(is_it).expect("the commands").lines.join("\n");

    let path = path.with_file_name("").display().to_string();
    let folder = scratch("nginx");
    let mut replicas = [(); 2].map(|()| replica(free_port()));
    let ports = replicas.each_ref().map(|it| it.port);
    let proxy = nginx_in(&folder, None, ports, &[]).expect("it is there");
    let sed = |what: String| {
        let commands = shown.replace("s/8888/8890/", &format!("'{what}'"));
        let commands = commands.replace("target", &folder.to_string_lossy());
        let commands = format!("PATH=$PATH:{path}; {commands}");
        let mut sh = Command::new("sh");
        sh.args(["-c", &commands]).stderr(Stdio::piped());
        let output = output(&mut sh);
        assert!(output.status.success(), "{output:?}");
    };
    let mut going = 0;
    let seen = under_load(&proxy, || {
        for it in &mut replicas {
            wait_until("work", || it.done() > 50);
            let new = replica(free_port());
            sed(format!("s/{}/{}/", it.port, new.port));
            going += stop(it);
            *it = new;
        }
        for it in &mut replicas {
            wait_until("work", || it.done() > 50);
            sed(format!("s/server .*:{}/# &/", it.port));
            going += stop(it);
            *it = replica(it.port);
            sed("s/# server/server/".to_owned());
        }
    });
    going += replicas.iter().map(Server::going).sum::<usize>();
    let [gets, ok, posts, refused, _] = seen;
    assert!(!proxy.stderr().contains("[error]"), "{}", proxy.stderr());
    assert_eq!([ok, going, refused], [gets, gets, posts], "{seen:?}");
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

/// With minutes made seconds. A machine that goes with a request in its hands
/// is as silent as one that stands still.
#[test]
fn a_job_that_is_too_slow_is_started_once_and_a_machine_may_go_under_it() {
    let [a, b] = [(); 2].map(|()| Server::start(&[("SLEEP", "60")]));
    let changes = [
        ["proxy_read_timeout 10m", "proxy_read_timeout 3s"],
        ["proxy_next_upstream_timeout 9m", "proxy_next_upstream_timeout 2s"],
    ];
    let Some(proxy) = nginx([a.port, b.port], &changes) else { return };
    assert_eq!(status(&proxy.url("/")), "504");
    assert_eq!(a.going() + b.going(), 1);
    a.signal("STOP");
    b.signal("STOP");
    assert_eq!(status(&proxy.url("/")), "504");
}

/// Each has room for twelve, by the change of another chapter. A POST is made
/// a GET on its way, so that it gets there.
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
        ["proxy_http_version", "proxy_method GET; proxy_http_version"],
    ];
    let Some(proxy) = nginx([a.port, b.port], &changes) else { return };
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
