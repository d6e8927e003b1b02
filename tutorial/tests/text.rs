//! What the texts say of the code, compared with the code.

mod common;

use common::{ROOT, Server, build_changed, fetch};
use std::fs;
use std::process::Command;

fn read(path: &str) -> String {
    fs::read_to_string(format!("{ROOT}/{path}")).expect(path)
}

/// What stands between ``` and ``` in a text, block by block.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let blocks = text.split(&open).skip(1);
    blocks
        .map(|rest| rest.split("```").next().expect("a block").to_owned())
        .collect()
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

#[test]
fn the_readmes_skeleton_is_code_of_main_rs() {
    let readme = read("README.md");
    let skeleton = &blocks(&readme, "rust")[0];
    let main = read("src/main.rs");
    let mut code = main.lines().map(str::trim);
    for line in skeleton.lines().map(str::trim) {
        let is_comment = line.is_empty() || line.starts_with("//");
        assert!(is_comment || code.any(|own| own == line), "{line}");
    }
}

#[test]
fn main_rs_pasted_into_a_fresh_crate_builds_without_a_warning_and_serves() {
    let dependencies = &blocks(&read("README.md"), "toml")[0];
    assert!(read("Cargo.toml").contains(dependencies), "{dependencies}");
    let program = build_changed("pasted", "fn main()", "fn main()");
    let mut command = Command::new(program);
    let server = Server::spawn(command.env("SLEEP", "0"));
    assert_eq!(fetch(&[&server.url("/")]), "msg to client 127.0.0.1");
}
