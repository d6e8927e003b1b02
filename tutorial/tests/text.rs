//! What the texts say of the code, compared with the code.

mod common;

use common::*;

/// The first block of that kind in a text.
fn block(path: &str, kind: &str) -> Vec<String> {
    let mut parts = parts(path).into_iter();
    parts.find(|part| part.kind == kind).expect("such a block").lines
}

/// The table that a chapter shows below a command: what it printed, but for
/// the lines on the machine.
fn table(path: &str, command: &str) -> Vec<String> {
    let command = format!("$ {command}");
    let is_it = |lines: &Vec<String>| lines.first() == Some(&command);
    let block = parts(path).into_iter().map(|part| part.lines).find(is_it);
    let lines = block.expect(&command);
    lines.split(String::is_empty).skip(1).collect::<Vec<_>>().concat()
}

#[test]
fn each_line_of_python_stands_in_main_rs_once_in_order_and_is_answered() {
    let python = read("tutorial/threaded_tornado.py");
    let python = python.lines().map(str::trim);
    let code = python.filter(|line| !line.is_empty() && !line.starts_with('#'));

    let main = read("src/main.rs");
    let mut quoted = Vec::new();
    let mut lines = main.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if let Some(python) = line.strip_prefix("// py|") {
            quoted.push(python.trim());
            let answer = lines.peek().copied().unwrap_or_default();
            assert_ne!(answer, "", "nothing answers {line:?}");
        }
    }
    assert_eq!(quoted, code.collect::<Vec<_>>());
}

#[test]
fn each_chapter_that_main_rs_names_is_there() {
    let main = read("src/main.rs");
    let words = main.split_whitespace();
    let named: Vec<_> = words.filter(|w| w.starts_with("tutorial/")).collect();
    assert_eq!(named.len(), 8, "one for each section: {named:?}");
    named.into_iter().for_each(|path| drop(read(path)));
}

/// Part 1 is to be read in one go. What counts is prose and blocks: not links
/// to listings, pictures, or the tables of the last chapter, for looking up.
#[test]
fn the_translation_is_no_longer_than_it_says() {
    let (mut words, mut lines) = (0, 0);
    for file in chapters_of("The translation") {
        for part in parts(&file) {
            if part.kind != "prose" {
                lines += part.lines.len();
                continue;
            }
            let is_looked_up = |line: &&String| {
                let is_table =
                    line.starts_with('|') && file.contains("line-by");
                let is_link = line.starts_with('[') && line.ends_with(')');
                is_table || is_link || line.starts_with(['<', '!'])
            };
            let read = part.lines.iter().filter(|line| !is_looked_up(line));
            words += read.flat_map(|line| line.split_whitespace()).count();
        }
    }
    assert!(words <= 6_000 && lines <= 650, "{words} words, {lines} lines");
}

#[test]
fn the_readmes_skeleton_is_code_of_main_rs() {
    let main = read("src/main.rs");
    let mut code = main.lines().map(str::trim);
    for line in block("README.md", "rust") {
        let line = line.trim();
        let is_comment = line.is_empty() || line.starts_with("//");
        assert!(is_comment || code.any(|own| own == line), "{line}");
    }
}

#[test]
fn main_rs_pasted_into_a_fresh_crate_builds_without_a_warning_and_serves() {
    let dependencies = block("README.md", "toml").join("\n");
    assert!(read("Cargo.toml").contains(&dependencies), "{dependencies}");
    let program = build("pasted", &read("src/main.rs"));
    let server = Server::of(program, &[("SLEEP", "0")]);
    assert_eq!(fetch(&[&server.url("/")]), "msg to client 127.0.0.1");
}

/// Its `use` lines and its `main`, and below them the section of main.rs.
#[test]
fn the_executor_alone_works_as_the_chapter_says() {
    let usage = block("tutorial/16-make-it-yours.md", "rust,ignore").join("\n");
    let program = format!("{usage}\n{}", the_executor());
    let said = printed(&mut Command::new(build("alone", &program)));
    assert_eq!(said, "Ok(3628800)\n");
}

#[test]
#[ignore = "takes Python"]
fn what_was_measured_has_the_rows_that_the_script_prints() {
    for (path, command, columns) in [
        ("tutorial/17-the-rivals.md", "tutorial/measure rivals", 6),
        ("tutorial/18-measure-it.md", "tutorial/measure", 4),
    ] {
        let table = table(path, command);
        let rows = format!("python3 -B {command} --rows");
        let rows = printed(bash(&rows).current_dir(ROOT));
        for (line, row) in table.iter().zip(rows.lines()) {
            assert!(line.starts_with(row), "{path}: {line}\nis no row {row}");
            let cells = line.trim().split("  ").filter(|cell| !cell.is_empty());
            let count = cells.count();
            let is_whole = line == row || count == columns;
            assert!(
                is_whole,
                "{path}: not {columns} cells, but {count}: {line}"
            );
        }
        assert_eq!(table.len(), rows.lines().count(), "{path}: rows");
    }
}

#[test]
#[ignore = "takes Python"]
fn the_picture_of_what_was_measured_shows_the_figures_of_the_table() {
    let table = table("tutorial/18-measure-it.md", "tutorial/measure");
    let file = scratch("table");
    fs::write(&file, table.join("\n")).expect("a file");
    let draw = format!("python3 -B tutorial/img/draw_measured.py <{file:?}");
    let drawn = printed(bash(&draw).current_dir(ROOT));
    let is_same = drawn == read("tutorial/img/measured.svg");
    assert!(is_same, "`tutorial/measure --write` draws it");
}
