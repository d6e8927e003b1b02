//! The chapters on production, proven with what they name: process 1,
//! `timeout`, systemd, a container's file, a balancer that polls, Prometheus,
//! and machines made of network namespaces. Much of it takes Linux and root.

mod common;

use common::chapter::parts;
use common::{
    BINARY, GET, Server, build_diff, find, read_to_close, signal, skip, status,
    wait_until,
};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a chapter shows below a heading: the blocks of that kind.
fn shown(path: &str, heading: &str, kind: &str) -> Vec<String> {
    let is_it = |line: &String| line == heading;
    let parts = parts(path);
    let mut below = parts.iter().skip_while(|part| {
        part.kind != "prose" || !part.lines.iter().any(is_it)
    });
    below.next().unwrap_or_else(|| panic!("{path} has no {heading}"));
    let below = below.take_while(|part| !part.has_heading());
    let blocks = below.filter(|part| part.kind == kind);
    blocks.map(|part| part.lines.join("\n") + "\n").collect()
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

const WHO: &str = "tutorial/r1-who-stops-it.md";

/// Starts a program as process 1 of a namespace. Returns its number outside.
#[track_caller]
fn first(program: &[&str], settings: &[(&str, &str)]) -> (Server, u32) {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    unshare.args(program).envs(settings.iter().copied());
    let server = Server::launch(&mut unshare, None, None);
    let mut inner = None;
    wait_until("process 1", || {
        inner = children(server.child.id()).first().copied();
        inner.is_some_and(|it| state(it, "NSpid").ends_with("\t1"))
    });
    (server, inner.expect("it is there"))
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
    let (server, inner) = first(&[BINARY], &[("SLEEP", "2")]);
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
    for process in [deaf, number, same] {
        signal("TERM", &process.to_string());
    }
    assert_eq!(server.exit_status(), Some(0));
    sleep(Duration::from_secs(2));
    assert_eq!(children(sleeper.child.id()), [deaf]);
    assert_eq!(status(&shell.url("/")), "200", "nobody told the server");
}

/// What `docker exec` may leave behind.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore)]
fn as_process_1_it_has_no_zombies_but_those_that_others_leave() {
    if !may_unshare() {
        return;
    }
    let (server, inner) = first(&[BINARY], &[("SLEEP", "0")]);
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
    let said = server.stderr() + &server.stdout();
    let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| line.contains("unanswered"));
    let said = lines.join("\n").replace(&server.port.to_string(), "8888");
    Some([answer, format!("{said}\n{status}\n")])
}

#[test]
fn ten_seconds_are_too_short_for_thirty_and_long_enough_for_eight() {
    let heading = "## Ten seconds, and no more";
    let told = shown(WHO, heading, "text");
    let Some([answer, said]) = stopped(BINARY.as_ref(), "60") else { return };
    assert_eq!((answer.as_str(), said), ("", told[0].clone()));
    let eight = build_diff("eight", WHO, heading);
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
