//! One change of a chapter, made in a copy, built and run: `tutorial/try 2.1`.
//! It is made, run and compared by what the tests use: tests/common/engine.rs.

#[allow(dead_code, reason = "the tests need more of it")]
#[path = "tests/common/chapter.rs"]
mod chapter;
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "tests/common/engine.rs"]
mod engine;

use chapter::{Change, Part, changes, chapters, parts};
use engine::{Workshop, kill_all, steps, target, temporary};
use std::io::{IsTerminal, Write, stdin, stdout};
use std::os::unix::fs::symlink;
use std::{env, fs, process, thread};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
usage: tutorial/try [NUMBER [--diff | --keep]]

Lists the changes that the chapters make. With the number of one: shows it,
makes it in a copy, builds that, runs what the chapter runs, and says whether
all is as the chapter tells. Your own files stay as they are.

  --diff    only print the change, for `git apply`
  --keep    leave the copy, and say how to run it

Exit status: 0 if it was so, otherwise 1; 2 for a wrong call; 130 after Ctrl-C.";

fn main() {
    hear_signals();
    let parts: Vec<_> = chapters().iter().flat_map(|it| parts(it)).collect();
    let changes = changes(&parts);
    let arguments = env::args_os().skip(1);
    let arguments = arguments.map(|it| it.to_string_lossy().into_owned());
    let arguments: Vec<_> = arguments.collect();
    let (options, numbers): (Vec<&str>, Vec<_>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|it| it.starts_with('-'));
    match (&numbers[..], &options[..]) {
        ([], []) => list(&parts, &changes),
        (_, ["-h" | "--help"]) => show(USAGE),
        ([number], options @ ([] | ["--diff" | "--keep"])) => {
            let Some(change) = changes.iter().find(|it| it.number == *number)
            else {
                refuse(&format!("no change {number}; tutorial/try lists them"))
            };
            match options {
                ["--diff"] => change.diff.lines.iter().for_each(|it| show(it)),
                _ => run(&parts, change, !options.is_empty()),
            }
        }
        _ => {
            refuse(&format!("'{}' is no call; see --help", arguments.join(" ")))
        }
    }
    leave(0)
}

fn refuse(why: &str) -> ! {
    eprintln!("try: {why}");
    leave(2)
}

fn show(line: &str) {
    if writeln!(stdout(), "{line}").is_err() {
        leave(1) // Nobody reads on.
    }
}

/// Ends the program, and all that runs for it.
fn leave(status: i32) -> ! {
    kill_all();
    fs::remove_dir_all(temporary()).ok();
    process::exit(status)
}

/// From now on, Ctrl-C leaves: in a build, at the question, in a run.
fn hear_signals() {
    let runtime = Runtime::new().expect("a loop for the signals");
    let [mut interrupt, mut terminate, mut hangup] = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| signal(kind).expect("it can be heard"))
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        println!();
        leave(130)
    });
}

/// What a change is about: the question above it, or else its heading.
fn title(change: &Change) -> String {
    let above = change.above.join(" ");
    let question = above.split(". ").find_map(|it| it.split_once('?'));
    question.map_or(change.heading.to_owned(), |(it, _)| format!("{it}?"))
}

fn list(parts: &[Part], changes: &[Change]) {
    for (i, change) in changes.iter().enumerate() {
        if i == 0 || changes[i - 1].path != change.path {
            let start = parts.iter().find(|it| it.path == change.path);
            show(&format!("\n{}", start.expect("it has parts").lines[0]));
        }
        show(&format!("{:>6}  {}", change.number, title(change)));
    }
}

fn run(parts: &[Part], change: &Change, keep: bool) {
    let workshop = Workshop::new(if keep { "kept" } else { "try" }, show);
    let kept = workshop.place.join(&change.number);
    if keep && kept.exists() {
        refuse(&format!("{} is there: use or remove it", kept.display()));
    }

    let at = change.command.unwrap_or(change.diff).at(0);
    show(&format!("{}, {at}: {}\n", change.number, change.heading));
    change.above.iter().for_each(|line| show(line));
    show("");
    change.diff.lines.iter().for_each(|line| show(line));
    show("");
    if !change.adds.is_empty() {
        show("This fetches other crates, so it takes the network:");
        show(&format!("{}\n", change.adds));
    }
    show("It will run:");
    for step in change.consoles().iter().flat_map(steps) {
        show(&format!("$ {}", step.command));
    }
    show("");
    if stdin().is_terminal() && stdout().is_terminal() {
        print!("What will happen? Enter runs it, q leaves: ");
        stdout().flush().ok();
        let mut answer = String::new();
        let read = stdin().read_line(&mut answer);
        if read.is_ok_and(|bytes| bytes == 0) || answer.trim() == "q" {
            leave(0)
        }
    }

    let tried = workshop.try_out(parts, change);
    let (copy, wrong) = tried.unwrap_or_else(|why| {
        show(&why);
        leave(1)
    });

    show("\n----- What the chapter says:");
    if change.below.iter().all(|part| part.kind != "console") {
        show("It builds, and the compiler has nothing to say.");
    }
    let below = change.below.iter();
    let lines =
        below.flat_map(|part| part.lines.iter().map(move |it| (part, it)));
    let mut folded = false;
    for (part, line) in lines {
        match line.as_str() {
            _ if part.kind == "console" => show(line),
            "</details>" => folded = false,
            "<summary>Answer</summary>" => folded = true,
            _ if folded => show(line),
            _ if line.starts_with('#') => break, // It is the next section's.
            _ => {}
        }
    }

    if keep {
        symlink(target(), copy.join("target")).ok();
        show("\nThe copy stays. `cargo run` runs it there:");
        show(&format!("  cd {}", copy.display()));
    }
    if !wrong.is_empty() {
        show("\n----- It was not so:");
        wrong.iter().for_each(|why| show(why));
        leave(1)
    }
    show("\n----- It was so, but for times, ports and the order of threads.");
}
