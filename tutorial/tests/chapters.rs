//! What the chapters say, compared with the code and with real runs.
//!
//! A *listing* stands below a line that is only a link to lines of a file. A
//! *diff* of main.rs holds for the console blocks below it, up to the next
//! heading or diff. After an edit of main.rs,
//! `RENUMBER=1 cargo test --test chapters` corrects the numbers in both.

mod common;

use common::chapter::{Numbered, Part, apply, parts, prose, read, words};
use common::{ROOT, Server};
use std::fs;
use std::io::{Write, stderr};
use std::os::unix::{fs::symlink, process::CommandExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

// ----- the chapters ----------------------------------------------------------

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
const NGINX: Listed = ["tutorial/nginx.conf", "nginx.conf", "nginx", "#"];
const UNIT: Listed =
    ["tutorial/threaded-tokio@.service", "threaded-tokio@.service", "ini", "#"];
const HAPROXY: Listed = ["tutorial/haproxy.cfg", "haproxy.cfg", "haproxy", "#"];
const DOCKERFILE: Listed =
    ["tutorial/Dockerfile", "Dockerfile", "dockerfile", "#"];

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

fn wrong_numbers(parts: &[Part]) -> Vec<Numbered> {
    let listed = [RUST, PYTHON, NGINX, UNIT, HAPROXY, DOCKERFILE]
        .map(|file| listings(parts, file));
    let mut all = listed.concat();
    let diffs = parts.iter().filter(|part| part.kind == "diff");
    all.extend(diffs.flat_map(|diff| apply(diff).1));
    all.retain(|(path, i, right)| read(path).lines().nth(*i) != Some(right));
    all
}

#[test]
fn each_line_of_code_is_in_one_listing_in_order() {
    for file in [RUST, PYTHON, NGINX, UNIT, HAPROXY, DOCKERFILE] {
        listings(&PARTS, file);
    }
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

/// Runs a command in a folder. Returns its stdout and stderr.
fn run(command: &str, folder: &Path) -> [String; 2] {
    let output = common::output(&mut bash(command, folder));
    [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// The command, with nothing set that could change what it prints.
fn bash(command: &str, folder: &Path) -> Command {
    let mut bash = Command::new("bash");
    for name in ["HOST", "SLEEP", "WORKERS", "REQUESTS", "RUST_BACKTRACE"] {
        bash.env_remove(name);
    }
    if !common::thorough() {
        bash.env("CARGO_NET_OFFLINE", "true");
    }
    bash.envs([("PORT", "0"), ("TMPDIR", "/tmp"), ("no_proxy", "*")])
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TARGET_DIR", target(folder))
        .current_dir(folder);
    bash.args(["-c", command]).stdout(Stdio::piped()).stderr(Stdio::piped());
    bash
}

/// Where cargo builds what is in a folder: a copy of the project where the
/// project is built, since its dependencies are there already.
fn target(folder: &Path) -> PathBuf {
    if folder.starts_with(fresh()) {
        return fresh().join("target");
    }
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("")
}

/// A line without what differs from run to run: times, ports, which request.
fn shape(line: &str) -> String {
    if line.starts_with("HTTP/") {
        return line.trim().to_owned();
    }
    let only =
        |word: &str, signs: &str| word.chars().all(|c| signs.contains(c));
    let words: Vec<_> = line.split_whitespace().collect();
    let is_bar = words.len() > 3 && only(words[1], ".#x");
    let shapes = words.iter().enumerate().map(|(i, word)| {
        let count = |sign: char| word.matches(sign).count();
        if word.starts_with("/tmp/") {
            "P".to_owned()
        } else if is_bar && i == 1 {
            // A request that is sent late seems to wait for some columns.
            let waited = 2 * count('.') > count('#');
            if count('x') > 0 {
                "x"
            } else if waited {
                ".#"
            } else {
                "#"
            }
            .to_owned()
        } else if word.starts_with("error[")
            || (only(word, "0123456789") && !(is_bar && i == 0))
        {
            (*word).to_owned()
        } else {
            let mut shape = word.replace(|c: char| c.is_ascii_digit(), "N");
            while shape.contains("NN") || shape.contains("N.N") {
                shape = shape.replace("NN", "N").replace("N.N", "N");
            }
            shape
        }
    });
    let shape = shapes.collect::<Vec<_>>().join(" ");
    if shape.starts_with("date: ") { "date: D".to_owned() } else { shape }
}

fn shapes(text: &str, sorted: bool) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(shape).collect();
    lines.retain(|line| !line.is_empty());
    if sorted {
        lines.sort();
    }
    lines
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

/// How many jobs started, how many ended, and how many ran at once at most.
fn jobs(text: &str) -> [usize; 3] {
    let (mut going, mut done, mut peak) = (0, 0, 0);
    for line in text.lines() {
        going += usize::from(line.starts_with("going to sleep"));
        done += usize::from(line.starts_with("done sleeping"));
        peak = peak.max(going - done);
    }
    [going, done, peak]
}

/// Runs a command and says what is wrong with what a chapter tells of it.
fn check(command: &str, told: &str, folder: &Path) -> Option<String> {
    if command.starts_with("tutorial/measure") {
        return None; // It takes minutes. `tutorial/measure --check` looks at it.
    }
    let never = ["git", "cd", "mdbook", "pip", "python3", "test", "--keep"];
    if command.split(' ').any(|word| never.contains(&word)) {
        return Some("no test can run this: put it in ```sh".to_owned());
    }
    let builds = ["cargo build", "cargo check"];
    let is_build = builds.iter().any(|build| command.starts_with(build));
    let is_burst = command.ends_with("./run.sh");
    let is_part = told.lines().any(|line| line == "...");
    // A machine that is busy sends requests late, and draws other bars.
    let mut tries = if command.contains("./run.sh") { 5 } else { 1 };
    loop {
        tries -= 1;
        let [out, err] = run(command, folder);
        let printed = shapes(if is_build { &err } else { &out }, is_burst);
        let gaps = is_build || is_burst && is_part;
        let mut wrong = difference(&shapes(told, is_burst), &printed, gaps);
        let (told, printed) = (jobs(told), jobs(&out));
        if is_burst && !is_part && told != printed {
            tries = 0;
            wrong = Some(format!(
                "jobs started, ended, at once\ntold:    {told:?}\n\
                 printed: {printed:?}"
            ));
        }
        let why = wrong?;
        if tries == 0 {
            return Some(format!("{why}\nAll of it:\n{out}\n{err}"));
        }
    }
}

/// A server, and all that its command has started besides. Killed at the end.
struct Group(Server);

impl Drop for Group {
    fn drop(&mut self) {
        common::signal("KILL", &format!("-{}", self.0.child.id()));
    }
}

/// Runs the commands of a block. Says what is wrong, and how often.
///
/// Commands that end in `&` come first. They are servers, which the others ask.
/// Where there is none, they ask one that sleeps a tenth of a second.
fn check_all(console: &Part, folder: &Path) -> usize {
    let (mut wrong, mut i) = (0, 0);
    let [port, second] = [(); 2].map(|()| common::free_port().to_string());
    let (mut servers, mut asks) = (Vec::new(), false);
    let start = |command: &str| {
        let mut bash = bash(command, folder);
        Group(Server::spawn(bash.env("PORT", &port).process_group(0)))
    };
    for lines in console.lines.chunk_by(|_, next| !next.starts_with("$ ")) {
        let at = console.at(i);
        i += lines.len();
        assert!(lines[0].starts_with("$ "), "{at}: no `$ COMMAND`");
        let goes_on = |line: &&String| line.ends_with('\\');
        let more = lines.iter().take_while(goes_on).count();
        let command = lines[..=more].join("\n")[2..].to_owned();
        let told = lines[more + 1..].join("\n");
        let command = command.replace("8888", &port).replace("8889", &second);
        if servers.is_empty() && !asks {
            asks = command.ends_with(" &") || command.contains(&port);
            if asks {
                run("cargo build", folder);
            }
            if asks && !command.ends_with(" &") {
                let server = start("SLEEP=0.1 cargo run --quiet");
                servers.push((at.clone(), String::new(), server));
            }
        }
        if let Some(command) = command.strip_suffix(" &") {
            servers.push((at, told, start(command)));
        } else if let Some(why) = check(&command, &told, folder) {
            eprintln!("{at}: $ {command}\n{why}\n");
            wrong += 1;
        }
    }
    for (at, told, Group(server)) in &servers {
        let said = shapes(&(server.stdout() + &server.stderr()), true);
        let told = shapes(told, true);
        let gaps = told.is_empty() || told.iter().any(|line| line == "...");
        if let Some(why) = difference(&told, &said, gaps) {
            eprintln!("{at}: {why}\nAll that the server said:\n{said:#?}\n");
            wrong += 1;
        }
    }
    wrong
}

/// A chapter whose diffs are for a crate that it tells how to make.
const FRESH: &str = "tutorial/12-make-it-yours.md";

#[test]
fn the_console_blocks_are_what_the_commands_print_with_and_without_the_diffs() {
    let (mut wrong, mut diffs, mut folder) = (0, 0, PathBuf::from(ROOT));
    for (part, next) in PARTS.iter().zip(1..) {
        if part.has_heading() {
            folder = ROOT.into();
        } else if part.path == FRESH {
            // The next test is for these.
        } else if part.kind == "console" {
            wrong += check_all(part, &folder);
        } else if part.kind == "diff" {
            diffs += 1;
            folder = common::make(&format!("changed-{diffs}"), &apply(part).0);
            let holds = |p: &&Part| !p.has_heading() && p.kind != "diff";
            let mut below = PARTS[next..].iter().take_while(holds);
            if below.all(|part| part.kind != "console") {
                let [_, said] = run("cargo build", &folder);
                if said.contains("error") || said.contains("warning") {
                    let at = part.at(0);
                    eprintln!("{at}: no console block says that:\n{said}\n");
                    wrong += 1;
                }
            }
        }
    }
    assert_eq!(wrong, 0, "chapters and runs differ that often, see above");
}

/// The first block of shell commands makes the crate. One further down adds
/// the crates that a recipe needs besides: that may take the network.
#[test]
fn the_recipes_work_in_a_fresh_crate() {
    let parts = || PARTS.iter().filter(|part| part.path == FRESH);
    let is_new = |part: &&Part| part.lines.join(" ").contains("cargo new");
    let new = parts().find(is_new).expect("it is made").lines.join("\n");
    // Always the same folder and name: to cargo it is one crate, being edited.
    let folder = fresh().join("my-server");
    let make = |adds: &str, main: &str| {
        fs::create_dir_all(fresh()).expect("a folder");
        symlink(ROOT, fresh().join("threaded-tokio")).ok();
        fs::remove_dir_all(&folder).ok();
        run(&format!("set -e\n{new}"), &fresh());
        let [_, said] = run(&format!("set -e\n{adds}"), &folder);
        fs::write(folder.join("src/main.rs"), main).expect(&said);
    };
    make("", &read(RUST[0]));
    let (mut wrong, mut adds, mut skipped) = (0, String::new(), false);
    for part in parts() {
        if part.has_heading() {
            (adds, skipped) = (String::new(), false);
        } else if part.kind == "sh" && !is_new(&part) {
            adds = part.lines.join("\n");
        } else if part.kind == "diff" {
            skipped = !adds.is_empty() && !common::thorough();
            if skipped {
                common::skip("SKIP_NOTHING=1: a recipe with other crates");
            } else {
                make(&adds, &apply(part).0);
            }
        } else if part.kind == "console" && !skipped {
            wrong += check_all(part, &folder);
        }
    }
    assert_eq!(wrong, 0, "chapter and runs differ that often, see above");
}

fn fresh() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fresh")
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
fn each_error_code_in_a_text_is_in_a_console_block() {
    let consoles = PARTS.iter().filter(|part| part.kind == "console");
    let printed: Vec<_> = consoles.flat_map(|part| &part.lines).collect();
    for path in chapters() {
        for line in prose(&path) {
            let words = line.split(|c: char| !c.is_alphanumeric());
            let is_code = |w: &&str| w.len() == 5 && w.starts_with("E0");
            for code in words.filter(is_code) {
                let start = format!("error[{code}]");
                let is_there = printed.iter().any(|l| l.starts_with(&start));
                assert!(is_there, "{path}: no console block has {code}");
            }
        }
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
    let (chapters, last) = (chapters(), "tutorial/09-line-by-line.md");
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
