//! The recipes of "Make it yours", with what their chapter does not show: slow
//! and large bodies, a database that is held or full, a proxy in the
//! environment, two recipes at once.

mod common;

use common::chapter::{Part, apply, parts, read};
use common::engine::{make, target};
use common::{
    GET, ROOT, Server, build, curl_command, fetch, find, flood, free_port,
    read_to_close, scratch, skip, status, tcp, thorough, wait_until,
};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::{fs::symlink, process::ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::{self, sleep};
use std::time::Duration;

// ----- what the chapter says -------------------------------------------------

const CHAPTER: &str = "tutorial/16-make-it-yours.md";
const FAIL: &str = "## A core that can fail";
const QUERY: &str = "## What the request says";
const BODY: &str = "## What a form or a program sends";
const COMPUTE: &str = "## Compute something";
const STACK: &str = "## What ends the process";
const SQLITE: &str = "## Ask a database";
const UREQ: &str = "## Ask another server";

/// The first block of a kind below a heading.
fn block(heading: &str, kind: &str) -> Part {
    let is_it = |part: &Part| part.lines.iter().any(|line| line == heading);
    let mut below = parts(CHAPTER).into_iter().skip_while(|part| !is_it(part));
    let block = below.find(|part| part.kind == kind);
    block.unwrap_or_else(|| panic!("{CHAPTER}: {heading}: no {kind}"))
}

/// A core, or commands, as the chapter shows them.
fn shown(heading: &str, kind: &str) -> String {
    block(heading, kind).lines.join("\n")
}

fn core(heading: &str) -> String {
    shown(heading, "rust,ignore")
}

/// main.rs after the diff below a heading.
fn recipe(heading: &str) -> String {
    apply(&block(heading, "diff")).expect("it applies").0
}

fn replaced(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old:?} stands there once");
    text.replace(old, new)
}

/// Puts a core between the lines `CORE` and `MAIN HANDLER`.
fn with_core(main: &str, core: &str) -> String {
    let (head, rest) = main.split_once("tutorial/03-core.md").expect("it");
    let (line, rest) = rest.split_once('\n').expect("its end");
    let (_, rest) = rest.split_once("// ----- MAIN").expect("the next");
    let head = format!("{head}tutorial/03-core.md{line}");
    format!("{head}\n\n{core}\n\n// ----- MAIN{rest}")
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
fn git_applies_each_diff_as_the_chapter_says() {
    let Some(git) = find("git") else { return };
    for heading in [FAIL, QUERY, BODY, COMPUTE, STACK, SQLITE, UREQ] {
        let place = scratch("applied");
        fs::create_dir_all(place.join("src")).expect("a folder");
        let main = place.join("src/main.rs");
        fs::write(&main, read("src/main.rs")).expect("a file");
        let diff = shown(heading, "diff") + "\n";
        fs::write(place.join("diff"), diff).expect("a file");
        let mut apply = Command::new(&git);
        // As where the reader's crate is: not within this one's repository.
        apply.env("GIT_CEILING_DIRECTORIES", env!("CARGO_TARGET_TMPDIR"));
        apply.arg("apply");
        let applied = apply.arg("diff").current_dir(&place).status();
        assert!(applied.expect("it runs").success(), "{heading}");
        let changed = fs::read_to_string(main).expect("it is there");
        assert!(changed == recipe(heading), "{heading}");
    }
}

// ----- programs --------------------------------------------------------------

fn start(program: PathBuf) -> Server {
    Server::spawn(Command::new(program).env("SLEEP", "0"))
}

fn bash(script: &str, folder: &Path) -> [String; 2] {
    let mut bash = Command::new("bash");
    bash.args(["-ec", script]).current_dir(folder).stdin(Stdio::null());
    let output = bash.output().expect("it runs");
    let said = [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{script}\n{}", said[1]);
    said
}

/// A crate, made as the chapter says, and more commands in its folder. That is
/// always the same for a name: to cargo it is one crate, being edited.
fn make_crate(name: &str, adds: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::remove_dir_all(&place).ok();
    fs::create_dir_all(&place).expect("a folder");
    symlink(ROOT, place.join("threaded-tokio")).expect("a link");
    bash(&format!("{}\n{adds}", shown("## Take it", "sh")), &place);
    place.join("my-server")
}

/// The crate with all that recipes add, if the network may be asked for it.
fn with_all() -> Option<&'static PathBuf> {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    if !thorough() {
        skip("SKIP_NOTHING=1: a recipe with other crates");
        return None;
    }
    let adds = || [SQLITE, UREQ].map(|heading| shown(heading, "sh"));
    Some(MADE.get_or_init(|| make_crate("recipes", &adds().join("\n"))))
}

