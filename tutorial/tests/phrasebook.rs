//! The phrasebook's halves, run side by side. Each line that one of them
//! prints starts with its phrase: `join: a and b`. Both print the same, but
//! where a line says that they differ: `…, python: goes on` in the one and
//! `…, rust: dropped` in the other.

mod common;

use common::ROOT;
use common::chapter::{parts, read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The Python with Tornado: the one in `PHRASEBOOK_PYTHON`, or `python3`.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("PHRASEBOOK_PYTHON").map(PathBuf::from);
    let python = named.or_else(|| common::find("python3"))?;
    let mut import = Command::new(&python);
    let there = import.args(["-c", "import tornado"]).output();
    if there.is_ok_and(|there| there.status.success()) {
        return Some(python);
    }
    common::skip("Tornado: set PHRASEBOOK_PYTHON to a Python that has it");
    None
}

fn run_python(python: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(python);
    command.args(["-B", "-W", "error", "tutorial/phrasebook.py"]);
    run(command.args(arguments))
}

fn run_rust(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--offline", "--example", "phrasebook"]);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("");
    run(command.arg("--target-dir").arg(target).arg("--").args(arguments))
}

fn run(command: &mut Command) -> Output {
    use std::process::Stdio;
    let command = command.current_dir(ROOT).env_remove("RUST_BACKTRACE");
    common::output(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a half prints, if nothing goes wrong.
#[track_caller]
fn printed(output: &Output) -> String {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    let good = output.status.success() && complained.is_empty();
    assert!(good, "{}\n{said}\n{complained}", output.status);
    said
}

/// The names that a half lists when it is asked for a phrase it has not got.
#[track_caller]
fn names(output: &Output) -> Vec<String> {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let (what, names) = said.split_once("; there are: ").expect("a list");
    assert_eq!(what, "no phrase 'joyn'");
    names.trim().split(", ").map(str::to_owned).collect()
}

/// A line in which the halves differ: its phrase, what it is about, and what
/// each half says of that.
type Difference = [String; 4];

/// The difference that two lines tell of, if that is all they differ in.
fn difference(python: &str, rust: &str) -> Option<Difference> {
    let (about, left) = python.split_once(", python: ")?;
    let (same, right) = rust.split_once(", rust: ")?;
    let (phrase, about) = about.split_once(": ")?;
    let good = same == format!("{phrase}: {about}") && left != right;
    good.then(|| [phrase, about, left, right].map(str::to_owned))
}

/// Compares what two halves print, line by line. Returns where they rightly
/// differ, or what is wrong.
fn compare(python: &str, rust: &str) -> Result<Vec<Difference>, String> {
    let mut differences = Vec::new();
    let mut lines = [python.lines(), rust.lines()];
    loop {
        let [python, rust] = lines.each_mut().map(Iterator::next);
        let (Some(left), Some(right)) = (python, rust) else {
            let end = python.is_none() && rust.is_none();
            let more = format!("one ends: {python:?}, {rust:?}");
            return if end { Ok(differences) } else { Err(more) };
        };
        if let Some(difference) = difference(left, right) {
            differences.push(difference);
        } else if left != right || left.contains(", python: ") {
            return Err(format!("python: {left}\nrust:   {right}"));
        }
    }
}

/// The lines of one phrase.
fn of<'a>(phrase: &str, printed: &'a str) -> String {
    let is_its = |line: &&'a str| {
        line.strip_prefix(phrase).is_some_and(|rest| rest.starts_with(": "))
    };
    let lines = printed.lines().filter(is_its);
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The phrases of the chapters, in order: name, chapter, and the text below
/// its heading, which ends with the name.
fn sections() -> Vec<[String; 3]> {
    let summary = read("tutorial/SUMMARY.md");
    let part = summary.split("\n# ").find(|it| it.starts_with("More corout"));
    let part = part.expect("a part of the book");
    let links = part.split("](").skip(1).map(|it| it.split_once(')'));
    let mut sections = Vec::new();
    for path in links.flatten().map(|(file, _)| format!("tutorial/{file}")) {
        for section in read(&path).split("\n## ").skip(1) {
            let (heading, body) = section.split_once('\n').expect("a body");
            let name =
                heading.strip_suffix('`').and_then(|it| it.split_once('`'));
            if let Some((_, name)) = name {
                sections.push([name, &path, body].map(str::to_owned));
            }
        }
    }
    sections
}

/// The rows of the tables with the head `| | Python | Rust |`.
fn rows(section: &str) -> Vec<[String; 3]> {
    let mut lines = section.lines().peekable();
    let mut rows = Vec::new();
    while let Some(line) = lines.next() {
        if line == "| | Python | Rust |" {
            lines.next();
            while let Some(row) = lines.next_if(|row| row.starts_with("| ")) {
                let cells = row.trim_matches(['|', ' ']).split(" | ");
                let cells: Vec<_> = cells.map(str::to_owned).collect();
                rows.push(cells.try_into().expect(row));
            }
        }
    }
    rows
}

#[test]
fn both_halves_print_the_same_and_the_chapters_have_where_they_differ() {
    let Some(python) = python() else { return };
    let known = names(&run_python(&python, &["join", "joyn"]));
    let all = [run_python(&python, &[]), run_rust(&[])];
    let [left, right] = all.each_ref().map(printed);
    let compared = compare(&left, &right);
    let differences = compared.unwrap_or_else(|why| panic!("{why}"));

    // Each line belongs to a phrase, and the phrases come in their order.
    let in_order: String = known.iter().map(|name| of(name, &left)).collect();
    assert_eq!(left, in_order);
    assert_eq!(printed(&run_python(&python, &["join"])), of("join", &left));

    for [name, path, body] in sections() {
        let mine = differences.iter().filter(|[phrase, ..]| *phrase == name);
        let printed: Vec<_> =
            mine.map(|[_, cells @ ..]| cells.clone()).collect();
        assert_eq!(rows(&body), printed, "{path}: {name}: the table | printed");
    }
}

#[test]
fn both_halves_and_the_chapters_have_the_same_phrases_in_the_same_order() {
    let known = names(&run_rust(&["join", "joyn"]));
    let all = printed(&run_rust(&[]));
    let in_order: String = known.iter().map(|name| of(name, &all)).collect();
    assert_eq!(all, in_order);
    let of_text = |path: &str, start: &str| {
        let text = read(path);
        let starts = text.lines().filter_map(|line| line.strip_prefix(start));
        let names = starts.filter_map(|it| it.split_once('('));
        let names = names.map(|(name, _)| name.to_owned());
        names.filter(|name| known.contains(name)).collect::<Vec<_>>()
    };
    assert_eq!(of_text("tutorial/phrasebook.py", "async def "), known);
    assert_eq!(of_text("tutorial/phrasebook.rs", "async fn "), known);

    let sections = sections();
    let named: Vec<_> = sections.iter().map(|[name, ..]| name).collect();
    assert_eq!(named, known.iter().collect::<Vec<_>>());
    let [_, first, _] = &sections[0];
    let table = &parts(first)[0].lines.join("\n");
    for [name, path, body] in &sections {
        for start in ["async def ", "async fn "] {
            let start = format!("\n{start}{name}(");
            assert!(body.contains(&start), "{path}: {name}: no{start}");
        }
        let console = format!("\n$ cargo run --example phrasebook {name}\n");
        assert!(body.contains(&console), "{path}: {name}: no{console}");
        let linked = table.contains(&format!("-{name})"));
        assert!(linked, "{first}: the table has no link to {name}");
        assert_eq!(printed(&run_rust(&[name])), of(name, &all));
    }
}

/// The comparison can fail.
#[test]
fn what_differs_without_saying_so_is_found() {
    let python = "a: 1\na: it, python: goes on\nb: 2\n";
    let rust = "a: 1\na: it, rust: dropped\nb: 2\n";
    let row = ["a", "it", "goes on", "dropped"].map(str::to_owned);
    assert_eq!(compare(python, rust), Ok(vec![row]));
    for wrong in [
        "a: 1\na: it, rust: dropped\n", // a line is missing
        "a: 1\na: it, rust: dropped\nb: 2\nb: 3", // there is one more
        "a: 1\na: it, rust: dropped\nb: 3\n", // another result
        "a: it, rust: dropped\na: 1\nb: 2\n", // another order
        "a: 1\na: that, rust: dropped\nb: 2\n", // about something else
        "a: 1\na: it, rust: goes on\nb: 2\n", // no difference
        "a: 1\na: it, python: goes on\nb: 2\n", // in the other's name
        "a: 1\nb: it, rust: dropped\nb: 2\n", // of another phrase
    ] {
        assert!(compare(python, wrong).is_err(), "{wrong}");
    }
}
