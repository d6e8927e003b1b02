//! The chapters on production, proven with what they name: process 1,
//! `timeout`, systemd, a container's file, a balancer that polls, Prometheus,
//! and machines made of network namespaces. Much of it takes Linux and root.

mod common;

use common::chapter::{Part, apply, parts, read};
use common::{
    BINARY, GET, LONG, ROOT, Server, answered, build, fetch, find, flood,
    free_port, obeying, read_to_close, scratch, signal, skip, status,
    wait_until,
};
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// What a chapter shows below a heading: the blocks of that kind.
fn shown(path: &str, heading: &str, kind: &str) -> Vec<String> {
    let is_it = |line: &String| line == heading;
    let parts = parts(path);
    let mut below = parts.iter().skip_while(|part| {
        part.kind != "prose" || !part.lines.iter().any(is_it)
    });
    below.next().unwrap_or_else(|| panic!("{path} has no {heading}"));
    let is_next = |part: &&Part| {
        part.kind == "prose" && part.lines.iter().any(|it| it.starts_with('#'))
    };
    let below = below.take_while(|part| !is_next(part));
    let blocks = below.filter(|part| part.kind == kind);
    blocks.map(|part| part.lines.join("\n") + "\n").collect()
}

/// main.rs with the first change of a chapter.
fn with_change(path: &str) -> String {
    let diff = parts(path).into_iter().find(|part| part.kind == "diff");
    apply(&diff.expect("a diff")).expect("it applies").0
}

/// Whether this process may make namespaces. Where not, skip the test.
#[track_caller]
fn may_unshare() -> bool {
    let Some(unshare) = find("unshare") else { return false };
    let mut try_it = Command::new(unshare);
    try_it.args(["--pid", "--net", "--mount", "--fork", "true"]);
    let may =
        try_it.stderr(Stdio::null()).status().is_ok_and(|it| it.success());
    if !may {
        skip("the right to make namespaces: be root");
    }
    may
}

// ----- who stops it ----------------------------------------------------------

const WHO: &str = "tutorial/22-who-stops-it.md";

/// The number outside of a process that is number 1 inside. It is killed when
/// the test ends, and takes its namespace along.
struct First(u32);

impl Drop for First {
    fn drop(&mut self) {
        if state(self.0, "NSpid").ends_with("\t1") {
            signal("KILL", &self.0.to_string());
        }
    }
}

/// Starts a program as process 1 of a namespace.
#[track_caller]
fn first(program: &[&str], settings: &[(&str, &str)]) -> (Server, First) {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    unshare.args(program).envs(settings.iter().copied());
    let server = Server::launch(&mut unshare, None, None);
    let mut inner = None;
    wait_until("process 1", || {
        inner = children(server.child.id()).first().copied();
        inner.is_some_and(|it| state(it, "NSpid").ends_with("\t1"))
    });
    (server, First(inner.expect("it is there")))
}

/// A line of what Linux says about a process, or nothing if it is gone.
fn state(process: u32, line: &str) -> String {
    let file = format!("/proc/{process}/status");
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|it| it.starts_with(line));
    line.unwrap_or_default().to_owned()
}

fn children(process: u32) -> Vec<u32> {
    let file = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().filter_map(|it| it.parse().ok()).collect()
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn as_process_1_it_answers_and_stops_and_leaves_nobody() {
    if !may_unshare() {
        return;
    }
    let (server, first) = first(&[BINARY], &[("SLEEP", "2")]);
    let inner = first.0;
    let mut server = server.listening();
    let client = server.send(GET);
    wait_until("the job", || server.going() == 1);
    signal("TERM", &inner.to_string());
    assert!(read_to_close(client).ends_with("msg to client 127.0.0.1"));
    assert_eq!(server.exit_status(), Some(0));
    assert_eq!((server.going(), server.done()), (1, 1));
    assert_eq!(state(inner, "State"), "", "it is gone, and no zombie");
}

/// The system does not stop process 1 for a signal that it has not asked for.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn process_1_hears_nothing_that_it_has_not_asked_for() {
    if !may_unshare() {
        return;
    }
    let script = &shown(WHO, "## Predict, then run", "sh")[0];
    let script = script.replace("/threaded-tokio", BINARY);
    let (sleeper, deaf) = first(&["sleep", "60"], &[]);
    let (shell, number) = first(&["sh", "-c", &script], &[("SLEEP", "0")]);
    let shell = shell.listening();
    let exec = script.replace(BINARY, &format!("exec {BINARY}"));
    let (mut server, same) = first(&["sh", "-c", &exec], &[("SLEEP", "0")]);
    server = server.listening();
    for process in [&deaf, &number, &same] {
        signal("TERM", &process.0.to_string());
    }
    assert_eq!(server.exit_status(), Some(0));
    sleep(Duration::from_secs(2));
    assert_eq!(children(sleeper.child.id()), [deaf.0]);
    assert_eq!(status(&shell.url("/")), "200", "nobody told the server");
}

/// What `docker exec` may leave behind.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn as_process_1_it_has_no_zombies_but_those_that_others_leave() {
    if !may_unshare() {
        return;
    }
    let (server, first) = first(&[BINARY], &[("SLEEP", "0")]);
    let inner = first.0;
    let server = server.listening();
    assert_eq!(status(&server.url("/")), "200");
    assert_eq!(children(inner), []);
    let target = inner.to_string();
    let mut enter = Command::new("nsenter");
    enter.args(["--pid", "--mount", "--target", &target, "sh", "-c"]);
    enter.arg("sleep 0.5 & exit").stdin(Stdio::null());
    assert!(enter.status().expect("nsenter runs").success());
    wait_until("a zombie", || {
        let mut orphans = children(inner).into_iter();
        orphans.any(|it| state(it, "State").contains('Z'))
    });
}

/// Runs a server for five seconds as a chapter says, with a client that waits.
/// Returns the answer, and what the server says, with its status.
fn stopped(program: &Path, seconds: &str) -> Option<[String; 2]> {
    let timeout = find("timeout")?;
    let command = &shown(WHO, "## Ten seconds, and no more", "sh")[0];
    let words = command.split_whitespace().skip_while(|it| *it != "timeout");
    let words: Vec<_> = words.take_while(|it| *it != "\\").collect();
    assert_eq!(words[3..], ["10", "5"], "as docker stop does");
    let mut command = Command::new(timeout);
    command.args(&words[1..]).arg(program).env("SLEEP", seconds);
    let mut server = Server::launch(&mut command, None, None).listening();
    let client = server.send(GET);
    let answer = read_to_close(client);
    let status = server.child.wait().expect("it is our child");
    // As a shell has it. `timeout` does not survive its own SIGKILL.
    let status = status.code().or(status.signal().map(|it| 128 + it));
    let status = status.expect("it has ended");
    // As it appears on a terminal.
    let (first, last) = (server.first_line(), server.stderr());
    let last = last.strip_prefix(&first).expect("its first line");
    let said = format!("{first}{}{last}", server.stdout());
    let said = said.replace(&server.port.to_string(), "8888");
    Some([answer, format!("{said}{status}\n")])
}

