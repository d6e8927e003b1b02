//! Makes a change in a copy of the project, runs what the chapter says of it,
//! and compares: what the tests prove, and what `tutorial/try` shows.

use super::chapter::{Change, Part, ROOT, apply, read};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

// ----- processes -------------------------------------------------------------

/// Gets each line that is printed, as soon as it is.
pub type Show = fn(&str);

/// The process groups that run. While it is locked, none can start.
static GROUPS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(group: u32) {
    let group = format!("-{group}");
    Command::new("kill").args(["-s", "KILL", "--", &group]).output().ok();
}

/// Kills all that runs. From then on nothing can start: end the program.
pub fn kill_all() {
    let groups = lock(&GROUPS);
    groups.iter().for_each(|group| kill(*group));
    std::mem::forget(groups);
}

/// A command and all that it starts, which is killed with it.
pub struct Running {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    said: [Arc<Mutex<String>>; 2],
}

impl Running {
    pub fn start(command: &mut Command, show: Show) -> Self {
        let mut groups = lock(&GROUPS);
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        let mut child = child.expect("it starts");
        groups.push(child.id());
        drop(groups);
        let said = <[Arc<Mutex<String>>; 2]>::default();
        let out = child.stdout.take().map(|pipe| follow(pipe, &said[0], show));
        let err = child.stderr.take().map(|pipe| follow(pipe, &said[1], show));
        Self { child, readers: out.into_iter().chain(err).collect(), said }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// What it has printed so far, to stdout and to stderr.
    fn said(&self) -> [String; 2] {
        self.said.each_ref().map(|said| lock(said).clone())
    }

    /// Waits until it has ended, and all that can still print for it. That is
    /// a failure after ten minutes.
    pub fn wait(mut self) -> Output {
        let start = Instant::now();
        let can_print = |it: &Self| !it.readers.iter().all(|r| r.is_finished());
        while !self.has_ended() || can_print(&self) {
            let late = start.elapsed() > Duration::from_secs(600);
            assert!(!late, "not at its end after ten minutes");
            sleep(Duration::from_millis(5));
        }
        let [stdout, stderr] = self.said().map(String::into_bytes);
        let status = self.child.wait().expect("it is our child");
        Output { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let id = self.child.id();
        if !self.has_ended() {
            kill(id);
        }
        self.child.wait().ok();
        lock(&GROUPS).retain(|group| *group != id);
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
    }
}

/// Reads a pipe to its end, shows each line and keeps it.
fn follow(
    pipe: impl Read + Send + 'static,
    said: &Arc<Mutex<String>>,
    show: Show,
) -> JoinHandle<()> {
    let said = Arc::clone(said);
    thread::spawn(move || {
        let lines = BufReader::new(pipe).split(b'\n').map_while(Result::ok);
        for line in lines {
            let line = String::from_utf8_lossy(&line);
            show(&line);
            *lock(&said) += &format!("{line}\n");
        }
    })
}

/// A free port of 127.0.0.1, below those that the system hands out by itself:
/// it stays free until it is used, and while its server is started anew.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let ports = std::iter::repeat_with(|| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = std::process::id() as usize * 64 + number;
        20_000 + u16::try_from(number % 10_000).expect("it is less")
    });
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.take(9_999).find(is_free).expect("a free port")
}

// ----- copies ----------------------------------------------------------------

/// Where cargo builds. The copies are built there too, since what they depend
/// on is there already.
pub fn target() -> PathBuf {
    let program = std::env::current_exe().expect("it has a path");
    program.ancestors().nth(3).expect("target/debug/deps").to_owned()
}

/// Makes a copy of the project with another main.rs. Returns its folder, which
/// is always the same for a name, since cargo compares ages. What is as it was
/// keeps its age, and need not be built again.
pub fn make(place: &Path, name: &str, main: &str) -> PathBuf {
    // A name that sorts as the project's does: Cargo.lock is in that order.
    let name = format!("threaded-tokio-{}", name.replace('.', "-"));
    let folder = place.join(&name);
    fs::create_dir_all(folder.join("src")).expect("a folder");
    let toml = read("Cargo.toml");
    let toml = toml.split("\n[").filter(|s| !s.contains("path = \"tutorial"));
    let toml = toml.collect::<Vec<_>>().join("\n[") + "\n[workspace]\n";
    for (file, text) in [
        ("Cargo.toml", toml.replace("threaded-tokio", &name)),
        ("Cargo.lock", read("Cargo.lock").replace("threaded-tokio", &name)),
        ("src/main.rs", main.to_owned()),
    ] {
        let file = folder.join(file);
        if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            fs::write(file, text).expect("a file");
        }
    }
    fs::copy(format!("{ROOT}/run.sh"), folder.join("run.sh")).expect("run.sh");
    folder
}

