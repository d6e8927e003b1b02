//! A chapter taken apart: its prose, its blocks, and its diffs of main.rs. And
//! the one section of main.rs that works alone.

use super::ROOT;
use std::fs;
use std::path::Path;

/// What stands between ``` and ``` in a text, or between two such blocks.
pub struct Part {
    pub path: String,
    /// What the block's first line says: `rust`, `console`. Or else `prose`.
    pub kind: String,
    /// How many lines come before it.
    pub start: usize,
    pub lines: Vec<String>,
}

impl Part {
    /// The place of one of its lines, for messages.
    pub fn at(&self, index: usize) -> String {
        format!("{}:{}", self.path, self.start + index + 1)
    }

    pub fn has_heading(&self) -> bool {
        self.kind == "prose" && self.lines.iter().any(|l| l.starts_with('#'))
    }
}

pub fn read(path: &str) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join(path));
    text.unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The section of main.rs that works alone.
pub fn the_executor() -> String {
    let main = read("src/main.rs");
    let mut sections = main.split("\n// ----- ");
    let section = sections.find(|it| it.starts_with("the executor"));
    format!("// ----- {}\n", section.expect("it is there"))
}

/// The parts of a text, in turns prose and block.
pub fn parts(path: &str) -> Vec<Part> {
    let part = |kind: &str, start| {
        let (path, kind) = (path.to_owned(), kind.to_owned());
        Part { path, kind, start, lines: Vec::new() }
    };
    let mut parts = vec![part("prose", 0)];
    for (i, line) in read(path).lines().enumerate() {
        let last = parts.last_mut().expect("there is one");
        match line.strip_prefix("```") {
            None => last.lines.push(line.to_owned()),
            Some(kind) if last.kind == "prose" => parts.push(part(kind, i + 1)),
            Some(_) => parts.push(part("prose", i + 1)),
        }
    }
    assert!(parts.len() % 2 == 1, "{path}: a ``` is missing");
    parts
}

/// Its prose, line by line.
pub fn prose(path: &str) -> impl Iterator<Item = String> {
    parts(path).into_iter().step_by(2).flat_map(|part| part.lines)
}

/// Its prose, without what stands between backticks.
pub fn words(path: &str) -> String {
    let lines: Vec<_> = prose(path).collect();
    lines.join("\n").split('`').step_by(2).collect()
}

/// A line with the right numbers: its file, its index, and how it must read.
pub type Numbered = (String, usize, String);

/// Applies a diff wherever its lines stand in main.rs. Returns the changed
/// main.rs, and the lines with `@@`.
pub fn apply(diff: &Part) -> (String, Vec<Numbered>) {
    let head = "--- a/src/main.rs\n+++ b/src/main.rs\n@@";
    let is_diff = diff.lines.join("\n").starts_with(head);
    assert!(is_diff, "{}: a diff begins with\n{head}", diff.at(0));

    let main = read("src/main.rs");
    let main: Vec<_> = main.lines().collect();
    let (mut changed, mut numbers) = (Vec::new(), Vec::new());
    let (mut used, mut i) = (0, 2);
    for hunk in diff.lines[2..].chunk_by(|_, next| !next.starts_with("@@")) {
        let at = diff.at(i);
        let without = |sign: char| -> Vec<&str> {
            let lines = hunk[1..].iter().filter(|l| !l.starts_with(sign));
            lines.map(|line| line.get(1..).unwrap_or_default()).collect()
        };
        let (old, new) = (without('+'), without('-'));
        let ends = !hunk[hunk.len() - 1].starts_with(['+', '-']);
        assert!(ends, "{at}: end with a line that stays, for `git apply`");
        let is_old = |i: &usize| main[*i..].starts_with(&old);
        let found: Vec<_> = (0..main.len()).filter(is_old).collect();
        assert!(
            found.len() == 1 && found[0] >= used,
            "{at}: these lines stand in main.rs {} times. They must stand \
             there once, and below those of the hunk before:\n{}",
            found.len(),
            old.join("\n")
        );
        changed.extend(&main[used..found[0]]);
        let tail = hunk[0].splitn(3, "@@").nth(2).unwrap_or_default();
        let (line, new_line) = (found[0] + 1, changed.len() + 1);
        let (gone, come) = (old.len(), new.len());
        let right = format!("@@ -{line},{gone} +{new_line},{come} @@{tail}");
        numbers.push((diff.path.clone(), diff.start + i, right));
        changed.extend(new);
        used = found[0] + gone;
        i += hunk.len();
    }
    changed.extend(&main[used..]);
    (changed.join("\n") + "\n", numbers)
}
