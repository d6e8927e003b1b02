//! The service of one's own and the jobs that outlive the process, made as
//! their chapters say, and asked.

mod common;

use common::nginx::nginx;
use common::*;

const SERVICE: &str = "tutorial/20-a-service-of-your-own.md";
const JOBS: &str = "tutorial/21-work-that-outlives.md";

// ----- crates, made as the chapters say --------------------------------------

/// The commands that make the service.
fn service() -> String {
    shown(SERVICE, "## Make it", "sh")
}

/// The commands that make the service with jobs.
fn jobs() -> String {
    service() + &shown(JOBS, "## Make it", "sh")
}

#[track_caller]
fn change(folder: &Path, [file, old, new]: [&str; 3]) {
    let file = folder.join(file);
    let text = fs::read_to_string(&file).expect("it is there");
    fs::write(file, replaced(&text, old, new)).expect("it can be changed");
}

/// Makes a crate of that name, with a change or without, and builds it.
/// Returns its folder.
#[track_caller]
fn built(name: &str, commands: &str, its_change: Option<[&str; 3]>) -> PathBuf {
    let folder = made(name, commands);
    its_change.into_iter().for_each(|it| change(&folder, it));
    build_in(&folder, &[]);
    folder
}

static ONE: LazyLock<PathBuf> =
    LazyLock::new(|| built("service-one", &service(), None));
static TWO: LazyLock<PathBuf> =
    LazyLock::new(|| built("service-two", &jobs(), None));
static AXUM: LazyLock<PathBuf> = LazyLock::new(|| {
    let commands = shown(SERVICE, "## Or axum", "sh");
    let commands = commands.strip_prefix("cd ..\n").expect("it follows on");
    built("service-axum", commands, None)
});

/// The program of a crate, in a new folder, where its notes will be.
fn program(made: &Path, settings: &[(&str, &str)]) -> Command {
    let name = made.file_name().expect("it has a name");
    let mut program = Command::new(target().join("debug").join(name));
    program.envs(settings.iter().copied()).current_dir(folder("service"));
    program
}

#[track_caller]
fn start(made: &Path, settings: &[(&str, &str)]) -> Server {
    Server::spawn(&mut program(made, settings))
}

// ----- what the chapters show ------------------------------------------------

fn consoles(chapter: &str) -> impl Iterator<Item = Part> {
    parts(chapter).into_iter().filter(|part| part.kind == "console")
}

