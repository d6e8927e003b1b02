//! What the chapters say, compared with the code and with real runs.
//!
//! A *listing* stands below a line that is only a link to lines of a file. A
//! *diff* of main.rs holds for the console blocks below it, up to the next
//! heading or diff. After an edit of main.rs,
//! `RENUMBER=1 cargo test --test chapters` corrects the numbers in both.

mod common;

use common::{ROOT, Server};
use std::fs;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

// ----- the chapters ----------------------------------------------------------

/// What stands between ``` and ``` in a text, or between two such blocks.
struct Part {
    path: String,
    /// What the block's first line says: `rust`, `console`. Or else `prose`.
    kind: String,
    /// How many lines come before it.
    start: usize,
    lines: Vec<String>,
}

impl Part {
    /// The place of one of its lines, for messages.
    fn at(&self, index: usize) -> String {
        format!("{}:{}", self.path, self.start + index + 1)
    }

    fn has_heading(&self) -> bool {
        self.kind == "prose" && self.lines.iter().any(|l| l.starts_with('#'))
    }
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join(path));
    text.unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The parts of a text, in turns prose and block.
fn parts(path: &str) -> Vec<Part> {
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
fn prose(path: &str) -> impl Iterator<Item = String> {
    parts(path).into_iter().step_by(2).flat_map(|part| part.lines)
}

/// Its prose, without what stands between backticks.
fn words(path: &str) -> String {
    let lines: Vec<_> = prose(path).collect();
    lines.join("\n").split('`').step_by(2).collect()
}

/// The links in a text: what stands before `](`, and the target.
fn links(text: &str) -> Vec<(&str, &str)> {
    let ends = text.match_indices("](").map(|(end, _)| end);
    let link = |end| Some((&text[..end], text[end + 2..].split_once(')')?.0));
    ends.filter_map(link).collect()
}

/// The paths of the chapters, as SUMMARY.md has them.
fn chapters() -> Vec<String> {
    let summary = words("tutorial/SUMMARY.md");
    let links = links(&summary).into_iter();
    links.map(|(_, target)| format!("tutorial/{target}")).collect()
}

static PARTS: LazyLock<Vec<Part>> = LazyLock::new(|| {
    let all = || chapters().iter().flat_map(|p| parts(p)).collect::<Vec<_>>();
    if std::env::var_os("RENUMBER").is_some() {
        for (path, i, right) in wrong_numbers(&all()) {
            let text = read(&path);
            let mut lines: Vec<_> = text.lines().collect();
            lines[i] = &right;
            let text = lines.join("\n") + "\n";
            fs::write(Path::new(ROOT).join(&path), text).expect("a file");
            // Not eprintln!, which a test that passes keeps for itself.
            writeln!(stderr(), "{path}:{} is now {right}", i + 1).ok();
        }
    }
    all()
});

// ----- listings and diffs ----------------------------------------------------

/// What is listed: path, target of links, kind of block, start of comments.
type Listed = [&'static str; 4];
const RUST: Listed = ["src/main.rs", "../src/main.rs", "rust", "//"];
const PYTHON: Listed =
    ["tutorial/threaded_tornado.py", "threaded_tornado.py", "python", "#"];

/// The lines that are code, with their numbers.
fn code([path, _, _, comment]: Listed) -> Vec<(usize, String)> {
    let lines = read(path).lines().map(str::to_owned).collect::<Vec<_>>();
    let is_code = |l: &str| !l.is_empty() && !l.starts_with(comment);
    (1..).zip(lines).filter(|(_, line)| is_code(line.trim())).collect()
}

/// Which line of `above` is the link of `block`, if that is a listing.
fn link(above: &Part, block: &Part, listed: Listed) -> Option<usize> {
    let i = above.lines.iter().rposition(|line| !line.trim().is_empty())?;
    let link = above.lines[i].strip_prefix('[')?.strip_suffix(')')?;
    let target = link.split_once("](")?.1.split('#').next()?;
    (block.kind == listed[2] && target == listed[1]).then_some(i)
}

/// A line with the right numbers: its file, its index, and how it must read.
type Numbered = (String, usize, String);

/// Compares all listings of a file with its code. Returns their links.
fn listings(parts: &[Part], listed: Listed) -> Vec<Numbered> {
    let (file, target) = (listed[0], listed[1]);
    let label = target.trim_start_matches("../");
    let mut code = code(listed).into_iter();
    let mut links = Vec::new();
    for pair in parts.windows(2) {
        let (above, block) = (&pair[0], &pair[1]);
        let Some(i) = link(above, block, listed) else { continue };
        let mut numbers = Vec::new();
        let lines = block.lines.iter().enumerate();
        for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let (number, next) = code.next().unwrap_or_default();
            assert!(
                *line == next,
                "\n{} lists\n{line}\nbut the next code, {file}:{number}, is\n\
                 {next}\nList all of it once, in order, and no comment lines.",
                block.at(i)
            );
            numbers.push(number);
        }
        let link = match numbers[..] {
            [] => panic!("{}: an empty listing", above.at(i)),
            [n] => format!("[{label}, line {n}]({target}#L{n})"),
            [a, .., z] => {
                format!("[{label}, lines {a} to {z}]({target}#L{a}-L{z})")
            }
        };
        links.push((above.path.clone(), above.start + i, link));
    }
    assert_eq!(code.next(), None, "no chapter lists this line of {file}");
    links
}

/// Applies a diff wherever its lines stand in main.rs. Returns the changed
/// main.rs, and the lines with `@@`.
fn apply(diff: &Part) -> (String, Vec<Numbered>) {
    let head = "--- a/src/main.rs\n+++ b/src/main.rs\n@@";
    let is_diff = diff.lines.join("\n").starts_with(head);
    assert!(is_diff, "{}: a diff begins with\n{head}", diff.at(0));

    let main = read(RUST[0]);
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

fn wrong_numbers(parts: &[Part]) -> Vec<Numbered> {
    let mut all = [listings(parts, RUST), listings(parts, PYTHON)].concat();
    let diffs = parts.iter().filter(|part| part.kind == "diff");
    all.extend(diffs.flat_map(|diff| apply(diff).1));
    all.retain(|(path, i, right)| read(path).lines().nth(*i) != Some(right));
    all
}

#[test]
fn each_line_of_code_is_in_one_listing_in_order() {
    listings(&PARTS, RUST);
    listings(&PARTS, PYTHON);
}

#[test]
fn the_line_numbers_of_listings_and_diffs_are_right() {
    let mut wrong = String::new();
    for (path, i, right) in wrong_numbers(&PARTS) {
        wrong += &format!("{path}:{} must be {right}\n", i + 1);
    }
    assert!(wrong.is_empty(), "\n{wrong}RENUMBER=1 corrects this");
}

// ----- console blocks --------------------------------------------------------

/// Where a changed copy lies: always there, since cargo compares ages.
fn folder(copy: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(copy)
}

/// Makes a copy of the project with another main.rs. Its name sorts as the
/// project's does, so that the order in Cargo.lock is right. What is as it was
/// keeps its age, and need not be built again.
fn make(copy: &str, main: &str) {
    fs::create_dir_all(folder(copy).join("src")).expect("a folder");
    let toml = read("Cargo.toml");
    let sections = toml.split("\n[").filter(|s| !s.starts_with("[test]]"));
    let toml = sections.collect::<Vec<_>>().join("\n[") + "\n[workspace]\n";
    for (file, text) in [
        ("Cargo.toml", toml.replace("threaded-tokio", copy)),
        ("Cargo.lock", read("Cargo.lock").replace("threaded-tokio", copy)),
        ("src/main.rs", main.to_owned()),
    ] {
        let file = folder(copy).join(file);
        if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            fs::write(file, text).expect("a file");
        }
    }
    let script = Path::new(ROOT).join("run.sh");
    fs::copy(script, folder(copy).join("run.sh")).expect("run.sh");
}

/// Runs a command in a copy or in the project. Returns its stdout and stderr.
fn run(command: &str, copy: Option<&str>) -> [String; 2] {
    let mut bash = Command::new("bash");
    for name in ["HOST", "SLEEP", "WORKERS", "REQUESTS", "RUST_BACKTRACE"] {
        bash.env_remove(name);
    }
    bash.envs([("PORT", "0"), ("TMPDIR", "/tmp"), ("no_proxy", "*")])
        .envs([("CARGO_NET_OFFLINE", "true"), ("CARGO_TERM_COLOR", "never")])
        .env("CARGO_TARGET_DIR", folder(".."))
        .current_dir(copy.map_or(ROOT.into(), folder));
    bash.args(["-c", command]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = common::output(&mut bash);
    [output.stdout, output.stderr].map(|text| {
        let text = String::from_utf8_lossy(&text);
        text.replace(copy.unwrap_or("threaded-tokio"), "threaded-tokio")
    })
}

/// A line without what differs from run to run.
fn shape(line: &str) -> String {
    if line.starts_with("HTTP/") {
        return line.trim().to_owned();
    }
    let words = line.split_whitespace().map(|word| {
        let only = |signs: &str| word.chars().all(|sign| signs.contains(sign));
        let count = |sign: char| word.matches(sign).count();
        if word.starts_with("/tmp/") {
            "P".to_owned()
        } else if only("x") {
            "x".to_owned()
        } else if only(".#") && word != "..." {
            // A request that is sent late seems to wait for some columns.
            let waited = 2 * count('.') > count('#');
            if waited { ".#" } else { "#" }.to_owned()
        } else if word.starts_with("error[") {
            word.to_owned()
        } else {
            let mut shape = word.replace(|c: char| c.is_ascii_digit(), "N");
            while shape.contains("NN") || shape.contains("N.N") {
                shape = shape.replace("NN", "N").replace("N.N", "N");
            }
            shape
        }
    });
    let shape = words.collect::<Vec<_>>().join(" ");
    if shape.starts_with("date: ") { "date: D".to_owned() } else { shape }
}

/// What differs first. In `told`, `...` stands for any lines, and with `gaps`
/// there may be others between any two.
fn difference(told: &[String], real: &[String], gaps: bool) -> Option<String> {
    // How many lines of `real` those up to here may stand for.
    let mut used = vec![0];
    for line in told {
        if gaps || line == "..." {
            used = (used[0]..=real.len()).collect();
        }
        if line != "..." {
            let next = real.get(used[0]).filter(|_| !gaps);
            let next = next.map_or("(no such line)", String::as_str);
            used.retain(|n| real.get(*n) == Some(line));
            used.iter_mut().for_each(|n| *n += 1);
            if used.is_empty() {
                return Some(format!("told:    {line}\nprinted: {next}"));
            }
        }
    }
    let more = !gaps && !used.contains(&real.len());
    more.then(|| format!("told:    (no more)\nprinted: {}", real[used[0]]))
}

/// 13 going and 13 done, but never more than 10 between: the eleventh goes
/// after the first is done.
fn is_the_posts_burst(text: &str) -> bool {
    let (mut going, mut done) = (0, 0);
    let at_once = text.lines().all(|line| {
        going += usize::from(line.starts_with("going to sleep"));
        done += usize::from(line.starts_with("done sleeping"));
        (done..=done + 10).contains(&going)
    });
    at_once && (going, done) == (13, 13)
}

/// Runs a command and says what is wrong with what a chapter tells of it.
fn check(command: &str, told: &str, copy: Option<&str>) -> Option<String> {
    if command.starts_with("tutorial/measure") {
        return None; // Takes minutes. `tutorial/measure --check` looks at it.
    }
    let never = ["git", "cd", "mdbook", "pip", "python3", "test", "--keep"];
    if command.split(' ').any(|word| never.contains(&word)) {
        return Some("no test can run this: put it in ```sh".to_owned());
    }
    let server = command.contains("http://127.0.0.1:8888/").then(|| {
        let program = copy.map_or(common::BINARY.into(), |copy| {
            run("cargo build", Some(copy));
            folder("../debug").join(copy)
        });
        Server::spawn(Command::new(program).env("SLEEP", "0.1"))
    });
    let port = server.as_ref().map_or(8888, |server| server.port).to_string();
    let command = command.replace("8888", &port);

    let builds = ["cargo build", "cargo check"];
    let is_build = builds.iter().any(|build| command.starts_with(build));
    let is_run = command.contains("./run.sh");
    let is_part = told.lines().any(|line| line == "...");
    let set = ["REQUESTS=", "WORKERS="].iter().any(|s| command.contains(s));
    let is_burst = command.ends_with("./run.sh") && copy.is_none() && !set;
    let shapes = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(shape).collect();
        lines.retain(|line| !line.is_empty());
        if is_run {
            lines.sort();
        }
        lines
    };
    // A machine that is busy sends requests late, and draws other bars.
    let mut tries = if is_run { 5 } else { 1 };
    loop {
        tries -= 1;
        let [out, err] = run(&command, copy);
        let printed = shapes(if is_build { &err } else { &out });
        let gaps = is_build || is_run && is_part;
        let mut wrong = difference(&shapes(told), &printed, gaps);
        let as_told = is_part || is_the_posts_burst(told);
        if is_burst && !(as_told && is_the_posts_burst(&out)) {
            wrong = Some("not 13 going and done, 10 at a time".to_owned());
            tries = 0;
        }
        let why = wrong?;
        if tries == 0 {
            return Some(format!("{why}\nAll of it:\n{out}\n{err}"));
        }
    }
}

/// Runs the commands of a block. Says what is wrong, and how often.
fn check_all(console: &Part, copy: Option<&str>) -> usize {
    let (mut wrong, mut i) = (0, 0);
    for lines in console.lines.chunk_by(|_, next| !next.starts_with("$ ")) {
        let (at, told) = (console.at(i), lines[1..].join("\n"));
        let command = lines[0].strip_prefix("$ ");
        let command = command.unwrap_or_else(|| panic!("{at}: no `$ COMMAND`"));
        if let Some(why) = check(command, &told, copy) {
            eprintln!("{at}: $ {command}\n{why}\n");
            wrong += 1;
        }
        i += lines.len();
    }
    wrong
}

#[test]
fn the_console_blocks_are_what_the_commands_print_with_and_without_the_diffs() {
    let (mut wrong, mut diffs, mut copy) = (0, 0, None);
    for (part, next) in PARTS.iter().zip(1..) {
        if part.has_heading() {
            copy = None;
        } else if part.kind == "console" {
            wrong += check_all(part, copy.as_deref());
        } else if part.kind == "diff" {
            diffs += 1;
            let name = format!("threaded-tokio-changed-{diffs}");
            make(&name, &apply(part).0);
            let holds = |p: &&Part| !p.has_heading() && p.kind != "diff";
            let mut below = PARTS[next..].iter().take_while(holds);
            if below.all(|part| part.kind != "console") {
                let [_, said] = run("cargo build", Some(&name));
                if said.contains("error") || said.contains("warning") {
                    let at = part.at(0);
                    eprintln!("{at}: no console block says that:\n{said}\n");
                    wrong += 1;
                }
            }
            copy = Some(name);
        }
    }
    assert_eq!(wrong, 0, "chapters and runs differ that often, see above");
}

// ----- figures ---------------------------------------------------------------

fn no_python() -> bool {
    let missing = Command::new("python3").arg("--version").output().is_err();
    if missing {
        eprintln!("skipped: no python3 on this machine");
    }
    missing
}

/// The lines of the table below a command, without what is printed above it.
fn table(path: &str, command: &str) -> Vec<String> {
    let is_it = |part: &Part| part.lines.first().is_some_and(|l| l == command);
    let block = parts(path).into_iter().find(is_it);
    let block = block.unwrap_or_else(|| panic!("{path}: no block {command}"));
    block.lines.split(String::is_empty).skip(1).collect::<Vec<_>>().concat()
}

#[test]
fn what_was_measured_has_the_rows_that_the_script_prints() {
    if no_python() {
        return;
    }
    for (path, command, columns) in [
        ("tutorial/07-the-executor.md", "tutorial/measure rivals", 5),
        ("tutorial/13-measure-it.md", "tutorial/measure", 4),
    ] {
        let table = table(path, &format!("$ {command}"));
        let cells = |line: &str| -> Vec<String> {
            let cells = line.trim().split("  ").map(str::trim);
            cells.filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
        };
        let [rows, said] = run(&format!("{command} --rows"), None);
        let (header, names) = rows.split_once('\n').expect(&said);
        assert_eq!(table[0], header, "{path}: the columns of {command}");
        let told: Vec<_> = table[1..].iter().map(|row| cells(row)).collect();
        let told_names: Vec<_> = told.iter().map(|row| &row[0]).collect();
        let names: Vec<_> = names.lines().collect();
        assert_eq!(told_names, names, "{path}: the rows of {command}");
        let whole = told.iter().all(|row| row.len() == columns);
        assert!(whole, "{path}: a row without {columns} cells: {told:?}");
    }
}

#[test]
fn the_picture_of_what_was_measured_shows_the_figures_of_the_table() {
    if no_python() {
        return;
    }
    let table = table("tutorial/13-measure-it.md", "$ tutorial/measure");
    let draw = "python3 -B tutorial/img/draw_measured.py";
    let draw = format!("{draw} <<'END'\n{}\nEND", table.join("\n"));
    let [drawn, said] = run(&draw, None);
    let same = drawn == read("tutorial/img/measured.svg");
    assert!(same, "tutorial/measure --write draws it; {said}");
}

// ----- links, the last table, marks ------------------------------------------

/// What `#` can name in a file: headings, by GitHub's rule, or lines.
fn anchors(path: &str) -> Vec<String> {
    if !path.ends_with(".md") {
        let lines = 1..=read(path).lines().count();
        return lines.map(|n| format!("L{n}")).collect();
    }
    let mut slugs = Vec::new();
    for line in prose(path).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let keep = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        let slug: String = heading.chars().filter(keep).collect();
        let slug = slug.replace(' ', "-");
        let again = (1..).map(|n| format!("{slug}-{n}"));
        let mut names = [slug.clone()].into_iter().chain(again);
        slugs.extend(names.find(|name| !slugs.contains(name)));
    }
    slugs
}