#[test]
fn ten_seconds_are_too_short_for_thirty_and_long_enough_for_eight() {
    let heading = "## Ten seconds, and no more";
    let told = shown(WHO, heading, "text");
    let Some([answer, said]) = stopped(BINARY.as_ref(), "60") else { return };
    assert_eq!((answer.as_str(), said), ("", told[0].clone()));
    let eight = build("eight", &with_change(WHO));
    let start = Instant::now();
    let Some([answer, said]) = stopped(&eight, "60") else { return };
    assert_eq!((answer.as_str(), said), ("", told[1].clone()));
    assert!(start.elapsed() > Duration::from_secs(8), "that is its time");
}

#[test]
fn a_wrapper_that_signals_twice_loses_no_answer() {
    let Some([answer, said]) = stopped(BINARY.as_ref(), "8") else { return };
    assert!(answer.ends_with("msg to client 127.0.0.1"), "{answer}");
    assert!(said.ends_with("done sleeping 127.0.0.1\n0\n"), "{said}");
}

// ----- systemd ---------------------------------------------------------------

const UNIT: &str = "tutorial/threaded-tokio@.service";
const SYSTEMD: &str = "tutorial/23-a-systemd-unit.md";

/// A systemd that runs nothing but the unit, in namespaces and control groups
/// of its own. It finds the server where the unit says it is.
struct Systemd {
    child: Child,
    inner: u32,
    groups: String,
}

/// Takes a name for the groups, the program and the unit.
const BOOT: &str = r#"
    set -e
    export name=$1 program=$2 unit=$3
    groups=$(awk '$3 ~ /^cgroup2?$/ {print $2, $3, $4}' /proc/mounts)
    export groups
    while read -r at type options; do
      own=$(awk -F: -v it="${options##*relatime,}" '
        $2 == it || $2 == "" && it ~ /^rw/ {print $3}' /proc/self/cgroup)
      mkdir "$at$own/$name"
      # One that wants to be told first which processors it may use has none.
      echo $$ >"$at$own/$name/cgroup.procs" || rmdir "$at$own/$name"
    done <<<"$groups" 2>/dev/null
    exec unshare --pid --mount --uts --ipc --cgroup --fork --kill-child \
      bash -c '
        set -e
        mount --make-rprivate /
        mount -t proc proc /proc
        while read -r at type options; do
          options=${options##*relatime,} options=${options/#name=/none,name=}
          umount $at
          case $type in
            cgroup) mount -t cgroup -o $options cgroup $at ;;
            cgroup2) mount -t cgroup2 cgroup2 $at ;;
          esac
        done <<<"$groups"
        units=/lib/systemd/system nginx=$(cat /lib/systemd/system/nginx.service)
        for at in /run /usr/local/bin /etc/init.d /etc/systemd/system $units \
            /etc/nginx/conf.d /var/log
        do mount -t tmpfs tmpfs $at; done
        mkdir /var/log/nginx
        echo "$nginx" >$units/nginx.service
        cp $program /usr/local/bin/threaded-tokio
        cp $unit /etc/systemd/system/
        for it in sysinit basic shutdown network multi-user
        do printf "[Unit]\nDefaultDependencies=no\n" >$units/$it.target; done
        container=test exec /lib/systemd/systemd --unit=multi-user.target \
          --system --log-target=console --show-status=no'
"#;

impl Systemd {
    /// `None` where the machine is not to be asked for that, and in the test
    /// that starts this one again.
    #[track_caller]
    fn boot(test: &str) -> Option<Self> {
        if !common::thorough() {
            skip("SKIP_NOTHING=1: it runs a systemd of its own");
            return None;
        }
        if !on_a_machine_of_its_own(test) {
            return None;
        }
        let unique = scratch("threaded-tokio");
        let name = unique.file_name().and_then(|it| it.to_str());
        let name = name.expect("a name");
        let mut bash = Command::new("bash");
        bash.args(["-c", BOOT, "boot", name, BINARY]);
        bash.arg(Path::new(ROOT).join(UNIT)).stdin(Stdio::null());
        let child = bash.spawn().expect("bash runs");
        let groups = format!("find /sys/fs/cgroup -type d -name {name}");
        let mut systemd = Self { child, inner: 0, groups };
        wait_until("systemd", || {
            let ended = systemd.child.try_wait().expect("it is our child");
            assert_eq!(ended, None, "it did not start");
            let inner = children(systemd.child.id());
            systemd.inner = inner.first().copied().unwrap_or_default();
            systemd.inner != 0
                && systemd.say("systemctl is-active multi-user.target")
                    == "active\n"
        });
        Some(systemd)
    }

    fn command(&self, command: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--all", "--target", &self.inner.to_string()]);
        nsenter.args(["bash", "-c", command]).stdin(Stdio::null());
        nsenter
    }

