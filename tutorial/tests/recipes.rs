//! The recipes of "Make it yours", with what their chapter does not show: slow
//! and large bodies, a database that is held or full, a proxy in the
//! environment, two recipes at once.

mod common;

use common::nginx::*;
use common::*;

// ----- what the chapter says -------------------------------------------------

const CHAPTER: &str = "tutorial/16-make-it-yours.md";
const FAIL: &str = "## A core that can fail";
const QUERY: &str = "## What the request says";
const BODY: &str = "## What a form or a program sends";
const COMPUTE: &str = "## Compute something";
const STACK: &str = "## What ends the process";
const SQLITE: &str = "## Ask a database";
const UREQ: &str = "## Ask another server";

/// A core as the chapter shows it.
fn core(heading: &str) -> String {
    shown(CHAPTER, heading, "rust,ignore")
}

/// main.rs after the diff below a heading.
fn recipe(heading: &str) -> String {
    with_diff(CHAPTER, heading)
}

/// Puts a core between the lines `CORE` and `MAIN HANDLER`.
fn with_core(main: &str, core: &str) -> String {
    let (head, rest) = main.split_once("tutorial/03-core.md").expect("it");
    let (line, rest) = rest.split_once('\n').expect("its end");
    let (_, rest) = rest.split_once("// ----- MAIN").expect("the next");
    let head = format!("{head}tutorial/03-core.md{line}");
    format!("{head}\n\n{core}\n// ----- MAIN{rest}")
}

/// What is shown, and folded behind it as a diff, is the same.
#[test]
fn each_core_is_what_its_diff_makes() {
    for heading in [COMPUTE, SQLITE, UREQ] {
        let main = recipe(heading);
        let is_same = main == with_core(&main, &core(heading));
        assert!(is_same, "{heading}: the diff below it makes another core");
    }
}

#[test]
#[ignore = "takes git"]
fn git_applies_each_diff_as_the_chapter_says() {
    for heading in [FAIL, QUERY, BODY, COMPUTE, STACK, SQLITE, UREQ] {
        let diff = shown(CHAPTER, heading, "diff");
        let changed = git_apply(&read("src/main.rs"), &[diff]);
        assert!(changed == recipe(heading), "{heading}");
    }
}

// ----- programs --------------------------------------------------------------

const QUICK: &[(&str, &str)] = &[("SLEEP", "0")];

/// A crate with all that recipes add.
static WITH_ALL: LazyLock<PathBuf> = LazyLock::new(|| {
    let commands = ["## Take it", SQLITE, UREQ];
    let commands = commands.map(|heading| shown(CHAPTER, heading, "sh"));
    made("recipes", &commands.concat())
});

/// Builds a program in that crate. Returns its path.
#[track_caller]
fn build_with_all(name: &str, main: &str) -> PathBuf {
    let (name, bins) = (format!("recipe-{name}"), WITH_ALL.join("src/bin"));
    fs::create_dir_all(&bins).expect("a folder");
    fs::write(bins.join(format!("{name}.rs")), main).expect("a file");
    build_in(&WITH_ALL, &["--bin", &name]).with_file_name(name)
}

// ----- a core that can fail --------------------------------------------------

/// Asks while an error is told to a pipe that nobody reads, which can't take
/// it. Returns curl's exit status, and the page's.
#[track_caller]
fn asked_meanwhile(name: &str, main: &str) -> (Option<i32>, String) {
    let main = main.replace("why.to_string()", "why.to_string().repeat(9_999)");
    let mut program = Command::new(build(name, &main));
    program.envs([("SLEEP", "0"), ("TOKIO_WORKER_THREADS", "1")]);
    let server = Server::mute(&mut program);
    let _client = server.send(GET);
    wait_until("the job", || server.done() == 1);
    sleep(Duration::from_millis(100));
    let url = server.url("/missing");
    let options = ["--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}"];
    let asked = curl(&[&options[..], &[&url]].concat());
    let code = String::from_utf8_lossy(&asked.stdout).into_owned();
    (asked.status.code(), code)
}

