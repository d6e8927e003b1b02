//! A chapter taken apart: its prose, its blocks, and its changes of main.rs. And
//! the one section of main.rs that works alone.

use std::fs;
use std::path::Path;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What stands between ``` and ``` in a text, or between two such blocks.
#[derive(Clone)]
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

    pub fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }

    /// The last heading in it.
    pub fn heading(&self) -> Option<&str> {
        let mut lines = self.lines.iter().filter(|_| self.kind == "prose");
        lines.rfind(|line| line.starts_with('#')).map(String::as_str)
    }
}

pub fn read(path: &str) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join(path));
    text.unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// A text with a change. What is replaced must stand there once.
#[track_caller]
pub fn replaced(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old:?} stands there once");
    text.replace(old, new)
}

/// The same with several changes, one after the other.
#[track_caller]
pub fn changed(text: &str, changes: &[[&str; 2]]) -> String {
    let mut text = text.to_owned();
    for [old, new] in changes {
        text = replaced(&text, old, new);
    }
    text
}

/// The number that stands in a file behind these words.
#[track_caller]
pub fn number_behind(path: &str, words: &str) -> u32 {
    let text = read(path);
    let (_, behind) = text.split_once(words).expect(words);
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|it| it.parse().ok()).expect(words)
}

/// The seconds that a client has, and a shutdown.
#[track_caller]
pub fn patience() -> u32 {
    number_behind("src/main.rs", "PATIENCE: Duration = Duration::from_secs(")
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

/// The blocks of a kind in the section of a text that has this heading.
#[track_caller]
pub fn blocks(path: &str, heading: &str, kind: &str) -> Vec<Part> {
    let mut parts = parts(path).into_iter().skip_while(|part| {
        part.kind != "prose" || part.lines.iter().all(|line| line != heading)
    });
    assert!(parts.next().is_some(), "{path} has no {heading}");
    let section = parts.take_while(|part| part.heading().is_none());
    section.filter(|part| part.kind == kind).collect()
}

/// The text of the first of these blocks.
#[track_caller]
pub fn shown(path: &str, heading: &str, kind: &str) -> String {
    let block = blocks(path, heading, kind).into_iter().next();
    block.unwrap_or_else(|| panic!("{path}: {heading}: no {kind}")).text()
}

/// main.rs after the first diff in that section.
#[track_caller]
pub fn with_diff(path: &str, heading: &str) -> String {
    let diff = blocks(path, heading, "diff").into_iter().next();
    let diff = diff.unwrap_or_else(|| panic!("{path}: {heading}: no diff"));
    apply(&diff).expect("it applies").0
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

/// The links in a text: what stands before `](`, and the target.
pub fn links(text: &str) -> Vec<(&str, &str)> {
    let ends = text.match_indices("](").map(|(end, _)| end);
    let link = |end| Some((&text[..end], text[end + 2..].split_once(')')?.0));
    ends.filter_map(link).collect()
}

/// The paths of the chapters, as SUMMARY.md has them.
pub fn chapters() -> Vec<String> {
    let summary = words("tutorial/SUMMARY.md");
    let links = links(&summary).into_iter();
    links.map(|(_, target)| format!("tutorial/{target}")).collect()
}

/// The same for one part of the book, by the first words of its title.
pub fn chapters_of(title: &str) -> Vec<String> {
    let summary = read("tutorial/SUMMARY.md");
    let mut parts = summary.split("\n# ");
    let part = parts.find(|it| it.starts_with(title)).expect(title);
    let links = links(part).into_iter();
    links.map(|(_, target)| format!("tutorial/{target}")).collect()
}

// ----- diffs -----------------------------------------------------------------

/// A line with the right numbers: its file, its index, and how it must read.
pub type Numbered = (String, usize, String);

/// Applies a diff wherever its lines stand in main.rs. Returns the changed
/// main.rs, and the lines with `@@`.
pub fn apply(diff: &Part) -> Result<(String, Vec<Numbered>), String> {
    let head = "--- a/src/main.rs\n+++ b/src/main.rs\n@@";
    if !diff.lines.join("\n").starts_with(head) {
        return Err(format!("{}: a diff begins with\n{head}", diff.at(0)));
    }
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
        if hunk[hunk.len() - 1].starts_with(['+', '-']) {
            return Err(format!(
                "{at}: `git apply` wants a last line that stays"
            ));
        }
        let is_old = |i: &usize| main[*i..].starts_with(&old);
        let found: Vec<_> = (0..main.len()).filter(is_old).collect();
        if found.len() != 1 || found[0] < used {
            return Err(format!(
                "{at}: these lines must stand in src/main.rs once, below those \
                 of the hunk before. They stand there {} times:\n{}",
                found.len(),
                old.join("\n")
            ));
        }
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
    Ok((changed.join("\n") + "\n", numbers))
}

// ----- changes ---------------------------------------------------------------

/// A change of main.rs that a chapter asks for.
///
/// Below its diff stands the command that runs it, in a block of its own. A
/// diff that was shown before is not repeated: its command names that change.
pub struct Change<'a> {
    /// Chapter and place: `2.1`.
    pub number: String,
    pub path: &'a str,
    pub heading: &'a str,
    pub diff: &'a Part,
    /// The block with its command, once somebody has numbered it.
    pub command: Option<&'a Part>,
    /// The commands that add the crates it needs.
    pub adds: String,
    /// The last paragraph above it.
    pub above: &'a [String],
    /// What stands below it, up to another change or the end of its section.
    pub below: &'a [Part],
}

/// How the command begins that runs a change.
pub const TRY: &str = "tutorial/try ";

/// The number at the start of what stands behind `TRY`, or nothing.
pub fn number(behind: &str) -> &str {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let end = behind.find(|c| !is_part(c)).unwrap_or(behind.len());
    behind[..end].trim_end_matches('.')
}

/// The numbers in a block that is one such command.
pub fn numbers(part: &Part) -> Vec<&str> {
    match &part.lines[..] {
        [line] if part.kind == "sh" && line.starts_with(TRY) => {
            line.split(TRY).skip(1).map(number).collect()
        }
        _ => Vec::new(),
    }
}

pub fn changes(parts: &[Part]) -> Vec<Change<'_>> {
    let begins = |part: &Part| part.kind == "diff" || numbers(part).len() == 2;
    let mut changes = Vec::<Change>::new();
    let (mut path, mut place) = ("", 0);
    let (mut heading, mut adds) = ("", String::new());
    for (i, part) in parts.iter().enumerate() {
        if part.path != path {
            (path, place) = (&part.path, 0);
        }
        if let Some(line) = part.heading() {
            heading = line.trim_start_matches(['#', ' ']);
            adds.clear();
        } else if part.kind == "sh" && numbers(part).is_empty() {
            adds = part.lines.join("\n");
        } else if begins(part) {
            place += 1;
            let digits = path.trim_matches(|c: char| !c.is_ascii_digit());
            let (diff, command) = match numbers(part)[..] {
                [_, before] => {
                    let is_it = |c: &&Change| c.has_number(before);
                    let same = changes.iter().find(is_it);
                    let none = || panic!("{}: no such change", part.at(0));
                    (same.unwrap_or_else(none).diff, Some(part))
                }
                _ => {
                    let next = parts.get(i + 2);
                    (part, next.filter(|it| numbers(it).len() == 1))
                }
            };
            let below = &parts[i + 1..];
            let to_next = below.iter().position(begins).unwrap_or(below.len());
            let has_heading = |part: &Part| part.heading().is_some();
            let to_heading = below.iter().position(has_heading);
            let end = to_next.min(to_heading.map_or(below.len(), |n| n + 1));
            let mut above = parts[i - 1].lines.split(String::is_empty);
            let above = above.rfind(|it| !it.is_empty()).unwrap_or_default();
            changes.push(Change {
                number: format!("{}.{place}", digits.trim_start_matches('0')),
                path,
                heading,
                diff,
                command,
                adds: adds.clone(),
                above,
                below: &below[..end],
            });
        }
    }
    changes
}

impl Change<'_> {
    /// The blocks that are run with it. If there is none, it builds, and the
    /// compiler has nothing to say.
    pub fn consoles(&self) -> Vec<Part> {
        let is_console = |part: &&Part| part.kind == "console";
        let below = self.below.iter().filter(is_console).cloned();
        let builds = Part {
            kind: "console".to_owned(),
            lines: vec!["$ cargo build --quiet".to_owned()],
            ..self.diff.clone()
        };
        let blocks: Vec<_> = below.collect();
        if blocks.is_empty() { vec![builds] } else { blocks }
    }

    /// Whether that number stands beside it, be it right or not.
    pub fn has_number(&self, number: &str) -> bool {
        self.command.is_some_and(|part| numbers(part)[0] == number)
    }
}