    /// What a command prints in there.
    #[track_caller]
    fn say(&self, command: &str) -> String {
        let output = common::output(
            self.command(command).stdout(Stdio::piped()).stderr(Stdio::piped()),
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs commands of a chapter, each of which must work.
    #[track_caller]
    fn must(&self, commands: &str) {
        let commands = commands.replace("sudo ", "");
        let commands = format!("set -eu; cd {ROOT}\n{commands}");
        let mut command = self.command(&commands);
        let output = common::output(command.stderr(Stdio::piped()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}\n{said}");
    }

    /// What systemd knows of the server on this port.
    #[track_caller]
    fn show(&self, port: &str, property: &str) -> String {
        let show = format!("systemctl show --value -p {property}");
        self.say(&format!("{show} threaded-tokio@{port}")).trim_end().into()
    }

    #[track_caller]
    fn serves(&self, port: &str) {
        let ask = format!("curl -s http://127.0.0.1:{port}/alive");
        let page = "<html><body>404 Not Found</body></html>";
        wait_until("an answer", || self.say(&ask) == page);
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // They are empty when all of it is gone. The innermost go first.
        let find = &self.groups;
        let empty = format!(
            "for _ in {{1..100}}; do
                groups=$({find})
                [ -n \"$groups\" ] || break
                find $groups -depth -type d -exec rmdir {{}} +
                sleep 0.05
            done"
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &empty]).stderr(Stdio::null());
        bash.status().ok();
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn systemd_starts_the_unit_limits_it_and_starts_it_again() {
    let test = "systemd_starts_the_unit_limits_it_and_starts_it_again";
    let Some(systemd) = Systemd::boot(test) else { return };
    let install = &shown(SYSTEMD, "## Install it", "sh")[0];
    let edit = &shown(MACHINES, "## Set it up", "ini")[0];
    let edit = edit.replace("192.0.2.2", "127.0.0.2");
    let folder = "/run/systemd/system/threaded-tokio@8890.service.d";
    systemd.say(&format!("mkdir -p {folder}; echo '{edit}' >{folder}/it.conf"));
    let enable = install.lines().find(|line| line.contains("enable"));
    let enable = enable.expect("enable").trim_start_matches("sudo ");
    systemd.say(enable);
    systemd.serves("8888");
    systemd.serves("8889");
    assert_eq!(
        systemd.say("ls /etc/systemd/system/multi-user.target.wants"),
        "threaded-tokio@8888.service\nthreaded-tokio@8889.service\n"
    );

    // With what another chapter sets for a machine.
    systemd.say("systemctl start threaded-tokio@8890");
    wait_until("the other address", || {
        systemd.say("curl -s http://127.0.0.2:8890/").starts_with("msg to")
    });
    let allowed = systemd.show("8890", "IPAddressAllow");
    assert!(allowed.contains("192.0.2.1/32"), "{allowed}");

    // What it may do, as Linux has it.
    let process = systemd.show("8888", "MainPID");
    let status = systemd.say(&format!("cat /proc/{process}/status"));
    for line in ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
    let limits = systemd.say(&format!("cat /proc/{process}/limits"));
    let files = limits.lines().find(|line| line.starts_with("Max open files"));
    assert!(files.expect("it").contains(" 16384 "), "{limits}");
    let file = "system.slice/*/threaded-tokio@8888.service/memory";
    let file = format!(
        "$(echo /sys/fs/cgroup/{{,memory/}}{file}.{{max,limit_in_bytes}})"
    );
    assert_eq!(systemd.say(&format!("cat {file} 2>/dev/null")), "1073741824\n");

    // It is killed, and started again a second later.
    systemd.say(&format!("kill -9 {process}"));
    wait_until("another one", || {
        let now = systemd.show("8888", "MainPID");
        now != process && now != "0"
    });
    systemd.serves("8888");
    assert_eq!(systemd.show("8888", "NRestarts"), "1");

    // A port that is none: said once.
    systemd.say("systemctl start threaded-tokio@http");
    wait_until("the end", || systemd.show("http", "ExecMainStatus") == "2");
    sleep(Duration::from_secs(2));
    assert_eq!(systemd.show("http", "NRestarts"), "0");
    assert_eq!(systemd.show("http", "ActiveState"), "failed");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn systemd_gives_the_server_its_time_and_a_unit_with_less_takes_it() {
    let test =
        "systemd_gives_the_server_its_time_and_a_unit_with_less_takes_it";
    let Some(systemd) = Systemd::boot(test) else { return };
    let short = "/run/systemd/system/threaded-tokio@8889.service.d";
    systemd.say(&format!("mkdir -p {short}"));
    let line = "[Service]\nTimeoutStopSec=3s\n";
    systemd.say(&format!("printf '{line}' >{short}/short.conf"));
    systemd.say("systemctl start threaded-tokio@8888 threaded-tokio@8889");
    let clients = ["8888", "8889"].map(|port| {
        systemd.serves(port);
        let ask = format!("curl -s http://127.0.0.1:{port}/");
        systemd.command(&ask).stdout(Stdio::piped()).spawn().expect("curl")
    });
    sleep(Duration::from_secs(1));
    systemd.say("systemctl stop threaded-tokio@8888 threaded-tokio@8889");
    let results = ["8888", "8889"].map(|port| systemd.show(port, "Result"));
    assert_eq!(results, ["success", "timeout"]);
    let answers = clients.map(|client| {
        let output = client.wait_with_output().expect("curl ends");
        String::from_utf8(output.stdout).expect("UTF-8")
    });
    assert_eq!(answers, ["msg to client 127.0.0.1", ""]);
}

#[test]
fn the_unit_gives_more_time_than_the_server_takes() {
    let seconds = |path, start| {
        let text: String = read(path).split(start).nth(1).expect(start).into();
        let digits = text.split(|c: char| !c.is_ascii_digit()).next();
        digits.expect("a number").parse::<u32>().expect("a number")
    };
    let patience =
        seconds("src/main.rs", "PATIENCE: Duration = Duration::from_secs(");
    let notice = seconds(READY, "setting(\"NOTICE\", ");
    assert!(seconds(UNIT, "\nTimeoutStopSec=") >= patience + notice + 5);
}

/// One machine, two units, the distribution's nginx: the pages in a row.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_new_version_on_one_machine_loses_no_request() {
    let test = "a_new_version_on_one_machine_loses_no_request";
    let Some(systemd) = Systemd::boot(test) else { return };
    let short = "/run/systemd/system/threaded-tokio@.service.d";
    systemd.must(&format!(
        "mkdir -p {short}
         printf '[Service]\nEnvironment=SLEEP=0.2\n' >{short}/short.conf"
    ));
    let blocks = shown(SYSTEMD, "## Install it", "sh");
    let enable = blocks[0].lines().find(|line| line.contains("enable"));
    systemd.must(enable.expect("enable"));
    systemd.must("systemctl start nginx");
    systemd.must(&blocks[1]);
    let commands = shown(MACHINES, "## A new version", "sh");
    let (settings, reload) = commands[1].split_once('\n').expect("two lines");
    let (_, commands) = commands[0].split_once('\n').expect("more lines");
    let other = "nginx -p target -c nginx.conf -s reload";
    assert_eq!(commands.matches(other).count(), 1);
    let commands = commands.replace(other, reload.trim_end());
    let ssh = "ssh \"${replica%:*}\" ";
    assert_eq!(commands.matches(ssh).count(), 1);
    let commands = format!("{settings}\n{}", commands.replace(ssh, ""));
    wait_until("nginx", || status("http://127.0.0.1:8080/") == "200");
    let before = ["8888", "8889"].map(|port| systemd.show(port, "MainPID"));
    let (gets, lost) = under_load(8080, || {
        systemd.must(&commands);
        systemd.must(&commands.replace("8888", "8889"));
        sleep(Duration::from_millis(500));
    });
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    assert!(gets > 50, "{gets}");
    for (port, before) in ["8888", "8889"].into_iter().zip(before) {
        assert_ne!(systemd.show(port, "MainPID"), before);
        assert_eq!(systemd.show(port, "NRestarts"), "0");
    }
}

/// Debian's own, with what the chapter puts into a folder of it.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn the_distributions_nginx_takes_the_replicas() {
    let debian = Path::new("/etc/nginx/conf.d").is_dir();
    if find("nginx").is_none() || !debian || !may_unshare() {
        return;
    }
    let commands = &shown(SYSTEMD, "## Install it", "sh")[1];
    let commands = commands.replace("sudo ", "");
    let (commands, _) =
        commands.split_once(" && systemctl reload").expect("it");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "bash", "-euc"]).arg(format!(
        "PATH=$PATH:/usr/sbin
         mount -t tmpfs tmpfs /etc/nginx/conf.d
         mount -t tmpfs tmpfs /run
         {commands} 2>&1
         nginx -T 2>&1"
    ));
    unshare.current_dir(ROOT).stdout(Stdio::piped());
    let printed = common::output(&mut unshare).stdout;
    let printed = String::from_utf8_lossy(&printed);
    assert_eq!(printed.matches("test is successful").count(), 2, "{printed}");
    assert!(printed.contains("pid /run/nginx.pid;"), "{printed}");
    let file = printed.split("conf.d/replicas.conf:").nth(1).expect("it");
    for line in ["server 127.0.0.1:8889 ", "proxy_pass http://replicas;"] {
        assert!(file.contains(line), "{printed}");
    }
}

/// With the server where the unit has it, in a folder that nobody else sees.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn systemd_finds_no_mistake_in_the_unit_and_little_that_it_may_do() {
    if find("systemd-analyze").is_none() || !may_unshare() {
        return;
    }
    let run = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "bash", "-c"]);
        let install = "mount -t tmpfs tmpfs /usr/local/bin
            install \"$0\" /usr/local/bin/threaded-tokio";
        unshare.arg(format!("{install}\n({command}) 2>&1")).arg(BINARY);
        unshare.current_dir(ROOT).stdout(Stdio::piped());
        let output = common::output(&mut unshare);
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let commands = shown(SYSTEMD, "## What it may do", "sh");
    let told = shown(SYSTEMD, "## What it may do", "text");
    assert_eq!(run(&commands[0]), told[0]);
    // What counts as too much differs from version to version.
    if common::thorough() {
        assert_eq!(run(&commands[1]), told[1]);
        let bare = scratch("bare").with_extension("service");
        fs::write(&bare, "[Service]\nExecStart=/bin/true\n").expect("a file");
        let unit = bare.display().to_string();
        let verdict = run(&commands[1].replace(UNIT, &unit));
        assert!(verdict.contains(": 9.6 "), "{verdict}");
    }
}