#[test]
fn an_error_is_said_by_its_job_and_holds_up_nobody_else() {
    let main = recipe(FAIL);
    let asked = asked_meanwhile("told-by-the-job", &main);
    assert_eq!(asked, (Some(0), "404".to_owned()));

    let job = ".inspect_err(|why| say(&why.to_string()))\n        };\n";
    let wait = ".submit(job).await;\n";
    let tell = "if let Ok(Err(why)) = &res {\n    say(&why.to_string())\n}\n";
    let changes = [[job, "\n        };\n"], [wait, &format!("{wait}{tell}")]];
    let asked = asked_meanwhile("told-by-the-loop", &changed(&main, &changes));
    assert_eq!(asked, (Some(28), "000".to_owned()));
}

#[test]
fn what_the_compiler_suggests_for_a_result_closes_the_connection() {
    let changes = [
        ["IpAddr) -> String", "IpAddr) -> io::Result<String>"],
        [MESSAGE, "Err(io::Error::other(\"broken\"))"],
    ];
    let main = changed(&read("src/main.rs"), &changes);
    let folder = make(Path::new(TMP), "suggested", &main);
    let (_, said) = cargo(&folder, &["check", "--offline"]);
    assert!(said.contains("res.expect("), "{said}");

    let page = "StatusCode::OK, res)";
    let main = replaced(&main, page, "StatusCode::OK, res.expect(\"it\"))");
    let server = Server::of(build("expected", &main), QUICK);
    assert_eq!(curl(&[&server.url("/")]).status.code(), Some(52));
}

// ----- bodies ----------------------------------------------------------------

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}");
    [head.as_bytes(), b"\r\n", body].concat()
}

fn with_length(path: &str, length: usize) -> Vec<u8> {
    let headers = format!("Content-Length: {length}\r\nConnection: close\r\n");
    post(path, &headers, &b"x".repeat(length))
}