/// Builds a program in that crate. Returns its path.
fn build_with_all(name: &str, main: &str) -> Option<PathBuf> {
    let folder = with_all()?;
    let name = format!("recipe-{name}");
    let file = folder.join(format!("src/bin/{name}.rs"));
    fs::create_dir_all(folder.join("src/bin")).expect("a folder");
    fs::write(file, main).expect("a file");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("");
    let target = target.display();
    let cargo = format!("cargo build --bin {name} --target-dir '{target}'");
    let [_, said] = bash(&cargo, folder);
    assert!(!said.contains("warning"), "{said}");
    Some(format!("{target}debug/{name}").into())
}

// ----- a core that can fail --------------------------------------------------

/// A pipe that nobody reads, and a line that it can't take.
fn mute(name: &str, main: &str) -> Server {
    let main = main.replace("say(&why.to_string())", "say(&why.repeat(9_999))");
    let get = "-> io::Result<String>";
    let main = replaced(&main, get, "-> Result<String, &'static str>");
    let read = "std::fs::read_to_string(\"greeting.html\")";
    let main = replaced(&main, read, "Err(\"no greeting\")");
    let mut command = Command::new(build(name, &main));
    command.envs([("SLEEP", "0"), ("TOKIO_WORKER_THREADS", "1")]);
    Server::mute(&mut command)
}

#[test]
fn an_error_is_said_by_its_job_and_holds_up_nobody_else() {
    let (job, wait) =
        ("        let job = move || {\n", ".submit(job).await;\n");
    let tell = ".inspect_err(|why| say(&why.to_string()))\n        };\n";
    let main = recipe(FAIL);
    let server = mute("told-by-the-job", &main);
    let _client = server.send(GET);
    wait_until("the job", || server.done() == 1);
    server.settle();
    assert_eq!(status(&server.url("/missing")), "404");

    let main = replaced(&main, tell, "\n        };\n");
    assert!(main.contains(job));
    let said = ".submit(job).await;\n        if let Ok(Err(why)) = &res {\n    \
                        say(&why.to_string())\n        }\n";
    let server = mute("told-by-the-loop", &replaced(&main, wait, said));
    let _client = server.send(GET);
    wait_until("the job", || server.done() == 1);
    let url = server.url("/missing");
    let mut curl = curl_command(&["--max-time", "3", &url]);
    assert_eq!(curl.status().expect("it runs").code(), Some(28));
}

