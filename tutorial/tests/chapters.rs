//! What the chapters say, compared with the code and with real runs.
//!
//! A *listing* stands below a line that is only a link to lines of a file. A
//! *diff* of main.rs holds for the console blocks below it, up to the next
//! heading or diff. After an edit of main.rs,
//! `RENUMBER=1 cargo test --test chapters numbers` corrects the numbers in both.

mod common;

use common::*;
use std::io::stderr;
use std::ptr;
use std::sync::RwLock;

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

const LISTED: [Listed; 13] = [
    RUST,
    PYTHON,
    ["tutorial/phrasebook.py", "phrasebook.py", "python", "#"],
    ["tutorial/phrasebook.rs", "phrasebook.rs", "rust", "//"],
    ["tutorial/nginx.conf", "nginx.conf", "nginx", "#"],
    ["tutorial/service/json.rs", "service/json.rs", "rust", "//"],
    ["tutorial/service/notes.rs", "service/notes.rs", "rust", "//"],
    ["tutorial/service/axum.rs", "service/axum.rs", "rust", "//"],
    ["tutorial/service/jobs.rs", "service/jobs.rs", "rust", "//"],
    ["tutorial/service/jobs.sql", "service/jobs.sql", "sql", "--"],
    ["tutorial/threaded-tokio@.service", "threaded-tokio@.service", "ini", "#"],
    ["tutorial/haproxy.cfg", "haproxy.cfg", "haproxy", "#"],
    ["tutorial/Dockerfile", "Dockerfile", "dockerfile", "#"],
];

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

/// Compares all listings of a file with its code: each is a part of it, each
/// line is in one of them, and within a chapter they keep its order. Returns
/// their links.
fn listings(parts: &[Part], listed: Listed) -> Vec<Numbered> {
    let (file, target) = (listed[0], listed[1]);
    let label = target.trim_start_matches("../");
    let code = code(listed);
    let mut unlisted: Vec<_> = (0..code.len()).collect();
    let (mut chapter, mut from) = ("", 0);
    let mut links = Vec::new();
    for pair in parts.windows(2) {
        let (above, block) = (&pair[0], &pair[1]);
        let Some(i) = link(above, block, listed) else { continue };
        if chapter != block.path {
            (chapter, from) = (&block.path, 0);
        }
        let lines = block.lines.iter().filter(|line| !line.trim().is_empty());
        let lines: Vec<_> = lines.collect();
        let stands_at = |n: &usize| {
            let own = code[*n..].iter().map(|(_, line)| line);
            own.take(lines.len()).eq(lines.iter().copied())
        };
        let is_free = |n: &usize| unlisted.contains(n);
        let found = (from..code.len()).find(|n| is_free(n) && stands_at(n));
        let found = found.unwrap_or_else(|| {
            let at = block.at(0);
            panic!(
                "\n{at}: {file} has no such lines, or they are listed already,\n\
                 or stand above those of the listing before. No comments in it."
            )
        });
        from = found + lines.len();
        unlisted.retain(|n| !(found..from).contains(n));
        let (first, last) = (code[found].0, code[from - 1].0);
        let link = if first == last {
            format!("[{label}, line {first}]({target}#L{first})")
        } else {
            let lines = format!("[{label}, lines {first} to {last}]");
            format!("{lines}({target}#L{first}-L{last})")
        };
        links.push((above.path.clone(), above.start + i, link));
    }
    let missing = unlisted.first().map(|n| &code[*n]);
    assert_eq!(missing, None, "no chapter lists this line of {file}");
    links
}

/// The commands that run the changes: one beside each, and those in the texts.
fn commands(parts: &[Part]) -> Vec<Numbered> {
    let (changes, mut commands) = (changes(parts), Vec::new());
    for Change { diff, number, .. } in
        changes.iter().filter(|change| change.command.is_none())
    {
        let block = format!("```\n\n```sh\n{TRY}{number}\n```");
        let end = diff.start + diff.lines.len();
        commands.push((diff.path.clone(), end, block));
    }
    for part in parts {
        let is_its =
            |it: &&Change| it.command.is_some_and(|p| ptr::eq(p, part));
        let mut its = changes.iter().find(is_its);
        for (i, line) in part.lines.iter().enumerate() {
            let mut pieces = line.split(TRY);
            let mut right = pieces.next().unwrap_or_default().to_owned();
            for piece in pieces {
                let old = number(piece);
                let other = || changes.iter().find(|it| it.has_number(old));
                let new = match its.take().or_else(other) {
                    None if old.is_empty() => "",
                    None => panic!("{}: no change has that", part.at(i)),
                    Some(change) => &change.number,
                };
                right += &[TRY, new, &piece[old.len()..]].concat();
            }
            commands.push((part.path.clone(), part.start + i, right));
        }
    }
    commands
}