#[test]
fn a_body_is_read_or_gets_the_status_that_says_why_not() {
    let server = Server::of(build("body", &recipe(BODY)), QUICK);
    let length =
        |n: usize| (format!("Content-Length: {n}\r\n"), b"x".repeat(n));
    let chunks = |chunks: &str| {
        ("Transfer-Encoding: chunked\r\n".to_owned(), chunks.into())
    };
    let with_trailer = "5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nA: b\r\n\r\n";
    let large = format!("10001\r\n{}\r\n0\r\n\r\n", "x".repeat(65_537));
    for ((headers, body), path, said) in [
        (length(0), "/", "200 OK"),
        (length(65_536), "/", "200 OK"),
        (chunks(with_trailer), "/", "200 OK"),
        (length(65_537), "/", "413 Payload Too Large"),
        (chunks(&large), "/", "413 Payload Too Large"),
        (chunks("z\r\nhello\r\n0\r\n\r\n"), "/", "400 Bad Request"),
        (chunks("5\r\nhello, world\r\n0\r\n\r\n"), "/", "400 Bad Request"),
        (length(5), "/missing", "404 Not Found"),
    ] {
        let close = if said == "200 OK" { "Connection: close\r\n" } else { "" };
        let request = post(path, &format!("{headers}{close}"), &body);
        let answer = server.exchange(&request);
        let head = format!("HTTP/1.1 {said}\r\n");
        assert!(answer.starts_with(&head), "not {said}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    let answer = server.exchange(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("\r\nallow: POST\r\n"), "{answer}");
    let cut = server.send(&post("/", "Content-Length: 9\r\n", b"hello"));
    cut.shutdown(Shutdown::Write).expect("it is open");
    assert!(read_to_close(cut).starts_with("HTTP/1.1 400 "));
    assert_eq!(server.going(), 3);

    // The next one may follow, and one may ask before it sends.
    let expect = "Expect: 100-continue\r\nContent-Length: 5\r\n";
    let mut client = server.send(&post("/", expect, b""));
    let mut go_on = [0; 25];
    client.read_exact(&mut go_on).expect("it is asked for the body");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").expect("it is open");
    client.write_all(&with_length("/", 6)).expect("it is open");
    let answers = read_to_close(client);
    assert!(answers.contains("5 bytes from client 127.0.0.1HTTP/1.1 200 OK"));
    assert!(answers.ends_with("6 bytes from client 127.0.0.1"), "{answers}");
}

/// Its time is over before that of the stop is, but not if it had all of it.
#[test]
fn a_body_that_stalls_gets_a_408_and_spoils_no_stop() {
    let main = recipe(BODY);
    let limit = "timeout(PATIENCE / 2, whole)";
    let whole = replaced(&main, limit, "timeout(PATIENCE, whole)");
    let mut servers = [("body-in-time", main), ("body-too-late", whole)]
        .map(|(name, main)| Server::of(build(name, &main), QUICK));
    let request = post("/", "Content-Length: 9\r\n", b"hello");
    let clients = servers.each_ref().map(|server| server.send(&request));
    for server in &servers {
        server.settle();
        server.signal("TERM");
    }
    let answers = clients.map(read_to_close);
    assert!(answers[0].starts_with("HTTP/1.1 408 Request Timeout\r\n"));
    let ended = servers.each_mut().map(Server::exit_status);
    assert_eq!(ended, [Some(0), Some(1)]);
}

/// The recipe, and without what reads the rest of a body.
fn patient_and_hasty() -> [Server; 2] {
    let main = recipe(BODY);
    let (start, rest) =
        main.split_once("                let rest =\n").expect("it");
    let (_, end) = rest.split_once("SECOND, rest).await.ok();\n").expect("it");
    let hasty = [start, end].concat();
    [("patient", main), ("hasty", hasty)]
        .map(|(name, main)| Server::of(build(name, &main), QUICK))
}

#[test]
fn an_error_page_reaches_who_writes_all_of_a_body_before_it_reads() {
    let [patient, hasty] = patient_and_hasty();
    let count = |server: &Server, path: &str, head: &str| {
        // More than the system keeps for a connection.
        let request = with_length(path, 20_000_000);
        let gets_it = |_: &i32| {
            let mut client = server.send(b"");
            // Or else the client gives up.
            let whole = client.write_all(&request);
            whole.is_ok() && read_to_close(client).starts_with(head)
        };
        (0..20).filter(gets_it).count()
    };
    assert_eq!(count(&patient, "/", "HTTP/1.1 413 "), 20);
    assert_eq!(count(&patient, "/missing", "HTTP/1.1 404 "), 20);
    assert_eq!(count(&hasty, "/", "HTTP/1.1 "), 0);
}

#[test]
#[ignore = "takes nginx"]
fn nginx_passes_the_page_on_and_makes_a_502_of_a_reset() {
    let larger = "_buffer_size 9m; client_max_body_size 9m;";
    let change = ["_buffer_size 2m;", larger];
    let request = with_length("/", 5_000_000);
    let servers = patient_and_hasty();
    let [patient, hasty] =
        servers.each_ref().map(|it| nginx([it.port; 2], &[change]));
    for _ in 0..20 {
        let answer = patient.exchange(&request);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    one_crosses(&hasty, &request, "413");
}

/// Each body says when it is gone.
#[test]
fn a_queued_job_keeps_the_body_of_a_client_that_left() {
    let job = "let job = move || core.get(remote_ip, &body);";
    let keep = "
        struct Kept(Bytes);
        impl Drop for Kept {
            fn drop(&mut self) {
                say(\"gone\");
            }
        }
        let body = Kept(body);
        let job = move || {
            let body = &body;
            core.get(remote_ip, &body.0)
        };";
    let main = replaced(&obeying(&recipe(BODY)), job, keep);
    let (gate, mut program) =
        (scratch("gate"), Command::new(build("kept", &main)));
    program.envs([("SLEEP", "0"), ("WORKERS", "1")]).env("GATE", &gate);
    let server = Server::spawn(&mut program);
    let gone = || server.stderr().matches("gone\n").count();

    let first = server.send(&with_length("/", 9));
    wait_until("its job", || server.going() == 1);
    let others = [(); 3].map(|()| server.send(&with_length("/", 9)));
    server.settle();
    drop(others);
    if cfg!(target_os = "linux") {
        // 01 is a connection that both ends keep.
        let open = |row: &Vec<String>| row[3] == "01";
        let count = || tcp(1, server.port).into_iter().filter(open).count();
        wait_until("them to be gone", || count() == 1);
    }
    server.settle();
    assert_eq!(gone(), 0);
    File::create(gate).expect("a file");
    assert!(read_to_close(first).ends_with("9 bytes from client 127.0.0.1"));
    wait_until("all bodies to be gone", || gone() == 4);
    assert_eq!(server.going(), 1);
}

// ----- what ends the process -------------------------------------------------

#[test]
fn a_stack_that_runs_out_ends_the_process_unless_it_is_larger() {
    let main = recipe(STACK);
    let mut server = Server::of(build("deep", &main), QUICK);
    assert_eq!(server.exchange(GET), "");
    assert_eq!(server.exit_status(), None, "it was killed by a signal");
    assert!(server.stderr().contains("has overflowed its stack"));

    let name = ".name(\"worker\".into())";
    let more = format!("{name}.stack_size(64 << 20)");
    let main = replaced(&main, name, &more);
    let server = Server::of(build("deeper", &main), QUICK);
    assert_answered(server.send(GET));
    if cfg!(target_os = "linux") {
        let bytes = server.memory();
        assert!(bytes < 64e6, "ten stacks of 64 MB: {bytes} bytes");
    }
}

// ----- a database ------------------------------------------------------------

const OPEN: &str = "rusqlite::Connection::open(\"visits.db\")";

/// A program in a folder of its own, where its database is.
struct Database(PathBuf);

impl Database {
    fn new() -> Self {
        Self(folder("database"))
    }

    /// `setup` is for the shell that becomes the server.
    #[track_caller]
    fn serve(&self, program: &Path, setup: &str) -> Server {
        let mut shell = bash(&format!("{setup}\nexec \"$0\""));
        Server::spawn(shell.arg(program).current_dir(&self.0))
    }

    /// Holds the file while `ask` runs.
    fn held<T>(&self, begin: &str, ask: impl FnOnce() -> T) -> T {
        let mut sqlite3 = Command::new("sqlite3");
        sqlite3.arg("visits.db").current_dir(&self.0);
        sqlite3.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = sqlite3.spawn().expect("sqlite3 is installed");
        let mut stdin = holder.stdin.take().expect("it is piped");
        writeln!(stdin, "{begin}; SELECT 'held' FROM visits;")
            .expect("it reads");
        let stdout = holder.stdout.take().expect("it is piped");
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).expect("it says so");
        assert_eq!(said, "held\n");
        let result = ask();
        // With its stdin, it ends.
        drop(stdin);
        assert!(holder.wait().expect("it is our child").success());
        result
    }

    /// Each address and its count, as they are stored.
    #[track_caller]
    fn stored(&self) -> String {
        let query = "SELECT ip || ' ' || count FROM visits ORDER BY ip";
        let mut sqlite3 = Command::new("sqlite3");
        printed(sqlite3.args(["visits.db", query]).current_dir(&self.0))
    }
}

/// With a tenth of a second for a lock, so as not to take minutes. The second
/// one is as the last question of the chapter has it.
#[test]
#[ignore = "takes sqlite3 and other crates"]
fn no_visit_is_answered_that_a_lock_kept_from_being_stored() {
    let limit = "db.busy_timeout(Duration::from_millis(100))";
    let hasty = format!("{OPEN}.and_then(|db| {limit}.map(|()| db))");
    let main = replaced(&recipe(SQLITE), OPEN, &hasty);
    let careless = replaced(&main, "db.query_one(", "db.query_row(");

    let database = Database::new();
    let server = database.serve(&build_with_all("held", &main), "");
    let url = server.url("/");
    assert_eq!(fetch(&[&url]), "visit 1 of 127.0.0.1");
    for begin in ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        assert_eq!(database.held(begin, || status(&url)), "500", "{begin}");
        assert_eq!(database.stored(), "127.0.0.1 1\n", "{begin}");
    }
    let locked = server.stderr().matches("database is locked\n").count();
    assert_eq!(locked, 3, "each is said once: {}", server.stderr());
    assert_eq!(fetch(&[&url]), "visit 2 of 127.0.0.1");
    assert_eq!(database.stored(), "127.0.0.1 2\n");

    let server = database.serve(&build_with_all("careless", &careless), "");
    let answer = || fetch(&[&server.url("/")]);
    assert_eq!(database.held("BEGIN", answer), "visit 3 of 127.0.0.1");
    assert_eq!(database.stored(), "127.0.0.1 2\n");
    assert_eq!(server.stderr(), server.first_line());
}

/// Each client has an address: of those, a machine with Linux has 16 million.
#[test]
#[ignore = "takes Linux, sqlite3 and other crates"]
fn no_visit_is_answered_that_a_full_database_or_disk_could_not_take() {
    let main = recipe(SQLITE);
    let small = "PRAGMA page_size = 512; PRAGMA max_page_count = 12";
    let small = format!("db.execute_batch(\"{small}\").map(|()| db)");
    let full = format!("{OPEN}.and_then(|db| {small})");
    let full = replaced(&main, OPEN, &full);
    // The shell's own way to make a disk full: no file of more than 16 kB.
    let limit = "trap '' XFSZ; ulimit -f 16";
    for (name, main, setup) in [("full", full, ""), ("limited", main, limit)] {
        let database = Database::new();
        let server = database.serve(&build_with_all(name, &main), setup);
        let answered = (1..=250).filter_map(|n| {
            let ip = format!("127.1.0.{n}");
            let page = fetch(&["--interface", &ip, &server.url("/")]);
            (page == format!("visit 1 of {ip}")).then(|| format!("{ip} 1\n"))
        });
        let mut answered: Vec<_> = answered.collect();
        answered.sort_unstable();
        let count = answered.len();
        assert!((1..250).contains(&count), "{name}: {count} of 250");
        assert_eq!(database.stored(), answered.concat(), "{name}");
        let said = server.stderr().lines().count();
        assert_eq!(said, 1 + 250 - count, "{name}: {}", server.stderr());
    }
}

#[test]
#[ignore = "takes other crates"]
fn there_are_no_more_connections_than_workers() {
    let main = recipe(SQLITE);
    // A guard with a name, and the list is locked to the end of `get`.
    let pop = "let idle = self.idle.lock().unwrap().pop();";
    let list = "let mut list = self.idle.lock().unwrap();\n";
    let named = [
        [pop, &format!("{list}let idle = list.pop();")],
        ["self.idle.lock().unwrap().push", "list.push"],
    ];
    let named = changed(&main, &named);
    let database = Database::new();
    for (name, main, most) in [("sqlite", main, 10), ("named", named, 1)] {
        let server = database.serve(&build_with_all(name, &main), "");
        let answered = answered(flood(&server, 100));
        assert_eq!(answered, 100, "{}", server.stderr());
        if cfg!(target_os = "linux") {
            let list = format!("ls -l /proc/{}/fd", server.child.id());
            let (_, files, _) = output(&mut bash(&list));
            let count = files.matches("visits.db\n").count();
            assert!((1..=most).contains(&count), "{count}, not {most}");
        }
    }
}

// ----- another server --------------------------------------------------------

#[test]
#[ignore = "takes other crates"]
fn another_server_is_asked_directly_whatever_proxy_is_set() {
    let main = recipe(UREQ);
    let led = replaced(&main, "            .proxy(None)\n", "");
    let [direct, led] = [("ureq", main), ("led", led)]
        .map(|(name, main)| build_with_all(name, &main));
    let other = Server::start(QUICK);
    let all =
        "http_proxy HTTP_PROXY https_proxy HTTPS_PROXY all_proxy ALL_PROXY";
    // Nobody listens there.
    let proxy = format!("http://127.0.0.1:{}", free_port());
    let ask = |program: &Path, name: &str| {
        let mut command = Command::new(program);
        for name in all.split(' ').chain(["no_proxy", "NO_PROXY"]) {
            command.env_remove(name);
        }
        command.env(name, &proxy).env("UPSTREAM", other.url("/"));
        status(&Server::spawn(&mut command).url("/"))
    };
    for name in all.split(' ') {
        assert_eq!(ask(&direct, name), "200", "{name}");
        assert_eq!(ask(&led, name), "500", "{name} is read by itself");
    }
    // And so does curl, but for what the chapter says.
    let url = other.url("/missing");
    for (except, code) in [("", 7), ("127.0.0.1", 0)] {
        let mut curl = Command::new("curl");
        curl.envs([("http_proxy", &*proxy), ("no_proxy", except)]);
        curl.env_remove("NO_PROXY").args(["-qs", &url]);
        assert_eq!(output(&mut curl).0, Some(code));
    }
}

#[test]
#[ignore = "takes other crates"]
fn a_url_that_the_client_can_not_ask_is_refused_at_the_start() {
    let program = build_with_all("refused", &recipe(UREQ));
    for url in ["", "nonsense", "https://localhost/", "http://"] {
        let mut command = Command::new(&program);
        let (status, _, said) = output(command.env("UPSTREAM", url));
        let must = "is not allowed; set it to a URL that begins with http://";
        assert_eq!(said, format!("UPSTREAM={url:?} {must}\n"));
        assert_eq!(status, Some(2));
    }
}

/// Something that a server of the recipe can ask, at this URL.
fn upstream() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it has one");
    (listener, format!("http://{address}/"))
}

/// It accepts nothing, but the system connects for it.
#[test]
#[ignore = "takes other crates"]
fn a_server_that_does_not_answer_keeps_a_worker_for_no_longer_than_the_limit() {
    let (silent, url) = upstream();
    let start = |name: &str, limit: &str| {
        let five = "Some(Duration::from_secs(5))";
        let program =
            build_with_all(name, &replaced(&recipe(UREQ), five, limit));
        Server::of(program, &[("UPSTREAM", &url), ("WORKERS", "1")])
    };
    let server = start("limit", "Some(Duration::from_millis(200))");
    for _ in 0..3 {
        assert_eq!(status(&server.url("/")), "500");
    }
    let mut calls: Vec<_> =
        (0..3).map(|_| silent.accept().expect("a call").0).collect();
    // The second is not asked for before the first has an answer.
    let server = start("no-limit", "None");
    let clients = [GET; 2].map(|request| server.send(request));
    calls.push(silent.accept().expect("a call").0);
    server.settle();
    silent.set_nonblocking(true).expect("it is open");
    sleep(Duration::from_secs(1));
    assert!(silent.accept().is_err(), "the worker is held");
    drop(calls);
    wait_until("the second", || silent.accept().is_ok());
    drop(silent);
    clients.into_iter().for_each(|client| drop(read_to_close(client)));
}

#[test]
#[ignore = "takes other crates"]
fn an_answer_of_more_than_ten_megabytes_is_an_error() {
    let program = build_with_all("larger", &recipe(UREQ));
    for (length, said) in [(10 << 20, "200"), ((10 << 20) + 1, "500")] {
        let (other, url) = upstream();
        let answer = thread::spawn(move || {
            let (mut call, _) = other.accept().expect("a call");
            // All of it: an unread byte would make the end a reset.
            let lines = BufReader::new(&call).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}");
            write!(call, "{head}\r\n\r\n{}", "x".repeat(length)).ok();
        });
        let server = Server::of(&program, &[("UPSTREAM", &url)]);
        assert_eq!(status(&server.url("/")), said, "{length} bytes");
        answer.join().expect("no panic");
    }
}

