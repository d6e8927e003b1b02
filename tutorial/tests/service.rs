//! The service of one's own and the jobs that outlive the process, made as
//! their chapters say, and asked. That takes crates of others, nginx and
//! PostgreSQL: without SKIP_NOTHING=1, nothing is proven and nothing fails.

mod common;

use common::chapter::{Part, parts, read};
use common::{
    LONG, ROOT, Server, fetch, find, free_port, read_to_close, scratch, signal,
    skip, status, thorough, wait_until,
};
use std::fs;
use std::io::{Write, stderr};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

const SERVICE: &str = "tutorial/20-a-service-of-your-own.md";
const JOBS: &str = "tutorial/21-work-that-outlives.md";

// ----- crates, made as the chapters say --------------------------------------

/// The first block of shell commands in a chapter that has these words.
fn block(chapter: &str, words: &str) -> String {
    let has = |part: &Part| part.lines.join("\n").contains(words);
    let mut parts = parts(chapter).into_iter();
    let block = parts.find(|part| part.kind == "sh" && has(part));
    block.expect(words).lines.join("\n")
}

/// Where cargo builds. The project's crates are there already.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("")
}

/// A shell in which a block of a chapter runs, or a command of one.
fn bash(script: &str, folder: &Path) -> Command {
    let mut bash = Command::new("bash");
    bash.args(["-ec", script]).current_dir(folder).stdin(Stdio::null());
    for name in ["HOST", "SLEEP", "WORKERS", "TAKERS", "RUST_BACKTRACE"] {
        bash.env_remove(name);
    }
    bash.envs([("no_proxy", "*"), ("CARGO_TERM_COLOR", "never")]);
    bash.env("CARGO_TARGET_DIR", target());
    bash
}

/// What a command prints, and whether it succeeds.
#[track_caller]
fn output(bash: &mut Command) -> (String, bool) {
    let bash = bash.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = common::output(bash);
    let [out, err] = [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned());
    if output.status.success() { (out, true) } else { (out + &err, false) }
}

#[track_caller]
fn run(bash: &mut Command) -> String {
    let (said, success) = output(bash);
    assert!(success, "{bash:?}: {said}");
    said
}

/// Makes a crate of that name by blocks of chapters, with some changes of its
/// sources, and builds it. Returns its folder.
#[track_caller]
fn make(name: &str, blocks: &[(&str, &str)], changes: &[[&str; 3]]) -> PathBuf {
    let folder = write(name, blocks, changes);
    run(&mut bash("cargo build --quiet", &folder));
    folder
}

#[track_caller]
fn write(
    name: &str,
    blocks: &[(&str, &str)],
    changes: &[[&str; 3]],
) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("services");
    fs::create_dir_all(&place).expect("a folder");
    symlink(ROOT, place.join("threaded-tokio")).ok();
    let folder = place.join(name);
    fs::remove_dir_all(&folder).ok();
    for (chapter, words) in blocks {
        let script = block(chapter, words);
        let script = script.strip_prefix("cd ..\n").unwrap_or(&script);
        let script = ["my-service", "my-axum"]
            .iter()
            .fold(script.to_owned(), |it, own| it.replace(own, name));
        let inside = if folder.exists() { &folder } else { &place };
        run(&mut bash(&script, inside));
    }
    for [file, old, new] in changes {
        let file = folder.join(file);
        let text = fs::read_to_string(&file).expect("it is there");
        assert_eq!(text.matches(old).count(), 1, "{old} stands there once");
        fs::write(&file, text.replace(old, new)).expect("it can be changed");
    }
    folder
}

fn binary(folder: &Path) -> Command {
    let name = folder.file_name().expect("it has a name");
    let mut command = Command::new(target().join("debug").join(name));
    command.current_dir(scratch_folder()).env_remove("DATABASE_URL");
    command
}

