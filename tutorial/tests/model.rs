//! The executor's section of main.rs under a model checker: model/main.rs is
//! what is checked and how. `cargo test --test model -- --ignored --nocapture`
//! shows what it prints.

mod common;

use common::*;

const CARGO_TOML: &str = r#"
[package]
name = "threaded-tokio-model"
version = "0.1.0"
edition = "2024"

[dependencies]
shuttle = "0.9"
tokio = { version = "1", features = ["sync"] }

[workspace]
"#;

/// Faults, and a name for each: what stands in the section once, what comes in
/// its place, and what the model says to that.
const FAULTS: [[&str; 4]; 9] = [
    [
        "a_panic_is_not_caught",
        "catch_unwind(AssertUnwindSafe(job))",
        "Ok::<(), ()>(job())",
        "test panicked in task 'worker'",
    ],
    [
        "what_it_panicked_with_is_dropped",
        ".map_err(forget)",
        "",
        "test panicked in task 'worker'",
    ],
    [
        "a_worker_ends_after_one_job",
        "while let Some(job) = next()",
        "if let Some(job) = next()",
        "deadlock!",
    ],
    [
        "a_worker_ends_when_it_finds_no_job",
        ".recv().ok()",
        ".try_recv().ok()",
        "deadlock!",
    ],
    [
        "a_worker_keeps_a_sender",
        "alive.clone()",
        "(alive.clone(), queue.clone())",
        "deadlock!",
    ],
    [
        "nobody_asks_whether_the_client_has_left",
        "if !result.is_closed()",
        "if true",
        "a client that leaves: -AaBb.",
    ],
    [
        "the_end_is_told_too_early",
        "let _alive = alive;",
        "let _ = alive;",
        "a client that leaves: AaB-.",
    ],
    [
        "there_is_a_worker_too_many",
        "0..max_workers",
        "0..=max_workers",
        "one worker, three jobs: AaBCbc.",
    ],
    [
        "the_lock_is_held_while_a_job_runs",
        "while let Some(job) = next()",
        "while let Ok(job) = jobs.lock().unwrap().recv()",
        "deadlock!",
    ],
];

/// The folder of the programs: the model with the section as it is, and with
/// each fault in it.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(TMP).join("model");
    let programs = folder.join("src/bin");
    // It may have programs that are no more.
    fs::remove_dir_all(&programs).ok();
    fs::create_dir_all(&programs).expect("a folder");
    let write = |file: &str, text: String| {
        fs::write(folder.join(file), text).expect("a file");
    };
    // With the project's own versions, of tokio above all.
    let name = ["threaded-tokio", "threaded-tokio-model"];
    write("Cargo.lock", read("Cargo.lock").replace(name[0], name[1]));
    write("Cargo.toml", CARGO_TOML.to_owned());
    let model = read("tutorial/tests/model/main.rs");
    let section = the_executor();
    write("src/bin/no_fault.rs", format!("{model}\n{section}"));
    for [name, old, new, _] in FAULTS {
        let faulty = replaced(&section, old, new);
        write(&format!("src/bin/{name}.rs"), format!("{model}\n{faulty}"));
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--target-dir", "target"]);
    let (status, _, said) = output(cargo.current_dir(&folder));
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("(bin \"no_fault\")"), "a warning: {said}");
    folder.join("target/release")
});

#[test]
#[ignore = "takes a model checker, and a minute"]
fn the_executor_holds_in_every_order_of_events() {
    // Not `output`: on a busy machine this may take more than three minutes.
    let output = Command::new(PROGRAMS.join("no_fault")).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{output:?}");
    let count = |line: &str| -> Option<usize> {
        line.strip_suffix(" schedules")?.rsplit(' ').next()?.parse().ok()
    };
    let schedules: usize = said.lines().filter_map(count).sum();
    assert!(schedules > 1_000_000, "only {schedules} schedules");
}

#[test]
#[ignore = "takes a model checker"]
fn a_fault_in_the_executor_is_found() {
    for [name, _, _, answer] in FAULTS {
        let mut program = Command::new(PROGRAMS.join(name));
        let (status, _, said) = output(program.env_remove("RUST_BACKTRACE"));
        let is_found = status != Some(0) && said.contains(answer);
        assert!(is_found, "{name}: not {answer:?}, but {said:?}");
    }
}
