//! What the server does, row by row, seen from outside: each test starts the
//! real program on a free port.

mod common;

use common::*;

/// A core whose first job panics, on one worker.
fn broken() -> Command {
    let path = scratch("break");
    File::create(&path).expect("a file");
    let mut command = obedient("1");
    command.env("BREAK", path);
    command
}

// ----- pages ----------------------------------------------------------------

#[test]
fn a_get_is_answered_with_the_cores_message() {
    let server = Server::start(&[("SLEEP", "0.01")]);
    let answer = fetch(&["-i", &server.url("/?any=query")]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/html; charset=UTF-8\r\n"));
    assert!(answer.ends_with("\r\n\r\nmsg to client 127.0.0.1"), "{answer}");
    let lines = "going to sleep 127.0.0.1\ndone sleeping 127.0.0.1\n";
    assert_eq!(server.stdout(), lines);
    assert_eq!(server.stderr(), server.first_line());
}

#[test]
fn other_paths_and_methods_get_an_error_page() {
    let server = Server::start(&[("SLEEP", "0")]);
    for (how, path, status) in [
        ("-iXGET", "/missing", "404 Not Found"),
        ("-iXGET", "//", "404 Not Found"),
        ("-iXGET", "/index.html?a=/", "404 Not Found"),
        ("-iXPOST", "/missing", "404 Not Found"),
        ("-iXPOST", "/", "405 Method Not Allowed"),
        ("-iXPUT", "/", "405 Method Not Allowed"),
        ("-iXDELETE", "/?any=query", "405 Method Not Allowed"),
        ("-iXOPTIONS", "/", "405 Method Not Allowed"),
        // This is HEAD.
        ("-I", "/", "405 Method Not Allowed"),
    ] {
        let answer = fetch(&[how, &server.url(path)]);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
        assert!(head.contains("content-type: text/html; charset=UTF-8"));
        let allows = head.contains("\r\nallow: GET\r\n");
        assert_eq!(allows, status.starts_with("405"), "{head}");
        let page = format!("<html><body>{status}</body></html>");
        assert_eq!(body, if how == "-I" { "" } else { &page });
    }
    assert_eq!(server.stdout(), "");
    assert_eq!(server.stderr(), server.first_line());
}

// ----- many at once ---------------------------------------------------------

/// A command that runs the server after `setup`, a line of shell script.
fn after(setup: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{setup}; exec \"$0\""), BINARY]);
    shell
}

/// A server that may have files enough for a flood.
#[track_caller]
fn start_big(settings: &[(&str, &str)]) -> Server {
    let mut command = after("ulimit -n 4096");
    Server::spawn(command.envs(settings.iter().copied()))
}

#[test]
fn thirteen_clients_share_ten_workers() {
    let (server, open_gate) = gated("10");
    let clients = flood(&server, 13);
    wait_until("ten jobs", || server.going() >= 10);
    server.settle();
    assert_eq!((server.going(), server.done()), (10, 0));
    open_gate();
    assert_eq!(answered(clients), 13);
    assert_eq!((server.going(), server.done(), server.peak()), (13, 13, 10));
}

#[test]
fn six_hundred_workers_do_six_hundred_jobs_at_once() {
    let server = start_big(&[("SLEEP", "60"), ("WORKERS", "600")]);
    let clients = flood(&server, 601);
    wait_until("600 jobs", || server.going() >= 600);
    server.settle();
    assert_eq!((server.going(), server.done()), (600, 0));
    drop(server);
    assert_eq!(answered(clients), 0);
}

#[test]
fn while_all_workers_sleep_the_loop_answers() {
    // There are ten of them if nothing else is set.
    let server = Server::start(&[("SLEEP", "60")]);
    let _clients = [GET; 11].map(|request| server.send(request));
    wait_until("ten jobs", || server.going() == 10);
    server.settle();
    assert_eq!(status(&server.url("/missing")), "404");
    assert_eq!((server.going(), server.done()), (10, 0));
}