/// Whether a link leads to a file of the project, and to something in it.
fn resolves(from: &str, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let from = Path::new(ROOT).join(from);
    let file = if path.is_empty() { from } else { from.with_file_name(path) };
    let Ok(file) = file.canonicalize() else { return false };
    let Ok(path) = file.strip_prefix(ROOT) else { return false };
    let path = path.display().to_string();
    if path.starts_with("target") || anchor.is_empty() {
        return !path.starts_with("target");
    }
    let anchors = anchors(&path);
    let is_there = |anchor: &str| anchors.iter().any(|own| own == anchor);
    is_there(anchor)
        || anchor.split_once('-').is_some_and(|(first, last)| {
            !path.ends_with(".md") && is_there(first) && is_there(last)
        })
}

#[test]
fn links_anchors_and_pictures_resolve() {
    let others = ["README.md", "tutorial/SUMMARY.md"].map(str::to_owned);
    for path in chapters().into_iter().chain(others) {
        let words = words(&path);
        for (before, to) in links(&words) {
            let good = to.contains(':') || resolves(&path, to);
            assert!(good, "{path}: no such file, heading or line: {to}");
            let (before, label) = before.rsplit_once('[').expect(to);
            let said = !before.ends_with('!') || label.len() >= 20;
            assert!(said, "{path}: {to}: say in the alt text what it shows");
        }
        let html = words.contains("<img");
        assert!(!html, "{path}: write an <img> as ![alt text](file)");
    }
}