// ----- readiness and liveness ------------------------------------------------

const READY: &str = "tutorial/25-ready-and-alive.md";

fn ready() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("ready", &with_change(READY))).clone()
}

/// A replica that can be started anew on its port.
fn replica(program: &Path, port: u16, settings: &[(&str, &str)]) -> Server {
    let mut command = Command::new(program);
    command.envs([("PORT", port.to_string().as_str()), ("SLEEP", "0.05")]);
    Server::spawn(command.envs(settings.iter().copied()))
}

/// A file of the tutorial with these changes, each of which stands there once.
#[track_caller]
fn changed(path: &str, changes: &[(&str, &str)]) -> PathBuf {
    let mut text = read(path);
    for (old, new) in changes {
        assert_eq!(text.matches(old).count(), 1, "{old} stands there once");
        text = text.replace(old, new);
    }
    let file = scratch("changed");
    fs::write(&file, text).expect("a file");
    file
}

/// HAProxy before two replicas, as its file says but for the ports.
#[track_caller]
fn haproxy(ports: [u16; 2], changes: &[(&str, &str)]) -> Option<Server> {
    let haproxy = find("haproxy")?;
    let port = free_port();
    let own = [port, ports[0], ports[1]].map(|it| format!("127.0.0.1:{it}"));
    let mut all = vec![("127.0.0.1:8080", own[0].as_str())];
    all.push(("127.0.0.1:8888", &own[1]));
    all.push(("127.0.0.1:8889", &own[2]));
    all.extend(changes);
    let file = changed("tutorial/haproxy.cfg", &all);
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(file);
    Some(Server::other(&mut command, port))
}

const POST: &[u8] =
    b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn exchange(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it");
    stream.set_read_timeout(Some(LONG)).expect("LONG is not zero");
    stream.write_all(request).expect("it is sent");
    read_to_close(stream)
}

/// Sends GETs and POSTs from many clients while something happens. Returns how
/// many GETs, and the first lines of the answers that are not the server's.
fn under_load(port: u16, happens: impl FnOnce()) -> (usize, Vec<String>) {
    let (gets, lost) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (begin, enough) = (Instant::now(), AtomicBool::new(false));
    let client = |request, good| {
        while !enough.load(Relaxed) && begin.elapsed() < LONG {
            gets.fetch_add(usize::from(request == GET), Relaxed);
            let answer = exchange(port, request);
            if !answer.starts_with(good) {
                let line = answer.lines().next().unwrap_or("nothing");
                lost.lock().expect("no panic").push(line.to_owned());
                sleep(Duration::from_millis(10));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| client(GET, "HTTP/1.1 200 "));
            scope.spawn(|| client(POST, "HTTP/1.1 405 "));
        }
        happens();
        enough.store(true, Relaxed);
    });
    assert!(begin.elapsed() < LONG, "the load ended before the rest");
    (gets.into_inner(), lost.into_inner().expect("no panic"))
}

/// Restarts both replicas, one after the other, behind HAProxy. With its second
/// tries switched off, nothing but the order of things can help.
#[track_caller]
fn restarts(program: &Path, notice: &str) -> Option<(Vec<String>, String)> {
    let ports = [free_port(), free_port()];
    let settings = [("NOTICE", notice)];
    let mut replicas = ports.map(|port| replica(program, port, &settings));
    let once = ("option redispatch 1 ", "retries 0 # ");
    let proxy = haproxy(ports, &[once])?;
    let (gets, lost) = under_load(proxy.port, || {
        let works = |it: &Server| it.done() > 20;
        wait_until("work", || replicas.iter().all(works));
        for it in &mut replicas {
            it.signal("TERM");
            assert_eq!(it.exit_status(), Some(0));
            *it = replica(program, it.port, &settings);
            wait_until("the balancer to look again", || works(it));
        }
    });
    assert!(gets > 100, "{gets}");
    Some((lost, proxy.stderr()))
}

#[test]
fn a_balancer_that_looks_away_in_time_loses_no_request() {
    let Some((lost, said)) = restarts(&ready(), "5") else { return };
    assert!(lost.is_empty(), "{} lost: {lost:?}\n{said}", lost.len());
    let noticed = said.matches("Layer7 wrong status, code: 503").count();
    assert_eq!(noticed, 2, "{said}");
}

#[test]
fn a_listener_that_closes_before_the_balancer_looked_loses_some() {
    let Some((lost, said)) = restarts(&ready(), "0") else { return };
    assert!(!lost.is_empty(), "{said}");
}