#[test]
fn a_flood_is_answered_by_no_more_workers_than_there_are() {
    for (requests, workers, fewest) in [(200, 3, 3), (2000, 100, 1)] {
        let settings = [("SLEEP", "0.01"), ("WORKERS", &workers.to_string())];
        let server = start_big(&settings);
        assert_eq!(answered(flood(&server, requests)), requests);
        assert_eq!((server.going(), server.done()), (requests, requests));
        assert!((fewest..=workers).contains(&server.peak()));
    }
}

/// The server stands still meanwhile, so they have to wait in line. A few may
/// take longer: a busy system loses packets.
#[test]
#[ignore = "takes Linux, and a somaxconn of 1,024"]
fn a_thousand_connections_may_wait_to_be_accepted() {
    let server = start_big(&[("SLEEP", "0")]);
    server.signal("STOP");
    let clients = flood(&server, 1000);
    wait_until("900 to be in line", || {
        server.sockets().iter().any(|(_, waiting)| *waiting >= 900)
    });
    server.signal("CONT");
    assert_eq!(answered(clients), 1000);
}

/// On a release build it is less.
#[test]
#[cfg(target_os = "linux")]
fn a_waiting_request_costs_12_kb_at_most() {
    let server = start_big(&[("SLEEP", "60"), ("WORKERS", "1")]);
    server.assert_alive();
    let before = server.memory();
    let clients = flood(&server, 1000);
    wait_until("1,000 clients", || server.sockets().len() > 1000);
    sleep(Duration::from_secs(1));
    server.settle();
    let each = (server.memory() - before) / 1024.0 / 1000.0;
    drop(server);
    assert_eq!(answered(clients), 0);
    assert!((4.0..=12.0).contains(&each), "{each} KB");
}

/// However long the head is that never ends.
#[test]
#[cfg(target_os = "linux")]
fn half_a_head_costs_100_kb_at_most() {
    let server = start_big(&[("SLEEP", "0")]);
    for length in [9_000, 20_000, 40_000, 65_000, 380_000] {
        let before = server.memory();
        let head = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(length));
        let clients: Vec<_> =
            (0..100).map(|_| server.send(head.as_bytes())).collect();
        server.settle();
        let each = (server.memory() - before) / 1024.0 / 100.0;
        assert!(each < 100.0, "{each} KB for {length} bytes");
        drop(clients);
    }
}

/// The clients are told apart by their addresses.
#[test]
#[cfg(target_os = "linux")]
fn first_come_is_first_served() {
    let (server, open_gate) = gated("1");
    let ips = [7, 3, 5, 2, 6].map(|number| format!("127.0.0.{number}"));
    let clients = ips.each_ref().map(|ip| {
        let log = scratch("curl");
        let url = server.url("/");
        let mut curl = curl_command(&["-v", "--interface", ip, &url]);
        curl.stdout(Stdio::null()).stderr(File::create(&log).expect("a file"));
        let client = curl.spawn().expect("curl is installed");
        wait_until("the request", || {
            fs::read_to_string(&log).is_ok_and(|log| log.contains("> GET /"))
        });
        server.settle();
        client
    });
    open_gate();
    for mut client in clients {
        exit_status(&mut client);
    }
    let served =
        ips.map(|ip| format!("going to sleep {ip}\ndone sleeping {ip}\n"));
    assert_eq!(server.stdout(), served.concat());
}

// ----- what goes wrong ------------------------------------------------------

#[test]
fn a_client_that_leaves_the_queue_costs_no_worker() {
    let (server, open_gate) = gated("1");
    let [first, left, half, last] = [GET; 4].map(|request| {
        let client = server.send(request);
        server.settle();
        client
    });
    drop(left);
    half.shutdown(Shutdown::Write).expect("it is open");
    server.settle();
    open_gate();
    [first, last].into_iter().for_each(assert_answered);
    assert_eq!(read_to_close(half), "");
    assert_eq!((server.going(), server.done()), (2, 2));
}

/// hyper has read all it can use, so it does not read on to the end.
#[test]
fn a_byte_behind_a_request_hides_that_its_client_has_left() {
    for behind in [&b"\r\n"[..], GET] {
        let (server, open_gate) = gated("1");
        let first = server.send(GET);
        wait_until("its job", || server.going() == 1);
        drop(server.send(&[GET, behind].concat()));
        sleep(Duration::from_millis(300));
        open_gate();
        assert_answered(first);
        wait_until("the job for nobody", || server.done() == 2);
    }
}

