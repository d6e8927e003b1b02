//! The service of one's own and the jobs that outlive the process, made as
//! their chapters say, and asked. That takes crates of others, nginx and
//! PostgreSQL: without SKIP_NOTHING=1, nothing is proven and nothing fails.

mod common;

use common::chapter::{Part, parts, read};
use common::{
    LONG, ROOT, Server, curl_command, fetch, find, free_port, read_to_close,
    scratch, signal, skip, status, thorough, wait_until,
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

const SERVICE: &str = "tutorial/s1-a-service-of-your-own.md";
const JOBS: &str = "tutorial/s2-work-that-outlives.md";

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

#[track_caller]
fn run(bash: &mut Command) -> String {
    let bash = bash.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = common::output(bash);
    let said = [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{bash:?}: {}{}", said[0], said[1]);
    said[0].clone()
}

/// Makes a crate of that name by blocks of chapters, with some changes of its
/// sources, and builds it. Returns its folder.
#[track_caller]
fn make(name: &str, blocks: &[(&str, &str)], changes: &[[&str; 3]]) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("services");
    fs::create_dir_all(&place).expect("a folder");
    symlink(ROOT, place.join("threaded-tokio")).ok();
    let folder = place.join(name);
    fs::remove_dir_all(&folder).ok();
    for (chapter, words) in blocks {
        let script = block(chapter, words);
        let script = script.strip_prefix("cd ..\n").unwrap_or(&script);
        let script = ["my-server", "my-axum"]
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
    run(&mut bash("cargo build --quiet", &folder));
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

const ONE: (&str, &str) = (SERVICE, "cargo new my-server");
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
            compare(&at, &told.join("\n"), &run(&mut bash), false);
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
