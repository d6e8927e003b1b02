//! What the texts say of the code, compared with the code.

mod common;

use common::chapter::{parts, read};
use common::{Server, build, fetch};
use std::process::Command;

/// The first block of that kind in a text.
fn block(path: &str, kind: &str) -> Vec<String> {
    let mut parts = parts(path).into_iter();
    parts.find(|part| part.kind == kind).expect("such a block").lines
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
    let mut command = Command::new(build("pasted", &read("src/main.rs")));
    let server = Server::spawn(command.env("SLEEP", "0"));
    assert_eq!(fetch(&[&server.url("/")]), "msg to client 127.0.0.1");
}
