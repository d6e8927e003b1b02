//! The executor in every order of events.
//!
//! This is half a program: below it, the test puts the section `the executor`
//! of main.rs, as it is. What that takes from `std` to work with threads, it
//! gets from shuttle here, by the same names. shuttle lets one thread run at a
//! time. Where a thread is about to lock, unlock, send, receive or yield, and
//! where it waits, any that can go on may be next; what lies between happens
//! at once. One way through all these choices is a *schedule*. shuttle runs a
//! scenario in each there is, and fails if a thread panics or all wait.
//!
//! What happened in a schedule is its *history*, a sign for each event: `A` is
//! the start of job A, `a` is its end, `-` is a client that leaves, and `.` is
//! the end of the last worker.

use shuttle::future::block_on;
use shuttle::sync::{Arc, Barrier, Mutex, mpsc};
use shuttle::thread::{self, yield_now};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{io, sync};
use tokio::sync::oneshot;

/// Under a lock of std's, which shuttle does not see: to watch is no event.
#[derive(Clone, Default)]
struct History(Arc<sync::Mutex<String>>);

impl History {
    fn add(&self, event: char) {
        self.0.lock().expect("no thread panics in here").push(event);
    }

    /// A job that returns its name. `yield_now` lets others run meanwhile.
    fn job(
        &self,
        name: char,
        meanwhile: impl FnOnce() + Send + 'static,
    ) -> impl FnOnce() -> char + Send + 'static {
        let history = self.clone();
        move || {
            history.add(name);
            meanwhile();
            history.add(name.to_ascii_lowercase());
            name
        }
    }

    /// Drops the executor and waits for the workers.
    fn end(&self, executor: ThreadPoolExecutor, workers: &Workers) {
        drop(executor);
        assert!(workers.recv().is_err(), "it can only disconnect");
        self.add('.');
    }
}

/// Runs a scenario in every order of events. Each history must be one of
/// `histories`, and each of these must be seen.
fn explore(
    what: &'static str,
    histories: &'static [&'static str],
    scenario: fn(&History),
) {
    let seen = Arc::new(sync::Mutex::new(BTreeMap::new()));
    let counts = Arc::clone(&seen);
    let run = move || {
        let history = History::default();
        scenario(&history);
        let history = history.0.lock().expect("no thread panics").clone();
        let known = histories.iter().find(|known| **known == history);
        let known = known.unwrap_or_else(|| panic!("{what}: {history}"));
        *counts.lock().expect("one at a time").entry(*known).or_default() += 1;
    };
    shuttle::check_dfs(run, None);

    let seen = seen.lock().expect("all have ended");
    println!("{what}: {} schedules", seen.values().sum::<usize>());
    for history in histories {
        let count = seen.get(history);
        let count = count.unwrap_or_else(|| panic!("{what}: no {history}"));
        println!("{count:10} {history}");
    }
}

fn main() {
    // First in, first out, one at a time.
    explore("one worker, three jobs", &["AaBbCc."], |history| {
        let (executor, workers) = ThreadPoolExecutor::new(1).expect("a thread");
        let jobs = ['A', 'B', 'C'].map(|name| history.job(name, yield_now));
        let receivers = jobs.map(|job| executor.submit(job));
        let results = receivers.map(block_on);
        assert_eq!(results, [Ok('A'), Ok('B'), Ok('C')]);
        history.end(executor, &workers);
    });

    // A client that leaves before B has started takes it along. Once started,
    // B goes on to its end, and the worker with it.
    let histories = &["-Aa.", "A-a.", "Aa-.", "AaB-b.", "AaBb-."];
    explore("a client that leaves", histories, |history| {
        let (executor, workers) = ThreadPoolExecutor::new(1).expect("a thread");
        let a = executor.submit(history.job('A', yield_now));
        let b = executor.submit(history.job('B', yield_now));
        yield_now();
        drop(b);
        history.add('-');
        assert_eq!(block_on(a), Ok('A'));
        history.end(executor, &workers);
    });

    explore("a job that panics", &["ABb."], |history| {
        let (executor, workers) = ThreadPoolExecutor::new(1).expect("a thread");
        // It does what `panic!` does once it has printed its message. What it
        // panics with does so again when it is dropped.
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                resume_unwind(Box::new("again"));
            }
        }
        let fail = || resume_unwind(Box::new(Bomb));
        let a = executor.submit(history.job('A', fail));
        let b = executor.submit(history.job('B', yield_now));
        assert!(block_on(a).is_err(), "it has no result");
        assert_eq!(block_on(b), Ok('B'), "the worker lives");
        history.end(executor, &workers);
    });

    // The workers end with the last clone, whichever that is.
    explore("two clients", &["AaBb.", "BbAa."], |history| {
        let (executor, workers) = ThreadPoolExecutor::new(1).expect("a thread");
        let (clone, job) = (executor.clone(), history.job('A', yield_now));
        let client = thread::spawn(move || {
            let a = clone.submit(job);
            drop(clone);
            assert_eq!(block_on(a), Ok('A'));
        });
        let b = executor.submit(history.job('B', yield_now));
        assert_eq!(block_on(b), Ok('B'));
        history.end(executor, &workers);
        client.join().expect("it got its result");
    });

    // At a barrier, whoever comes first waits for the other. These two jobs
    // can end only if both run at once: they always do.
    let histories = &["ABab.", "ABba."];
    explore("two workers, two jobs that meet", histories, |history| {
        let (executor, workers) = ThreadPoolExecutor::new(2).expect("threads");
        let barrier = Arc::new(Barrier::new(2));
        let receivers = ['A', 'B'].map(|name| {
            let barrier = Arc::clone(&barrier);
            let meet = move || {
                barrier.wait();
                yield_now();
            };
            executor.submit(history.job(name, meet))
        });
        history.end(executor, &workers);
        assert_eq!(receivers.map(block_on), [Ok('A'), Ok('B')]);
    });

    // Both jobs are queued when the executor goes. They are done all the same,
    // by one worker or by both.
    let histories = &["AaBb.", "ABab.", "ABba.", "BAab.", "BAba.", "BbAa."];
    explore("two workers, two jobs", histories, |history| {
        let (executor, workers) = ThreadPoolExecutor::new(2).expect("threads");
        let job = history.job('A', yield_now);
        let a = executor.submit(move || {
            // Here B can overtake, if another worker has it.
            yield_now();
            job()
        });
        let b = executor.submit(history.job('B', yield_now));
        history.end(executor, &workers);
        assert_eq!([a, b].map(block_on), [Ok('A'), Ok('B')]);
    });
}
