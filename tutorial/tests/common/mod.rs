//! What the tests share: a server of their own on a free port, requests, and
//! waiting that ends.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses a part of this"
)]

pub mod chapter;
pub mod engine;
pub mod terminal;

pub use chapter::ROOT;
use chapter::{apply, parts, read};
pub use engine::free_port;
use engine::{make, target};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_threaded-tokio");

/// How long a test waits for what must happen. Long, so that only a server
/// that never does it fails: the machine may be busy.
pub const LONG: Duration = Duration::from_secs(180);

/// Whether each test must be run, whatever it takes.
pub fn thorough() -> bool {
    std::env::var_os("SKIP_NOTHING").is_some()
}

/// Says that a test is skipped for want of something, where that may be.
#[track_caller]
pub fn skip(want: &str) {
    // Not eprintln!, which a test that passes keeps for itself.
    writeln!(std::io::stderr(), "skipped a test for want of {want}").ok();
    assert!(!thorough(), "SKIP_NOTHING is set, and there is no {want}");
}

/// A new path for a file or a folder of one test.
pub fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unique = format!("{name}-{}-{number}", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique)
}

/// Waits until `condition` holds. Fails the test if it never does.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "waited in vain for {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Sends a signal (`"TERM"`, `"INT"`) to a process, or with a minus sign in
/// front of its number to a process group.
pub fn signal(name: &str, target: &str) {
    let kill = Command::new("kill").args(["-s", name, "--", target]).status();
    assert!(kill.expect("kill runs").success(), "no process {target}");
}

/// Where a program lies that the machine may lack. For `None` skip the test.
#[track_caller]
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = ["/usr/sbin", "/opt/homebrew/bin"].map(PathBuf::from);
    let mut files =
        std::env::split_paths(&path).chain(places).map(|it| it.join(tool));
    let found = files.find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{tool}: install {tool}"));
    }
    found
}

/// What a command prints. It must end by itself.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    let mut run = Server::launch(command.process_group(0), None, None);
    run.exit_status();
    let status = run.child.wait().expect("it is our child");
    let [stdout, stderr] = [run.stdout(), run.stderr()].map(String::into_bytes);
    Output { status, stdout, stderr }
}