// ----- two recipes at once ---------------------------------------------------

/// As the chapter says: the first one's diff, the core, a parameter, and what
/// a core that can fail needs in the handler.
fn both(first: &str, second: &str) -> String {
    let (parameter, argument) = match first {
        QUERY => ("query: &str", "&query"),
        _ => ("body: &[u8]", "&body"),
    };
    let ip = "remote_ip: IpAddr";
    let get = format!("{ip}, {parameter}) -> ");
    let core = replaced(&core(second), &format!("{ip}) -> "), &get);
    let core = match (first, second) {
        (QUERY, SQLITE) => {
            let key = "format!(\"{remote_ip} {query}\")";
            replaced(&core, "remote_ip.to_string()", key)
        }
        // Or the compiler warns that nothing uses it.
        _ => replaced(&core, parameter, &format!("_{parameter}")),
    };
    let main = with_core(&recipe(first), &core);
    if !core.contains("Result<String") {
        return main;
    }
    let call = format!("move || core.get(remote_ip, {argument})");
    let told = format!("{call}.inspect_err(|why| say(&why.to_string()))");
    let page = ["let Ok(res) = res", "let Ok(Ok(res)) = res"];
    changed(&main, &[[&call, &told], page])
}

#[test]
#[ignore = "takes other crates"]
fn the_query_or_the_body_goes_with_each_core() {
    for first in [QUERY, BODY] {
        build("both", &both(first, COMPUTE));
        build_with_all("both", &both(first, UREQ));
    }
    build_with_all("both", &both(BODY, SQLITE));
    let program = build_with_all("both", &both(QUERY, SQLITE));
    let server = Database::new().serve(&program, "");
    for (query, count) in [("a", 1), ("b", 1), ("a", 2)] {
        let answer = fetch(&[&server.url(&format!("/?{query}"))]);
        assert_eq!(answer, format!("visit {count} of 127.0.0.1 {query}"));
    }
}