/// The lines with wrong numbers, the last of a file first.
fn wrong_numbers(parts: &[Part]) -> Vec<Numbered> {
    let listed = LISTED.map(|file| listings(parts, file));
    let mut all = [listed.concat(), commands(parts)].concat();
    for diff in parts.iter().filter(|part| part.kind == "diff") {
        let (_, numbers) = apply(diff).unwrap_or_else(|why| panic!("{why}"));
        all.extend(numbers);
    }
    let is_right =
        |(path, i, right): &Numbered| read(path).lines().nth(*i) == Some(right);
    all.retain(|it| !is_right(it));
    all.sort_by(|a, b| b.cmp(a));
    all
}

#[test]
fn each_line_of_code_is_in_one_listing_and_all_line_numbers_are_right() {
    let mut wrong = String::new();
    for (path, i, right) in wrong_numbers(&PARTS) {
        wrong += &format!("{path}:{} must be {right}\n", i + 1);
    }
    assert!(wrong.is_empty(), "\n{wrong}RENUMBER=1 corrects this");
}

// ----- console blocks and changes --------------------------------------------

/// cargo builds one thing at a time, and some blocks count the seconds. So who
/// builds other crates, which takes long, does it while nobody else builds.
static BUILDS: RwLock<()> = RwLock::new(());

#[track_caller]
fn assert_right(wrong: &[String]) {
    let all = wrong.join("\n\n");
    assert!(wrong.is_empty(), "\nchapters and runs differ:\n\n{all}\n");
}

/// Chapters whose crates tests/service.rs makes and asks.
const SERVICES: [&str; 2] = [
    "tutorial/20-a-service-of-your-own.md",
    "tutorial/21-work-that-outlives.md",
];

#[test]
fn the_console_blocks_are_what_the_commands_print() {
    let changes = changes(&PARTS);
    let is_below = |part: &Part| {
        let below = |it: &Change| it.below.iter().any(|p| ptr::eq(p, part));
        changes.iter().any(below)
    };
    let _beside_others = BUILDS.read();
    let main = read(RUST[0]);
    let mut wrong = Vec::new();
    for part in PARTS.iter().filter(|part| part.kind == "console") {
        if !is_below(part) && !SERVICES.contains(&&*part.path) {
            let names = [&part.path, "as-it-is", ""];
            let copy = WORKSHOP.copy(&PARTS, names, &main);
            wrong.extend(copy.and_then(|it| WORKSHOP.run(part, &it)));
        }
    }
    assert_right(&wrong.concat());
}

#[track_caller]
fn try_out(with_crates: bool) {
    let _alone = with_crates.then(|| BUILDS.write());
    let _beside_others = (!with_crates).then(|| BUILDS.read());
    let mut wrong = Vec::new();
    let changes = changes(&PARTS).into_iter();
    for change in changes.filter(|it| it.adds.is_empty() != with_crates) {
        match WORKSHOP.try_out(&PARTS, &change) {
            Ok((_, not_so)) => wrong.extend(not_so),
            Err(why) => wrong.push(why),
        }
    }
    assert_right(&wrong);
}

#[test]
fn each_change_builds_and_does_what_its_chapter_says() {
    try_out(false);
}

#[test]
#[ignore = "takes other crates"]
fn each_change_with_other_crates_builds_and_does_what_its_chapter_says() {
    try_out(true);
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

/// In bytes: an ellipsis is three. A link or a row of a table can't be broken.
#[test]
fn prose_is_no_wider_than_80() {
    let wide = |line: &String| {
        line.len() > 80 && !line.contains("](") && !line.starts_with('|')
    };
    for path in chapters().into_iter().chain(["README.md".to_owned()]) {
        assert_eq!(prose(&path).find(wide), None, "{path}");
    }
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
    let (chapters, last) = (chapters(), "tutorial/10-line-by-line.md");
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
            "rust" => {
                LISTED.iter().any(|file| link(above, block, *file).is_some())
            }
            kind => !kind.starts_with("rust") || kind == "rust,ignore",
        };
        let at = block.at(0);
        assert!(known, "{at}: a link to its file above it, or ```rust,ignore");
    }
    for path in chapters() {
        let words = words(&path);
        let tags = ["<details", "<summary>", "</summary>", "</details>"];
        let counts = tags.map(|tag| words.matches(tag).count());
        let same = counts.iter().all(|count| *count == counts[0]);
        assert!(same, "{path}: {tags:?} stand there {counts:?} times");
    }
}