#[test]
fn the_pages_need_no_worker_and_readiness_ends_first() {
    let settings = [("WORKERS", "1"), ("SLEEP", "8"), ("NOTICE", "3")];
    let mut server =
        Server::spawn(Command::new(ready()).envs(settings.iter().copied()));
    let clients = [GET; 2].map(|request| server.send(request));
    wait_until("the job", || server.going() == 1);
    let pages = || ["/ready", "/live"].map(|it| status(&server.url(it)));
    assert_eq!(pages(), ["200", "200"]);
    let start = Instant::now();
    server.signal("TERM");
    wait_until("the no", || pages() == ["503", "200"]);
    // Who comes now is served as well.
    let late = server.send(GET);
    server.settle();
    wait_until("closed doors", || {
        TcpStream::connect(("127.0.0.1", server.port)).is_err()
    });
    assert!(start.elapsed() >= Duration::from_secs(3), "that is the notice");
    for client in clients.into_iter().chain([late]) {
        assert!(read_to_close(client).ends_with("msg to client 127.0.0.1"));
    }
    assert_eq!(server.exit_status(), Some(0));
}

#[test]
fn a_second_signal_ends_the_notice_and_a_bad_one_the_start() {
    let settings = [("SLEEP", "0"), ("NOTICE", "60")];
    let mut server =
        Server::spawn(Command::new(ready()).envs(settings.iter().copied()));
    server.signal("TERM");
    sleep(Duration::from_millis(1500));
    assert_eq!(status(&server.url("/ready")), "503");
    server.signal("TERM");
    assert_eq!(server.exit_status(), Some(1));

    // Two within a second are one.
    let settings = [("SLEEP", "0"), ("NOTICE", "2")];
    let mut server =
        Server::spawn(Command::new(ready()).envs(settings.iter().copied()));
    server.signal("TERM");
    server.signal("INT");
    assert_eq!(server.exit_status(), Some(0));

    let mut command = Command::new(ready());
    command.env("NOTICE", "61");
    let mut server = Server::launch(&mut command, None, None);
    assert_eq!(server.exit_status(), Some(2));
    let line = "NOTICE=\"61\" is not allowed; set it to 0 to 60 seconds\n";
    assert_eq!(server.stderr(), line);
}

#[test]
fn a_loop_that_is_held_is_not_alive() {
    let main = with_change(READY);
    let submit = "self.executor.submit(move || core.get(remote_ip)).await;";
    assert_eq!(main.matches(submit).count(), 1);
    let held = "{ _ = &self.executor; Ok::<_, ()>(core.get(remote_ip)) };";
    let main = main.replace(submit, held);
    let mut command = Command::new(build("held", &main));
    command.envs([("SLEEP", "60"), ("TOKIO_WORKER_THREADS", "1")]);
    let server = Server::spawn(&mut command);
    assert_eq!(status(&server.url("/live")), "200");
    let _client = server.send(GET);
    wait_until("its job", || server.going() == 1);
    let live = server.url("/live");
    let asked = common::curl(&["--max-time", "2", &live]);
    assert_eq!(asked.status.code(), Some(28), "time is up");
}

// ----- the log and the numbers -----------------------------------------------

const DOING: &str = "tutorial/26-what-it-is-doing.md";

/// The page, without what is said about the numbers.
fn numbers(server: &Server) -> String {
    let page = fetch(&[&server.url("/metrics")]);
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| line.split(' ').next_back());
    values.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_counts_go_down_on_every_way_out() {
    let program = build("watched", &obeying(&with_change(DOING)));
    let [gate, breaks] = [(); 2].map(|()| scratch("file"));
    let mut command = Command::new(program);
    command.envs([("GATE", &gate), ("BREAK", &breaks)]);
    command.envs([("SLEEP", "0"), ("WORKERS", "2")]);
    let server = Server::spawn(&mut command);
    let says = |told: &str| {
        wait_until(told, || numbers(&server) == told);
        // And it stays so.
        server.settle();
        assert_eq!(numbers(&server), told);
    };
    // waiting, busy, done, failed, lost
    says("0 0 0 0 0");
    let mut clients = vec![server.send(GET), server.send(GET)];
    wait_until("two jobs", || server.going() == 2);
    for _ in 0..3 {
        clients.push(server.send(GET));
    }
    says("3 2 0 0 0");
    // One leaves the line. One leaves a worker, which goes on.
    drop(clients.remove(4));
    says("2 2 0 0 0");
    drop(clients.remove(0));
    says("2 2 0 0 0");
    fs::write(&gate, "").expect("a file");
    for client in clients {
        assert!(read_to_close(client).ends_with("msg to client 127.0.0.1"));
    }
    says("0 0 4 0 0");
    fs::write(&breaks, "").expect("a file");
    assert_eq!(status(&server.url("/")), "500");
    says("0 0 4 1 0");
}

#[test]
fn prometheus_finds_no_fault_with_the_page() {
    let Some(promtool) = find("promtool") else { return };
    let server =
        Server::spawn(&mut Command::new(build("doing", &with_change(DOING))));
    let head = fetch(&["-i", &server.url("/metrics")]);
    assert!(head.contains("\ncontent-type: text/plain; version=0.0.4\r\n"));
    let command = &shown(DOING, "## The numbers", "sh")[0];
    let told = &shown(DOING, "## The numbers", "text")[0];
    let command = command
        .replace("8888", &server.port.to_string())
        .replace("promtool", &promtool.display().to_string());
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("({command}) 2>&1")]).stdout(Stdio::piped());
    let printed = common::output(bash.env("no_proxy", "*")).stdout;
    assert_eq!(String::from_utf8_lossy(&printed), *told);
}

#[test]
fn each_request_has_one_line_in_the_log_whatever_becomes_of_it() {
    let mut command = Command::new(build("doing", &with_change(DOING)));
    command.envs([("WORKERS", "1"), ("SLEEP", "1")]);
    let mut server = Server::spawn(&mut command);
    assert_eq!(status(&server.url("/")), "200");
    assert_eq!(status(&server.url("/nowhere?key=secret")), "404");
    server.exchange(POST);
    let _running = server.send(GET);
    wait_until("its job", || server.going() == 2);
    let queued = server.send(GET);
    server.settle();
    drop(queued);
    server.settle();
    // What is no HTTP has none.
    server.exchange(b"nonsense\r\n\r\n");
    server.signal("TERM");
    assert_eq!(server.exit_status(), Some(0));
    let said = server.stderr();
    let mut lines: Vec<_> = said
        .lines()
        .filter(|line| !line.contains("/alive"))
        .filter_map(|line| line.rsplit_once(' '))
        .collect();
    assert!(lines[1..].iter().all(|(_, took)| took.ends_with("ms")), "{said}");
    let slept = lines[1].1.trim_end_matches("ms").parse();
    let slept = slept.is_ok_and(|it: f64| it >= 1000.0);
    assert!(slept, "it slept for a second: {said}");
    lines.sort();
    let lines: Vec<_> = lines.into_iter().map(|(line, _)| line).collect();
    let told = [
        "200 GET / (127.0.0.1)",
        "200 GET / (127.0.0.1)",
        "404 GET /nowhere (127.0.0.1)",
        "405 POST / (127.0.0.1)",
        "left GET / (127.0.0.1)",
        "listening on",
    ];
    assert_eq!(lines, told, "{said}");
}

