//! What `tutorial/try` does around a run, which the engine's other users prove:
//! it asks first, it leaves nothing behind, and it says whether it was so.

mod common;

use common::terminal::Terminal;
use common::*;

/// A call of it: by a link, from another folder, with a CDPATH that misleads.
fn tutorial_try(arguments: &[&str]) -> Command {
    let folder = folder("elsewhere");
    fs::create_dir_all(folder.join("tests")).expect("a folder");
    let program = format!("{ROOT}/tutorial/try");
    symlink(program, folder.join("tests/try")).expect("a link");
    let mut command = Command::new("sh");
    command.arg("tests/try").args(arguments).current_dir(folder);
    command.env("CDPATH", format!("{ROOT}/tutorial"));
    command
}

/// The number of the change that is listed by this title.
fn number(title: &str) -> String {
    let (_, listed, _) = output(&mut tutorial_try(&[]));
    let line = listed.lines().find(|line| line.ends_with(title)).expect(title);
    line.split_whitespace().next().expect("a number").to_owned()
}

/// Every file of the project as it is now.
fn files() -> String {
    let find = "find . '(' -name target -o -name .git ')' -prune -o -type f \
                -exec cksum {} + | sort";
    printed(bash(find).current_dir(ROOT))
}

#[test]
fn a_wrong_call_is_refused_in_a_line() {
    // The first call of all says that it builds.
    output(&mut tutorial_try(&["--help"]));
    for (arguments, named) in [
        (&["0.1"][..], "0.1"),
        (&["2.1", "--off"], "--off"),
        (&["2.1", "2.2"], "2.2"),
    ] {
        let (status, said, errors) = output(&mut tutorial_try(arguments));
        assert_eq!((status, said.as_str()), (Some(2), ""), "{errors}");
        assert!(errors.contains(named) && errors.lines().count() == 1);
    }
}

#[test]
fn in_a_pipe_it_runs_and_says_whether_it_was_so_and_no_file_changes() {
    let number = number("What does a client get whose core panics?");
    let before = files();
    let mut command = tutorial_try(&[&number]);
    let (status, said, errors) = output(&mut command);
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{said}");
    let heard = said.find("this client brings bad luck\n").expect(&said);
    assert!(heard < said.find("That client gets a 500").expect(&said));
    assert!(said.contains("It was so"), "{said}");

    let lies = path_with("curl", "echo fine");
    let (status, said, _) = output(command.env("PATH", lies));
    assert_eq!(status, Some(1), "{said}");
    let why = "It was not so:\ntutorial/03-core.md:";
    assert!(said.contains(why), "{said}");
    assert!(said.contains("\nprinted: fine\n"), "{said}");
    assert!(before == files(), "a file is not as it was");
}

#[test]
fn it_prints_a_diff_to_apply_and_keeps_a_copy_that_it_does_not_touch_again() {
    let number = number("Forget the `.await`");
    let (status, diff, _) = output(&mut tutorial_try(&[&number, "--diff"]));
    let chapter = read("tutorial/02-the-skeleton.md");
    assert!(status == Some(0) && chapter.contains(&format!("\n{diff}```\n")));

    let kept = target().join("kept").join(&number);
    let mut keep = tutorial_try(&[&number, "--keep"]);
    let is_readers = kept.exists();
    if !is_readers {
        let (status, said, _) = output(&mut keep);
        let folder = said.rsplit("\n  cd ").next().expect("a folder");
        let main =
            folder.lines().next().expect("a line").to_owned() + "/src/main.rs";
        assert_eq!(status, Some(0), "{said}");
        assert!(Path::new(&main).starts_with(&kept), "{said}");
        let changed = fs::read_to_string(main).expect("a copy");
        assert!(changed.contains("submit(move || core.get(remote_ip));"));
    }
    let (status, _, errors) = output(&mut keep);
    let is_there = format!("{} is there: ", kept.display());
    assert!(status == Some(2) && errors.contains(&is_there), "{errors}");
    if !is_readers {
        fs::remove_dir_all(kept).expect("it was made here");
    }
}

/// Presses Ctrl-C on a terminal as soon as a condition holds for what is seen.
/// Returns what was seen at the question, and in all.
#[track_caller]
fn ctrl_c(
    command: &Command,
    keys: &str,
    condition: impl Fn(&str) -> bool,
) -> [String; 2] {
    let terminal = Terminal::start(command, 80, 24);
    terminal.wait_until("question", |it| it.contains("q leaves: "));
    let asked = terminal.printed();
    terminal.press(keys);
    terminal.wait_until("moment for Ctrl-C", condition);
    terminal.press("\x03");
    assert_eq!((terminal.exit_status(), terminal.is_sane()), (130, true));
    [asked, terminal.printed()]
}

#[test]
fn ctrl_c_leaves_nothing_behind_at_the_question_in_a_build_and_in_a_run() {
    let number = number("Give the quick a pool of their own");
    let before = files();
    let mut command = tutorial_try(&[&number]);
    let [asked, all] = ctrl_c(&command, "", |_| true);
    assert!(asked.contains("+        let quick_core ="), "{asked}");
    assert!(!all.contains("127.0.0.1 at /quick"), "told too early: {all}");

    let listens = "listening on http://";
    let [_, said] = ctrl_c(&command, "\r", |it| it.contains(listens));
    let address = said.split(listens).nth(1).expect("it listens");
    let address = address.split('/').next().expect("an address");
    assert!(TcpStream::connect(address).is_err(), "a server is left");

    let pid = scratch("pid");
    let read_pid = || fs::read_to_string(&pid).unwrap_or_default();
    let cargo = env!("CARGO");
    let script = format!(
        "[ $1 = build ] || exec {cargo} \"$@\"; echo $$ >{pid:?}; exec sleep 99"
    );
    command.env("PATH", path_with("cargo", &script));
    ctrl_c(&command, "\r", |_| read_pid().ends_with('\n'));
    // Dead, even if nobody has buried it yet.
    let mut ps = Command::new("ps");
    ps.args(["-o", "stat=", "-p", read_pid().trim()]);
    wait_until("the build to end", || {
        output(&mut ps).1.trim_start_matches('Z').trim() == ""
    });
    assert!(before == files(), "a file is not as it was");
}