// ----- how old Rust may be ---------------------------------------------------

/// Which of a crate's packages ask for more than Rust 1.85, each with its minor
/// version.
fn newer(folder: &Path) -> Vec<(String, u32)> {
    let (_, json) = cargo(folder, &["metadata", "--format-version", "1"]);
    let packages = json.split("\"manifest_path\":\"").skip(1);
    let asks = packages.filter_map(|package| {
        let (path, rest) = package.split_once("/Cargo.toml\"")?;
        let (_, version) = rest.split_once("\"rust_version\":\"1.")?;
        let minor = version.split(['.', '"']).next()?.parse().ok()?;
        Some((path.rsplit('/').next()?.to_owned(), minor))
    });
    let mut newer: Vec<_> = asks.collect();
    assert!(newer.len() > 20, "{newer:?}");
    newer.retain(|(_, minor)| *minor > 85);
    newer
}

#[test]
#[ignore = "takes other crates"]
fn the_chapter_says_what_needs_a_newer_rust_and_what_does_not() {
    let text = read(CHAPTER).replace('\n', " ");
    let newer_ones = newer(&WITH_ALL);
    let most = newer_ones.iter().map(|(_, minor)| *minor).max();
    let said = format!("This version needs Rust 1.{}.", most.expect("some"));
    assert!(text.contains(&said), "{said} {newer_ones:?}");
    let is_sqlite = |(name, _): &(String, u32)| name.contains("sqlite");
    assert!(newer_ones.iter().all(is_sqlite), "{newer_ones:?}");

    // Not `bundled`: nothing is linked, so it takes no compiler of C.
    let said =
        "With Rust 1.85 to 1.88, add `rusqlite@0.40`: the core is the same.";
    assert!(text.contains(said), "{said}");
    let take = shown(CHAPTER, "## Take it", "sh");
    let folder = made("older", &format!("{take}cargo add rusqlite@0.40"));
    fs::write(folder.join("src/main.rs"), recipe(SQLITE)).expect("a file");
    let (success, said) = cargo(&folder, &["check"]);
    assert!(success, "{said}");
    assert_eq!(newer(&folder), []);
}