/// Where copies are made and their commands are run.
pub struct Workshop {
    /// Of a folder among what cargo builds.
    pub name: &'static str,
    /// Whether cargo may ask the network for crates.
    pub online: bool,
    pub show: Show,
}

impl Workshop {
    pub fn place(&self) -> PathBuf {
        target().join(self.name)
    }

    /// Makes a copy of the project with another main.rs. If the chapter says
    /// how to make a crate, makes that, and adds the crates that it needs.
    pub fn copy(
        &self,
        parts: &[Part],
        [path, adds, number]: [&str; 3],
        main: &str,
    ) -> Result<PathBuf, String> {
        let makes = |part: &&Part| {
            part.path == path && part.lines.join(" ").contains("cargo new")
        };
        let Some(new) = parts.iter().find(makes) else {
            let name = format!("{}-{number}", self.name);
            return Ok(make(&self.place(), &name, main));
        };
        (self.show)("(makes a crate, as the chapter says)");
        let new = new.lines.join("\n");
        let mut words = new.split_whitespace().skip_while(|it| *it != "new");
        let name = words.nth(1).unwrap_or_default();
        // In one target folder, crates of one name are one crate to cargo.
        let own = format!("{name}-{}-{}", self.name, number.replace('.', "-"));
        let folder = self.place().join(number);
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).expect("a folder");
        symlink(ROOT, folder.join("threaded-tokio")).expect("a link");
        let new = new.replace(name, &own);
        let script = format!("set -e\n{new}\n{adds}\npwd");
        let made = self.silently(&script, &folder)?;
        let folder = PathBuf::from(made.lines().last().unwrap_or_default());
        fs::write(folder.join("src/main.rs"), main).expect("a file");
        Ok(folder)
    }

    /// Runs commands that nobody needs to see, unless one of them fails.
    fn silently(&self, script: &str, folder: &Path) -> Result<String, String> {
        let mut bash = self.bash(script, folder, "0");
        let output = Running::start(&mut bash, |_| ()).wait();
        let [out, err] = texts(&output);
        if output.status.success() { Ok(out) } else { Err(err) }
    }

    /// A command, with nothing set that could change what it prints. What
    /// cargo and the compiler say is left out, unless the command is a build.
    fn bash(&self, command: &str, folder: &Path, port: &str) -> Command {
        let tools = self.tools();
        let mut bash = Command::new("bash");
        for name in [
            "HOST",
            "SLEEP",
            "WORKERS",
            "REQUESTS",
            "TIMEOUT",
            "UPSTREAM",
            "RUST_BACKTRACE",
            "TOKIO_WORKER_THREADS",
        ] {
            bash.env_remove(name);
        }
        if !is_build(command) {
            bash.env("CARGO_TERM_QUIET", "true");
            bash.env("RUSTC_WORKSPACE_WRAPPER", tools.join("rustc"));
        }
        bash.envs([("PORT", port), ("no_proxy", "*")])
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_NET_OFFLINE", (!self.online).to_string())
            .env("CARGO_TARGET_DIR", target())
            .env("CURL_HOME", &tools)
            .env("TMPDIR", self.temporary())
            .current_dir(folder);
        bash.args(["-c", command]);
        bash.stdout(Stdio::piped()).stderr(Stdio::piped());
        bash
    }

    /// The folder for temporary files.
    pub fn temporary(&self) -> PathBuf {
        let folder = self.place().join(format!("tmp-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A folder with what keeps curl and the compiler quiet.
    fn tools(&self) -> PathBuf {
        let tools = self.place().join("tools");
        let wrapper = tools.join("rustc");
        if !wrapper.exists() {
            fs::create_dir_all(&tools).expect("a folder");
            // curl shows its progress where it writes to a pipe.
            fs::write(tools.join(".curlrc"), "no-progress-meter")
                .expect("a file");
            // The dependencies need not be built again for it.
            let script = "#!/bin/sh\nexec \"$@\" --cap-lints allow\n";
            fs::write(&wrapper, script).expect("a file");
            let mode = Permissions::from_mode(0o755);
            fs::set_permissions(&wrapper, mode).expect("its mode");
        }
        tools
    }

    /// Makes a change in a copy and runs the blocks below it. Returns what is
    /// not as they say, or why they can't be run.
    pub fn try_out(
        &self,
        parts: &[Part],
        change: &Change,
    ) -> Result<Vec<String>, String> {
        let (main, _) = apply(change.diff)?;
        let names = [change.path, &change.adds, &change.number];
        let folder = self.copy(parts, names, &main)?;
        let is_console = |part: &&Part| part.kind == "console";
        let consoles = change.below.iter().filter(is_console);
        let mut steps: Vec<_> = consoles.map(steps).collect();
        if steps.is_empty() {
            // Then it builds, and the compiler has nothing to say.
            let [at, command] = [change.diff.at(0), "cargo build".to_owned()];
            steps.push(vec![Step { at, command, told: String::new() }]);
        }
        let run = |steps| self.run(steps, &folder);
        let wrong = steps.into_iter().map(run).collect::<Result<Vec<_>, _>>();
        Ok(wrong?.concat())
    }

    /// Runs the commands of a block. Returns what is not as it is told, or why
    /// they can't be run.
    ///
    /// Commands that end in `&` come first. They are servers, which the others
    /// ask. Where there is none, they ask one that sleeps a tenth of a second.
    pub fn run(
        &self,
        mut steps: Vec<Step>,
        folder: &Path,
    ) -> Result<Vec<String>, String> {
        let has = |word: &str| steps.iter().any(|it| it.command.contains(word));
        let (asks, bursts) = (has("//127.0.0.1:8888"), has("./run.sh"));
        let serves = has("cargo run");
        if asks && !steps.iter().any(|it| it.command.ends_with(" &")) {
            let command = "SLEEP=0.1 cargo run --quiet &".to_owned();
            let (at, told) = (steps[0].at.clone(), "...".to_owned());
            steps.insert(0, Step { at, command, told });
        }
        let build = |needed, options| {
            let command = format!("set -e\ncargo build {options}");
            if needed {
                self.silently(&command, folder)
            } else {
                Ok(String::new())
            }
        };
        build(asks || serves, "")?;
        build(bursts, "--release --locked")?;

        let [port, second] = [(); 2].map(|()| free_port().to_string());
        let (mut wrong, mut servers) = (Vec::new(), Vec::new());
        for mut step in steps {
            let command = step.command.replace("8888", &port);
            step.command = command.replace("8889", &second);
            (self.show)(&format!("$ {}", step.command));
            if let Some(command) = step.command.strip_suffix(" &") {
                let mut bash = self.bash(command, folder, &port);
                let mut server = Running::start(&mut bash, self.show);
                let start = Instant::now();
                while !server.said()[1].contains("listening on ")
                    && !server.has_ended()
                    && start.elapsed() < Duration::from_secs(60)
                {
                    sleep(Duration::from_millis(5));
                }
                servers.push((step, server));
            } else {
                wrong.extend(self.check(&step, folder));
            }
        }
        for (step, server) in servers {
            kill(server.child.id());
            let said = shapes(&texts(&server.wait()).concat(), true);
            let told = shapes(&step.told, true);
            let gaps = told.is_empty() || told.iter().any(|it| it == "...");
            let why = difference(&told, &said, gaps);
            wrong.extend(why.and_then(|why| step.wrong(why)));
        }
        Ok(wrong)
    }

    /// Runs a command. Returns what is not as it is told, if anything.
    fn check(&self, step: &Step, folder: &Path) -> Option<String> {
        let Step { command, told, .. } = step;
        if command.starts_with("tutorial/measure") {
            return None; // It takes minutes. `tutorial/measure --check` does it.
        }
        let never = ["git", "cd", "mdbook", "pip", "python3", "test", "--keep"];
        if command.split(' ').any(|word| never.contains(&word)) {
            return step.wrong("no test can run this: put it in ```sh".into());
        }
        let bursts = command.ends_with("./run.sh");
        let in_part = told.is_empty() || told.lines().any(|it| it == "...");
        // A machine that is busy sends requests late, and draws other bars.
        let mut tries = if command.contains("./run.sh") { 5 } else { 1 };
        loop {
            tries -= 1;
            let mut bash = self.bash(command, folder, "0");
            let [out, err] =
                texts(&Running::start(&mut bash, self.show).wait());
            let (started, real) = (jobs(told), jobs(&out));
            if bursts && !in_part && started != real {
                return step.wrong(format!(
                    "jobs started, ended, at once\ntold:    {started:?}\n\
                     printed: {real:?}"
                ));
            }
            let why = if !is_build(command) {
                let printed = shapes(&(out + &err), bursts);
                difference(&shapes(told, bursts), &printed, bursts && in_part)
            } else if told.is_empty() {
                let is_bad = |line: &&str| {
                    line.starts_with("error") || line.starts_with("warning")
                };
                let bad = err.lines().find(is_bad);
                bad.map(|line| format!("told:    (nothing)\nprinted: {line}"))
            } else {
                difference(&shapes(told, false), &shapes(&err, false), true)
            };
            let why = why?;
            if tries == 0 {
                return step.wrong(why);
            }
            (self.show)("(Not as it is told. Is the machine busy? Once more.)");
        }
    }
}

// ----- what is told, and what is printed -------------------------------------

/// A command of a block, and what the block says that it prints.
pub struct Step {
    at: String,
    command: String,
    told: String,
}

impl Step {
    fn wrong(&self, why: String) -> Option<String> {
        Some(format!("{}: $ {}\n{why}", self.at, self.command))
    }
}

/// The commands of a block.
pub fn steps(console: &Part) -> Vec<Step> {
    let (mut steps, mut i) = (Vec::new(), 0);
    for lines in console.lines.chunk_by(|_, next| !next.starts_with("$ ")) {
        let at = console.at(i);
        i += lines.len();
        assert!(lines[0].starts_with("$ "), "{at}: no `$ COMMAND`");
        let goes_on = |line: &&String| line.ends_with('\\');
        let more = lines.iter().take_while(goes_on).count();
        let command = lines[..=more].join("\n")[2..].to_owned();
        steps.push(Step { at, command, told: lines[more + 1..].join("\n") });
    }
    steps
}

/// Whether what cargo says is what a command is about.
fn is_build(command: &str) -> bool {
    let builds = ["cargo build", "cargo check"];
    builds.iter().any(|build| command.starts_with(build))
}

fn texts(output: &Output) -> [String; 2] {
    [&output.stdout, &output.stderr]
        .map(|text| String::from_utf8_lossy(text).into_owned())
}

/// A line without what differs from run to run: times, ports, which request.
fn shape(line: &str) -> String {
    if line.starts_with("HTTP/") {
        return line.trim().to_owned();
    }
    if line.starts_with("date: ") {
        return "date: D".to_owned();
    }
    let only =
        |word: &str, signs: &str| word.chars().all(|c| signs.contains(c));
    let words: Vec<_> = line.split_whitespace().collect();
    let is_bar = words.len() > 3 && only(words[1], ".#x");
    let shapes = words.iter().enumerate().map(|(i, word)| {
        let count = |sign| word.matches(sign).count();
        match (is_bar, i) {
            (true, 1) if count('x') > 0 => "x".to_owned(),
            // A request that is sent late seems to wait for some columns.
            (true, 1) if 2 * count('.') > count('#') => ".#".to_owned(),
            (true, 1) => "#".to_owned(),
            (false, _) | (_, 2..) if only(word, "0123456789") => {
                (*word).to_owned()
            }
            _ if word.starts_with("error[") => (*word).to_owned(),
            _ => {
                let mut shape = word.replace(|c: char| c.is_ascii_digit(), "N");
                while shape.contains("NN") || shape.contains("N.N") {
                    shape = shape.replace("NN", "N").replace("N.N", "N");
                }
                shape
            }
        }
    });
    shapes.collect::<Vec<_>>().join(" ")
}

fn shapes(text: &str, sorted: bool) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(shape).collect();
    lines.retain(|line| !line.is_empty());
    if sorted {
        lines.sort();
    }
    lines
}

/// What differs first. In `told`, `...` stands for any lines, and with `gaps`
/// there may be others between any two.
fn difference(told: &[String], real: &[String], gaps: bool) -> Option<String> {
    // How many lines of `real` those up to here may stand for.
    let mut used = vec![0];
    for line in told {
        if gaps || line == "..." {
            used = (used[0]..=real.len()).collect();
        }
        if line != "..." {
            let next = real.get(used[0]).filter(|_| !gaps);
            let next = next.map_or("(no such line)", String::as_str);
            used.retain(|n| real.get(*n) == Some(line));
            used.iter_mut().for_each(|n| *n += 1);
            if used.is_empty() {
                return Some(format!("told:    {line}\nprinted: {next}"));
            }
        }
    }
    let more = !gaps && !used.contains(&real.len());
    more.then(|| format!("told:    (no more)\nprinted: {}", real[used[0]]))
}

/// How many jobs started, how many ended, and how many ran at once at most.
fn jobs(text: &str) -> [usize; 3] {
    let (mut going, mut done, mut peak) = (0, 0, 0);
    for line in text.lines() {
        going += usize::from(line.starts_with("going to sleep"));
        done += usize::from(line.starts_with("done sleeping"));
        peak = peak.max(going - done);
    }
    [going, done, peak]
}