#[test]
fn what_the_compiler_suggests_for_a_result_closes_the_connection() {
    let main = read("src/main.rs");
    let get = "fn get(&self, remote_ip: IpAddr) -> ";
    let main = replaced(
        &main,
        &format!("{get}String"),
        &format!("{get}io::Result<String>"),
    );
    let message = "format!(\"msg to client {remote_ip}\")";
    let main = replaced(&main, message, "Err(io::Error::other(\"broken\"))");
    let folder = make(&target().join("tmp"), "suggested", &main);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["check", "--offline"]).current_dir(folder);
    let said = cargo.output().expect("it runs").stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("res.expect("), "{said}");

    let main = replaced(
        &main,
        "StatusCode::OK, res)",
        "StatusCode::OK, res.expect(\"it\"))",
    );
    let server = start(build("expected", &main));
    let curl = curl_command(&[&server.url("/")]).status();
    assert_eq!(curl.expect("it runs").code(), Some(52));
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
    let server = start(build("body", &recipe(BODY)));
    let length =
        |n: usize| (format!("Content-Length: {n}\r\n"), b"x".repeat(n));
    let chunks = |chunks: &str| {
        ("Transfer-Encoding: chunked\r\n".to_owned(), chunks.into())
    };
    let large = format!("10001\r\n{}\r\n0\r\n\r\n", "x".repeat(65_537));
    for ((headers, body), path, said) in [
        (length(0), "/", "200 OK"),
        (length(65_536), "/", "200 OK"),
        (
            chunks("5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nA: b\r\n\r\n"),
            "/",
            "200 OK",
        ),
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
    let first = post("/", expect, b"");
    let mut client = server.send(&first);
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
        .map(|(name, main)| start(build(name, &main)));
    let request = post("/", "Content-Length: 9\r\n", b"hello");
    let clients = servers.each_ref().map(|server| server.send(&request));
    for server in &servers {
        server.settle();
        server.signal("TERM");
    }
    let answers = clients.map(read_to_close);
    assert!(answers[0].starts_with("HTTP/1.1 408 Request Timeout\r\n"));
    assert_eq!(servers[0].exit_status(), Some(0));
    assert_eq!(servers[1].exit_status(), Some(1));
}

/// The recipe, and without what reads the rest of a body.
fn patient_and_hasty() -> [Server; 2] {
    let main = recipe(BODY);
    let start_of = main.find("                let rest =\n").expect("it");
    let end = "SECOND, rest).await.ok();\n";
    let end_of = main.find(end).expect("it") + end.len();
    let hasty = [&main[..start_of], &main[end_of..]].concat();
    [start(build("patient", &main)), start(build("hasty", &hasty))]
}

/// The answer to a client that gives up where it can't write all of a request.
fn written_first(server: &Server, request: &[u8]) -> String {
    let mut client = server.send(b"");
    let whole = client.write_all(request);
    whole.map_or_else(|why| why.to_string(), |()| read_to_close(client))
}

#[test]
fn an_error_page_reaches_who_writes_all_of_a_body_before_it_reads() {
    let [patient, hasty] = patient_and_hasty();
    let count = |server: &Server, path: &str, head: &str| {
        // More than the system keeps for a connection.
        let request = with_length(path, 20_000_000);
        let answers = (0..20).map(|_| written_first(server, &request));
        answers.filter(|answer| answer.starts_with(head)).count()
    };
    assert_eq!(count(&patient, "/", "HTTP/1.1 413 "), 20);
    assert_eq!(count(&patient, "/missing", "HTTP/1.1 404 "), 20);
    assert_eq!(count(&hasty, "/", "HTTP/1.1 "), 0);
}

