//! Makes a change in a copy of the project, runs what the chapter says of it,
//! and compares: what the tests prove, and what `tutorial/try` shows.

use super::chapter::{Change, Part, ROOT, apply, read};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

// ----- commands --------------------------------------------------------------

/// The process groups that run. While it is locked, none can start.
static GROUPS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn kill(group: u32) {
    let group = format!("-{group}");
    Command::new("kill").args(["-s", "KILL", "--", &group]).output().ok();
}

/// Kills all that runs. From then on nothing can start: end the program.
pub fn kill_all() {
    let groups = GROUPS.lock().expect("no panic");
    groups.iter().for_each(|group| kill(*group));
    std::mem::forget(groups);
}

/// A command and all that it starts, which is killed with it.
struct Running {
    bash: Child,
    reader: JoinHandle<()>,
    said: Arc<Mutex<String>>,
}

impl Running {
    /// Starts a command, and shows each line that it prints as it comes.
    fn start(bash: &mut Command, show: fn(&str)) -> Self {
        let mut groups = GROUPS.lock().expect("no panic");
        let mut bash = bash.spawn().expect("bash is installed");
        groups.push(bash.id());
        let output = BufReader::new(bash.stdout.take().expect("it is piped"));
        let said = Arc::<Mutex<String>>::default();
        let all = Arc::clone(&said);
        let reader = thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                show(&line);
                *all.lock().expect("no panic") += &format!("{line}\n");
            }
        });
        Self { bash, reader, said }
    }

    /// Waits for words, but not beyond the end, and not for ever.
    fn wait_for(&self, words: &str) -> String {
        let start = Instant::now();
        loop {
            let ended = self.reader.is_finished();
            let said = self.said.lock().expect("no panic").clone();
            let late = start.elapsed() > Duration::from_secs(600);
            if ended || late || said.contains(words) {
                return said;
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// All that it prints to its end.
    fn end(&self) -> String {
        self.wait_for("\0")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill(self.bash.id());
        self.bash.wait().ok();
        let is_other = |group: &u32| *group != self.bash.id();
        GROUPS.lock().expect("no panic").retain(is_other);
    }
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

/// Where cargo builds. Copies are built there too: what they need is there.
pub fn target() -> PathBuf {
    let program = std::env::current_exe().expect("it has a path");
    program.ancestors().nth(3).expect("target/debug/deps").to_owned()
}

/// Where the commands of this process have their temporary files.
pub fn temporary() -> PathBuf {
    target().join(format!("tmp/tmp-{}", std::process::id()))
}

/// Makes a copy of the project with another main.rs. Returns its folder, which
/// is always the same for a name, since cargo compares ages. What is as it was
/// keeps its age, and need not be built again.
pub fn make(place: &Path, name: &str, main: &str) -> PathBuf {
    // A name that sorts as the project's does: Cargo.lock is in that order.
    let name = format!("threaded-tokio-{name}");
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

/// A place for copies, in which their commands run.
#[derive(Clone)]
pub struct Workshop {
    name: &'static str,
    pub place: PathBuf,
    /// Gets each line that is printed, as soon as it is.
    show: fn(&str),
    /// What its commands find in their environment, or must not find there.
    pub settings: Vec<(&'static str, Option<String>)>,
}

impl Workshop {
    /// A folder of that name, where cargo builds.
    pub fn new(name: &'static str, show: fn(&str)) -> Self {
        let place = target().join(name);
        fs::create_dir_all(&place).expect("a folder");
        fs::create_dir_all(temporary()).expect("a folder");
        // curl shows its progress where it writes to a pipe.
        fs::write(place.join(".curlrc"), "no-progress-meter").expect("a file");
        // Builds without warnings, and leaves the dependencies as they are.
        let (rustc, mode) =
            (place.join("rustc"), Permissions::from_mode(0o755));
        if !rustc.exists() {
            let script = "#!/bin/sh\nexec \"$@\" --cap-lints allow\n";
            fs::write(&rustc, script).expect("a script");
            fs::set_permissions(&rustc, mode).expect("it is ours");
        }
        Self { name, place, show, settings: Vec::new() }
    }

    /// Starts a command, with nothing set that could change what it prints.
    /// What cargo says is left out unless the command is a build.
    fn start(
        &self,
        command: &str,
        port: &str,
        folder: &Path,
        show: fn(&str),
    ) -> Running {
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec 2>&1\n{command}")]);
        let settings = "HOST SLEEP WORKERS TAKERS REQUESTS TIMEOUT UPSTREAM";
        let others = "RUST_BACKTRACE TOKIO_WORKER_THREADS";
        for name in settings.split(' ').chain(others.split(' ')) {
            bash.env_remove(name);
        }
        if !is_build(command) {
            bash.env("RUSTC_WORKSPACE_WRAPPER", self.place.join("rustc"));
            bash.env("CARGO_TERM_QUIET", "true");
        }
        bash.envs([("PORT", port), ("no_proxy", "*")])
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_TARGET_DIR", target())
            .env("CURL_HOME", &self.place)
            .env("TMPDIR", temporary());
        for (name, value) in &self.settings {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        bash.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped());
        Running::start(bash.process_group(0), show)
    }

    /// Runs commands that nobody needs to see, unless one of them fails.
    fn prepare(&self, commands: &str, folder: &Path) -> Result<(), String> {
        let script = format!("set -e\n{commands}\necho done");
        let said = self.start(&script, "0", folder, |_| ()).end();
        if said.ends_with("done\n") { Ok(()) } else { Err(said) }
    }

    /// Makes a copy of the project with another main.rs. Where a chapter says
    /// how to make a crate, makes that, and adds the crates it needs.
    pub fn copy(
        &self,
        parts: &[Part],
        [path, number, adds]: [&str; 3],
        main: &str,
    ) -> Result<PathBuf, String> {
        let name = format!("{}-{}", self.name, number.replace('.', "-"));
        let folder = self.place.join(number);
        let own = parts.iter().filter(|part| part.path == path);
        let mut scripts = own.map(|part| part.lines.join("\n"));
        let Some(new) = scripts.find(|it| it.contains("cargo new my-server"))
        else {
            return Ok(make(&folder, &name, main));
        };
        let commands = format!("{new}\n{adds}");
        let folder = self.new_crate(&folder, &name, &commands)?;
        fs::write(folder.join("src/main.rs"), main).expect("a file");
        Ok(folder)
    }

    /// Makes a crate of that name in a place, by the commands of a chapter.
    pub fn new_crate(
        &self,
        place: &Path,
        name: &str,
        commands: &str,
    ) -> Result<PathBuf, String> {
        (self.show)("(making a crate, as the chapter says)");
        fs::remove_dir_all(place).ok();
        fs::create_dir_all(place).expect("a folder");
        symlink(ROOT, place.join("threaded-tokio")).expect("a link");
        let (_, new) = commands.split_once("cargo new ").expect("such a line");
        let own = new.lines().next().expect("its name");
        // In one target folder, crates of one name are one crate to cargo.
        self.prepare(&commands.replace(own, name), place)?;
        Ok(place.join(name))
    }

    /// Makes a change in a copy and runs the blocks below it. Returns the copy
    /// and what is not as they say, or why they can't be run.
    pub fn try_out(
        &self,
        parts: &[Part],
        change: &Change,
    ) -> Result<(PathBuf, Vec<String>), String> {
        let (main, _) = apply(change.diff)?;
        let names = [change.path, &change.number, &change.adds];
        let folder = self.copy(parts, names, &main)?;
        let mut wrong = Vec::new();
        for console in change.consoles() {
            wrong.extend(self.run(&console, &folder)?);
        }
        Ok((folder, wrong))
    }

    /// Runs the commands of a block. Returns what is not as it is told.
    ///
    /// Those that end in `&` are servers, which the others ask. Where nothing
    /// starts one, they ask one that sleeps a tenth of a second.
    pub fn run(
        &self,
        console: &Part,
        folder: &Path,
    ) -> Result<Vec<String>, String> {
        let mut steps = steps(console);
        let has =
            |words: &str| steps.iter().any(|it| it.command.contains(words));
        let asks = has("//127.0.0.1:8888");
        let mut builds = String::new();
        if asks || has("cargo run") {
            builds += "cargo build\n";
        }
        if has("./run.sh") {
            builds += "cargo build --release --locked\n";
        }
        if !builds.is_empty() {
            (self.show)("(building)");
            self.prepare(&builds, folder)?;
        }
        if asks && !has("cargo run") {
            let command = "SLEEP=0.1 cargo run --quiet &".to_owned();
            let (at, told) = (console.at(0), "...".to_owned());
            steps.insert(0, Step { at, command, told });
        }

        let [port, second] = [(); 2].map(|()| free_port().to_string());
        let (mut wrong, mut servers) = (Vec::new(), Vec::new());
        for mut step in steps {
            for text in [&mut step.command, &mut step.told] {
                *text = text.replace("8888", &port).replace("8889", &second);
            }
            (self.show)(&format!("$ {}", step.command));
            if let Some(command) = step.command.strip_suffix(" &") {
                let server = self.start(command, &port, folder, self.show);
                server.wait_for("listening on ");
                servers.push((step, server));
            } else {
                wrong.extend(self.check(&step, &port, folder));
            }
        }
        for (step, server) in servers {
            kill(server.bash.id());
            wrong.extend(step.wrong(&server.end()));
        }
        Ok(wrong)
    }

    /// Runs a command. Returns what is not as it is told.
    fn check(&self, step: &Step, port: &str, folder: &Path) -> Option<String> {
        if step.command.starts_with("tutorial/measure") {
            return None; // It takes minutes, and it can check itself.
        }
        // A machine that is busy sends requests late, and draws other bars.
        let mut tries = if step.command.contains("./run.sh") { 5 } else { 1 };
        loop {
            let run = self.start(&step.command, port, folder, self.show).end();
            let wrong = step.wrong(&run)?;
            tries -= 1;
            if tries == 0 {
                return Some(wrong);
            }
            (self.show)("(not as it is told: a busy machine? once more)");
        }
    }
}

// ----- what is told, and what is printed -------------------------------------

/// A command of a block, and what the block tells of what it prints.
pub struct Step {
    at: String,
    pub command: String,
    told: String,
}

pub fn steps(console: &Part) -> Vec<Step> {
    let (mut steps, mut i) = (Vec::new(), 0);
    for lines in console.lines.chunk_by(|_, next| !next.starts_with("$ ")) {
        let at = console.at(i);
        i += lines.len();
        let goes_on = |line: &&String| line.ends_with('\\');
        let more = lines.iter().take_while(goes_on).count();
        let command = lines[..=more].join("\n");
        let command = command.strip_prefix("$ ").expect(&at).to_owned();
        steps.push(Step { at, command, told: lines[more + 1..].join("\n") });
    }
    steps
}

/// Whether a command is about what cargo says.
fn is_build(command: &str) -> bool {
    command.starts_with("cargo build") || command.starts_with("cargo check")
}

impl Step {
    /// What differs first. In what is told, `...` stands for any lines. What
    /// threads print may come in another order, and what cargo says may stand
    /// between other lines. Compilers word it differently, so of that, only the
    /// first words of errors and warnings must be so, but where KNOWN_RUST is
    /// set: the compilers of .ci/run say all of it so.
    fn wrong(&self, printed: &str) -> Option<String> {
        let Self { at, command, told } = self;
        let sorted = command.ends_with("./run.sh") || command.ends_with(" &");
        let is_part = told.lines().any(|line| line == "...");
        let gaps = is_build(command) && !told.is_empty() || sorted && is_part;
        let is_known = std::env::var_os("KNOWN_RUST").is_some();
        let first_words = |line: String| {
            let is_first =
                ["error", "warning"].iter().any(|it| line.starts_with(it));
            let words = line.split(' ').take(if is_first { 2 } else { 0 });
            words.collect::<Vec<_>>().join(" ")
        };
        let shapes = |text: &str| {
            let lines = text.lines().map(shape).map(|line| {
                match (is_build(command), is_known) {
                    (false, _) => line,
                    (_, false) => first_words(line),
                    (_, true) => without_places(&line),
                }
            });
            let mut lines: Vec<_> = lines.filter(|it| !it.is_empty()).collect();
            if sorted {
                lines.sort();
            }
            if sorted && !is_part {
                lines.push(format!("(at once: {} jobs)", jobs_at_once(text)));
            }
            lines
        };
        let (told, real) = (shapes(told), shapes(printed));
        let end = "(no more)".to_owned();
        // How many lines of `real` those up to here may stand for.
        let mut used = vec![0];
        for line in told.iter().chain([&end]) {
            let next = real.get(used[0]).unwrap_or(&end);
            if gaps || line == "..." {
                used = (used[0]..=real.len()).collect();
            }
            if line != "..." {
                used.retain(|n| real.get(*n).unwrap_or(&end) == line);
                used.iter_mut().for_each(|n| *n += 1);
            }
            if used.is_empty() {
                let next = if gaps { "no such line" } else { next };
                return Some(format!(
                    "{at}: $ {command}\ntold:    {line}\nprinted: {next}"
                ));
            }
        }
        None
    }
}

/// What a compiler says, but for its places: those in main.rs change with it.
fn without_places(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let is_place = word.contains(':') && !word.starts_with("error[");
        let not_it = |c: &char| !(is_place && c.is_ascii_digit());
        word.chars().filter(not_it).collect::<String>()
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A line without what differs from run to run: times, and which request.
pub fn shape(line: &str) -> String {
    if line.starts_with("date: ") {
        return "date: D".to_owned();
    }
    let words: Vec<_> = line.split_whitespace().collect();
    let is_bar =
        words.len() > 3 && words[1].trim_matches(['.', '#', 'x']).is_empty();
    let shapes = words.iter().enumerate().map(|(i, word)| {
        let count = |sign| word.matches(sign).count();
        match i {
            0 if is_bar => "N".to_owned(),
            1 if is_bar && count('x') > 0 => "x".to_owned(),
            // A request that is sent late seems to wait for some columns.
            1 if is_bar && 2 * count('.') > count('#') => ".#".to_owned(),
            1 if is_bar => "#".to_owned(),
            _ => {
                let time = word.trim_end_matches(|c: char| !c.is_ascii_digit());
                let is_time = time.contains('.') && time.parse::<f64>().is_ok();
                if is_time { word.replace(time, "N") } else { (*word).into() }
            }
        }
    });
    shapes.collect::<Vec<_>>().join(" ")
}

/// How many jobs run at once at most in what a server prints.
fn jobs_at_once(text: &str) -> i32 {
    let (mut now, mut most) = (0, 0);
    for line in text.lines() {
        now += i32::from(line.starts_with("going to sleep"));
        now -= i32::from(line.starts_with("done sleeping"));
        most = most.max(now);
    }
    most
}