#[test]
fn the_summary_names_each_chapter_once() {
    let files = fs::read_dir(Path::new(ROOT).join("tutorial")).expect("there");
    let paths = files.map(|file| file.expect("a file").path());
    let mut files: Vec<_> = paths
        .map(|path| path.display().to_string().replace(ROOT, ""))
        .map(|path| path.trim_start_matches('/').to_owned())
        .filter(|path| path.ends_with(".md") && !path.contains("SUMMARY"))
        .collect();
    let mut named = chapters();
    files.sort();
    named.sort();
    assert_eq!(
        named, files,
        "SUMMARY.md must name (left) what is there (right)"
    );
}

#[test]
fn the_last_table_takes_each_line_of_python_to_its_rust_and_its_chapter() {
    let folded =
        |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let main = folded(&read(RUST[0]));
    let chapters = chapters();
    let last = chapters.last().expect("there are chapters");
    let mut python = code(PYTHON).into_iter();

    let is_row = |line: &String| line.starts_with("| `");
    let rows = prose(last).skip_while(|line| !is_row(line));
    for row in rows.take_while(is_row) {
        let cells = row.replace("\\|", "\0");
        let cells = cells.trim().trim_matches('|').split('|');
        let cells = cells.map(|cell| cell.trim().replace('\0', "|"));
        let [line, answer, link] = &cells.collect::<Vec<_>>()[..] else {
            panic!("{last}: not Python | Rust | chapter: {row}")
        };
        let (number, next) = python.next().unwrap_or_default();
        let (line, next) = (line.trim_matches('`'), next.trim());
        assert_eq!(
            line, next,
            "{last} (left): the next line is {number} (right)"
        );
        for quoted in answer.split('`').skip(1).step_by(2) {
            let real = main.contains(&folded(quoted));
            assert!(real, "{last}: `{quoted}` is not in main.rs");
        }
        let is_chapter = |(_, target): &(&str, &str)| {
            let file = target.split('#').next().unwrap_or_default();
            chapters.contains(&format!("tutorial/{file}"))
        };
        let linked = links(link).iter().any(is_chapter);
        assert!(linked, "{last}: ends with no link to a chapter: {row}");
    }
    assert_eq!(python.next(), None, "{last}: the table ends before this line");
}

#[test]
fn sketches_are_marked_and_details_are_closed() {
    for pair in PARTS.windows(2) {
        let (above, block) = (&pair[0], &pair[1]);
        let known = match block.kind.as_str() {
            "rust" => link(above, block, RUST).is_some(),
            kind => !kind.starts_with("rust") || kind == "rust,ignore",
        };
        let at = block.at(0);
        assert!(known, "{at}: a link to main.rs above it, or ```rust,ignore");
    }
    for path in chapters() {
        let words = words(&path);
        let tags = ["<details", "<summary>", "</summary>", "</details>"];
        let counts = tags.map(|tag| words.matches(tag).count());
        let same = counts.iter().all(|count| *count == counts[0]);
        assert!(same, "{path}: {tags:?} stand there {counts:?} times");
    }
}