#[test]
fn nginx_passes_the_page_on_and_makes_a_502_of_a_reset() {
    let Some(nginx) = find("nginx") else { return };
    let servers = patient_and_hasty();
    let [patient, hasty] = servers.each_ref().map(|server| {
        let (port, place) = (free_port(), scratch("nginx"));
        fs::create_dir_all(&place).expect("a folder");
        let conf = format!(
            "daemon off; master_process off; pid {place}/pid;
             error_log stderr; events {{}}
             http {{
                 access_log off; client_max_body_size 8m;
                 client_body_temp_path {place}/1; proxy_temp_path {place}/2;
                 fastcgi_temp_path {place}/3; uwsgi_temp_path {place}/4;
                 scgi_temp_path {place}/5;
                 server {{
                     listen 127.0.0.1:{port};
                     location / {{ proxy_pass http://127.0.0.1:{}; }}
                 }}
             }}",
            server.port,
            place = place.display(),
        );
        let file = place.join("nginx.conf");
        fs::write(&file, conf).expect("a file");
        let mut command = Command::new(&nginx);
        command.arg("-p").arg(&place).arg("-c").arg(file);
        let mut proxy = Server::launch(&mut command, None, None);
        (proxy.port, proxy.gently) = (port, true);
        wait_until("nginx", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let request = with_length("/", 5_000_000);
        let answers = (0..20).map(|_| proxy.exchange(&request));
        answers.map(|it| it[9..12].to_owned()).collect::<Vec<_>>()
    });
    assert_eq!(patient, ["413"; 20]);
    assert!(hasty.iter().any(|status| status == "502"), "{hasty:?}");
}

/// Each body says when it is gone, and jobs end when there is a file.
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
    let nap = "thread::sleep(self.sleep);";
    let gate = "while env::var_os(\"GATE\")
            .is_some_and(|it| !std::path::Path::new(&it).exists()) {
            thread::sleep(self.sleep);
        }";
    let main = replaced(&replaced(&recipe(BODY), job, keep), nap, gate);
    let gate = scratch("gate");
    let mut command = Command::new(build("kept", &main));
    command.envs([("SLEEP", "0.001"), ("WORKERS", "1")]).env("GATE", &gate);
    let server = Server::spawn(&mut command);
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
    let mut server = start(build("deep", &main));
    assert_eq!(server.exchange(GET), "");
    let ended = server.child.wait().expect("it is our child");
    assert!(ended.signal().is_some(), "{ended}");
    assert!(server.stderr().contains("has overflowed its stack"));

    let name = ".name(\"worker\".into())";
    let more = format!("{name}.stack_size(64 << 20)");
    let server = start(build("deeper", &replaced(&main, name, &more)));
    assert_eq!(fetch(&[&server.url("/")]), "msg to client 127.0.0.1");
    if cfg!(target_os = "linux") {
        let path = format!("/proc/{}/status", server.child.id());
        let status = fs::read_to_string(path).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.expect("it").split_whitespace().nth(1);
        let kilobytes: u32 = kilobytes.expect("it").parse().expect("a number");
        assert!(kilobytes < 65_536, "ten stacks of 64 MB: {kilobytes} kB");
    }
}

// ----- a database ------------------------------------------------------------

/// A program in a folder of its own, where its database is.
struct Database(PathBuf);

impl Database {
    fn new() -> Self {
        let place = scratch("database");
        fs::create_dir_all(&place).expect("a folder");
        Self(place)
    }

    /// `setup` is for the shell that becomes the server.
    fn serve(&self, program: &Path, setup: &str) -> Server {
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("{setup}\nexec \"$0\"")]).arg(program);
        Server::spawn(shell.current_dir(&self.0))
    }

    /// Runs lines of Python that know the file as `db`.
    fn python(&self, lines: &str) -> Child {
        let open = "import sqlite3, sys
db = sqlite3.connect('visits.db', isolation_level=None)";
        let mut python = Command::new("python3");
        python.args(["-c", &format!("{open}\n{lines}")]);
        python.stdin(Stdio::piped()).stdout(Stdio::piped());
        python.current_dir(&self.0).spawn().expect("python3 is installed")
    }

    /// Holds the file while `ask` runs.
    fn held<T>(&self, begin: &str, ask: impl FnOnce() -> T) -> T {
        let mut holder = self.python(&format!(
            "db.execute('{begin}')
db.execute('SELECT * FROM visits').fetchall()
print('held', flush=True)
sys.stdin.read()"
        ));
        let stdout = holder.stdout.take().expect("it is piped");
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).expect("it says so");
        assert_eq!(said, "held\n");
        let result = ask();
        // With its stdin, it ends.
        assert!(holder.wait().expect("it is our child").success());
        result
    }

    /// Each address and its count, as they are stored.
    fn stored(&self) -> String {
        let rows =
            "for row in db.execute('SELECT ip, count FROM visits ORDER BY ip'):
    print(*row)";
        let output = self.python(rows).wait_with_output().expect("it runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

/// Waits for a tenth of a second instead of five, so as not to take minutes.
fn hasty(main: &str) -> String {
    let open = "rusqlite::Connection::open(\"visits.db\")";
    let limit = "db.busy_timeout(Duration::from_millis(100))";
    replaced(main, open, &format!("{open}.and_then(|db| {limit}.map(|()| db))"))
}

#[test]
fn no_visit_is_answered_that_a_lock_kept_from_being_stored() {
    if find("python3").is_none() {
        return;
    }
    let main = hasty(&recipe(SQLITE));
    let Some(program) = build_with_all("held", &main) else { return };
    let main = replaced(&main, "db.query_one(", "db.query_row(");
    let Some(careless) = build_with_all("careless", &main) else { return };

    let database = Database::new();
    let server = database.serve(&program, "");
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

    // As the last question of the chapter has it.
    let server = database.serve(&careless, "");
    let answer = || fetch(&[&server.url("/")]);
    assert_eq!(database.held("BEGIN", answer), "visit 3 of 127.0.0.1");
    assert_eq!(database.stored(), "127.0.0.1 2\n");
    assert_eq!(server.stderr(), server.first_line());
}

/// Who got a 200, by address. Each of Linux's machines has 16 million.
fn visit(server: &Server, clients: u8) -> String {
    let mut answered = String::new();
    for n in 1..=clients {
        let ip = format!("127.1.0.{n}");
        let url = server.url("/");
        if fetch(&["--interface", &ip, &url]) == format!("visit 1 of {ip}") {
            answered += &format!("{ip} 1\n");
        }
    }
    let mut lines: Vec<_> = answered.lines().collect();
    lines.sort_unstable();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn no_visit_is_answered_that_a_full_database_or_disk_could_not_take() {
    if find("python3").is_none() || !cfg!(target_os = "linux") {
        return;
    }
    let main = recipe(SQLITE);
    let open = "rusqlite::Connection::open(\"visits.db\")";
    let small = "PRAGMA page_size = 512; PRAGMA max_page_count = 12";
    let full = format!(
        "{open}.and_then(|db| db.execute_batch(\"{small}\").map(|()| db))"
    );
    let full = replaced(&main, open, &full);
    // The shell's own way to make a disk full: no file of more than 16 kB.
    let limit = "trap '' XFSZ; ulimit -f 16";
    for (name, main, setup) in [("full", &full, ""), ("limited", &main, limit)]
    {
        let Some(program) = build_with_all(name, main) else { return };
        let database = Database::new();
        let server = database.serve(&program, setup);
        let answered = visit(&server, 250);
        let count = answered.lines().count();
        assert!((1..250).contains(&count), "{name}: {count} of 250");
        assert_eq!(database.stored(), answered, "{name}");
        let said = server.stderr().lines().count();
        assert_eq!(said, 1 + 250 - count, "{name}: {}", server.stderr());
    }
}

#[test]
fn there_are_no_more_connections_than_workers() {
    let main = recipe(SQLITE);
    let Some(program) = build_with_all("sqlite", &main) else { return };
    // A guard with a name, and the list is locked to the end of `get`.
    let pop = "let idle = self.idle.lock().unwrap().pop();";
    let named = "let mut list = self.idle.lock().unwrap();
        let idle = list.pop();";
    let main = replaced(&main, pop, named);
    let main = replaced(&main, "self.idle.lock().unwrap().push", "list.push");
    let Some(named) = build_with_all("named", &main) else { return };

    let database = Database::new();
    for (program, most) in [(program, 10), (named, 1)] {
        let server = database.serve(&program, "");
        let answered = common::answered(flood(&server, 100));
        assert_eq!(answered, 100, "{}", server.stderr());
        if cfg!(target_os = "linux") {
            let files = fs::read_dir(format!("/proc/{}/fd", server.child.id()));
            let files = files.expect("Linux").flatten();
            let files =
                files.filter_map(|file| fs::read_link(file.path()).ok());
            let count = files.filter(|it| it.ends_with("visits.db")).count();
            assert!((1..=most).contains(&count), "{count}, not {most}");
        }
    }
}

// ----- another server --------------------------------------------------------

#[test]
fn another_server_is_asked_directly_whatever_proxy_is_set() {
    let main = recipe(UREQ);
    let Some(program) = build_with_all("ureq", &main) else { return };
    let direct = "            .proxy(None)\n";
    let Some(led) = build_with_all("led", &replaced(&main, direct, "")) else {
        return;
    };
    let other = Server::start(&[("SLEEP", "0")]);
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
        assert_eq!(ask(&program, name), "200", "{name}");
        assert_eq!(ask(&led, name), "500", "{name} is read by itself");
    }
    // And so does curl, but for what the chapter says.
    let url = other.url("/missing");
    for (except, code) in [("", 7), ("127.0.0.1", 0)] {
        let mut curl = Command::new("curl");
        curl.envs([("http_proxy", &*proxy), ("no_proxy", except)]);
        curl.env_remove("NO_PROXY").args(["-qs", &url]).stdout(Stdio::null());
        assert_eq!(curl.status().expect("it runs").code(), Some(code));
    }
}

#[test]
fn a_url_that_the_client_can_not_ask_is_refused_at_the_start() {
    let main = recipe(UREQ);
    let Some(program) = build_with_all("refused", &main) else { return };
    for url in ["", "nonsense", "https://localhost/", "http://"] {
        let mut command = Command::new(&program);
        command.envs([("PORT", "0"), ("UPSTREAM", url)]);
        let output = common::output(command.stderr(Stdio::piped()));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let must = "is not allowed; set it to a URL that begins with http://";
        assert_eq!(said, format!("UPSTREAM={url:?} {must}\n"));
        assert_eq!(output.status.code(), Some(2));
    }
}

/// It accepts nothing, but the system connects for it.
#[test]
fn a_server_that_does_not_answer_keeps_a_worker_for_no_longer_than_the_limit() {
    let limit = "Some(Duration::from_secs(5))";
    let main = recipe(UREQ);
    let short = replaced(&main, limit, "Some(Duration::from_millis(200))");
    let Some(short) = build_with_all("limit", &short) else { return };
    let none = replaced(&main, limit, "None");
    let Some(none) = build_with_all("no-limit", &none) else { return };
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("it has one");
    let start = |program| {
        let mut command = Command::new(program);
        command.env("UPSTREAM", format!("http://{address}/"));
        Server::spawn(command.env("WORKERS", "1"))
    };
    let server = start(short);
    for _ in 0..3 {
        assert_eq!(status(&server.url("/")), "500");
    }
    let mut calls: Vec<_> =
        (0..3).map(|_| silent.accept().expect("a call").0).collect();
    // The second is not asked for before the first has an answer.
    let server = start(none);
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
fn an_answer_of_more_than_ten_megabytes_is_an_error() {
    let main = recipe(UREQ);
    let Some(program) = build_with_all("larger", &main) else { return };
    for (length, said) in [(10 << 20, "200"), ((10 << 20) + 1, "500")] {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = other.local_addr().expect("it has one");
        let answer = thread::spawn(move || {
            let (mut call, _) = other.accept().expect("a call");
            // All of it: an unread byte would make the end a reset.
            let lines = BufReader::new(&call).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}");
            write!(call, "{head}\r\n\r\n{}", "x".repeat(length)).ok();
        });
        let mut command = Command::new(&program);
        command.env("UPSTREAM", format!("http://{address}/"));
        let server = Server::spawn(&mut command);
        assert_eq!(status(&server.url("/")), said, "{length} bytes");
        answer.join().expect("no panic");
    }
}

// ----- two recipes at once ---------------------------------------------------

/// As the chapter says: the first one's diff, the core, a parameter, and what
/// a core that can fail needs in the handler.
fn both(first: &str, second: &str) -> String {
    let main = recipe(first);
    let (parameter, argument) = match first {
        QUERY => ("query: &str", "&query"),
        _ => ("body: &[u8]", "&body"),
    };
    let get = "remote_ip: IpAddr) -> ";
    let core = core(second);
    let core =
        replaced(&core, get, &format!("remote_ip: IpAddr, {parameter}) -> "));
    let core = match (first, second) {
        (QUERY, SQLITE) => {
            let key = "format!(\"{remote_ip} {query}\")";
            replaced(&core, "remote_ip.to_string()", key)
        }
        // Or the compiler warns that nothing uses it.
        _ => replaced(&core, parameter, &format!("_{parameter}")),
    };
    let mut main = with_core(&main, &core);
    if core.contains("Result<String") {
        let call = format!("move || core.get(remote_ip, {argument});");
        let told = format!(
            "move || core.get(remote_ip, {argument})\
             .inspect_err(|why| say(&why.to_string()));"
        );
        main = replaced(&main, &call, &told);
        main = replaced(&main, "let Ok(res) = res", "let Ok(Ok(res)) = res");
    }
    main
}

#[test]
fn the_query_or_the_body_goes_with_each_core() {
    for first in [QUERY, BODY] {
        build("both", &both(first, COMPUTE));
        let Some(_) = build_with_all("both", &both(first, UREQ)) else {
            return;
        };
    }
    build_with_all("both", &both(BODY, SQLITE));
    let Some(program) = build_with_all("both", &both(QUERY, SQLITE)) else {
        return;
    };
    let server = Database::new().serve(&program, "");
    for (query, count) in [("a", 1), ("b", 1), ("a", 2)] {
        let answer = fetch(&[&server.url(&format!("/?{query}"))]);
        assert_eq!(answer, format!("visit {count} of 127.0.0.1 {query}"));
    }
}

// ----- how old Rust may be ---------------------------------------------------

/// The oldest Rust that a crate's packages ask for, each with its minor version.
fn asked_for(folder: &Path) -> Vec<(String, u32)> {
    let [json, _] = bash("cargo metadata --format-version 1", folder);
    let packages = json.split("\"manifest_path\":\"").skip(1);
    let asks = packages.filter_map(|package| {
        let (path, rest) = package.split_once("/Cargo.toml\"")?;
        let (_, version) = rest.split_once("\"rust_version\":\"1.")?;
        let minor = version.split(['.', '"']).next()?.parse().ok()?;
        Some((path.rsplit('/').next()?.to_owned(), minor))
    });
    asks.collect()
}

#[test]
fn the_chapter_says_what_needs_a_newer_rust_and_what_does_not() {
    let Some(folder) = with_all() else { return };
    let newer = |folder: &Path| {
        let mut newer = asked_for(folder);
        assert!(newer.len() > 20, "{newer:?}");
        newer.retain(|(_, minor)| *minor > 85);
        newer
    };
    let text = read(CHAPTER).replace('\n', " ");
    let newer_ones = newer(folder);
    let most = newer_ones.iter().map(|(_, minor)| *minor).max();
    let said = format!("This version needs Rust 1.{}.", most.expect("some"));
    assert!(text.contains(&said), "{said} {newer_ones:?}");
    let is_sqlite = |(name, _): &(String, u32)| name.contains("sqlite");
    assert!(newer_ones.iter().all(is_sqlite), "{newer_ones:?}");

    // Not `bundled`: nothing is linked, so it takes no compiler of C.
    let said =
        "With Rust 1.85 to 1.88, add `rusqlite@0.40`: the core is the same.";
    assert!(text.contains(said), "{said}");
    let folder = make_crate("older-rust", "cargo add rusqlite@0.40");
    fs::write(folder.join("src/main.rs"), recipe(SQLITE)).expect("a file");
    bash("cargo check", &folder);
    assert_eq!(newer(&folder), []);
}
