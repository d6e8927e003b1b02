//! The phrasebook's halves, run side by side. Each line that one of them
//! prints starts with its phrase: `join: a and b`. Both print the same, but
//! where a line says that they differ: `…, python: goes on` in the one and
//! `…, rust: dropped` in the other.

mod common;

use common::*;

/// A call of the Python half. `PHRASEBOOK_PYTHON` may name the Python that has
/// Tornado.
fn python(arguments: &[&str]) -> Command {
    let named = std::env::var_os("PHRASEBOOK_PYTHON");
    let mut python = Command::new(named.unwrap_or("python3".into()));
    python.args(["-B", "-W", "error", "tutorial/phrasebook.py"]);
    python.args(arguments).current_dir(ROOT);
    python
}

/// A call of the Rust half, or of another program that cargo finds in a folder.
fn rust(folder: &Path, options: &[&str], arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--offline", "--color", "never"]).args(options);
    cargo.arg("--target-dir").arg(target()).arg("--").args(arguments);
    cargo.current_dir(folder).env_remove("RUST_BACKTRACE");
    cargo
}

fn own_rust(arguments: &[&str]) -> Command {
    let options = ["--quiet", "--example", "phrasebook"];
    rust(ROOT.as_ref(), &options, arguments)
}

/// What a half prints, if nothing goes wrong.
#[track_caller]
fn said(command: &mut Command) -> String {
    let (status, said, complained) = output(command);
    assert_eq!((status, complained.as_str()), (Some(0), ""), "{said}");
    said
}

/// The names that a half lists when it is asked for a phrase it has not got.
#[track_caller]
fn names(command: &mut Command) -> Vec<String> {
    let (status, _, said) = output(command);
    assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
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

/// What the chapters say of each phrase, in order: below a heading that ends
/// with its name, the blocks.
fn sections() -> Vec<(String, Vec<Part>)> {
    let mut sections = Vec::<(String, Vec<Part>)>::new();
    let mut is_phrase = false;
    let chapters = chapters_of("More coroutines");
    for part in chapters.iter().flat_map(|path| parts(path)) {
        if let Some(heading) = part.heading() {
            let phrase = heading.strip_suffix('`');
            is_phrase = phrase.is_some();
            let phrase = phrase.and_then(|it| it.rsplit('`').next());
            sections.extend(phrase.map(|it| (it.to_owned(), Vec::new())));
        } else if part.kind != "prose" && is_phrase {
            sections.last_mut().expect("its heading").1.push(part);
        }
    }
    sections
}

/// What the chapters say that a phrase prints.
fn told((phrase, blocks): &(String, Vec<Part>)) -> String {
    let start = format!("{phrase}: ");
    let told = blocks.iter().find(|it| it.lines[0].starts_with(&start));
    told.unwrap_or_else(|| panic!("no {start}")).text()
}

#[test]
fn the_rust_half_prints_what_the_chapters_say() {
    let known = names(&mut own_rust(&["join", "joyn"]));
    let all = said(&mut own_rust(&[]));
    assert_in_order(&known, &all);
    for section in sections() {
        let (told, phrase) = (told(&section), &section.0);
        let own = told.lines().filter(|it| !it.contains(", python: "));
        let own: String = own.flat_map(|line| [line, "\n"]).collect();
        assert_eq!(own, of(phrase, &all), "told | printed");
        assert_eq!(said(&mut own_rust(&[phrase])), of(phrase, &all));
    }
    let told: Vec<_> = sections().into_iter().map(|it| it.0).collect();
    assert_eq!(told, known, "told | there");
}

#[test]
#[ignore = "takes Tornado"]
fn both_halves_print_the_same_and_it_is_what_the_chapters_say() {
    let known = names(&mut python(&["join", "joyn"]));
    let [left, rust] = [python(&[]), own_rust(&[])].map(|mut it| said(&mut it));
    assert_in_order(&known, &left);
    assert_eq!(said(&mut python(&["join"])), of("join", &left));
    let both = compare(&left, &rust).unwrap_or_else(|why| panic!("\n{why}"));
    for section in sections() {
        let (told, both) = (told(&section), of(&section.0, &both));
        assert_eq!(told, both, "told | printed");
    }
}

#[test]
fn each_phrase_is_a_function_of_its_name_found_from_the_table() {
    let sections = sections();
    let links: Vec<_> = prose(&sections[0].1[0].path).collect();
    let links = links.join("\n");
    for (name, blocks) in &sections {
        for (kind, start) in [("python", "async def "), ("rust", "async fn ")] {
            let start = format!("{start}{name}(");
            let begins = |line: &String| line.starts_with(&start);
            let is_its =
                |it: &Part| it.kind == kind && it.lines.iter().any(begins);
            assert!(blocks.iter().any(is_its), "no {start}");
        }
        let linked = links.contains(&format!("-{name})"));
        assert!(linked, "the first table has no link to {name}");
    }
}

/// A sketch is a function of phrasebook.rs, changed. The block below it has
/// what the compiler says then, or what the phrase prints.
#[test]
fn the_changed_functions_do_what_the_chapters_say() {
    let text = read("tutorial/phrasebook.rs");
    let mut count = 0;
    for (phrase, blocks) in sections() {
        for pair in blocks.windows(2) {
            if pair[0].kind != "rust,ignore" {
                continue;
            }
            count += 1;
            let head = &pair[0].lines[0];
            let (before, rest) = text.split_once(head).expect(head);
            let (_, after) = rest.split_once("\n}\n").expect("its end");
            let changed = [before, &pair[0].text(), after].concat();
            let name = format!("phrase-{phrase}");
            let folder = make(&target().join("tmp"), &name, &changed);
            let (_, printed, said) =
                output(&mut rust(&folder, &[], &[&phrase]));
            let all = said + &printed;
            let mut lines = all.lines();
            for line in pair[1].lines.iter().filter(|line| *line != "...") {
                let is_there = lines.any(|own| own == line);
                assert!(is_there, "{phrase}: no\n{line}\nin\n{all}");
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