/// The recipe, with a stderr that is a full pipe before it starts.
fn mute() -> Server {
    Server::stalled(&build("doing", &with_change(DOING)), "")
}

#[test]
fn a_log_that_nobody_reads_costs_no_answer_and_says_what_is_lost() {
    let mut server = mute();
    assert_eq!(answered(flood(&server, 1600)), 1600);
    let lost = numbers(&server);
    let lost = lost.split(' ').next_back().and_then(|it| it.parse().ok());
    assert!((600..=700).contains(&lost.unwrap_or(0)), "{lost:?} are lost");
    server.signal("TERM");
    assert_eq!(server.exit_status(), Some(0));
}

/// They wait until somebody reads, a moment after all is answered.
#[test]
fn the_last_lines_of_the_log_are_written_before_the_end() {
    let mut server = mute();
    assert_eq!(answered(flood(&server, 3)), 3);
    server.signal("TERM");
    wait_until("closed doors", || {
        TcpStream::connect(("127.0.0.1", server.port)).is_err()
    });
    sleep(Duration::from_millis(200));
    let pipe = server.child.stderr.take().expect("a pipe");
    let said = std::io::read_to_string(pipe).expect("text");
    assert_eq!(said.matches("200 GET / ").count(), 3);
    assert_eq!(server.exit_status(), Some(0));
}

#[test]
fn nginx_keeps_the_numbers_to_itself_if_told_to() {
    let Some(nginx) = find("nginx") else { return };
    let replica =
        Server::spawn(&mut Command::new(build("doing", &with_change(DOING))));
    let port = free_port();
    let [own, to] = [port, replica.port].map(|it| format!("127.0.0.1:{it}"));
    let hides = shown(DOING, "## The numbers", "nginx")[0].clone();
    let hides = hides + "location / {";
    let conf = [
        ("127.0.0.1:8080", own.as_str()),
        ("127.0.0.1:8888", &to),
        ("127.0.0.1:8889", &to),
        ("location / {", &hides),
    ];
    let conf = changed("tutorial/nginx.conf", &conf);
    let folder = scratch("nginx");
    fs::create_dir_all(&folder).expect("a folder");
    let mut command = Command::new(nginx);
    command.arg("-p").arg(folder).arg("-c").arg(conf);
    let mut proxy = Server::launch(&mut command, None, None);
    (proxy.port, proxy.gently) = (port, true);
    wait_until("nginx", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert_eq!(status(&replica.url("/metrics")), "200");
    assert_eq!(status(&proxy.url("/metrics")), "404");
    assert!(fetch(&[&proxy.url("/metrics")]).contains("nginx"));
}

#[test]
fn both_recipes_go_together() {
    let Some(git) = find("git") else { return };
    let folder = scratch("both");
    fs::create_dir_all(folder.join("src")).expect("a folder");
    fs::write(folder.join("src/main.rs"), read("src/main.rs")).expect("a file");
    for path in [READY, DOING] {
        let diff = parts(path).into_iter().find(|part| part.kind == "diff");
        let text = diff.expect("a diff").lines.join("\n") + "\n";
        fs::write(folder.join("diff"), text).expect("a file");
        let mut git = Command::new(&git);
        git.args(["apply", "--unsafe-paths", "diff"]).current_dir(&folder);
        git.env("GIT_DIR", "none");
        assert!(git.status().expect("git runs").success(), "{path}");
    }
    let main = fs::read_to_string(folder.join("src/main.rs")).expect("it");
    assert!(main.contains("LEAVING") && main.contains("WAITING"));
    let server = Server::spawn(&mut Command::new(build("both", &main)));
    for path in ["/ready", "/live", "/metrics"] {
        assert_eq!(status(&server.url(path)), "200", "{path}");
    }
}

// ----- a container -----------------------------------------------------------

const CONTAINER: &str = "tutorial/24-a-container.md";

/// An image, built as the chapter says, but that `docker` is buildah.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn the_image_holds_one_file_that_runs_as_process_1_and_as_nobody() {
    let Some(buildah) = find("buildah") else { return };
    if !may_unshare() {
        return;
    }
    let store = scratch("images");
    let store = store.display();
    let buildah = format!(
        "{} --storage-driver vfs --root {store}/root --runroot {store}/run",
        buildah.display()
    );
    let run = |command: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-euc", command]).current_dir(ROOT);
        bash.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = common::output(bash.env_remove("CARGO_TARGET_DIR"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}\n{said}");
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    };
    let commands = &shown(CONTAINER, "## Build it", "sh")[0];
    assert_eq!(commands.matches("docker build ").count(), 1);
    let built = format!("{buildah} build --isolation chroot ");
    run(&commands.replace("docker build ", &built));

    let format = "{{.Name}} {{.Tag}} {{.Size}}";
    let images = run(&format!("{buildah} images --format '{format}'"));
    let container = run(&format!("{buildah} from threaded-tokio"));
    let root = run(&format!("{buildah} mount {container}"));
    let files = run(&format!("cd {root}; find . -type f | cut -c 2-"));
    let shape = |text: &str| {
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        text.split_whitespace()
            .map(|word| if word.chars().all(digits) { "N" } else { word })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let told = &shown(CONTAINER, "## Build it", "text")[0];
    assert_eq!(shape(&format!("{images}\n{files}")), shape(told));
    let size = images.split_whitespace().nth(2).and_then(|it| it.parse().ok());
    assert!(size.is_some_and(|it: f64| it < 3.0), "megabytes: {images}");

    // What a runtime would read there.
    let config = |name: &str| {
        let format = format!("{{{{.OCIv1.Config.{name}}}}}");
        let inspect = format!("{buildah} inspect --type image --format");
        run(&format!("{inspect} '{format}' threaded-tokio"))
    };
    let user = config("User");
    let entry = config("Entrypoint").trim_matches(['[', ']']).to_owned();
    let environment = config("Env").trim_matches(['[', ']']).to_owned();
    let port = free_port();
    let settings = format!("PORT={port}");
    let mut words = vec!["env", "-i"];
    words.extend(environment.split(' '));
    words.extend([&settings, "SLEEP=2", "chroot", "--userspec", &user]);
    words.extend([root.as_str(), &entry]);
    let (server, first) = first(&words, &[]);
    let inner = first.0;
    let mut server = server.listening();
    assert_eq!(server.port, port);
    assert!(server.stderr().contains("http://0.0.0.0:"), "HOST is the image's");
    assert_eq!(state(inner, "Uid"), format!("Uid:{}", "\t65534".repeat(4)));
    let root_of_it = fs::read_dir(format!("/proc/{inner}/root"));
    let names =
        root_of_it.expect("a folder").map(|it| it.expect("it").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["threaded-tokio"]);
    let client = server.send(GET);
    wait_until("the job", || server.going() == 1);
    signal("TERM", &inner.to_string());
    assert!(read_to_close(client).ends_with("msg to client 127.0.0.1"));
    assert_eq!(server.exit_status(), Some(0));
    assert_eq!(state(inner, "State"), "", "it is gone, and no zombie");

    // Names are looked up there, in the files that Docker would put there.
    let program = "fn main() { print!(\"{:?}\", std::net::ToSocketAddrs::\
        to_socket_addrs(\"db.test:1\").unwrap().next()) }";
    run(&format!(
        "cd {root}; mkdir etc; echo 192.0.2.7 db.test >etc/hosts
         echo '{program}' >db.rs
         rustc -C target-feature=+crt-static --edition 2024 db.rs"
    ));
    let found = run(&format!("chroot {root} /db"));
    assert_eq!(found, "Some(192.0.2.7:1)");

    // An ordinary program misses its loader there.
    fs::copy(BINARY, format!("{root}/threaded-tokio")).expect("a copy");
    let mut chroot = Command::new("chroot");
    let output = chroot.args([&root, &entry]).output().expect("chroot runs");
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(said.contains("no such file or directory"), "{said}");
    run(&format!("{buildah} rm --all; {buildah} rmi --all; rm -rf {store}"));
}

// ----- replicas on machines --------------------------------------------------

const MACHINES: &str = "tutorial/27-replicas-on-machines.md";

/// Whether this is the machine with nginx: a namespace in which nobody has a
/// port yet. If not, runs the test again, there.
#[track_caller]
fn on_a_machine_of_its_own(test: &str) -> bool {
    if std::env::var_os("TEST_MACHINE").is_some() {
        run("ip link set lo up");
        return true;
    }
    if find("nginx").is_some() && find("ip").is_some() && may_unshare() {
        let test_program = std::env::current_exe().expect("its path");
        let mut unshare = Command::new("unshare");
        unshare.arg("--net").arg(test_program).args(["--exact", test]);
        unshare.arg("--nocapture").env("TEST_MACHINE", "nginx");
        unshare.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = common::output(&mut unshare);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(" 1 passed"), "{said}");
    }
    false
}