/// Runs the commands of a block, and compares.
#[track_caller]
fn compare(console: &Part, folder: &Path, database: Option<String>) {
    let mut workshop = WORKSHOP.clone();
    workshop.settings.push(("DATABASE_URL", database));
    // As `built` has it: what the compiler warns of would be printed, too.
    workshop.settings.push(("RUSTC_WORKSPACE_WRAPPER", None));
    let wrong = workshop.run(console, folder).unwrap_or_else(|why| vec![why]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
#[ignore = "takes other crates"]
fn what_the_chapter_on_a_service_shows_is_what_its_crates_print() {
    assert!(consoles(SERVICE).count() >= 5);
    let axum = blocks(SERVICE, "## Or axum", "console");
    for console in consoles(SERVICE) {
        let is_axum = axum.iter().any(|it| it.start == console.start);
        let folder = if is_axum { &*AXUM } else { &*ONE };
        fs::remove_file(folder.join("notes.db")).ok();
        compare(&console, folder, None);
    }
}

// ----- a service of one's own ------------------------------------------------

#[test]
#[ignore = "takes other crates"]
fn a_kind_without_an_arm_is_an_error_of_the_compiler() {
    let folder = made("service-armless", &service());
    let kind = "    Note(NotesHandler),\n";
    change(&folder, ["src/main.rs", kind, &format!("{kind}    Other,\n")]);
    let (_, said) = cargo(&folder, &["check", "--quiet"]);
    assert!(said.contains("error[E0004]"), "{said}");
    assert!(said.contains("`&Handler::Other` not covered"), "{said}");
}

const JSON: &str = "Content-Type: application/json\r\n";
const MILK: &str = r#"{"text":"milk"}"#;

/// A request with these lines in its head, whose body may be anything.
fn ask(first: &str, lines: &str, body: &str) -> Vec<u8> {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    let head = format!("{first} HTTP/1.1\r\nHost: localhost\r\n");
    format!("{head}{lines}{length}Connection: close\r\n\r\n{body}").into_bytes()
}

fn get(path: &str) -> Vec<u8> {
    ask(&format!("GET {path}"), "", "")
}

fn post_note(body: &str) -> Vec<u8> {
    ask("POST /notes", JSON, body)
}

/// Sends a request and returns the answer, which must have that status.
#[track_caller]
fn answer(server: &Server, request: &[u8], status: &str) -> String {
    let answer = server.exchange(request);
    let request = String::from_utf8_lossy(request);
    assert_eq!(code(&answer), status, "{request:.200}\n{answer}");
    answer
}

/// The status, in three digits.
fn code(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

/// What stands behind a name in the head of an answer.
fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.lines().take_while(|line| !line.is_empty());
    let mut values = lines.filter_map(|line| line.strip_prefix(name));
    values.find_map(|rest| rest.strip_prefix(": "))
}

#[test]
#[ignore = "takes other crates"]
fn each_way_to_fail_has_its_status_and_the_connection_is_right_after_it() {
    let server = start(&ONE, &[("SLEEP", "0")]);
    let large = format!(r#"{{"text":"{}"}}"#, "a".repeat(65_525));
    assert_eq!(large.len(), 65_536);
    let too_large = format!("{large} ");
    let chunked = |text: &str| {
        let lines = format!("{JSON}Transfer-Encoding: chunked\r\n");
        let chunk = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
        [ask("POST /notes", &lines, ""), chunk.into_bytes()].concat()
    };
    let typed = |line: &str| ask("POST /notes", line, MILK);

    let each = |status: &str, requests: &[Vec<u8>]| {
        requests.iter().for_each(|it| drop(answer(&server, it, status)));
    };
    each("201", &[MILK, &large].map(post_note));
    each("201", &[MILK, &large].map(chunked));
    each("201", &[typed("content-type: APPLICATION/json;a=b\r\n")]);
    each("400", &["", "{", "milk", "[]", r#"{"text":1}"#, "{}"].map(post_note));
    each("400", &[post_note(&"[".repeat(60_000))]);
    each("415", &["", "Content-Type: text/plain\r\n"].map(typed));
    each("413", &[post_note(&too_large), chunked(&too_large)]);

    each("200", &["/notes/1", "/", "/?query"].map(get));
    each("404", &["/notes/", "/notes/999", "/notes/1/2"].map(get));
    each("404", &["/notes/%31", "/other"].map(get));
    each("400", &[ask("GET /notes/1", JSON, MILK)]);
    let host = b"GET /notes/1 HTTP/1.1\r\nHost: user@h\r\n\r\n";
    each("400", &[host.to_vec()]);
    for (first, allowed) in
        [("POST /", "GET"), ("GET /notes", "POST"), ("DELETE /notes/1", "GET")]
    {
        let answer = answer(&server, &ask(first, "", ""), "405");
        assert_eq!(header(&answer, "allow"), Some(allowed));
    }

    // A body that was not read ends the connection, and one that was does not.
    let keep = |request: Vec<u8>| {
        let request = String::from_utf8(request).expect("text");
        request.replace("Connection: close\r\n", "").into_bytes()
    };
    let refused = server.exchange(&keep(typed("")));
    assert_eq!(header(&refused, "connection"), Some("close"));
    let both = [keep(post_note(MILK)), post_note(MILK)].concat();
    assert_eq!(server.exchange(&both).matches("201 Created").count(), 2);
}

#[test]
#[ignore = "takes other crates"]
fn a_body_that_is_not_sent_in_time_is_a_408_and_costs_no_worker() {
    let server = start(&ONE, &[]);
    let slow = post_note(MILK);
    let clients = [(); 3].map(|()| server.send(&slow[..slow.len() - 1]));
    let tea = server.exchange(&post_note(r#"{"text":"tea"}"#));
    assert_eq!(header(&tea, "location"), Some("/notes/1"));
    for client in clients {
        let answer = read_to_close(client);
        assert_eq!(code(&answer), "408", "{answer}");
        assert_eq!(header(&answer, "connection"), Some("close"));
    }
    assert_eq!(status(&server.url("/notes/2")), "404");
}

/// curl sends `Expect: 100-continue` and waits. 1 s, then it would send.
#[test]
#[ignore = "takes other crates"]
fn a_large_body_is_refused_before_it_is_sent() {
    let server = start(&ONE, &[]);
    let file = scratch("large");
    fs::write(&file, vec![b'a'; 2_000_000]).expect("a file");
    let body = format!("@{}", file.display());
    let url = server.url("/notes");
    let head =
        ["-H", JSON.trim(), "--expect100-timeout", "30", "--data-binary"];
    let report = ["-o", "/dev/null", "-w", "%{http_code} %{size_upload}"];
    let said = fetch(&[&head[..], &[&body], &report, &[&url]].concat());
    assert_eq!(said, "413 0");
}

#[test]
#[ignore = "takes other crates"]
fn a_note_that_got_its_201_is_there_after_a_kill() {
    let mut program = program(&ONE, &[]);
    let mut server = Server::spawn(&mut program);
    for number in 1..=20 {
        let body = format!(r#"{{"text":"note {number}"}}"#);
        let answer = server.exchange(&post_note(&body));
        let path = format!("/notes/{number}");
        assert_eq!(header(&answer, "location"), Some(&*path), "{answer}");
    }
    server.kill();
    let server = Server::spawn(&mut program);
    let last = fetch(&[&server.url("/notes/20")]);
    assert_eq!(last, r#"{"id":20,"text":"note 20"}"#);
}

/// What the database refuses is a 500 that says no more, and a line for us.
#[test]
#[ignore = "takes other crates"]
fn a_database_that_fails_is_a_500_and_its_reason_is_on_stderr() {
    let mut program = program(&ONE, &[]);
    let server = Server::spawn(&mut program);
    let folder = program.get_current_dir().expect("it has one");
    fs::write(folder.join("notes.db"), "x".repeat(9_000)).expect("a file");
    let answer = answer(&server, &post_note(MILK), "500");
    assert!(answer.ends_with("the notes are out of order\"}"), "{answer}");
    let said = server.stderr();
    assert!(said.contains("\nnotes: file is not a database"), "{said}");
}

/// All of the sleepers' workers are held, and the notes answer.
#[test]
#[ignore = "takes other crates"]
fn sleepers_keep_nobody_from_the_notes() {
    let server = start(&ONE, &[("WORKERS", "2")]);
    let _clients = [GET; 5].map(|request| server.send(request));
    wait_until("two sleepers", || server.going() == 2);
    answer(&server, &post_note(MILK), "201");
    assert_eq!(server.done(), 0);
}

/// One that looks ends before its time, as the chapter shows.
#[test]
#[ignore = "takes other crates"]
fn a_job_that_does_not_look_keeps_its_worker_to_the_end() {
    let blind = ["src/main.rs", "if !wanted() {", "if false && !wanted() {"];
    let blind = built("service-blind", &service(), Some(blind));
    let server = start(&blind, &[("WORKERS", "1"), ("SLEEP", "3")]);
    let client = server.send(GET);
    wait_until("its job", || server.going() == 1);
    drop(client);
    let _next = server.send(GET);
    wait_until("the next job", || server.going() == 2);
    let lines = ["going to sleep", "done sleeping", "going to sleep"];
    let lines = lines.map(|line| format!("{line} 127.0.0.1\n"));
    assert_eq!(server.stdout(), lines.concat());
}

/// The tests that the chapter lists, and the one that the reader writes.
#[test]
#[ignore = "takes other crates"]
fn the_readers_own_test_fails_and_then_passes() {
    let folder = made("service-tested", &service());
    let assert_says = |told: &str| {
        let (_, said) = cargo(&folder, &["test", "--quiet"]);
        assert!(said.contains(told), "{told}?\n{said}");
    };
    let heading = "## Tests that start no server";
    let own = blocks(SERVICE, heading, "rust,ignore");
    let [test, line] = &own[..] else { panic!("not a test, then a line") };
    assert_says("3 passed; 0 failed");

    let last = "    #[tokio::test]\n    \
                async fn text_that_claims_to_be_no_json_is_a_415() {";
    let with_test = format!("{}\n{last}", test.text());
    change(&folder, ["src/notes.rs", last, &with_test]);
    assert_says("3 passed; 1 failed");

    let ask =
        "        let note = self.ask(|notes| notes.add(new.text)).await?;";
    change(&folder, ["src/notes.rs", ask, &(line.text() + ask)]);
    assert_says("4 passed; 0 failed");
}

// ----- the executor in axum --------------------------------------------------

#[test]
#[ignore = "takes other crates"]
fn in_axum_the_executor_keeps_its_limit_and_leavers_leave_the_queue() {
    let server = start(&AXUM, &[]);
    let ask = || server.send(&get("/sleep/5"));
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
    /// What is typed first in each shell.
    settings: String,
}

impl Database {
    #[track_caller]
    fn start() -> Self {
        let prepare = "user=$(id -un)
            [ $(id -u) != 0 ] || user=postgres
            folder=$(mktemp -d) # not where only root may be
            cp tutorial/service/jobs.sql $folder
            chown -R $user $folder
            echo $user $folder";
        let prepared = printed(bash(prepare).current_dir(ROOT));
        let (user, folder) = prepared.trim().split_once(' ').expect("both");
        let port = free_port();

        let mut script = blocks(JOBS, "## Make it", "sh")[1].text();
        for (old, new) in [
            ("../threaded-tokio/tutorial/service/jobs.sql", "jobs.sql"),
            ("/tmp/jobs-db", "$PWD/data"),
            ("5433", &port.to_string()),
        ] {
            assert!(script.contains(old), "{old} is not in {script}");
            script = script.replace(old, new);
        }
        let (settings, commands) =
            script.split_at(script.find("initdb").expect("it"));
        let (user, settings) = (user.to_owned(), settings.to_owned());
        let it = Self { folder: folder.into(), port, user, settings };
        printed(&mut it.bash(commands));
        it
    }

    /// Commands of the user whose database it is.
    fn bash(&self, commands: &str) -> Command {
        let script = format!("{}{commands}", self.settings);
        let mut shell = bash(&script);
        if self.user == "postgres" {
            shell = Command::new("runuser");
            shell.args(["-u", "postgres", "--", "bash", "-euc", &script]);
        }
        shell.current_dir(&self.folder);
        shell
    }

    #[track_caller]
    fn control(&self, what: &str) {
        printed(&mut self.bash(&format!("pg_ctl --wait --log log {what}")));
    }

    #[track_caller]
    fn sql(&self, query: &str) -> String {
        let mut psql = Command::new("psql");
        printed(psql.args([&self.url(), "-Atqc", query])).trim().to_owned()
    }

    #[track_caller]
    fn count(&self, rows: &str) -> usize {
        let count = self.sql(&format!("SELECT count(*) FROM {rows}"));
        count.parse().expect("a number")
    }

    fn url(&self) -> String {
        format!("postgresql://{}@127.0.0.1:{}/jobs", self.user, self.port)
    }

    /// A replica with that many takers, whose jobs take so many seconds.
    #[track_caller]
    fn replica(&self, made: &Path, takers: &str, sleep: &str) -> Server {
        let url = ("DATABASE_URL", &*self.url());
        start(made, &[url, ("TAKERS", takers), ("SLEEP", sleep)])
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.bash("pg_ctl -m immediate stop").output().ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn post_with(key: &str) -> Vec<u8> {
    ask("POST /jobs", &format!("Idempotency-Key: {key}\r\n"), "")
}

/// Posts a job and returns where it is.
#[track_caller]
fn post(server: &Server, key: &str) -> String {
    place(&answer(server, &post_with(key), "202"))
}

#[track_caller]
fn place(accepted: &str) -> String {
    header(accepted, "location").expect("202 has a Location").to_owned()
}

/// What is said of a job: its state and its result.
#[track_caller]
fn look(server: &Server, path: &str) -> String {
    let answer = answer(server, &get(path), "200");
    let (_, said) = answer.split_once("\"state\":").expect("a state");
    said.trim_end_matches('}').to_owned()
}

const DONE: &str = r#""done","result":"msg to client 127.0.0.1""#;
const WAITING: &str = r#""waiting","result":null"#;

#[track_caller]
fn wait_until_done(server: &Server, path: &str) {
    wait_until("the result", || look(server, path) == DONE);
}

#[test]
#[ignore = "takes other crates and PostgreSQL"]
fn what_the_chapter_on_jobs_shows_is_what_its_crate_prints() {
    let database = Database::start();
    let url = blocks(JOBS, "## Make it", "sh")[2].text();
    let own = format!("{}@127.0.0.1:{}", database.user, database.port);
    let url = replaced(&url, "127.0.0.1:5433", &own);
    assert_eq!(url, format!("export DATABASE_URL={}\n", database.url()));
    assert!(consoles(JOBS).count() > 0);
    for console in consoles(JOBS) {
        compare(&console, &TWO, Some(database.url()));
    }
}

#[test]
#[ignore = "takes other crates and PostgreSQL"]
fn a_key_makes_one_job_and_no_key_makes_one_each_time() {
    let database = Database::start();
    let server = database.replica(&TWO, "1", "0");
    let keys = (0..40).map(|i| (i / 20).to_string());
    let clients: Vec<_> =
        keys.map(|key| server.send(&post_with(&key))).collect();
    let places = clients.into_iter().map(|client| {
        let answer = read_to_close(client);
        assert_eq!(code(&answer), "202", "{answer}");
        place(&answer)
    });
    let places: Vec<_> = places.collect();
    assert!(places[..20].iter().all(|place| *place == places[0]));
    assert!(places[20..].iter().all(|place| *place == places[20]));
    assert_eq!(database.count("jobs"), 2, "{places:?}");
    for place in [&places[0], &places[20]] {
        wait_until_done(&server, place);
    }
    assert_eq!(post(&server, "0"), places[0], "also when it is done");

    for (status, request) in [
        ("400", post_with(&"x".repeat(256))),
        ("400", post_with("\u{e9}")),
        ("202", ask("POST /jobs", "", "")),
        ("202", ask("POST /jobs", "", "")),
        ("404", get("/jobs/999")),
        ("404", get("/jobs/one")),
        ("405", get("/jobs")),
        ("405", ask("POST /jobs/1", "", "")),
        ("400", ask("POST /jobs", "", "x")),
    ] {
        answer(&server, &request, status);
    }
    assert_eq!(database.count("jobs"), 4);
}

/// Of four jobs that do not end, and meanwhile everybody who asks is answered.
/// Without `SKIP LOCKED`, all takers would wait for one of them.
#[test]
#[ignore = "takes other crates and PostgreSQL"]
fn takers_each_take_another_job_and_keep_nobody_from_asking() {
    let change = ["src/jobs.rs", "FOR UPDATE SKIP LOCKED", "FOR UPDATE"];
    let in_line = built("service-in-line", &jobs(), Some(change));
    for (made, going) in [(&*TWO, 4), (&in_line, 1)] {
        let database = Database::start();
        let server = database.replica(made, "4", "3600");
        let places = ["a", "b", "c", "d"].map(|key| post(&server, key));
        wait_until("the jobs", || server.going() == going);
        // Each taker has asked by then, and more than once.
        sleep(Duration::from_secs(3));
        for place in &places {
            assert_eq!(look(&server, place), WAITING);
        }
        assert_eq!(post(&server, "a"), places[0], "its row is locked");
        // Two who ask and four who take, and the one that counts.
        let clients = "pg_stat_activity WHERE backend_type = 'client backend'";
        assert!(database.count(clients) <= 7);
        assert_eq!((server.going(), server.done()), (going, 0));
    }
}

#[test]
#[ignore = "takes other crates and PostgreSQL"]
fn a_core_that_panics_three_times_has_failed() {
    let database = Database::start();
    let sleep = "thread::sleep(self.sleep / STEPS);";
    let panic = "assert!(self.sleep.is_zero(), \"broken\");";
    let panics = Some(["src/main.rs", sleep, panic]);
    let panics = built("service-panics", &jobs(), panics);
    let server = database.replica(&panics, "2", "1");
    let failed = r#""failed","result":null"#;
    for place in ["a", "b"].map(|key| post(&server, key)) {
        wait_until("the end", || look(&server, &place) == failed);
    }
    assert_eq!(server.going(), 6);
    assert_eq!(database.count("jobs WHERE panics = 3"), 2);
}

/// The database stops, then starts. The replica goes on.
#[test]
#[ignore = "takes other crates and PostgreSQL"]
fn while_the_database_is_gone_clients_get_503_and_then_their_jobs() {
    let database = Database::start();
    let mut server = database.replica(&TWO, "2", "0");
    let place = post(&server, "a");
    wait_until_done(&server, &place);
    for mode in ["fast", "immediate"] {
        database.control(&format!("-m {mode} stop"));
        for request in [post_with(mode), get(&place)] {
            let answer = answer(&server, &request, "503");
            assert_eq!(header(&answer, "retry-after"), Some("5"));
        }
        assert_eq!(status(&server.url("/")), "200", "the rest goes on");
        database.control("-o \"-k ''\" start");
        wait_until_done(&server, &post(&server, mode));
    }
    server.stop();
    let said = server.stderr();
    assert!(said.contains("jobs: "), "{said}");
    // As a connection does that the loop drops.
    assert!(!said.contains("panicked"), "{said}");
}

/// A database that answers nothing at all: here nobody speaks PostgreSQL.
#[test]
#[ignore = "takes other crates"]
fn a_database_that_hangs_is_a_503_too() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("it is bound");
    let url = format!("postgresql://a@{address}/b");
    let server = start(&TWO, &[("DATABASE_URL", &url)]);
    // Two hold the workers, and one waits in line.
    let clients = ["a", "b", "c"].map(|key| server.send(&post_with(key)));
    for client in clients {
        assert_eq!(code(&read_to_close(client)), "503");
    }
}

#[test]
#[ignore = "takes other crates"]
fn a_bad_url_is_one_line_without_the_password_and_the_status_1() {
    let url = ("DATABASE_URL", "postgresql://ada:secret@[::1");
    let (status, _, said) = output(&mut program(&TWO, &[url]));
    assert!(said.starts_with("cannot read DATABASE_URL: "), "{said}");
    assert_eq!((said.lines().count(), status), (1, Some(1)));
    assert!(!said.contains("secret"), "{said}");
}

/// Nobody says goodbye. The lock is gone with the connection.
#[test]
#[ignore = "takes other crates and PostgreSQL"]
fn the_job_of_a_replica_that_is_killed_is_taken_by_another() {
    let database = Database::start();
    let mut first = database.replica(&TWO, "1", "3600");
    let place = post(&first, "a");
    wait_until("its job", || first.going() == 1);
    let other = database.replica(&TWO, "1", "0");
    // It asks once a second, and gets nothing.
    sleep(Duration::from_secs(3));
    assert_eq!((other.going(), &*look(&other, &place)), (0, WAITING));
    first.kill();
    wait_until_done(&other, &place);
    assert_eq!((other.going(), database.count("jobs")), (1, 1));
}

/// The first job ends in time. The second would not: it is given back.
#[test]
#[ignore = "takes other crates and PostgreSQL"]
fn a_replica_that_is_stopped_ends_its_job_or_gives_it_back() {
    let database = Database::start();
    let mut first = database.replica(&TWO, "1", "3");
    let place = post(&first, "a");
    wait_until("its job", || first.going() == 1);
    // No result yet, whoever asks.
    assert_eq!(look(&first, &place), WAITING);
    first.stop();
    assert_eq!(first.done(), 1);

    let mut long = database.replica(&TWO, "1", "3600");
    assert_eq!(look(&long, &place), DONE);
    let place = post(&long, "b");
    wait_until("its job", || long.going() == 1);
    let other = database.replica(&TWO, "1", "0");
    long.stop();
    assert_eq!(long.done(), 0);
    wait_until_done(&other, &place);
    assert_eq!((other.going(), database.count("jobs")), (1, 2));
}

/// Numbers that a seed decides: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % limit) as usize
    }

    fn sleep(&mut self, limit: u64) {
        sleep(Duration::from_millis(self.below(limit) as u64));
    }
}

const ALL: usize = 300;

/// Posts these jobs, and each once more. Whoever gets no 202 asks again with
/// the same key. Returns where they are.
fn post_twice(proxy: &Server, keys: &[usize], mut dice: Dice) -> Vec<String> {
    let start = Instant::now();
    let mut post = |key: &usize| loop {
        dice.sleep(80);
        let answer = proxy.exchange(&post_with(&format!("key-{key}")));
        if code(&answer) == "202" {
            break place(&answer);
        }
        assert!(start.elapsed() < 2 * LONG, "{key}: {answer}");
    };
    let places: Vec<_> = keys.iter().map(&mut post).collect();
    for (key, place) in keys.iter().zip(&places) {
        assert_eq!(post(key), *place, "key-{key}");
    }
    places
}

/// `SEED=2 cargo test --test service three_hundred -- --ignored` is another run
/// than with 1.
#[test]
#[ignore = "takes other crates, PostgreSQL and nginx"]
fn three_hundred_jobs_have_one_result_each_whoever_is_killed_meanwhile() {
    let database = Database::start();
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
    let (url, ports) = (database.url(), [(); 2].map(|()| free_port()));
    let settings = [("DATABASE_URL", &*url), ("TAKERS", "4"), ("SLEEP", "0.2")];
    let start = |port: u16| {
        let mut replica = program(&TWO, &settings);
        Server::spawn(replica.env("PORT", port.to_string()))
    };
    let proxy = nginx(ports, &[]);
    let mut replicas = ports.map(start);

    // When so many results are there, this happens. 6 is the database.
    let mut events: Vec<_> =
        (0..7).map(|event| (10 + dice.below(270), event)).collect();
    events.sort_unstable();
    let mut starts = 0;
    let keys: Vec<_> = (0..ALL).collect();
    let places: Vec<String> = thread::scope(|scope| {
        let posts = keys.chunks(ALL / 4).map(|keys| {
            let (proxy, dice) = (&proxy, Dice(dice.below(u64::MAX) as u64 + 1));
            scope.spawn(move || post_twice(proxy, keys, dice))
        });
        let posts: Vec<_> = posts.collect();
        for (results, event) in events {
            wait_until("results", || database.count("results") >= results);
            dice.sleep(200);
            if event == 6 {
                let mode = ["fast", "immediate"][dice.below(2)];
                database.control(&format!("-m {mode} restart"));
                continue;
            }
            let which = dice.below(2);
            replicas[which].kill();
            starts += replicas[which].going();
            replicas[which] = start(ports[which]);
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
    starts += replicas.iter().map(Server::going).sum::<usize>();
    let again = starts - ALL;
    // Not eprintln!, which a test that passes keeps for itself.
    writeln!(
        io::stderr(),
        "seed {seed}: {ALL} jobs, {ALL} results, {starts} starts: {again} for \
         nothing"
    )
    .ok();
    // Six times the four jobs of a replica, and once the eight of both.
    assert!((1..=32).contains(&again), "{again}: who was killed at work?");
}
