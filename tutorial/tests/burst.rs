//! What `./run.sh` does: the burst, its verdict, and every way out.

mod common;

use common::terminal::{Terminal, screen};
use common::*;

/// A run of run.sh on a free port, with a folder for its temporary files.
fn run_sh(settings: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = apart(&format!("{ROOT}/run.sh"), settings);
    command.args(arguments);
    command
}

fn apart(program: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command.env("PORT", "0").env("TMPDIR", folder("run"));
    command.envs(settings.iter().copied());
    command
}

/// The address in the line `listening on http://ADDRESS/`.
#[track_caller]
fn address(said: &str) -> &str {
    let rest = said.split("listening on http://").nth(1).expect(said);
    rest.split('/').next().expect("a slash")
}

/// Fails if run.sh has left a server or a file behind.
#[track_caller]
fn assert_clean(command: &Command, said: &str) {
    assert!(TcpStream::connect(address(said)).is_err(), "a server is left");
    assert_no_file(command);
}

#[track_caller]
fn assert_no_file(command: &Command) {
    let is_tmpdir = |(name, value)| (name == "TMPDIR").then_some(value)?;
    let temporary = command.get_envs().find_map(is_tmpdir).expect("it is set");
    let left: Vec<_> = fs::read_dir(temporary).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Which of the post's lines a run printed: true for `going`.
fn transcript(said: &str) -> Vec<bool> {
    let lines = said.lines();
    lines
        .filter_map(|line| match line {
            "going to sleep 127.0.0.1" => Some(true),
            "done sleeping 127.0.0.1" => Some(false),
            _ => None,
        })
        .collect()
}

#[test]
fn thirteen_requests_on_ten_workers_make_two_waves() {
    let mut command = run_sh(&[("SLEEP", "2.5")], &[]);
    let (status, said, errors) = output(&mut command);
    assert_eq!(status, Some(0), "{said}{errors}");

    let lines = transcript(&said);
    assert_eq!(lines.len(), 26, "{said}");
    assert_eq!(lines.iter().filter(|going| **going).count(), 13);
    let mut open = 0;
    for going in &lines {
        open = if *going { open + 1 } else { open - 1 };
        assert!((0..=10).contains(&open), "{said}");
    }
    assert!(lines[..10].iter().all(|going| *going), "ten start: {said}");
    assert!(!lines[10], "the eleventh waits: {said}");

    let bars: Vec<_> = said.lines().filter(|row| row.contains("# ")).collect();
    let waited = |bar: &&&str| bar.contains("..........#");
    assert_eq!(bars.iter().filter(|bar| bar.contains("  200  ")).count(), 13);
    assert_eq!(bars.iter().filter(waited).count(), 3, "{said}");
    assert!(said.contains("\n13 answered, 0 failed, in 5."), "{said}");
    assert!(said.contains("ideal: 2 rounds of 2.5 s = 5.00 s"), "{said}");
    assert!(said.contains("one at a time: 32.50 s"), "{said}");
    let control = said.contains(|c: char| c.is_control() && c != '\n');
    assert!(!control, "colour and the burst live are for terminals: {said:?}");
    assert_clean(&command, &said);
}

/// The ten that have a worker keep it. The three in the queue never start.
#[test]
fn clients_that_leave_are_told_of_and_fail_the_run() {
    let mut command = run_sh(&[("SLEEP", "3"), ("TIMEOUT", "1.5")], &[]);
    let (status, said, errors) = output(&mut command);
    assert_eq!(status, Some(1), "{said}{errors}");
    assert_eq!(transcript(&said).len(), 20, "{said}");
    assert!(said.contains("\n0 answered, 13 failed, in "), "{said}");
    let why = " 13 curl: (28) Operation timed out with 0 bytes received\n";
    assert!(said.contains(why), "{said}");
    assert_clean(&command, &said);
}

/// A folder of programs in place of PATH: the tools run.sh needs, without the
/// one that is named.
fn path_without(missing: &str) -> String {
    let folder = folder("path");
    let tools = [
        "bash", "cargo", "curl", "awk", "cat", "dirname", "mktemp", "sed",
        "sort", "sleep", "rm", "grep", "uniq", "env", "tail",
    ];
    for tool in tools.into_iter().filter(|tool| *tool != missing) {
        let path = printed(&mut bash(&format!("command -v {tool}")));
        symlink(path.trim(), folder.join(tool)).expect("a link");
    }
    folder.display().to_string()
}

#[test]
fn a_missing_tool_is_named_with_where_to_get_it() {
    for (tool, remedy) in [("cargo", "https://rustup.rs"), ("curl", "install")]
    {
        let mut command = run_sh(&[("PATH", &path_without(tool))], &[]);
        let (status, said, errors) = output(&mut command);
        assert_eq!(status, Some(1), "{said}{errors}");
        assert!(errors.starts_with(&format!("run.sh: {tool} is missing")));
        assert!(errors.contains(remedy) && errors.lines().count() == 1);
        assert_eq!(said, "");
    }
}

#[test]
fn a_wrong_call_is_refused() {
    for (settings, argument, named) in [
        (("REQUESTS", "0"), "--keep", "REQUESTS='0'"),
        (("REQUESTS", "1001"), "--keep", "REQUESTS='1001'"),
        (("REQUESTS", "many"), "--keep", "REQUESTS='many'"),
        (("REQUESTS", ""), "--keep", "REQUESTS=''"),
        (("REQUESTS", "010"), "--keep", "REQUESTS='010'"),
        (("REQUESTS", "09"), "--keep", "REQUESTS='09'"),
        (("TIMEOUT", ""), "--keep", "TIMEOUT=''"),
        (("TIMEOUT", "-1"), "--keep", "TIMEOUT='-1'"),
        (("TIMEOUT", "1.2.3"), "--keep", "TIMEOUT='1.2.3'"),
        (("TIMEOUT", ".5"), "--keep", "TIMEOUT='.5'"),
        (("TIMEOUT", "soon"), "--keep", "TIMEOUT='soon'"),
        (("REQUESTS", "13"), "--fast", "--fast"),
    ] {
        let (status, said, errors) =
            output(&mut run_sh(&[settings], &[argument]));
        assert_eq!(status, Some(2), "{said}{errors}");
        assert!(errors.contains(named) && errors.lines().count() == 1);
    }
    let (status, said, _) = output(&mut run_sh(&[], &["--help"]));
    assert_eq!(status, Some(0));
    assert!(said.starts_with("usage: ./run.sh [--keep]"), "{said}");
}

#[test]
fn a_server_that_does_not_start_is_heard() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for (setting, heard) in [
        (("PORT", port.as_str()), "change HOST or PORT"),
        (("SLEEP", "long"), "SLEEP=\"long\" is not allowed"),
    ] {
        let mut command = run_sh(&[setting], &["--keep"]);
        let (status, said, errors) = output(&mut command);
        assert_no_file(&command);
        assert_eq!(status, Some(1), "{said}{errors}");
        assert!(errors.contains(heard), "{errors}");
        assert!(errors.ends_with("run.sh: the server did not start\n"));
        assert_eq!(transcript(&said), []);
    }
}