/// Runs shell commands, each of which must work.
#[track_caller]
fn run(commands: &str) {
    let mut bash = Command::new("bash");
    bash.args(["-euc", commands]).stdout(Stdio::piped());
    let output = common::output(&mut bash);
    assert!(output.status.success(), "{commands}");
}

/// A machine with a replica, at the other end of a cable.
struct Machine {
    /// Holds the namespace while it sleeps.
    sleeper: Child,
    address: String,
    replica: Option<Server>,
}

impl Machine {
    /// The cable has this name. The address follows that of its near end.
    fn new(cable: &str, near: u8, sleep: &str) -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sleep", "600"]);
        let sleeper = unshare.spawn().expect("unshare runs");
        let number = sleeper.id();
        wait_until("its namespace", || {
            let of =
                |it: &str| fs::read_link(format!("/proc/{it}/ns/net")).ok();
            of(&number.to_string()) != of("self")
        });
        let address = format!("192.0.2.{}", near + 1);
        let mut machine = Self { sleeper, address, replica: None };
        run(&format!(
            "ip link add {cable} type veth peer name cable netns {number}
             ip address add 192.0.2.{near}/30 dev {cable}
             ip link set {cable} up"
        ));
        let far = &machine.address;
        machine.run(&format!("ip address add {far}/30 dev cable"));
        machine.run("ip link set lo up; ip link set cable up");
        machine.start(sleep);
        machine
    }

    fn enter(&self) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--net", "--target", &self.sleeper.id().to_string()]);
        nsenter
    }

    #[track_caller]
    fn run(&self, commands: &str) {
        let status = self.enter().args(["bash", "-euc", commands]).status();
        assert!(status.expect("nsenter runs").success(), "{commands}");
    }

    fn start(&mut self, sleep: &str) {
        let mut enter = self.enter();
        enter.arg(BINARY).env("HOST", &self.address);
        enter.env("PORT", "8888").env("SLEEP", sleep);
        self.replica = Some(Server::spawn(&mut enter));
    }

    fn replica(&mut self) -> &mut Server {
        self.replica.as_mut().expect("it was started")
    }

    fn going(&self) -> usize {
        self.replica.as_ref().map_or(0, Server::going)
    }

    fn done(&self) -> usize {
        self.replica.as_ref().map_or(0, Server::done)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.sleeper.kill().ok();
        self.sleeper.wait().ok();
    }
}

/// Two machines, and nginx, set up as the chapter says but for these changes.
/// The second value is where nginx's file is `target/nginx.conf`.
fn machines(sleep: &str, changes: &str) -> ([Machine; 2], Server, PathBuf) {
    let machines =
        [Machine::new("first", 1, sleep), Machine::new("second", 5, sleep)];
    let folder = scratch("machines");
    fs::create_dir_all(folder.join("tutorial")).expect("a folder");
    let conf = folder.join("tutorial/nginx.conf");
    fs::write(conf, read("tutorial/nginx.conf")).expect("a file");
    let commands = &shown(MACHINES, "## Set it up", "sh")[0];
    let (set_up, start) = commands.rsplit_once("nginx -p").expect("a start");
    let mut bash = Command::new("bash");
    let start = format!("{set_up}\n{changes}\nexec nginx -p{start}");
    bash.args(["-euc", &format!("PATH=$PATH:/usr/sbin\n{start}")]);
    bash.current_dir(&folder);
    let mut nginx = Server::launch(&mut bash, None, None);
    (nginx.port, nginx.gently) = (8080, true);
    wait_until("nginx to listen", || {
        let ended = nginx.child.try_wait().expect("it is our child");
        assert_eq!(ended, None, "nginx said: {}", nginx.stderr());
        TcpStream::connect(("127.0.0.1", 8080)).is_ok()
    });
    (machines, nginx, folder)
}

/// What `Machine::run` takes to pull the cable out, and to put it back.
const CUT: &str = "ip link set cable down";
const MEND: &str = "ip link set cable up";

/// Waits until each machine has this many jobs.
#[track_caller]
fn each_has(machines: &[Machine; 2], jobs: usize) {
    wait_until("their jobs", || machines.iter().all(|it| it.going() == jobs));
}