/// The exit status of a process that must end by itself.
#[track_caller]
pub fn exit_status(child: &mut Child) -> Option<i32> {
    let mut status = None;
    wait_until("the exit", || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    status.and_then(|status| status.code())
}

/// A running server. It is killed when the test ends.
pub struct Server {
    pub child: Child,
    pub port: u16,
    /// Asked to end, not killed: it has processes of its own to take along.
    pub gently: bool,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Server {
    /// Starts the program with these settings on a free port.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(BINARY).envs(settings.iter().copied()))
    }

    /// The same for a command that is partly set up: another program, say.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        Self::launch(command, None, None).listening()
    }

    /// Starts the program and does not wait for it. It has the settings of
    /// `command` alone, and on its own a free port. Its stdout and its stderr
    /// are files, unless it is given others.
    #[track_caller]
    pub fn launch(
        command: &mut Command,
        stdout: Option<Stdio>,
        stderr: Option<Stdio>,
    ) -> Self {
        for name in ["HOST", "PORT", "SLEEP", "WORKERS"] {
            if command.get_envs().all(|(set, _)| set != name) {
                command.env_remove(name);
                if name == "PORT" {
                    command.env(name, "0");
                }
            }
        }
        let files = (scratch("stdout"), scratch("stderr"));
        let file = |path| Stdio::from(File::create(path).expect("a file"));
        command.stdin(Stdio::null());
        command.stdout(stdout.unwrap_or_else(|| file(&files.0)));
        command.stderr(stderr.unwrap_or_else(|| file(&files.1)));
        let child = command.spawn().expect("the server starts");
        let (stdout, stderr) = files;
        Self { child, port: 0, gently: false, stdout, stderr }
    }

    /// Starts a program like nginx, which has processes of its own, and waits
    /// until it listens on that port.
    #[track_caller]
    pub fn other(command: &mut Command, port: u16) -> Self {
        let mut server = Self::launch(command, None, None);
        (server.port, server.gently) = (port, true);
        wait_until("another program to listen", || {
            let ended = server.child.try_wait().expect("it is our child");
            assert_eq!(ended, None, "it said: {}", server.stderr());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    /// Starts the program with a pipe for its stderr that nobody reads. So it
    /// is told its port.
    #[track_caller]
    pub fn mute(command: &mut Command) -> Self {
        let port = free_port();
        command.env("PORT", port.to_string());
        let mut server = Self::launch(command, None, Some(Stdio::piped()));
        server.port = port;
        wait_until("the server", || status(&server.url("/missing")) == "404");
        server
    }

    /// The same, and the pipe is full before the program starts. `setup` is
    /// for the shell that fills it.
    #[track_caller]
    pub fn stalled(program: &Path, setup: &str) -> Self {
        let mut shell = Command::new("bash");
        let fill = "head -c 200000 /dev/zero >&2 & sleep 1; exec \"$0\"";
        shell.args(["-c", &format!("{setup} {fill}")]).arg(program);
        Self::mute(shell.env("SLEEP", "0"))
    }

    /// Waits until the server has said where it listens.
    #[track_caller]
    pub fn listening(mut self) -> Self {
        let port = |said: String| {
            let (_, rest) = said.split_once("listening on http://")?;
            let (address, _) = rest.split_once("/\n")?;
            address.rsplit(':').next()?.parse().ok()
        };
        wait_until("the first line, or the end", || {
            let ended = self.child.try_wait().expect("it is our child");
            ended.is_some() || port(self.stderr()).is_some()
        });
        let said = || panic!("the server said: {}", self.stderr());
        self.port = port(self.stderr()).unwrap_or_else(said);
        self
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// All of stderr, if nothing goes wrong.
    pub fn first_line(&self) -> String {
        format!("listening on {}\n", self.url("/"))
    }

    /// How many jobs have started, and how many have ended.
    pub fn going(&self) -> usize {
        self.stdout().matches("going to sleep").count()
    }

    pub fn done(&self) -> usize {
        self.stdout().matches("done sleeping").count()
    }

    /// How many jobs ran at once at most.
    #[track_caller]
    pub fn peak(&self) -> usize {
        let (mut open, mut peak) = (0, 0);
        for line in self.stdout().lines() {
            match line.split_whitespace().next() {
                Some("going") => open += 1,
                Some("done") => open -= 1,
                _ => panic!("not a line of the core: {line:?}"),
            }
            peak = open.max(peak);
        }
        peak
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn signal(&self, name: &str) {
        signal(name, &self.child.id().to_string());
    }

    #[track_caller]
    pub fn exit_status(&mut self) -> Option<i32> {
        exit_status(&mut self.child)
    }

    /// A connection on which `request` has been sent as it is.
    pub fn send(&self, request: &[u8]) -> TcpStream {
        let address = ("127.0.0.1", self.port);
        let mut stream = TcpStream::connect(address).expect("it connects");
        stream.set_read_timeout(Some(LONG)).expect("LONG is not zero");
        // The server may refuse a long one before it has read all of it.
        stream.write_all(request).ok();
        stream
    }

    /// Sends `request` as it is and returns all that comes until the server
    /// closes the connection.
    #[track_caller]
    pub fn exchange(&self, request: &[u8]) -> String {
        read_to_close(self.send(request))
    }

    /// Waits until the server has read all that clients have sent, so that
    /// what is sent now comes after it.
    #[track_caller]
    pub fn settle(&self) {
        if cfg!(target_os = "linux") {
            wait_until("the server to read", || {
                self.sockets().iter().all(|(_, unread)| *unread == 0)
            });
        } else {
            sleep(Duration::from_millis(300));
        }
        // Time to do something about what was read last.
        self.assert_alive();
        sleep(Duration::from_millis(50));
    }

    /// The server's IPv4 sockets on Linux: what each is connected to, and how
    /// many bytes wait there to be read, or connections to be accepted.
    pub fn sockets(&self) -> Vec<(String, u32)> {
        let rows = tcp(1, self.port).into_iter().map(|row| {
            let unread = row[4].rsplit(':').next().expect("tx:rx");
            let unread = u32::from_str_radix(unread, 16).expect("hex");
            (row[2].clone(), unread)
        });
        rows.collect()
    }

    /// Fails unless the server still answers, and without a worker.
    #[track_caller]
    pub fn assert_alive(&self) {
        assert_eq!(status(&self.url("/alive")), "404");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let runs = self.child.try_wait().is_ok_and(|ended| ended.is_none());
        if runs && self.gently {
            self.signal("TERM");
        } else {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}

/// The rows of Linux's table of IPv4 sockets that have this port in a column:
/// 1 is the near end of a connection, 2 the far one, 3 says how it stands.
pub fn tcp(column: usize, port: u16) -> Vec<Vec<String>> {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = format!(":{port:04X}");
    let rows = table.lines().map(|row| row.split_whitespace());
    rows.map(|row| row.map(str::to_owned).collect())
        .filter(|row: &Vec<_>| row[column].ends_with(&port))
        .collect()
}

/// A whole `GET /` that asks the server to close the connection after it.
pub const GET: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// All that still comes on a connection. A reset counts as its end.
#[track_caller]
pub fn read_to_close(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(why) = stream.read_to_end(&mut answer) {
        let reset = why.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(reset, "the connection stays open: {why}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A curl that ends within a minute and never goes through a proxy.
pub fn curl_command(arguments: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-q", "--noproxy", "*", "--silent", "--max-time", "60"]);
    curl.args(arguments);
    curl
}

/// Runs curl.
#[track_caller]
pub fn curl(arguments: &[&str]) -> Output {
    curl_command(arguments).output().expect("curl is installed")
}

/// What curl prints: with `-i` the head as well.
#[track_caller]
pub fn fetch(arguments: &[&str]) -> String {
    String::from_utf8_lossy(&curl(arguments).stdout).into_owned()
}

/// The status of the answer to a GET of `url`.
#[track_caller]
pub fn status(url: &str) -> String {
    fetch(&["-o", "/dev/null", "-w", "%{http_code}", url])
}

/// Sends that many requests at once. A process has 200 of them, since there
/// are systems that let it have 256 files.
pub fn flood(server: &Server, requests: usize) -> Vec<Child> {
    let start = |first| {
        let last = requests.min(first + 199);
        let url = server.url(&format!("/?[{first}-{last}]"));
        let parallel = ["-Z", "--parallel-immediate", "--parallel-max", "200"];
        let mut curl = curl_command(&parallel);
        curl.args(["-o", "/dev/null", "-w", "%{http_code}\n", &url]);
        curl.stdout(Stdio::piped()).stderr(Stdio::null());
        curl.spawn().expect("curl is installed")
    };
    (1..=requests).step_by(200).map(start).collect()
}

/// How many of these requests got a 200.
pub fn answered(flood: Vec<Child>) -> usize {
    let count = |curl: Child| {
        let output = curl.wait_with_output().expect("curl ends");
        String::from_utf8_lossy(&output.stdout).matches("200\n").count()
    };
    flood.into_iter().map(count).sum()
}

// ----- changed copies of the program -----------------------------------------

/// Builds a copy with another main.rs. Returns the path of its program.
#[track_caller]
pub fn build(name: &str, main: &str) -> PathBuf {
    let (folder, target) = (make(&target().join("tmp"), name, main), target());
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--target-dir"]).arg(&target);
    let build = cargo.current_dir(&folder).output().expect("cargo runs");
    let said = String::from_utf8_lossy(&build.stderr).into_owned();
    assert!(build.status.success() && !said.contains("warning"), "{said}");
    target.join("debug").join(folder.file_name().expect("it has a name"))
}

/// Builds a copy in which `old`, which must stand in main.rs once, is `new`.
#[track_caller]
pub fn build_changed(name: &str, old: &str, new: &str) -> PathBuf {
    let main = read("src/main.rs");
    assert_eq!(main.matches(old).count(), 1, "{old:?} stands in main.rs once");
    build(name, &main.replace(old, new))
}

/// Builds a copy with the diff that stands below a heading of a chapter.
#[track_caller]
pub fn build_diff(name: &str, path: &str, heading: &str) -> PathBuf {
    let mut below = parts(path).into_iter().skip_while(|part| {
        part.kind != "prose" || part.lines.iter().all(|line| line != heading)
    });
    let diff = below.find(|part| part.kind == "diff");
    let diff = diff.unwrap_or_else(|| panic!("{path}: {heading}: no diff"));
    build(name, &apply(&diff).expect("it applies").0)
}

/// A main.rs whose core panics once if there is a file `BREAK`, and sleeps until
/// there is a file `GATE`.
pub fn obeying(main: &str) -> String {
    let sleep = "thread::sleep(self.sleep);";
    assert_eq!(main.matches(sleep).count(), 1, "{sleep} stands there once");
    let obey = "
            let path = |name| env::var_os(name).map(std::path::PathBuf::from);
            if path(\"BREAK\").is_some_and(|it| std::fs::remove_file(it).is_ok()) {
                panic!(\"broken\")
            }
            while path(\"GATE\").is_some_and(|it| !it.exists()) {
                thread::sleep(Duration::from_millis(1));
            }";
    main.replace(sleep, &format!("{sleep}{obey}"))
}

/// A copy of the program that obeys in this way.
pub fn obedient(workers: &str) -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built =
        BUILT.get_or_init(|| build("obedient", &obeying(&read("src/main.rs"))));
    let mut command = Command::new(built);
    command.envs([("SLEEP", "0"), ("WORKERS", workers)]);
    command
}

/// A server whose jobs do not end before the function is called that comes
/// with it. What has to happen meanwhile may take its time.
#[track_caller]
pub fn gated(workers: &str) -> (Server, impl Fn() + use<>) {
    let gate = scratch("gate");
    let server = Server::spawn(obedient(workers).env("GATE", &gate));
    (server, move || drop(File::create(&gate).expect("a file")))
}