#[test]
fn the_job_of_a_client_that_left_ends_and_keeps_its_worker() {
    let (server, open_gate) = gated("1");
    let left = server.send(GET);
    wait_until("its job", || server.going() == 1);
    drop(left);
    let next = server.send(GET);
    server.settle();
    assert_eq!((server.going(), server.done()), (1, 0));
    open_gate();
    assert_answered(next);
    assert_eq!((server.going(), server.done(), server.peak()), (2, 2, 1));
}

#[test]
fn a_core_that_panics_costs_its_own_request_alone() {
    let server = Server::spawn(&mut broken());
    let answer = fetch(&["-i", &server.url("/")]);
    let start = "HTTP/1.1 500 Internal Server Error\r\n";
    assert!(answer.starts_with(start), "{answer}");
    assert!(
        answer.ends_with("<html><body>500 Internal Server Error</body></html>")
    );
    let said = server.stderr();
    // Newer compilers put a number after the name.
    let is_line = |line: &&str| {
        line.starts_with("thread 'worker'")
            && line.contains(" panicked at src/main.rs:")
    };
    assert_eq!(said.lines().filter(is_line).count(), 1, "{said}");
    assert!(said.contains("\nbroken\n"), "{said}");
    assert_eq!(status(&server.url("/")), "200");
}

#[test]
fn a_panic_that_panics_again_costs_no_worker() {
    let bomb = "
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!(\"dropped\")
            }
        }
        if self.sleep < SECOND {
            panic::panic_any(Bomb)
        }";
    let bomb = build_changed("bomb", SLEEP, &format!("{SLEEP}{bomb}"));
    let server = Server::of(bomb, &[("SLEEP", "0"), ("WORKERS", "1")]);
    for _ in 0..3 {
        assert_eq!(status(&server.url("/")), "500");
    }
    assert_eq!(server.going(), 3);
}

/// A pipe, whose reader is to be dropped, and a full disk where there is one.
fn unwritable() -> Vec<Stdio> {
    let full = cfg!(target_os = "linux").then(|| {
        let full = File::options().write(true).open("/dev/full");
        full.expect("Linux has it").into()
    });
    full.into_iter().chain([Stdio::piped()]).collect()
}

#[test]
fn a_stdout_that_is_gone_or_full_costs_no_request() {
    for output in unwritable() {
        let mut command = Command::new(BINARY);
        command.envs([("SLEEP", "0"), ("WORKERS", "2")]);
        let mut server =
            Server::launch(&mut command, Some(output), None).listening();
        drop(server.child.stdout.take());
        assert_eq!(answered(flood(&server, 10)), 10);
        assert_eq!(server.stderr(), server.first_line());
        server.stop();
    }
}

/// Nobody can read the port from stderr then, so the test picks it.
#[test]
fn a_stderr_that_is_gone_or_full_costs_no_request() {
    for output in unwritable() {
        let port = free_port();
        let mut command = broken();
        command.env("PORT", port.to_string());
        let mut server = Server::launch(&mut command, None, Some(output));
        drop(server.child.stderr.take());
        server.port = port;
        wait_until("the server", || status(&server.url("/missing")) == "404");
        assert_eq!(status(&server.url("/")), "500");
        assert_eq!(status(&server.url("/")), "200");
        server.stop();
    }
}

/// More than a pipe holds goes into it, so it is full until it is read.
#[test]
fn a_stdout_that_stalls_blocks_the_workers_alone() {
    let mut command = after("head -c 200000 /dev/zero & sleep 1");
    command.envs([("SLEEP", "0"), ("WORKERS", "2")]);
    let output = Some(Stdio::piped());
    let mut server = Server::launch(&mut command, output, None).listening();
    let clients = [GET; 5].map(|request| server.send(request));
    server.settle();
    assert_eq!(status(&server.url("/missing")), "404");
    for client in &clients {
        client.set_nonblocking(true).expect("it is open");
        let nothing = client.peek(&mut [0]).expect_err("no answer yet");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).expect("it is open");
    }
    let pipe = server.child.stdout.take().expect("a pipe");
    let reader = thread::spawn(move || io::read_to_string(pipe));
    clients.into_iter().for_each(assert_answered);
    drop(server);
    let lines = reader.join().expect("the reader ends").expect("only text");
    assert_eq!(lines.matches("going to sleep 127.0.0.1\n").count(), 5);
    assert_eq!(lines.matches("done sleeping 127.0.0.1\n").count(), 5);
}