fn statuses(clients: Vec<TcpStream>) -> Vec<String> {
    let status = |client| {
        let answer = read_to_close(client);
        answer.split(' ').nth(1).unwrap_or("none").to_owned()
    };
    let mut all: Vec<_> = clients.into_iter().map(status).collect();
    all.sort();
    all
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_new_version_on_two_machines_loses_no_request() {
    if !on_a_machine_of_its_own(
        "a_new_version_on_two_machines_loses_no_request",
    ) {
        return;
    }
    let (mut machines, nginx, folder) = machines("0.05", "");
    let commands = &shown(MACHINES, "## A new version", "sh")[0];
    let lines: Vec<_> = commands.lines().collect();
    let ssh = lines.iter().position(|line| line.starts_with("ssh"));
    let ssh = ssh.expect("a restart");
    let first_sed = lines.iter().position(|line| line.starts_with("sed"));
    let set_up = lines[..first_sed.expect("it looks away")].join("\n");
    let mut going = 0;
    let (gets, lost) = under_load(nginx.port, || {
        for machine in &mut machines {
            wait_until("work", || machine.going() > 20);
            let set_up = set_up.replace("192.0.2.2", &machine.address);
            let here = format!("cd {}; PATH=$PATH:/usr/sbin", folder.display());
            let set_up = format!("{here}\n{set_up}\n");
            let away = lines[ssh - 1].trim_end_matches(" &&");
            run(&format!("{set_up}{away}"));
            let before = machine.going();
            machine.replica().signal("TERM");
            assert_eq!(machine.replica().exit_status(), Some(0));
            assert_eq!(machine.going(), before, "nobody asked it any more");
            going += before;
            machine.start("0.05");
            run(&format!("{set_up}{}", lines[ssh + 1..].join("\n")));
            wait_until("its return", || machine.going() > 20);
        }
    });
    going += machines.iter().map(Machine::going).sum::<usize>();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    assert_eq!(going, gets, "each starts once");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_machine_that_is_cut_off_costs_the_requests_that_it_had() {
    let test = "a_machine_that_is_cut_off_costs_the_requests_that_it_had";
    if !on_a_machine_of_its_own(test) {
        return;
    }
    // Minutes made seconds.
    let seconds = "sed -i.old -e 's/read_timeout 10m/read_timeout 6s/' \
        -e 's/upstream_timeout 9m/upstream_timeout 5s/' target/nginx.conf";
    let (machines, nginx, _) = machines("2", seconds);
    let clients = [GET; 10].map(|request| nginx.send(request)).into();
    each_has(&machines, 5);
    machines[0].run(CUT);
    let late = [GET; 4].map(|request| nginx.send(request)).into();
    assert_eq!(statuses(late), ["200"; 4]);
    let expected = [["200"; 5], ["504"; 5]].concat();
    assert_eq!(statuses(clients), expected);
    assert_eq!((machines[0].going(), machines[1].going()), (5, 9));
    wait_until("their end", || machines[0].done() == 5);
    // It comes back, later.
    machines[0].run(MEND);
    wait_until("its return", || {
        assert_eq!(status(&nginx.url("/")), "200");
        machines[0].going() > 5
    });
}

/// As the chapter says, with five seconds made two.
fn with_keepalive() -> String {
    let line = &shown(MACHINES, "## What happens when", "nginx")[0];
    let sysctl = &shown(MACHINES, "## What happens when", "sh")[0];
    assert_eq!(sysctl.matches("=5 ").count(), 2, "time and probes");
    let sysctl = sysctl.replace("sudo ", "").replace("=5 ", "=2 ");
    let line = line.trim_end();
    format!(
        "{sysctl}
         sed -i.old 's/proxy_pass/{line} &/' target/nginx.conf
         grep -q '{line} proxy_pass' target/nginx.conf"
    )
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn where_silence_has_an_end_the_other_machine_is_asked() {
    let test = "where_silence_has_an_end_the_other_machine_is_asked";
    if !on_a_machine_of_its_own(test) {
        return;
    }
    let (machines, nginx, _) = machines("6", &with_keepalive());
    let clients = [GET; 10].map(|request| nginx.send(request)).into();
    each_has(&machines, 5);
    machines[0].run(CUT);
    assert_eq!(statuses(clients), ["200"; 10]);
    assert_eq!((machines[0].going(), machines[1].going()), (5, 10));
}

/// nginx has kept a connection to each. It finds out about the one by sending.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_kept_connection_to_a_machine_that_is_gone_costs_half_a_minute() {
    let test =
        "a_kept_connection_to_a_machine_that_is_gone_costs_half_a_minute";
    if !on_a_machine_of_its_own(test) {
        return;
    }
    let (machines, nginx, _) = machines("0.5", &with_keepalive());
    let send = || [GET; 4].map(|request| nginx.send(request)).into();
    assert_eq!(statuses(send()), ["200"; 4]);
    machines[0].run(CUT);
    let start = Instant::now();
    assert_eq!(statuses(send()), ["200"; 4]);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(10), "none was kept: {took:?}");
    assert!(took < Duration::from_secs(90), "{took:?}");
    assert_eq!((machines[0].going(), machines[1].going()), (2, 6));
}

/// The first replica stands still, so that a POST is in its machine's hands.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_post_is_not_sent_again_when_its_machine_is_cut_off() {
    let test = "a_post_is_not_sent_again_when_its_machine_is_cut_off";
    if !on_a_machine_of_its_own(test) {
        return;
    }
    let (mut machines, nginx, _) = machines("0", &with_keepalive());
    machines[0].replica().signal("STOP");
    let clients = [POST; 8].map(|request| nginx.send(request)).into();
    let sent = || common::tcp(2, 8888).iter().any(|row| row[3] == "01");
    wait_until("one to arrive", sent);
    sleep(Duration::from_millis(500));
    machines[0].run(CUT);
    let all = statuses(clients);
    let lost = all.iter().filter(|it| *it == "502").count();
    let kept = all.iter().filter(|it| *it == "405").count();
    assert!(lost > 0 && lost + kept == 8, "{all:?}");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_cable_that_is_back_soon_costs_nothing_but_time() {
    let test = "a_cable_that_is_back_soon_costs_nothing_but_time";
    if !on_a_machine_of_its_own(test) {
        return;
    }
    let (machines, nginx, _) = machines("2", "");
    let clients = [GET; 10].map(|request| nginx.send(request)).into();
    each_has(&machines, 5);
    machines[0].run(CUT);
    sleep(Duration::from_secs(3));
    machines[0].run(MEND);
    assert_eq!(statuses(clients), ["200"; 10]);
    assert_eq!((machines[0].going(), machines[1].going()), (5, 5));
}

/// nginx is still sending when the replica has answered and hangs up.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn a_large_post_may_cross_with_its_refusal_on_the_cable() {
    let test = "a_large_post_may_cross_with_its_refusal_on_the_cable";
    if !on_a_machine_of_its_own(test) {
        return;
    }
    let (_machines, nginx, _) = machines("0", "");
    let post = [
        &b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"[..],
        &[b'x'; 1_000_000],
    ]
    .concat();
    wait_until("a 502", || {
        let answer = nginx.exchange(&post);
        let [refused, bad] = ["405", "502"].map(|it| &answer[9..12] == it);
        assert!(refused || bad, "{answer}");
        bad
    });
}