fn scratch_folder() -> PathBuf {
    let folder = scratch("service");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

const ONE: (&str, &str) = (SERVICE, "cargo new my-service");
const TWO: (&str, &str) = (JOBS, "cargo add postgres");

static ONE_CRATE: LazyLock<PathBuf> =
    LazyLock::new(|| make("service-one", &[ONE], &[]));
static TWO_CRATE: LazyLock<PathBuf> =
    LazyLock::new(|| make("service-two", &[ONE, TWO], &[]));
static AXUM_CRATE: LazyLock<PathBuf> = LazyLock::new(|| {
    make("service-axum", &[(SERVICE, "cargo new my-axum")], &[])
});

/// Whether crates of others may be had. If not, the test is skipped.
#[track_caller]
fn may_add_crates() -> bool {
    if !thorough() {
        skip("SKIP_NOTHING=1: a service with other crates");
    }
    thorough()
}

// ----- what the chapters show ------------------------------------------------

/// A line without what differs from run to run: dates and times.
fn shape(line: &str) -> String {
    if line.starts_with("date: ") {
        return "date: D".to_owned();
    }
    let is_time =
        |word: &&str| word.contains('.') && word.parse::<f64>().is_ok();
    let words = line.trim().split(' ');
    let words = words.map(|word| if is_time(&word) { "T" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn compare(at: &str, told: &str, printed: &str, sorted: bool) {
    let [told, printed] = [told, printed].map(|text| {
        let mut lines: Vec<_> = text.lines().map(shape).collect();
        lines.retain(|line| !line.is_empty());
        if sorted {
            lines.sort();
        }
        lines
    });
    assert_eq!(printed, told, "{at}: printed, told");
}

/// Runs the commands of a console block and compares. The first is a server.
#[track_caller]
fn check(console: &Part, folder: &Path, environment: &[(&str, &str)]) {
    let port = free_port().to_string();
    let mut server = None;
    let mut start = 0;
    for lines in console.lines.chunk_by(|_, next| !next.starts_with("$ ")) {
        let at = console.at(start);
        start += lines.len();
        let more = lines.iter().take_while(|line| line.ends_with('\\')).count();
        let (command, told) = lines.split_at(more + 1);
        let command = command.join("\n").replace("8888", &port);
        let command = command.strip_prefix("$ ").expect(&at);
        let is_server = command.ends_with(" &");
        let mut bash = bash(command.trim_end_matches(" &"), folder);
        bash.envs(environment.iter().copied()).env("PORT", &port);
        if is_server {
            let it = Server::spawn(bash.process_group(0));
            let told = told.join("\n").replace("8888", &port);
            server = Some((it, told, at));
        } else {
            // A client that leaves has failed, and that may be told.
            compare(&at, &told.join("\n"), &output(&mut bash).0, false);
        }
    }
    let (server, told, at) = server.expect("a server");
    let said = server.stdout() + &server.stderr();
    signal("KILL", &format!("-{}", server.child.id()));
    compare(&at, &told, &said, true);
}

/// The console blocks of a chapter, with the heading that each stands below.
fn consoles(chapter: &str) -> Vec<(String, Part)> {
    let mut heading = String::new();
    let mut consoles = Vec::new();
    for part in parts(chapter) {
        if part.kind == "prose" {
            let mut lines = part.lines.iter().rev();
            let last = lines.find(|line| line.starts_with('#'));
            heading = last.unwrap_or(&heading).clone();
        } else if part.kind == "console" {
            consoles.push((heading.clone(), part));
        }
    }
    consoles
}

#[test]
fn what_the_chapter_on_a_service_shows_is_what_its_crates_print() {
    if !may_add_crates() {
        return;
    }
    let consoles = consoles(SERVICE);
    assert!(consoles.len() >= 5, "{}", consoles.len());
    for (heading, console) in consoles {
        let is_axum = heading == "## Or axum";
        let folder = if is_axum { &*AXUM_CRATE } else { &*ONE_CRATE };
        fs::remove_file(folder.join("notes.db")).ok();
        check(&console, folder, &[]);
    }
}

// ----- a service of one's own ------------------------------------------------

#[test]
fn a_kind_without_an_arm_is_an_error_of_the_compiler() {
    if !may_add_crates() {
        return;
    }
    let kind = "    Note(NotesHandler),\n";
    let more = ["src/main.rs", kind, &format!("{kind}    Other,\n")];
    let folder = write("service-armless", &[ONE], &[more]);
    let said = output(&mut bash("cargo check --quiet 2>&1", &folder)).0;
    assert!(said.contains("error[E0004]"), "{said}");
    assert!(said.contains("`&Handler::Other` not covered"), "{said}");
}

const JSON: &str = "Content-Type: application/json";

/// A request with these lines in its head, whose body may be anything.
fn ask(first: &str, lines: &str, body: &str) -> Vec<u8> {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    let head = format!("{first} HTTP/1.1\r\nHost: localhost\r\n");
    format!("{head}{lines}{length}Connection: close\r\n\r\n{body}").into_bytes()
}

fn json(first: &str, body: &str) -> Vec<u8> {
    ask(first, &format!("{JSON}\r\n"), body)
}

/// The status, in three digits.
fn code(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

/// What stands behind a name in the head of an answer.
fn header(answer: &str, name: &str) -> Option<String> {
    let lines = answer.lines().take_while(|line| !line.is_empty());
    let name = format!("{name}: ");
    let mut values = lines.filter_map(|line| line.strip_prefix(&name));
    values.next().map(str::to_owned)
}

#[test]
fn each_way_to_fail_has_its_status_and_the_connection_is_right_after_it() {
    if !may_add_crates() {
        return;
    }
    let server = Server::spawn(binary(&ONE_CRATE).env("SLEEP", "0"));
    let milk = r#"{"text":"milk"}"#;
    let is = |request: Vec<u8>, expected: &str| {
        let answer = server.exchange(&request);
        let request = String::from_utf8_lossy(&request).into_owned();
        let request: String = request.chars().take(200).collect();
        assert_eq!(code(&answer), expected, "{request}\n{answer}");
        answer
    };
    let large = format!(r#"{{"text":"{}"}}"#, "a".repeat(65_525));
    assert_eq!(large.len(), 65_536);
    let chunked = format!("{JSON}\r\nTransfer-Encoding: chunked\r\n");
    let chunk = |text: &str| {
        let chunk = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
        let head = ask("POST /notes", &chunked, "");
        [head, chunk.into_bytes()].concat()
    };

    is(json("POST /notes", milk), "201");
    is(json("POST /notes", &large), "201");
    is(chunk(milk), "201");
    is(chunk(&large), "201");
    is(
        ask("POST /notes", "content-type: APPLICATION/json;a=b\r\n", milk),
        "201",
    );
    for bad in ["", "{", "milk", "[]", r#"{"text":1}"#, "{}"] {
        is(json("POST /notes", bad), "400");
    }
    is(json("POST /notes", &"[".repeat(60_000)), "400");
    is(ask("POST /notes", "", milk), "415");
    is(ask("POST /notes", "Content-Type: text/plain\r\n", milk), "415");
    is(json("POST /notes", &format!("{large} ")), "413");
    is(chunk(&format!("{large} ")), "413");

    is(ask("GET /notes/1", "", ""), "200");
    is(ask("GET /", "", ""), "200");
    is(ask("GET /?query", "", ""), "200");
    for path in ["/notes/", "/notes/999", "/notes/1/2", "/notes/%31", "/other"]
    {
        is(ask(&format!("GET {path}"), "", ""), "404");
    }
    let not = |first, allowed: &str| {
        let answer = is(ask(first, "", ""), "405");
        assert_eq!(header(&answer, "allow").as_deref(), Some(allowed));
    };
    not("POST /", "GET");
    not("GET /notes", "POST");
    not("DELETE /notes/1", "GET");
    is(json("GET /notes/1", milk), "400");
    is(b"GET /notes/1 HTTP/1.1\r\nHost: user@h\r\n\r\n".to_vec(), "400");

    // A body that was not read ends the connection, and one that was does not.
    let keep = |request: Vec<u8>| {
        let request = String::from_utf8(request).expect("text");
        request.replace("Connection: close\r\n", "")
    };
    let refused = keep(ask("POST /notes", "", milk));
    let answer = server.exchange(refused.as_bytes());
    assert_eq!(header(&answer, "connection").as_deref(), Some("close"));
    let first = keep(json("POST /notes", milk));
    let both = [first.into_bytes(), json("POST /notes", milk)].concat();
    assert_eq!(server.exchange(&both).matches("201 Created").count(), 2);
}

#[test]
fn a_body_that_is_not_sent_in_time_is_a_408_and_costs_no_worker() {
    if !may_add_crates() {
        return;
    }
    let server = Server::spawn(&mut binary(&ONE_CRATE));
    let slow = json("POST /notes", r#"{"text":"milk"}"#);
    let clients = [(); 3].map(|()| server.send(&slow[..slow.len() - 1]));
    let answer = server.exchange(&json("POST /notes", r#"{"text":"tea"}"#));
    assert_eq!(header(&answer, "location").as_deref(), Some("/notes/1"));
    for client in clients {
        let answer = read_to_close(client);
        assert_eq!(code(&answer), "408", "{answer}");
        assert_eq!(header(&answer, "connection").as_deref(), Some("close"));
    }
    assert_eq!(status(&server.url("/notes/2")), "404");
}

/// curl sends `Expect: 100-continue` and waits. 1 s, then it would send.
#[test]
fn a_large_body_is_refused_before_it_is_sent() {
    if !may_add_crates() {
        return;
    }
    let server = Server::spawn(&mut binary(&ONE_CRATE));
    let file = scratch("large");
    fs::write(&file, vec![b'a'; 2_000_000]).expect("a file");
    let body = format!("@{}", file.display());
    let url = server.url("/notes");
    let options = ["-H", JSON, "--expect100-timeout", "30", "-o", "/dev/null"];
    let report = ["-w", "%{http_code} %{size_upload}", "--data-binary", &body];
    let said = fetch(&[&options[..], &report, &[&url]].concat());
    assert_eq!(said, "413 0");
}

#[test]
fn a_note_that_got_its_201_is_there_after_a_kill() {
    if !may_add_crates() {
        return;
    }
    let mut command = binary(&ONE_CRATE);
    let mut server = Server::spawn(&mut command);
    for number in 1..=20 {
        let body = format!(r#"{{"text":"note {number}"}}"#);
        let answer = server.exchange(&json("POST /notes", &body));
        let path = format!("/notes/{number}");
        assert_eq!(header(&answer, "location"), Some(path), "{answer}");
    }
    server.child.kill().expect("it runs");
    server.child.wait().expect("it is our child");
    let server = Server::spawn(&mut command);
    let last = fetch(&[&server.url("/notes/20")]);
    assert_eq!(last, r#"{"id":20,"text":"note 20"}"#);
}

/// What the database refuses is a 500 that says no more, and a line for us.
#[test]
fn a_database_that_fails_is_a_500_and_its_reason_is_on_stderr() {
    if !may_add_crates() {
        return;
    }
    let mut command = binary(&ONE_CRATE);
    let server = Server::spawn(&mut command);
    let folder = command.get_current_dir().expect("it has one");
    fs::write(folder.join("notes.db"), "x".repeat(9_000)).expect("a file");
    let answer = server.exchange(&json("POST /notes", r#"{"text":"milk"}"#));
    assert_eq!(code(&answer), "500", "{answer}");
    assert!(answer.ends_with("the notes are out of order\"}"), "{answer}");
    let said = server.stderr();
    assert!(said.contains("\nnotes: file is not a database"), "{said}");
}

/// All of the sleepers' workers are held, and the notes answer.
#[test]
fn sleepers_keep_nobody_from_the_notes() {
    if !may_add_crates() {
        return;
    }
    let mut command = binary(&ONE_CRATE);
    let server = Server::spawn(command.envs([("WORKERS", "2")]));
    let _clients = [common::GET; 5].map(|request| server.send(request));
    wait_until("two sleepers", || server.going() == 2);
    let answer = server.exchange(&json("POST /notes", r#"{"text":"milk"}"#));
    assert_eq!((code(&answer), server.done()), ("201", 0), "{answer}");
}

/// A client leaves. Does its job end before its time, and the next one begin?
#[track_caller]
fn leave(folder: &Path, sleep: &str) -> Server {
    let mut command = binary(folder);
    command.envs([("WORKERS", "1"), ("SLEEP", sleep)]);
    let server = Server::spawn(&mut command);
    let client = server.send(common::GET);
    wait_until("its job", || server.going() == 1);
    drop(client);
    let _next = server.send(common::GET);
    wait_until("the next job", || server.going() == 2);
    server
}

/// The whole job would take longer than this waits. A look comes after each
/// five seconds.
#[test]
fn a_job_whose_client_has_left_ends_at_its_next_look() {
    if !may_add_crates() {
        return;
    }
    let server = leave(&ONE_CRATE, "100");
    let lines = ["going to sleep", "sleeps no more", "going to sleep"];
    let lines = lines.map(|line| format!("{line} 127.0.0.1\n"));
    assert_eq!(server.stdout(), lines.concat());
}

#[test]
fn a_job_that_does_not_look_keeps_its_worker_to_the_end() {
    if !may_add_crates() {
        return;
    }
    let blind = ["src/main.rs", "if !wanted() {", "if false && !wanted() {"];
    let server = leave(&make("service-blind", &[ONE], &[blind]), "3");
    let lines = ["going to sleep", "done sleeping", "going to sleep"];
    let lines = lines.map(|line| format!("{line} 127.0.0.1\n"));
    assert_eq!(server.stdout(), lines.concat());
}

/// The tests that the chapter lists, and the one that the reader writes.
#[test]
fn the_readers_own_test_fails_and_then_passes() {
    if !may_add_crates() {
        return;
    }
    let all = parts(SERVICE);
    let mut own = all.iter().filter(|part| part.kind == "rust,ignore");
    let mut next = || own.next().expect("test, then line").lines.join("\n");
    let (test, line) = (next(), next());
    let file = "src/notes.rs";
    let last = "async fn text_that_claims_to_be_no_json_is_a_415() {";
    let ask = "let note = self.ask(|notes| notes.add(new.text)).await?;";
    let with_test =
        format!("{}\n\n    #[tokio::test]\n    {last}", test.trim());
    let with_test = [file, &format!("#[tokio::test]\n    {last}"), &with_test];
    let with_line = [file, ask, &format!("{}\n        {ask}", line.trim())];
    for (name, changes, passed, failed) in [
        ("service-plain", vec![], 3, 0),
        ("service-tested", vec![with_test], 3, 1),
        ("service-mended", vec![with_test, with_line], 4, 0),
    ] {
        let folder = make(name, &[ONE], &changes);
        let mut cargo = bash("cargo test --quiet", &folder);
        let output = cargo.output().expect("bash is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = format!("{passed} passed; {failed} failed");
        assert!(said.contains(&told), "{name}: {told}?\n{said}");
    }
}

// ----- the executor in axum --------------------------------------------------

#[test]
fn in_axum_the_executor_keeps_its_limit_and_leavers_leave_the_queue() {
    if !may_add_crates() {
        return;
    }
    let server = Server::spawn(&mut binary(&AXUM_CRATE));
    let ask = || server.send(&ask("GET /sleep/5", "", ""));
    let [first, second] = [(); 2].map(|()| ask());
    wait_until("two jobs", || server.going() == 2);
    let (left, last) = (ask(), ask());
    server.settle();
    drop(left);
    server.settle();
    assert_eq!((server.going(), server.done()), (2, 0), "two at once");
    for client in [first, second, last] {
        let answer = read_to_close(client);
        assert!(answer.ends_with("\r\n\r\nslept 5 s"), "{answer}");
    }
    assert_eq!((server.going(), server.done(), server.peak()), (3, 3, 2));
}

// ----- jobs: a database, replicas, nginx -------------------------------------

/// A PostgreSQL of one test, made as the chapter says.
struct Database {
    folder: PathBuf,
    port: u16,
    /// initdb refuses root. So root does it as somebody else.
    user: String,
}

impl Database {
    /// `None` if the machine has no PostgreSQL.
    #[track_caller]
    fn start() -> Option<Self> {
        find("psql")?;
        let user = run(&mut bash("id -un", Path::new("/")));
        let user = if user.trim() == "root" { "postgres" } else { user.trim() };
        let name = scratch("jobs").file_name().expect("a name").to_owned();
        let folder = std::env::temp_dir().join(name);
        let it = Self { folder, port: free_port(), user: user.to_owned() };

        fs::create_dir(&it.folder).expect("a folder");
        let sql = "tutorial/service/jobs.sql";
        let (sql, copy) = (Path::new(ROOT).join(sql), it.folder.join("it.sql"));
        fs::copy(sql, &copy).expect("a copy");
        let owner = format!("chown -R {} .", it.user);
        run(&mut bash(&owner, &it.folder));

        let script = block(JOBS, "initdb");
        let sql = "../threaded-tokio/tutorial/service/jobs.sql";
        let change = |script: String, old: &str, new: &str| {
            assert!(script.contains(old), "{old} is not in {script}");
            script.replace(old, new)
        };
        let data = it.folder.join("data").display().to_string();
        let script = change(script, sql, &copy.display().to_string());
        let script = change(script, "/tmp/jobs-db", &data);
        let script = change(script, "5433", &it.port.to_string());
        run(&mut it.bash(&script));
        Some(it)
    }

    /// A command of the user whose database it is.
    fn bash(&self, script: &str) -> Command {
        let settings = block(JOBS, "initdb");
        let path = settings.lines().find(|line| line.starts_with("PATH="));
        let data = self.folder.join("data");
        let (port, path) = (self.port, path.expect("it is there"));
        let script = format!(
            "{path}\nexport PGDATA={} PGHOST=127.0.0.1 PGPORT={port}\n{script}",
            data.display()
        );
        let mut command = bash(&script, &self.folder);
        if self.user == "postgres" {
            command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "bash", "-ec", &script]);
            command.current_dir(&self.folder);
        }
        command
    }

    #[track_caller]
    fn control(&self, what: &str) {
        run(&mut self.bash(&format!("pg_ctl --wait --log log {what}")));
    }

    #[track_caller]
    fn sql(&self, query: &str) -> String {
        let port = self.port.to_string();
        let mut psql = Command::new("psql");
        psql.args(["-h", "127.0.0.1", "-p", &port, "-U", &self.user]);
        run(psql.args(["-d", "jobs", "-Atqc", query])).trim().to_owned()
    }

    fn count(&self, rows: &str) -> usize {
        let count = self.sql(&format!("SELECT count(*) FROM {rows}"));
        count.parse().expect("a number")
    }

    fn url(&self) -> String {
        format!("postgresql://{}@127.0.0.1:{}/jobs", self.user, self.port)
    }

    /// A replica with that many takers, whose jobs take so many seconds.
    #[track_caller]
    fn replica(&self, folder: &Path, takers: &str, sleep: &str) -> Command {
        let mut command = binary(folder);
        command.env("DATABASE_URL", self.url());
        command.envs([("TAKERS", takers), ("SLEEP", sleep)]);
        command.env("PORT", free_port().to_string());
        command
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.bash("pg_ctl -m immediate stop").output().ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Posts a job and returns where it is.
#[track_caller]
fn post(server: &Server, key: &str) -> String {
    let answer = server.exchange(&post_with(key));
    assert_eq!(code(&answer), "202", "{answer}");
    header(&answer, "location").expect("202 has a Location")
}

fn post_with(key: &str) -> Vec<u8> {
    ask("POST /jobs", &format!("Idempotency-Key: {key}\r\n"), "")
}

/// What is said of a job: its state and its result.
#[track_caller]
fn look(server: &Server, path: &str) -> String {
    let answer = server.exchange(&ask(&format!("GET {path}"), "", ""));
    assert_eq!(code(&answer), "200", "{answer}");
    let (_, said) = answer.split_once("\"state\":").expect("a state");
    said.trim_end_matches('}').to_owned()
}

const DONE: &str = r#""done","result":"msg to client 127.0.0.1""#;
const WAITING: &str = r#""waiting","result":null"#;

/// A database with the service's second crate, or the test is skipped.
#[track_caller]
fn database() -> Option<Database> {
    if may_add_crates() { Database::start() } else { None }
}

#[test]
fn what_the_chapter_on_jobs_shows_is_what_its_crate_prints() {
    let Some(database) = database() else { return };
    let url = block(JOBS, "export DATABASE_URL");
    let url =
        url.replace("127.0.0.1:5433", &format!("127.0.0.1:{}", database.port));
    let url = url.replace("//", &format!("//{}@", database.user));
    assert_eq!(url, format!("export DATABASE_URL={}", database.url()));
    let consoles = consoles(JOBS);
    assert!(!consoles.is_empty());
    for (_, console) in consoles {
        check(&console, &TWO_CRATE, &[("DATABASE_URL", &database.url())]);
    }
}

#[test]
fn a_key_makes_one_job_and_no_key_makes_one_each_time() {
    let Some(database) = database() else { return };
    let server = Server::spawn(&mut database.replica(&TWO_CRATE, "1", "0"));
    let clients =
        (0..40).map(|i| server.send(&post_with(&format!("{}", i / 20))));
    let clients: Vec<_> = clients.collect();
    let places = clients.into_iter().map(|client| {
        let answer = read_to_close(client);
        assert_eq!(code(&answer), "202", "{answer}");
        header(&answer, "location").expect("202 has a Location")
    });
    let places: Vec<_> = places.collect();
    assert!(places[..20].iter().all(|place| *place == places[0]));
    assert!(places[20..].iter().all(|place| *place == places[20]));
    assert_eq!(database.count("jobs"), 2, "{places:?}");
    for place in [&places[0], &places[20]] {
        wait_until("the result", || look(&server, place) == DONE);
    }
    assert_eq!(post(&server, "0"), places[0], "also when it is done");

    for bad in ["x".repeat(256), "\u{e9}".to_owned()] {
        assert_eq!(code(&server.exchange(&post_with(&bad))), "400", "{bad}");
    }
    let no_key = ask("POST /jobs", "", "");
    for _ in 0..2 {
        assert_eq!(code(&server.exchange(&no_key)), "202");
    }
    assert_eq!(database.count("jobs"), 4);
    for (first, expected) in [
        ("GET /jobs/999", "404"),
        ("GET /jobs/one", "404"),
        ("GET /jobs", "405"),
        ("POST /jobs/1", "405"),
    ] {
        assert_eq!(code(&server.exchange(&ask(first, "", ""))), expected);
    }
    let body = ask("POST /jobs", "", "x");
    assert_eq!(code(&server.exchange(&body)), "400");
}

/// How many jobs start, of four, with four takers and jobs that do not end.
/// Meanwhile, everybody who asks is answered.
#[track_caller]
fn busy(folder: &Path, database: &Database) -> usize {
    let mut command = database.replica(folder, "4", "3600");
    let server = Server::spawn(&mut command);
    let places = ["a", "b", "c", "d"].map(|key| post(&server, key));
    wait_until("a job", || server.going() > 0);
    // Each taker has asked by then, and more than once.
    sleep(Duration::from_secs(3));
    for place in &places {
        assert_eq!(look(&server, place), WAITING);
    }
    assert_eq!(post(&server, "a"), places[0], "its row is locked");
    let connections = "pg_stat_activity WHERE backend_type = 'client backend'";
    // Two who ask and four who take, and the one that counts.
    assert!(database.count(connections) <= 7);
    assert_eq!(server.done(), 0);
    server.going()
}

#[test]
fn takers_each_take_another_job_and_keep_nobody_from_asking() {
    let Some(database) = database() else { return };
    assert_eq!(busy(&TWO_CRATE, &database), 4);
}

#[test]
fn without_skip_locked_all_takers_wait_for_one_job() {
    let Some(database) = database() else { return };
    let change = ["src/jobs.rs", "FOR UPDATE SKIP LOCKED", "FOR UPDATE"];
    let folder = make("service-in-line", &[ONE, TWO], &[change]);
    assert_eq!(busy(&folder, &database), 1);
}

#[test]
fn a_core_that_panics_three_times_has_failed() {
    let Some(database) = database() else { return };
    let sleep = "thread::sleep(self.sleep / STEPS);";
    let panic = "assert!(self.sleep.is_zero(), \"broken\");";
    let change = ["src/main.rs", sleep, panic];
    let folder = make("service-panics", &[ONE, TWO], &[change]);
    let server = Server::spawn(&mut database.replica(&folder, "2", "1"));
    let places = ["a", "b"].map(|key| post(&server, key));
    let failed = r#""failed","result":null"#;
    for place in places {
        wait_until("the end", || look(&server, &place) == failed);
    }
    assert_eq!(server.going(), 6);
    assert_eq!(database.count("jobs WHERE panics = 3"), 2);
}

/// The database stops, then starts. The replica goes on.
#[test]
fn while_the_database_is_gone_clients_get_503_and_then_their_jobs() {
    let Some(database) = database() else { return };
    let mut server = Server::spawn(&mut database.replica(&TWO_CRATE, "2", "0"));
    let place = post(&server, "a");
    wait_until("the result", || look(&server, &place) == DONE);
    for mode in ["fast", "immediate"] {
        database.control(&format!("-m {mode} stop"));
        for request in [post_with(mode), ask(&format!("GET {place}"), "", "")] {
            let answer = server.exchange(&request);
            assert_eq!(code(&answer), "503", "{answer}");
            let retry = header(&answer, "retry-after");
            assert_eq!(retry.as_deref(), Some("5"));
        }
        assert_eq!(status(&server.url("/")), "200", "the rest goes on");
        database.control("-o \"-k ''\" start");
        let place = post(&server, mode);
        wait_until("the result", || look(&server, &place) == DONE);
    }
    server.signal("TERM");
    assert_eq!(server.exit_status(), Some(0));
    let said = server.stderr();
    assert!(said.contains("jobs: "), "{said}");
    // As a connection does that the loop drops.
    assert!(!said.contains("panicked"), "{said}");
}

/// A database that answers nothing at all: here nobody speaks PostgreSQL.
#[test]
fn a_database_that_hangs_is_a_503_too() {
    if !may_add_crates() {
        return;
    }
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("it is bound").port();
    let mut command = binary(&TWO_CRATE);
    command.env("DATABASE_URL", format!("postgresql://a@127.0.0.1:{port}/b"));
    let server = Server::spawn(&mut command);
    // Two hold the workers, and one waits in line.
    let clients = ["a", "b", "c"].map(|key| server.send(&post_with(key)));
    for client in clients {
        assert_eq!(code(&read_to_close(client)), "503");
    }
}

#[test]
fn a_bad_url_is_one_line_without_the_password_and_the_status_1() {
    if !may_add_crates() {
        return;
    }
    let mut command = binary(&TWO_CRATE);
    command.env("DATABASE_URL", "postgresql://ada:secret@[::1");
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("cannot read DATABASE_URL: "), "{said}");
    assert_eq!((said.lines().count(), output.status.code()), (1, Some(1)));
    assert!(!said.contains("secret"), "{said}");
}

/// Nobody says goodbye. The lock is gone with the connection.
#[test]
fn the_job_of_a_replica_that_is_killed_is_taken_by_another() {
    let Some(database) = database() else { return };
    let mut first =
        Server::spawn(&mut database.replica(&TWO_CRATE, "1", "3600"));
    let place = post(&first, "a");
    wait_until("its job", || first.going() == 1);
    let other = Server::spawn(&mut database.replica(&TWO_CRATE, "1", "0"));
    // It asks once a second, and gets nothing.
    sleep(Duration::from_secs(3));
    assert_eq!((other.going(), &*look(&other, &place)), (0, WAITING));
    first.child.kill().expect("it runs");
    wait_until("the result", || look(&other, &place) == DONE);
    assert_eq!((other.going(), database.count("jobs")), (1, 1));
}

/// The first job ends in time. The second would not: it is given back.
#[test]
fn a_replica_that_is_stopped_ends_its_job_or_gives_it_back() {
    let Some(database) = database() else { return };
    let mut first = Server::spawn(&mut database.replica(&TWO_CRATE, "1", "3"));
    let place = post(&first, "a");
    wait_until("its job", || first.going() == 1);
    // No result yet, whoever asks.
    assert_eq!(look(&first, &place), WAITING);
    first.signal("TERM");
    assert_eq!((first.exit_status(), first.done()), (Some(0), 1));

    let mut long =
        Server::spawn(&mut database.replica(&TWO_CRATE, "1", "3600"));
    assert_eq!(look(&long, &place), DONE);
    let place = post(&long, "b");
    wait_until("its job", || long.going() == 1);
    let other = Server::spawn(&mut database.replica(&TWO_CRATE, "1", "0"));
    long.signal("TERM");
    assert_eq!((long.exit_status(), long.done()), (Some(0), 0));
    wait_until("the result", || look(&other, &place) == DONE);
    assert_eq!((other.going(), database.count("jobs")), (1, 2));
}

/// nginx as its chapter has it, in front of two replicas.
#[track_caller]
fn nginx(ports: [&str; 2]) -> Option<Server> {
    let nginx = find("nginx")?;
    let port = free_port();
    let mut conf = read("tutorial/nginx.conf");
    let own = port.to_string();
    for (old, new) in
        [("8080", &own[..]), ("8888", ports[0]), ("8889", ports[1])]
    {
        let old = format!("127.0.0.1:{old}");
        conf = conf.replace(&old, &format!("127.0.0.1:{new}"));
    }
    let folder = scratch_folder();
    fs::write(folder.join("nginx.conf"), conf).expect("a file");
    let mut command = Command::new(nginx);
    command.arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf"));
    Some(Server::other(&mut command, port))
}

/// Numbers that a seed decides: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

const ALL: usize = 300;

/// Posts these jobs, and each once more. Whoever gets no 202 asks again with
/// the same key. Returns where they are.
fn post_twice(proxy: &Server, keys: &[usize], mut dice: Dice) -> Vec<String> {
    let start = Instant::now();
    let mut post = |key: usize| loop {
        sleep(Duration::from_millis(dice.below(80)));
        let answer = proxy.exchange(&post_with(&format!("key-{key}")));
        match header(&answer, "location") {
            Some(place) if code(&answer) == "202" => break place,
            _ => assert!(start.elapsed() < 2 * LONG, "{key}: {answer}"),
        }
    };
    let places: Vec<_> = keys.iter().map(|key| post(*key)).collect();
    for (key, place) in keys.iter().zip(&places) {
        assert_eq!(post(*key), *place, "key-{key}");
    }
    places
}

/// `SEED=2 SKIP_NOTHING=1 cargo test --test service three_hundred` is another
/// run than with 1.
#[test]
fn three_hundred_jobs_have_one_result_each_whoever_is_killed_meanwhile() {
    let Some(database) = database() else { return };
    let seed =
        std::env::var("SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
    for _ in 0..20 {
        dice.below(2);
    }
    // Each result that is written leaves a row, in the same transaction.
    database.sql(
        "CREATE TABLE results (job bigint);
         CREATE FUNCTION write() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO results VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER write AFTER UPDATE ON jobs FOR EACH ROW
           WHEN (NEW.state <> 'waiting') EXECUTE FUNCTION write()",
    );
    let mut commands =
        [(); 2].map(|()| database.replica(&TWO_CRATE, "4", "0.2"));
    let ports = commands.each_ref().map(|command| {
        let mut set = command.get_envs().filter(|(name, _)| *name == "PORT");
        let port = set.next().and_then(|(_, port)| port).expect("it is set");
        port.to_str().expect("a number").to_owned()
    });
    let Some(proxy) = nginx(ports.each_ref().map(|port| &port[..])) else {
        return;
    };
    let mut replicas =
        commands.each_mut().map(|command| Server::spawn(command));

    // When so many results are there, this happens. 6 is the database.
    let mut events: Vec<_> = (0..7)
        .map(|event| {
            (10 + usize::try_from(dice.below(270)).expect("few"), event)
        })
        .collect();
    events.sort_unstable();
    let starts = AtomicUsize::new(0);
    let places: Vec<String> = thread::scope(|scope| {
        let keys: Vec<_> = (0..ALL).collect();
        let posts = keys.chunks(ALL / 4).map(|keys| {
            let (proxy, dice) = (&proxy, Dice(dice.below(u64::MAX - 1) + 1));
            let keys = keys.to_vec();
            scope.spawn(move || post_twice(proxy, &keys, dice))
        });
        let posts: Vec<_> = posts.collect();
        for (results, event) in events {
            wait_until("results", || database.count("results") >= results);
            sleep(Duration::from_millis(dice.below(200)));
            if event == 6 {
                let mode =
                    ["fast", "immediate"][usize::from(dice.below(2) > 0)];
                database.control(&format!("-m {mode} restart"));
                continue;
            }
            let which = usize::from(dice.below(2) > 0);
            replicas[which].child.kill().expect("it runs");
            replicas[which].child.wait().expect("it is our child");
            starts.fetch_add(replicas[which].going(), Relaxed);
            replicas[which] = Server::spawn(&mut commands[which]);
        }
        let places = posts.into_iter().map(|it| it.join().expect("it ends"));
        places.collect::<Vec<_>>().concat()
    });
    let waiting = "jobs WHERE state = 'waiting'";
    wait_until("all results", || database.count(waiting) == 0);

    assert_eq!(database.count("jobs"), ALL, "each key has one job");
    assert_eq!(database.count("jobs WHERE state = 'done'"), ALL);
    let each = "(SELECT job FROM results GROUP BY job HAVING count(*) = 1) r";
    assert_eq!(database.count("results"), ALL, "results that were written");
    assert_eq!(database.count(each), ALL, "jobs with one result");
    assert_eq!(places.len(), ALL);
    for place in &places {
        assert_eq!(look(&proxy, place), DONE, "{place}");
    }
    let going = replicas.iter().map(Server::going).sum::<usize>();
    let starts = starts.into_inner() + going;
    let again = starts - ALL;
    // Not eprintln!, which a test that passes keeps for itself.
    writeln!(
        stderr(),
        "seed {seed}: {ALL} jobs, {ALL} results, {starts} starts: {again} for \
         nothing"
    )
    .ok();
    // Six times the four jobs of a replica, and once the eight of both.
    assert!((1..=32).contains(&again), "{again}: who was killed at work?");
}