#[test]
fn a_stderr_that_stalls_stops_neither_the_loop_nor_its_end() {
    let mut server = Server::stalled(BINARY.as_ref(), "ulimit -n 32;");
    let clients = [b""; 60].map(|nothing| server.send(nothing));
    // Longer than the pause after an error: there is more than one.
    sleep(Duration::from_millis(2500));
    drop(clients);
    assert_eq!(status(&server.url("/missing")), "404");
    assert_eq!(status(&server.url("/")), "200");
    server.stop();
}

/// The ten workers wait with what they have to say.
#[test]
fn ten_panics_that_nobody_reads_stop_the_workers_alone() {
    let mut server = Server::stalled(&all_panic(), "");
    let clients = [GET; 10].map(|request| server.send(request));
    wait_until("ten jobs", || server.going() == 10);
    server.settle();
    stop(&server, "TERM");
    sleep(Duration::from_millis(1500));
    assert_eq!(server.child.try_wait().expect("it is our child"), None);
    server.signal("TERM");
    assert_eq!(server.exit_status(), Some(1));
    for client in clients {
        assert_eq!(read_to_close(client), "");
    }
}

fn all_panic() -> PathBuf {
    let panic = format!("{SLEEP} assert!(env::var_os(\"PORT\").is_none());");
    build_changed("all-panic", SLEEP, &panic)
}

