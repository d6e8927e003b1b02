//! What the tests share: a server of their own on a free port, requests, and
//! waiting that ends.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file uses a part of this"
)]

pub mod chapter;
pub mod engine;
pub mod nginx;
pub mod terminal;

pub use chapter::*;
pub use engine::{Workshop, free_port, make, shape, target};
pub use std::ffi::OsStr;
pub use std::fs::{self, File, Permissions};
pub use std::io::{self, BufRead, BufReader, Read, Write};
pub use std::net::{Shutdown, TcpListener, TcpStream};
pub use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
pub use std::os::unix::process::{CommandExt, ExitStatusExt};
pub use std::path::{Path, PathBuf};
pub use std::process::{Child, Command, Stdio};
pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
pub use std::sync::{LazyLock, Mutex, OnceLock};
pub use std::thread::{self, sleep};
pub use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_threaded-tokio");

/// A folder for what tests write.
pub const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// How long a test waits for what must happen. Long, so that only a server
/// that never does it fails: the machine may be busy.
pub const LONG: Duration = Duration::from_secs(180);

/// A new path for a file or a folder of one test.
pub fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    Path::new(TMP).join(format!("{name}-{}-{number}", std::process::id()))
}

/// A new folder of one test.
pub fn folder(name: &str) -> PathBuf {
    let folder = scratch(name);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Writes a program that a shell runs.
pub fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("ours");
}

/// A PATH on which a script comes first in place of a tool.
pub fn path_with(tool: &str, text: &str) -> String {
    let folder = folder("path");
    script(&folder.join(tool), text);
    let path = std::env::var("PATH").expect("PATH is set");
    format!("{}:{path}", folder.display())
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

/// Commands for a shell that stops at the first that fails.
pub fn bash(script: &str) -> Command {
    let mut bash = Command::new("bash");
    bash.args(["-euc", script]);
    bash
}

/// The exit status of a command that must end by itself, its stdout and its
/// stderr.
#[track_caller]
pub fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let mut run = Server::launch(command.process_group(0), None, None);
    (run.exit_status(), run.stdout(), run.stderr())
}

/// The stdout of a command that must succeed.
#[track_caller]
pub fn printed(command: &mut Command) -> String {
    let (status, stdout, stderr) = output(command);
    assert_eq!(status, Some(0), "{command:?}: {stdout}{stderr}");
    stdout
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

/// What Linux knows about a process by this name, or nothing if it is gone.
pub fn known(process: u32, name: &str) -> String {
    let file = format!("/proc/{process}/status");
    let all = fs::read_to_string(file).unwrap_or_default();
    let line = all.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim_matches([':', '\t', ' ']).to_owned()
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
        Self::of(BINARY, settings)
    }

    /// The same for another program.
    #[track_caller]
    pub fn of(program: impl AsRef<OsStr>, settings: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(program).envs(settings.iter().copied()))
    }

    /// The same for a command that is partly set up.
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

    /// Stops it by SIGTERM. It must answer what it has accepted.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.exit_status(), Some(0), "{}", self.stderr());
    }

    /// Kills it, with what it has in its hands.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }

    /// Waits until it does not listen any more.
    #[track_caller]
    pub fn closed(&self) {
        wait_until("closed doors", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_err()
        });
    }

    /// How many bytes of it are in memory.
    pub fn memory(&self) -> f64 {
        let kilobytes = known(self.child.id(), "VmRSS").replace(" kB", "");
        1024.0 * kilobytes.parse::<f64>().expect("a number of kB")
    }

    /// A connection on which `request` has been sent as it is.
    #[track_caller]
    pub fn send(&self, request: &[u8]) -> TcpStream {
        send(self.port, request)
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
    let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("Linux");
    let port = format!(":{port:04X}");
    let rows = table.lines().map(|row| row.split_whitespace());
    rows.map(|row| row.map(str::to_owned).collect())
        .filter(|row: &Vec<_>| row[column].ends_with(&port))
        .collect()
}

/// A whole `GET /` that asks the server to close the connection after it.
pub const GET: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[track_caller]
pub fn send(port: u16, request: &[u8]) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port));
    let mut stream = stream.expect("it connects");
    stream.set_read_timeout(Some(LONG)).expect("LONG is not zero");
    // The server may refuse a long one before it has read all of it.
    stream.write_all(request).ok();
    stream
}

/// Fails unless a connection ends with the answer of the core.
#[track_caller]
pub fn assert_answered(client: TcpStream) {
    let answer = read_to_close(client);
    assert!(answer.ends_with("\r\n\r\nmsg to client 127.0.0.1"), "{answer:?}");
}