/// A process that is killed if the test fails.
struct Killed<'a>(&'a str);

impl Drop for Killed<'_> {
    fn drop(&mut self) {
        Command::new("kill").args(["-s", "KILL", self.0]).output().ok();
    }
}

#[test]
fn keep_leaves_the_server_and_says_how_to_reach_it() {
    let settings = [("SLEEP", "0.1"), ("REQUESTS", "1")];
    let (status_code, said, _) = output(&mut run_sh(&settings, &["--keep"]));
    assert_eq!(status_code, Some(0), "{said}");

    let after = |text: &str| said.rsplit(text).next().expect(text).trim();
    let server = Killed(after("Stop it with: kill "));
    let url = after("The server goes on at ").lines().next().expect("a line");
    assert_eq!(status(url), "200");
    signal("TERM", server.0);
    let end = || TcpStream::connect(address(&said)).is_err();
    wait_until("the server to end", end);
}

/// Starts a command that runs run.sh with its output in a file, and presses
/// Ctrl-C when ten requests sleep. Returns the exit status and the output.
#[track_caller]
fn ctrl_c(command: &mut Command) -> (Option<i32>, String) {
    let said = scratch("said");
    command.process_group(0).stdin(Stdio::null());
    command.stdout(File::create(&said).expect("a file"));
    let mut child = command.spawn().expect("run.sh starts");
    let read = || fs::read_to_string(&said).expect("a file");
    wait_until("the first wave", || transcript(&read()).len() == 10);
    // As a terminal does, to all processes of the group.
    signal("INT", &format!("-{}", child.id()));
    (exit_status(&mut child), read())
}