/// `accept` fails five times in each of these ways. None is worth a word or a
/// pause.
#[test]
fn a_client_that_left_before_it_was_accepted_stops_nobody() {
    let accept = "match listener.accept().await {";
    let flaky = "
        static CALLS: std::sync::Mutex<usize> = std::sync::Mutex::new(0);
        let call = {
            let mut calls = CALLS.lock().unwrap();
            *calls += 1;
            *calls - 1
        };
        let error = LEFT.get(call / 5).map(|kind| io::Error::from(*kind));
        let accepted = match error {
            Some(error) => Err(error),
            None => listener.accept().await,
        };
        match accepted {";
    let program = build_changed("flaky", accept, flaky);
    let server = Server::of(program, &[("SLEEP", "0")]);
    assert_eq!(status(&server.url("/")), "200");
    assert_eq!(server.stderr(), server.first_line());
}

#[test]
fn a_server_out_of_file_descriptors_waits_and_recovers() {
    let mut command = after("ulimit -n 32");
    let mut server = Server::spawn(command.env("SLEEP", "0"));
    let start = Instant::now();
    let clients = [b""; 60].map(|nothing| server.send(nothing));
    let complaint = "cannot accept a connection: ";
    wait_until("the message", || server.stderr().contains(complaint));
    sleep(Duration::from_secs(3));
    let said = server.stderr().matches(complaint).count();
    let seconds = start.elapsed().as_secs() as usize;
    assert!((2..=seconds + 2).contains(&said), "{said} in {seconds} s");
    // In hundredths of a second: what it ran itself, and the system for it.
    if cfg!(target_os = "linux") {
        let path = format!("/proc/{}/stat", server.child.id());
        let all = fs::read_to_string(path).expect("it runs");
        let times = all.split_whitespace().skip(13).take(2);
        let used: u32 = times.map(|time| time.parse::<u32>().unwrap()).sum();
        assert!(used < 100, "it used {used} hundredths of a second");
    }
    drop(clients);
    assert_eq!(status(&server.url("/")), "200");

    let said = || server.stderr().matches(complaint).count();
    let before = said();
    let _clients = [b""; 60].map(|nothing| server.send(nothing));
    wait_until("the message again", || said() > before);
    server.stop();
}

/// The pause is a second. A machine that is busy may take one, too, so it has
/// five tries.
#[test]
fn a_signal_is_heard_in_the_pause_after_an_error() {
    let heard = || {
        let mut command = after("ulimit -n 32");
        let mut server = Server::spawn(command.env("SLEEP", "0"));
        let _clients = [b""; 60].map(|nothing| server.send(nothing));
        wait_until("a message", || server.stderr().contains("cannot accept"));
        let start = Instant::now();
        server.stop();
        start.elapsed() < Duration::from_millis(600)
    };
    assert!((0..5).any(|_| heard()), "it waits for the end of the pause");
}

// ----- shutdown -------------------------------------------------------------

/// Sends the signal, and returns when the server has taken it.
#[track_caller]
fn stop(server: &Server, signal: &str) {
    server.signal(signal);
    server.closed();
}

const KEEP: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const MISSING: &[u8] = b"GET /missing HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Three requests on two workers, and two connections without any.
#[test]
fn a_signal_lets_accepted_requests_be_answered() {
    for signal in ["TERM", "INT"] {
        let (mut server, open_gate) = gated("2");
        let idle = server.send(MISSING);
        let silent = server.send(b"");
        let clients = [KEEP; 3].map(|request| server.send(request));
        server.settle();
        stop(&server, signal);
        assert!(read_to_close(idle).starts_with("HTTP/1.1 404"));
        assert_eq!(read_to_close(silent), "");
        assert_eq!((server.going(), server.done()), (2, 0));
        open_gate();
        for client in clients {
            let answer = read_to_close(client);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
            assert!(answer.ends_with("msg to client 127.0.0.1"), "{answer}");
        }
        assert_eq!(server.exit_status(), Some(0));
        assert_eq!((server.going(), server.done()), (3, 3));
        assert_eq!(server.stderr(), server.first_line());
    }
}

#[test]
fn the_job_of_a_client_that_left_ends_before_the_server() {
    for leaves_first in [true, false] {
        let (mut server, open_gate) = gated("1");
        let mut clients = vec![server.send(GET), server.send(GET)];
        server.settle();
        if leaves_first {
            clients.clear();
            server.settle();
        }
        stop(&server, "TERM");
        drop(clients);
        sleep(Duration::from_millis(300));
        assert_eq!(server.child.try_wait().expect("it is our child"), None);
        open_gate();
        assert_eq!(server.exit_status(), Some(0));
        assert_eq!((server.going(), server.done()), (1, 1));
        assert_eq!(server.stderr(), server.first_line());
    }
}

/// Once while a client waits, and once while only a job is waited for, which
/// alone would not change the exit status. The first two signals are one wish:
/// a supervisor sends it to the process and to its group.
#[test]
fn a_signal_a_second_later_ends_the_server_at_once() {
    for (first, second, leaves) in
        [("TERM", "INT", false), ("INT", "TERM", true), ("TERM", "TERM", true)]
    {
        let mut server = Server::start(&[("SLEEP", "60"), ("WORKERS", "1")]);
        let mut client = Some(server.send(GET));
        wait_until("the job", || server.going() == 1);
        client.take_if(|_| leaves);
        server.settle();
        stop(&server, first);
        server.signal(second);
        sleep(Duration::from_millis(1500));
        assert_eq!(server.child.try_wait().expect("it is our child"), None);
        server.signal(second);
        assert_eq!(server.exit_status(), Some(1));
        assert_eq!(server.done(), 0);
        assert_eq!(server.stderr(), server.first_line());
    }
}

/// Up to half a second apart, and in whatever order.
#[test]
fn two_signals_for_one_wish_lose_no_accepted_request() {
    let in_time = |pause| {
        let (mut server, open_gate) = gated("1");
        let clients = [GET; 2].map(|request| server.send(request));
        server.settle();
        let first = Instant::now();
        server.signal("INT");
        sleep(Duration::from_millis(pause));
        server.signal("TERM");
        stop(&server, "INT");
        if first.elapsed() > Duration::from_millis(900) {
            return false;
        }
        open_gate();
        clients.into_iter().for_each(assert_answered);
        assert_eq!(server.exit_status(), Some(0));
        true
    };
    for pause in [0, 1, 20, 100, 500] {
        wait_until("three signals in a second", || in_time(pause));
    }
}

/// The system takes a few megabytes of the page at a time.
#[test]
fn a_client_that_reads_in_time_gets_all_of_a_large_page() {
    let mut server = large();
    let mut client = server.send(GET);
    let mut page = vec![0; 1_000_000];
    client.read_exact(&mut page).expect("the beginning");
    stop(&server, "TERM");
    let mut part = [0; 500_000];
    loop {
        sleep(Duration::from_millis(20));
        match client.read(&mut part).expect("the rest") {
            0 => break,
            count => page.extend(&part[..count]),
        }
    }
    let body = page.windows(4).position(|end| end == b"\r\n\r\n");
    assert_eq!(page.len() - body.expect("a head") - 4, PAGE);
    assert_eq!(server.exit_status(), Some(0));
}

#[test]
fn a_signal_right_after_the_first_line_is_heard() {
    for signal in ["TERM", "INT"].repeat(5) {
        let mut server = Server::start(&[]);
        server.signal(signal);
        assert_eq!(server.exit_status(), Some(0));
    }
}

/// Blocking libraries hide one now and then. tokio panics if it is dropped on
/// the loop.
#[test]
fn a_core_may_hold_a_runtime() {
    let hidden = "impl Drop for Core {
        fn drop(&mut self) {
            drop(Runtime::new());
        }
    }
    impl Core {";
    let program = build_changed("hidden-runtime", "impl Core {", hidden);
    let mut server = Server::of(program, &[("SLEEP", "0")]);
    assert_eq!(status(&server.url("/")), "200");
    server.stop();
    assert_eq!(server.stderr(), server.first_line());
}

/// Side by side, since it takes that long: clients that are slow, a shutdown
/// that leaves clients without an answer, one that leaves a client without the
/// end of it, one that nobody can be told of, and one that leaves only a job.
/// Its client stays in the queue for a while: the bound is one for both.
#[test]
fn a_client_and_a_shutdown_have_thirty_seconds() {
    let (mut deaf, panics) = (large(), all_panic());
    let start = Instant::now();
    let settings = [("SLEEP", "60"), ("WORKERS", "1")];
    let server = Server::start(&settings);
    let half = server.send(b"GET / HTTP/1.1\r\nHost: local");
    let idle = server.send(MISSING);
    let mut bound = Server::start(&settings);
    let clients = [GET; 3].map(|request| bound.send(request));
    bound.settle();
    let mut reads_nothing = deaf.send(GET);
    reads_nothing.read_exact(&mut [0; 100]).expect("the beginning");
    let mut mute = Server::stalled(&panics, "");
    let waiting = [GET; 2].map(|request| mute.send(request));
    wait_until("its jobs", || mute.going() == 2);
    let mut job = Server::start(&settings);
    let left = job.send(GET);
    wait_until("its job", || job.going() == 1);
    let queued = job.send(GET);
    drop(left);
    job.settle();

    bound.signal("TERM");
    job.signal("TERM");
    deaf.signal("TERM");
    mute.signal("TERM");
    sleep(Duration::from_secs(20));
    drop(queued);
    let in_time = || {
        let seconds = start.elapsed().as_secs();
        assert!((25..45).contains(&seconds), "after {seconds} s");
    };
    let answer = read_to_close(half);
    in_time();
    assert!(!answer.contains("200"), "{answer}");
    assert!(read_to_close(idle).starts_with("HTTP/1.1 404"));
    in_time();
    assert_eq!(bound.exit_status(), Some(1));
    in_time();
    let said = bound.stderr();
    assert!(
        said.ends_with("\naccepted requests without an answer: 3\n"),
        "{said}"
    );
    assert_eq!((bound.going(), bound.done()), (1, 0));
    for client in clients {
        assert_eq!(read_to_close(client), "");
    }
    assert_eq!(job.exit_status(), Some(0));
    in_time();
    assert_eq!(deaf.exit_status(), Some(1));
    in_time();
    let line = "\naccepted requests without an answer: 1\n";
    assert!(deaf.stderr().ends_with(line), "{}", deaf.stderr());
    drop(reads_nothing);
    assert_eq!(mute.exit_status(), Some(1));
    in_time();
    drop(waiting);
    assert_eq!(job.stderr(), job.first_line());
    assert_eq!((server.going(), server.stdout()), (0, String::new()));
}