/// All that still comes on a connection. A reset counts as its end.
#[track_caller]
pub fn read_to_close(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(why) = stream.read_to_end(&mut answer) {
        let reset = why.kind() == io::ErrorKind::ConnectionReset;
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
pub fn curl(arguments: &[&str]) -> std::process::Output {
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

/// Runs cargo in a crate, however long it takes. Returns whether it succeeds,
/// and what is printed: stdout, then stderr.
pub fn cargo(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).current_dir(folder);
    cargo.env("CARGO_TARGET_DIR", target()).env("CARGO_TERM_COLOR", "never");
    let output = cargo.output().expect("cargo runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Builds a crate. The compiler must have nothing to say. Returns the path of
/// its program.
#[track_caller]
pub fn build_in(folder: &Path, options: &[&str]) -> PathBuf {
    let (success, said) = cargo(folder, &[&["build"], options].concat());
    assert!(success && !said.contains("warning"), "{said}");
    target().join("debug").join(folder.file_name().expect("it has a name"))
}

/// Builds a copy with another main.rs. Returns the path of its program.
#[track_caller]
pub fn build(name: &str, main: &str) -> PathBuf {
    // While it is written, nobody may take it for another one.
    static WRITES: Mutex<()> = Mutex::new(());
    let one = WRITES.lock();
    let folder = make(Path::new(TMP), name, main);
    drop(one);
    build_in(&folder, &["--offline"])
}

/// Builds a copy in which `old`, which must stand in main.rs once, is `new`.
#[track_caller]
pub fn build_changed(name: &str, old: &str, new: &str) -> PathBuf {
    build(name, &replaced(&read("src/main.rs"), old, new))
}

/// main.rs after diffs, which git applies as where the reader's crate is: not
/// within this one's repository.
#[track_caller]
pub fn git_apply(main: &str, diffs: &[String]) -> String {
    let folder = folder("applied");
    let file = folder.join("src/main.rs");
    fs::create_dir(folder.join("src")).expect("a folder");
    fs::write(&file, main).expect("a file");
    for diff in diffs {
        fs::write(folder.join("diff"), diff).expect("a file");
        let mut git = Command::new("git");
        git.args(["apply", "diff"]).current_dir(&folder);
        printed(git.env("GIT_CEILING_DIRECTORIES", TMP));
    }
    fs::read_to_string(file).expect("it is there")
}

/// Where copies and crates are made, and what chapters say of them is run.
pub static WORKSHOP: LazyLock<Workshop> = LazyLock::new(|| {
    // What is shown, libtest prints if the test fails.
    Workshop::new("tmp", |line| eprintln!("{line}"))
});

/// Makes a crate of that name by such commands. Returns its folder.
#[track_caller]
pub fn made(name: &str, commands: &str) -> PathBuf {
    let made = WORKSHOP.new_crate(&Path::new(TMP).join(name), name, commands);
    made.unwrap_or_else(|why| panic!("{why}"))
}

/// The line of the core that sleeps.
pub const SLEEP: &str = "thread::sleep(self.sleep);";

/// What the core returns.
pub const MESSAGE: &str = "format!(\"msg to client {remote_ip}\")";

/// The size of a page of which all the buffers on its way hold only a part.
pub const PAGE: usize = 50_000_000;

/// A server with such pages.
#[track_caller]
pub fn large() -> Server {
    let page = format!("\"x\".repeat({PAGE})");
    Server::of(build_changed("large", MESSAGE, &page), &[("SLEEP", "0")])
}

/// A main.rs whose core panics once if there is a file `BREAK`, and sleeps until
/// there is a file `GATE`.
pub fn obeying(main: &str) -> String {
    let obey = "
            let path = |name| env::var_os(name).map(std::path::PathBuf::from);
            if path(\"BREAK\").is_some_and(|it| std::fs::remove_file(it).is_ok()) {
                panic!(\"broken\")
            }
            while path(\"GATE\").is_some_and(|it| !it.exists()) {
                thread::sleep(Duration::from_millis(1));
            }";
    replaced(main, SLEEP, &format!("{SLEEP}{obey}"))
}

/// A copy of the program that obeys in this way.
pub fn obedient(workers: &str) -> Command {
    static BUILT: LazyLock<PathBuf> =
        LazyLock::new(|| build("obedient", &obeying(&read("src/main.rs"))));
    let mut command = Command::new(&*BUILT);
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