const IGNORED: &str = "is SIGINT ignored here? env --default-signal=INT helps";

#[test]
fn ctrl_c_ends_all_of_it() {
    let mut command = run_sh(&[("SLEEP", "2")], &[]);
    let (status, said) = ctrl_c(&mut command);
    assert_eq!(status, Some(130), "{IGNORED}: {said}");
    // What slept woke up; what waited never started.
    let going = transcript(&said).iter().filter(|going| **going).count();
    assert_eq!((transcript(&said).len(), going), (20, 10), "{said}");
    assert_clean(&command, &said);
}

/// Ctrl-C ends the reader as well, so what the server does then is not seen.
#[test]
fn ctrl_c_ends_all_of_it_in_a_pipe() {
    let mut command = apart("bash", &[("SLEEP", "2")]);
    let status = scratch("status");
    let pipe = format!("({ROOT}/run.sh; echo $? >{status:?}) | tee /dev/null");
    let (_, said) = ctrl_c(command.args(["-c", &pipe]));
    let status = || fs::read_to_string(&status).unwrap_or_default();
    wait_until("the exit", || !status().is_empty());
    assert_eq!(status(), "130\n", "{IGNORED}: {said}");
    assert_clean(&command, &said);
}

#[test]
fn a_reader_that_leaves_ends_all_of_it() {
    let mut bash = apart("bash", &[("SLEEP", "0.5")]);
    bash.args(["-c", &format!("{ROOT}/run.sh | head -n 1")]);
    let (_, said, errors) = output(&mut bash);
    assert_eq!(said.lines().count(), 1, "{said}{errors}");
    assert_clean(&bash, &said);
}

/// A PATH with a cargo that builds nothing, and runs `program`.
fn fake_cargo(program: &Path) -> String {
    path_with("cargo", &format!("[ \"$1\" = build ] || exec {program:?}"))
}

/// By way of two links, the first of them in a folder that is a link as well,
/// and where CDPATH has a folder of that name.
#[test]
fn it_runs_in_its_own_folder_from_wherever_it_is_called() {
    let folder = folder("called");
    for place in ["here", "deep/er", "cdpath/here", "cdpath/short"] {
        fs::create_dir_all(folder.join(place)).expect("a folder");
    }
    fs::copy(format!("{ROOT}/run.sh"), folder.join("here/run.sh"))
        .expect("run.sh");
    for (target, link) in [
        ("deep/er", "short"),
        ("../link", "deep/er/run"),
        ("../here/run.sh", "deep/link"),
    ] {
        symlink(target, folder.join(link)).expect("a link");
    }
    let seen = folder.join("seen");
    let server = folder.join("server");
    script(&server, &format!("pwd -P >{seen:?}\nexec {BINARY:?}"));
    let cdpath = folder.join("cdpath").display().to_string();
    for (file, mode) in [
        ("here/run.sh", "--norc"),
        ("short/run", "--norc"),
        ("short/run", "--posix"),
    ] {
        let settings = [
            ("SLEEP", "0"),
            ("CDPATH", &cdpath),
            ("PATH", &fake_cargo(&server)),
        ];
        let mut command = apart("bash", &settings);
        command.args([mode, file]).current_dir(&folder);
        let (status, said, errors) = output(&mut command);
        assert_eq!((status, errors.as_str()), (Some(0), ""), "{file} {mode}");
        assert!(said.starts_with("listening on http://"), "{said}");
        let seen = fs::read_to_string(&seen).expect("it was run");
        let own = folder.join("here").canonicalize().expect("a folder");
        assert_eq!(seen.trim_end(), own.display().to_string(), "{file} {mode}");
        assert_clean(&command, &said);
    }
}

