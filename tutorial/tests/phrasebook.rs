//! The phrasebook's halves, run side by side. Each line that one of them
//! prints starts with its phrase: `join: a and b`. Both print the same, but
//! where a line says that they differ: `…, python: goes on` in the one and
//! `…, rust: dropped` in the other.

mod common;

use common::ROOT;
use common::chapter::{prose, read};
use common::engine::{make, target};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
    run(command.arg("--target-dir").arg(target()).arg("--").args(arguments))
}

fn run(command: &mut Command) -> Output {
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

/// Whether two lines tell of a difference, and are the same up to that.
fn differ(python: &str, rust: &str) -> bool {
    let halves =
        python.split_once(", python: ").zip(rust.split_once(", rust: "));
    halves.is_some_and(|((about, left), (same, right))| {
        about == same && left != right
    })
}

/// Compares what the halves print, line by line. Returns it as the chapters
/// have it: where they differ, Python's line and then Rust's.
fn compare(python: &str, rust: &str) -> Result<String, String> {
    let mut both = String::new();
    let mut lines = [python.lines(), rust.lines()];
    loop {
        let [python, rust] = lines.each_mut().map(Iterator::next);
        let (Some(left), Some(right)) = (python, rust) else {
            let end = python.is_none() && rust.is_none();
            let more = format!("one ends: {python:?}, {rust:?}");
            return if end { Ok(both) } else { Err(more) };
        };
        if differ(left, right) {
            both += &format!("{left}\n{right}\n");
        } else if left == right && !left.contains(", python: ") {
            both += &format!("{left}\n");
        } else {
            return Err(format!("python: {left}\nrust:   {right}"));
        }
    }
}

/// The lines of one phrase.
fn of(phrase: &str, printed: &str) -> String {
    let start = format!("{phrase}: ");
    let lines = printed.lines().filter(|line| line.starts_with(&start));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// All of it, if each line is of a phrase, and these come in their order.
#[track_caller]
fn assert_in_order(known: &[String], printed: &str) {
    let all: String = known.iter().map(|name| of(name, printed)).collect();
    assert_eq!(all, printed);
}

/// What a chapter says of a phrase.
struct Section {
    phrase: String,
    path: String,
    /// The blocks below its heading: what its first line says, and the rest.
    blocks: Vec<[String; 2]>,
}

/// The sections of the chapters, in order. Their headings end with the phrase.
fn sections() -> Vec<Section> {
    let summary = read("tutorial/SUMMARY.md");
    let part = summary.split("\n# ").find(|it| it.starts_with("More corout"));
    let links = part.expect("a part of the book").split("](").skip(1);
    let paths = links.filter_map(|link| Some(link.split_once(')')?.0));
    let mut sections = Vec::new();
    for path in paths.map(|file| format!("tutorial/{file}")) {
        for section in read(&path).split("\n## ").skip(1) {
            let (heading, body) = section.split_once('\n').expect("a body");
            let Some(phrase) = heading.strip_suffix('`') else { continue };
            let phrase = phrase.rsplit('`').next().expect(heading).to_owned();
            let blocks = body.split("```").skip(1).step_by(2);
            let blocks = blocks.filter_map(|block| block.split_once('\n'));
            let blocks = blocks.map(|(kind, text)| [kind, text]);
            let blocks = blocks.map(|it| it.map(str::to_owned)).collect();
            sections.push(Section { phrase, path: path.clone(), blocks });
        }
    }
    sections
}

#[test]
fn both_halves_print_the_same_and_it_is_what_the_chapters_say() {
    let known = names(&run_rust(&["join", "joyn"]));
    let rust = printed(&run_rust(&[]));
    assert_in_order(&known, &rust);

    let python = python();
    let both = python.as_ref().map(|python| {
        assert_eq!(names(&run_python(python, &["join", "joyn"])), known);
        let left = printed(&run_python(python, &[]));
        assert_in_order(&known, &left);
        assert_eq!(printed(&run_python(python, &["join"])), of("join", &left));
        compare(&left, &rust).unwrap_or_else(|why| panic!("\n{why}"))
    });
    let sections = sections();
    for Section { phrase, path, blocks } in &sections {
        let start = format!("{phrase}: ");
        let told = blocks.iter().find(|[_, text]| text.starts_with(&start));
        let [_, told] = told.unwrap_or_else(|| panic!("{path}: no {start}"));
        let rusts = told.lines().filter(|it| !it.contains(", python: "));
        let rusts: String = rusts.flat_map(|line| [line, "\n"]).collect();
        assert_eq!(rusts, of(phrase, &rust), "{path}: told | printed");
        if let Some(both) = &both {
            assert_eq!(*told, of(phrase, both), "{path}: told | printed");
        }
    }
    let told: Vec<_> = sections.iter().map(|it| &it.phrase).collect();
    assert_eq!(told, known.iter().collect::<Vec<_>>(), "told | there");
}

#[test]
fn each_phrase_is_a_function_of_its_name_found_from_the_table() {
    let known = names(&run_rust(&["joyn"]));
    let all = printed(&run_rust(&[]));
    let sections = sections();
    let links: Vec<_> = prose(&sections[0].path).collect();
    let links = links.join("\n");
    for (Section { phrase, path, blocks }, name) in sections.iter().zip(&known)
    {
        assert_eq!(phrase, name, "{path}: told | there");
        assert_eq!(printed(&run_rust(&[name])), of(name, &all));
        for [kind, start] in [["python", "async def "], ["rust", "async fn "]] {
            let start = format!("\n{start}{name}(");
            let is_its = |[own, text]: &&[String; 2]| {
                own == kind && format!("\n{text}").contains(&start)
            };
            assert!(blocks.iter().any(|it| is_its(&it)), "{path}: no{start}");
        }
        let linked = links.contains(&format!("-{name})"));
        assert!(linked, "the first table has no link to {name}");
    }
}

/// A sketch is a function of phrasebook.rs, changed. The block below it has
/// what the compiler says then, or what the phrase prints.
#[test]
fn the_changed_functions_do_what_the_chapters_say() {
    let rust = read("tutorial/phrasebook.rs");
    let mut count = 0;
    for Section { phrase, path, blocks } in sections() {
        for pair in blocks.windows(2) {
            let [[kind, sketch], [_, told]] = pair else { continue };
            if kind != "rust,ignore" {
                continue;
            }
            count += 1;
            let (head, _) = sketch.split_once('\n').expect("a function");
            let (before, rest) = rust.split_once(head).expect(head);
            let (_, after) = rest.split_once("\n}\n").expect("its end");
            let text = format!("{before}{sketch}{after}");
            let folder =
                make(&target().join("tmp"), &format!("phrase-{phrase}"), &text);
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["run", "--offline", "--color", "never"]);
            cargo.arg("--target-dir").arg(target());
            cargo.arg("--manifest-path").arg(folder.join("Cargo.toml"));
            let output = run(cargo.args(["--", &phrase]));
            let (said, printed) = (output.stderr, output.stdout);
            let all = self::text(&[said, printed].concat());
            let mut lines = all.lines();
            for line in told.lines().filter(|line| *line != "...") {
                let is_there = lines.any(|own| own == line);
                assert!(is_there, "{path}: {phrase}: no\n{line}\nin\n{all}");
            }
        }
    }
    assert!(count > 0, "no sketch is run");
}

/// The comparison can fail.
#[test]
fn what_differs_without_saying_so_is_found() {
    let python = "a: 1\na: it, python: goes on\nb: 2\n";
    let rust = "a: 1\na: it, rust: dropped\nb: 2\n";
    let both = "a: 1\na: it, python: goes on\na: it, rust: dropped\nb: 2\n";
    assert_eq!(compare(python, rust).as_deref(), Ok(both));
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