#[test]
#[ignore = "takes dash"]
fn another_shell_says_that_it_takes_bash() {
    let mut command = apart("dash", &[]);
    let (status, said, errors) = output(command.arg(format!("{ROOT}/run.sh")));
    assert_eq!((status, said.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("bash run.sh"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn a_failed_request_fails_the_run() {
    let panics = build_changed(
        "first-panics",
        SLEEP,
        "thread::sleep(self.sleep);
         use std::sync::atomic::{AtomicBool, Ordering};
         static FIRST: AtomicBool = AtomicBool::new(true);
         let first = FIRST.swap(false, Ordering::Relaxed);
         assert!(!first, \"the first one panics\");",
    );
    let silent = build_changed(
        "no-message",
        MESSAGE,
        "format!(\"nothing for {remote_ip}\")",
    );
    for (program, expected, verdict) in [
        (panics.as_path(), Some(1), "12 answered, 1 failed"),
        (silent.as_path(), Some(1), "0 answered, 13 failed"),
        (Path::new(BINARY), Some(0), "13 answered, 0 failed"),
    ] {
        let settings = [("SLEEP", "0.1"), ("PATH", &fake_cargo(program))];
        let mut command = run_sh(&settings, &[]);
        let (status, said, errors) = output(&mut command);
        assert_eq!(status, expected, "{said}{errors}");
        assert!(said.contains(verdict), "{said}");
        let heard = said.contains("\nthe first one panics\n");
        assert_eq!(heard, program == panics, "{said}");
        assert_clean(&command, &said);
    }
}

/// One curl in thirteen is gone before it can say how it went.
#[test]
fn a_client_that_says_nothing_counts_as_failed() {
    let path = fake_cargo(Path::new(BINARY));
    let (folder, rest) = path.split_once(':').expect("more than one folder");
    let gone = "case $* in *' 3 %{http_code}'*) exit 9 ;; esac";
    let text = format!("{gone}\nPATH='{rest}' exec curl \"$@\"");
    script(&Path::new(folder).join("curl"), &text);
    let mut command = run_sh(&[("SLEEP", "0"), ("PATH", &path)], &[]);
    let (status, said, errors) = output(&mut command);
    assert_eq!(status, Some(1), "{said}{errors}");
    assert!(said.contains("\n12 answered, 1 failed"), "{said}");
}

// ----- on a terminal ---------------------------------------------------------

/// What the tests below rely on.
#[test]
fn a_terminal_has_a_size_keys_and_settings() {
    let mut command = Command::new("sh");
    command.args(["-c", "stty size; trap 'exit 7' INT; read -r a; stty -echo"]);
    let sh = Terminal::start(&command, 40, 12);
    sh.wait_until("size", |said| said.contains("12 40\r\n"));
    assert!(sh.is_sane());
    sh.press("a\r");
    assert_eq!((sh.exit_status(), sh.is_sane()), (0, false));
    assert_eq!(sh.printed(), "12 40\r\na\r\n");

    let sh = Terminal::start(&command, 40, 12);
    sh.wait_until("size", |said| said.contains("12 40\r\n"));
    sh.press("\x03");
    assert_eq!((sh.exit_status(), sh.is_sane()), (7, true), "{IGNORED}");
    assert_eq!(sh.printed(), "12 40\r\n^C");
}

/// run.sh with a server whose jobs end when the function is called that comes
/// with it.
fn gated(
    settings: &[(&str, &str)],
    arguments: &[&str],
) -> (Command, impl Fn() + use<>) {
    let gate = scratch("gate");
    let program = obedient("10");
    let path = fake_cargo(Path::new(program.get_program()));
    let mut command = run_sh(&[("SLEEP", "0")], arguments);
    command.envs(settings.iter().copied());
    command.env("GATE", &gate).env("PATH", path);
    (command, move || drop(File::create(&gate).expect("a file")))
}

/// What each line that showed the burst had to say: its signs, without their
/// colour, and its counts, without the seconds.
fn live(printed: &str) -> Vec<(String, String)> {
    let printed = printed.replace("\r\n", "\n");
    let (whole, _unfinished) = printed.rsplit_once('\r').unwrap_or_default();
    let lines = whole.split(['\r', '\n']).filter_map(|line| {
        let line = screen(line).concat();
        let (head, counts) = line.strip_prefix(' ')?.split_once(" s")?;
        let (signs, seconds) = head.rsplit_once(' ').unwrap_or(("", head));
        seconds.parse::<u32>().ok()?;
        let counts = counts.trim_start_matches(": ");
        Some((signs.trim().to_owned(), counts.to_owned()))
    });
    lines.collect()
}

/// How many requests are in each state, unless the line was cut off.
fn states(counts: &str) -> Option<[usize; 4]> {
    let number = |state| {
        let mut counts = counts.split(", ");
        counts.find_map(|count| count.strip_suffix(state)?.parse().ok())
    };
    let failed = number(" failed").unwrap_or_default();
    Some([number(" answered")?, number(" sleep")?, number(" wait")?, failed])
}

/// Waits until the burst's line says this.
#[track_caller]
fn shows(terminal: &Terminal, signs: &str, counts: &str) {
    let told = (signs.to_owned(), counts.to_owned());
    terminal.wait_until(&format!("{told:?}"), |printed| {
        live(printed).last() == Some(&told)
    });
}

/// Fails unless each line that showed the burst has each request in one state.
#[track_caller]
fn assert_adds_up(terminal: &Terminal, requests: usize) {
    let printed = terminal.printed();
    let (burst, _bars) = printed.split_once("\nrequest  (").expect(&printed);
    for (signs, counts) in live(burst) {
        let number = |sign: char| signs.matches(sign).count();
        let drawn = ['+', '#', '.', 'x'].map(number);
        let drawn = (!signs.is_empty()).then_some(drawn);
        let told = states(&counts);
        for states in drawn.iter().chain(&told) {
            let sum: usize = states.iter().sum();
            assert_eq!(sum, requests, "{signs} {counts}");
            assert!(states[1] <= 10, "there are ten workers: {counts}");
        }
        assert!(told.is_none() || drawn.is_none() || told == drawn);
    }
}

/// Fails if the burst's line is still to be seen, or the terminal is not as it
/// was. Returns what stands there.
#[track_caller]
fn assert_tidy(terminal: &Terminal) -> String {
    let screen = screen(&terminal.printed());
    let signs = [" +", " #", " .", " x"];
    let is_live = |line: &String| {
        signs.iter().any(|it| line.starts_with(it)) || line.contains(" sleep, ")
    };
    assert!(!screen.iter().any(is_live), "{screen:#?}");
    assert!(terminal.is_sane());
    screen.join("\n")
}

#[test]
fn a_terminal_shows_the_burst_while_it_runs() {
    let (command, open) = gated(&[("SLEEP", "1")], &[]);
    let terminal = Terminal::start(&command, 80, 24);
    let counts = "0 answered, 10 sleep, 3 wait";
    shows(&terminal, "##########...", counts);
    assert!(terminal.printed().contains("\x1b[32m##########\x1b[0m"));
    // A window too narrow for the counts, and one too narrow for the signs.
    terminal.resize(40, 24);
    shows(&terminal, "##########...", "");
    terminal.resize(19, 24);
    terminal.wait_until("counts alone, cut off", |printed| {
        live(printed).last().is_some_and(|(signs, counts)| {
            signs.is_empty() && "0 answered, 10".starts_with(counts)
        })
    });
    terminal.resize(80, 24);
    shows(&terminal, "##########...", counts);
    open();
    assert_eq!(terminal.exit_status(), 0, "{}", terminal.printed());
    assert_adds_up(&terminal, 13);
    let said = assert_tidy(&terminal);
    assert_eq!(transcript(&said).len(), 26, "{said}");
    assert!(said.contains("\n13 answered, 0 failed, in "), "{said}");
    assert_clean(&command, &said);
}

#[test]
fn more_requests_than_columns_are_counted() {
    let (command, open) = gated(&[("REQUESTS", "200")], &[]);
    let terminal = Terminal::start(&command, 80, 24);
    shows(&terminal, "", "0 answered, 10 sleep, 190 wait");
    open();
    assert_eq!(terminal.exit_status(), 0, "{}", terminal.printed());
    assert_adds_up(&terminal, 200);
    let said = assert_tidy(&terminal);
    assert!(said.contains("\n200 answered, 0 failed, in "), "{said}");
}

/// Of a request that failed the server says that its job began, and no more.
#[test]
fn a_failed_request_is_shown_too_and_without_colour_if_you_like() {
    let (mut command, open) = gated(&[("NO_COLOR", "1")], &[]);
    let broken = scratch("break");
    File::create(&broken).expect("a file");
    let terminal = Terminal::start(command.env("BREAK", broken), 80, 24);
    let counts = "0 answered, 10 sleep, 2 wait, 1 failed";
    shows(&terminal, "##########..x", counts);
    open();
    assert_eq!(terminal.exit_status(), 1, "{}", terminal.printed());
    let colours = terminal.printed().matches("\x1b[").count();
    assert_eq!(colours, terminal.printed().matches("\x1b[J").count());
    assert_adds_up(&terminal, 13);
    assert_tidy(&terminal);
}

#[test]
fn a_terminal_that_can_not_gets_no_control_sign() {
    let settings = [("TERM", "dumb"), ("SLEEP", "0.5")];
    let path = ("PATH", &*fake_cargo(Path::new(BINARY)));
    let command = run_sh(&[settings[0], settings[1], path], &[]);
    let terminal = Terminal::start(&command, 80, 24);
    assert_eq!(terminal.exit_status(), 0, "{}", terminal.printed());
    let said = terminal.printed().replace("\r\n", "\n");
    let control = said.contains(|c: char| c.is_control() && c != '\n');
    assert!(!control, "{said:?}");
    assert_eq!(transcript(&said).len(), 26, "{said}");
}

#[test]
fn ctrl_c_leaves_the_terminal_as_it_was() {
    // run.sh waits for that long, and for two seconds more.
    let (command, open) = gated(&[("SLEEP", "5")], &[]);
    let terminal = Terminal::start(&command, 80, 24);
    let counts = "0 answered, 10 sleep, 3 wait";
    shows(&terminal, "##########...", counts);
    terminal.press("\x03");
    let stopping = |printed: &str| printed.contains("ends it at once\r\n");
    terminal.wait_until("word of the stop", stopping);
    let said = assert_tidy(&terminal);
    let own = said.lines().filter(|line| !line.ends_with("127.0.0.1"));
    let own: Vec<_> = own.skip(1).collect();
    let heading = "13 requests at once, 10 workers, 5 s of sleep:";
    let stopping = "stopping: what sleeps may wake up; \
                    Ctrl-C again ends it at once";
    assert_eq!(own, [heading, "", "", stopping]);
    open();
    assert_eq!(terminal.exit_status(), 130, "{IGNORED}");
    let said = assert_tidy(&terminal);
    // What the server had to say while it stopped is there as well.
    assert_eq!(transcript(&said).len(), 20, "{said}");
    assert_clean(&command, &said);
}

#[test]
fn a_server_that_is_kept_writes_to_a_file_and_not_to_the_terminal() {
    let (mut command, open) = gated(&[("REQUESTS", "1")], &["--keep"]);
    let program = obedient("10").get_program().to_owned();
    let server = scratch("server");
    let text = "(sleep 1; printf 'no end of line') & exec";
    script(&server, &format!("{text} {program:?}"));
    command.env("PATH", fake_cargo(&server));
    let terminal = Terminal::start(&command, 80, 24);
    let part = |printed: &str| printed.contains("no end of line");
    terminal.wait_until("what is no whole line", part);
    open();
    assert_eq!(terminal.exit_status(), 0, "{}", terminal.printed());
    let said = assert_tidy(&terminal);
    let after = |text: &str| {
        let rest = said.rsplit(text).next().expect(text);
        rest.lines().next().expect("a line").to_owned()
    };
    let server = after("Stop it with: kill ");
    let server = Killed(&server);
    assert_eq!(status(&after("The server goes on at ")), "200");
    let mut files =
        said.lines().filter_map(|l| l.strip_prefix("It writes to "));
    let stdout = files.find(|file| file.ends_with("stdout"));
    let written = fs::read_to_string(stdout.expect(&said)).expect("a file");
    assert_eq!(written.matches("127.0.0.1\n").count(), 4, "{written}");
    assert_eq!(assert_tidy(&terminal), said);
    signal("TERM", server.0);
}
