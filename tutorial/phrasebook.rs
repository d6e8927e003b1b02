//! The phrasebook, in Rust: what a coroutine of Tornado or asyncio can be
//! asked to do, a function a phrase. phrasebook.py has the same phrases in
//! Python, in the same order, and prints the same lines. Run one, or all:
//!
//! ```sh
//! cargo run --example phrasebook join
//! cargo run --example phrasebook
//! ```
//!
//! Where the languages differ, the line says so: `rust: dropped` here,
//! `python: goes on` there.

#![allow(clippy::unused_async, reason = "some phrases await nothing")]

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Request, Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::collections::HashMap;
use std::error::Error;
use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::{convert::Infallible, env, mem, panic, thread, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::sync::{mpsc::error::TrySendError, watch::error::RecvError};
use tokio::task::{JoinSet, spawn_blocking, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// A phrase may end early, by `?`. Then the program says why, and fails.
type Done = Result<(), Box<dyn Error>>;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

// `println!` would panic once stdout has lost its reader.
macro_rules! say {
    ($($words:tt)*) => { writeln!(io::stdout(), $($words)*).ok() };
}

/// What panics have said. By default, that goes to stderr.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn log(panic: &panic::PanicHookInfo) {
    let said = panic.to_string().lines().last().unwrap_or_default().into();
    LOG.lock().expect("nothing panics under it").push(said);
}

fn logged() -> String {
    let mut log = LOG.lock().expect("nothing panics under it");
    let said = mem::take(&mut *log).join(", ");
    if said.is_empty() { "nothing".into() } else { said }
}

/// Late: it can't end before `go` is sent, or what would send it is dropped.
/// If `late` itself is dropped, so is `fate`.
async fn late(
    go: oneshot::Receiver<()>,
    fate: oneshot::Sender<&str>,
) -> &'static str {
    go.await.ok();
    fate.send("goes on").ok();
    "late"
}

// ----- one at a time --------------------------------------------------------

fn core(remote_ip: &str) -> String {
    format!("msg to client {remote_ip}")
}

async fn submit() -> Done {
    let ip = String::from("127.0.0.1");
    let res = spawn_blocking(move || core(&ip)).await?;
    say!("submit: {res}");
    Ok(())
}

async fn undecorated(begun: &Cell<&str>) {
    begun.set("the async one");
}

async fn call() -> Done {
    let begun = Cell::new("nothing");
    let future = undecorated(&begun);
    say!("call: begun without an await, rust: {}", begun.get());
    future.await;
    say!("call: begun when awaited: {}", begun.get());
    Ok(())
}

async fn sleep() -> Done {
    let (asleep, other) = oneshot::channel();
    let hour = tokio::spawn(async {
        asleep.send(()).ok();
        tokio::time::sleep(HOUR).await;
    });
    other.await?;
    let began = Instant::now();
    let nap = Duration::from_millis(10);
    tokio::time::sleep(nap).await;
    let enough = began.elapsed() >= nap;
    say!("sleep: {}", if enough { "long enough" } else { "too short" });
    let done = hour.is_finished();
    say!("sleep: the other {}", if done { "is done" } else { "sleeps on" });
    hour.abort();
    Ok(())
}

async fn fails() -> Result<String, String> {
    Err("broken".into())
}

async fn passes_on() -> Result<String, String> {
    fails().await?;
    Ok("not reached".into())
}

async fn bug() -> String {
    panic!("a bug")
}

async fn error() -> Done {
    if let Err(why) = passes_on().await {
        say!("error: the caller gets: {why}");
    }
    let task = tokio::spawn(passes_on());
    if let Err(why) = task.await? {
        say!("error: who awaits the task gets: {why}");
    }
    let task = tokio::spawn(bug());
    if task.await.is_err_and(|why| why.is_panic()) {
        say!("error: a bug is, rust: a JoinError");
    }
    say!("error: the log has, rust: {}", logged());
    Ok(())
}

// ----- many at a time -------------------------------------------------------

async fn a(met: &Notify) -> &'static str {
    met.notified().await;
    "a"
}

async fn b(met: &Notify) -> &'static str {
    met.notify_one();
    "b"
}

async fn join() -> Done {
    let met = Notify::new();
    let (first, second) = tokio::join!(a(&met), b(&met));
    say!("join: {first} and {second}");
    Ok(())
}

async fn fails_early(failed: &Notify) -> Result<&'static str, String> {
    failed.notify_one();
    Err("early".into())
}

async fn fails_late(failed: &Notify) -> Result<&'static str, String> {
    failed.notified().await;
    Err("late".into())
}

async fn try_join() -> Done {
    let failed = Notify::new();
    let all = tokio::join!(fails_late(&failed), fails_early(&failed));
    if let (Err(first), Err(other)) = all {
        say!("try_join: all have ended, the first in the list: {first}");
        say!("try_join: the other error, rust: is in hand: {other}");
    }

    let (go, gate) = oneshot::channel();
    let (tell, fate) = oneshot::channel();
    let waits = async { Ok(late(gate, tell).await) };
    let both = async { tokio::try_join!(waits, fails_early(&failed)) };
    if let Ok(Err(why)) = timeout(HOUR, both).await {
        say!("try_join: not all have ended, the first in time: {why}");
    }
    go.send(()).ok();
    let fate = fate.await.unwrap_or("dropped");
    say!("try_join: what has not ended, rust: {fate}");
    Ok(())
}

async fn as_finished() -> Done {
    let mut gates = HashMap::new();
    let mut jobs = JoinSet::new();
    for name in ["a", "b", "c"] {
        let (open, gate) = oneshot::channel::<()>();
        gates.insert(name, open);
        jobs.spawn(async move {
            gate.await.ok();
            name
        });
    }
    for name in ["c", "a", "b"] {
        // Dropped, a sender ends the wait of its receiver, too.
        gates.remove(name);
        if let Some(name) = jobs.join_next().await {
            say!("as_finished: {}", name?);
        }
    }
    Ok(())
}

async fn in_order() -> Done {
    let mut gates = HashMap::new();
    let mut jobs = Vec::new();
    let (end, mut ended) = mpsc::channel(1);
    for name in ["a", "b", "c"] {
        let (open, gate) = oneshot::channel::<()>();
        gates.insert(name, open);
        let end = end.clone();
        jobs.push(tokio::spawn(async move {
            gate.await.ok();
            end.send(name).await.ok();
            name
        }));
    }
    // Each job has its own: `recv` ends when they do, should they panic.
    drop(end);
    for name in ["c", "a", "b"] {
        gates.remove(name);
        if let Some(name) = ended.recv().await {
            say!("in_order: ended: {name}");
        }
    }
    let mut results = Vec::new();
    for job in jobs {
        results.push(job.await?);
    }
    say!("in_order: results: {}", results.join(" "));
    Ok(())
}

async fn at_most() -> Done {
    static INSIDE: AtomicUsize = AtomicUsize::new(0);
    static PEAK: AtomicUsize = AtomicUsize::new(0);
    let limit = Arc::new(Semaphore::new(2));
    let (open, gate) = watch::channel(false);
    let (enter, mut entered) = mpsc::channel(5);
    let mut jobs = JoinSet::new();
    for _ in 0..5 {
        let limit = Arc::clone(&limit);
        let (mut gate, enter) = (gate.clone(), enter.clone());
        jobs.spawn(async move {
            let Ok(_permit) = limit.acquire().await else { return };
            PEAK.fetch_max(INSIDE.fetch_add(1, SeqCst) + 1, SeqCst);
            enter.send(()).await.ok();
            gate.wait_for(|open| *open).await.ok();
            INSIDE.fetch_sub(1, SeqCst);
        });
    }
    drop(enter);
    entered.recv().await;
    entered.recv().await;
    open.send(true)?;
    let jobs = jobs.join_all().await.len();
    say!("at_most: {jobs} jobs, {} at once", PEAK.load(SeqCst));
    Ok(())
}

async fn value() -> &'static str {
    "a value"
}

async fn first() -> Done {
    let (go, gate) = oneshot::channel();
    let (tell, fate) = oneshot::channel();
    let name = tokio::select! {
        name = value() => name,
        name = late(gate, tell) => name,
    };
    say!("first: {name}");
    go.send(()).ok();
    let fate = fate.await.unwrap_or("dropped");
    say!("first: the other one, rust: {fate}");
    Ok(())
}

async fn time_limit() -> Done {
    let (go, gate) = oneshot::channel();
    let (tell, fate) = oneshot::channel();
    let mut task = tokio::spawn(late(gate, tell));
    if timeout(MILLISECOND, &mut task).await.is_err() {
        say!("time_limit: the task is late");
    }
    go.send(()).ok();
    let fate = fate.await.unwrap_or("dropped");
    say!("time_limit: the late task: {fate}");

    // Kept: without a sender, the call would be done at once.
    let (_go, gate) = oneshot::channel();
    let (tell, fate) = oneshot::channel();
    if timeout(MILLISECOND, late(gate, tell)).await.is_err() {
        say!("time_limit: the call is late");
    }
    let fate = fate.await.unwrap_or("dropped");
    say!("time_limit: the late call, rust: {fate}");
    Ok(())
}

async fn background() -> Done {
    // Dropped when the task ends, however it does. Then `ended` is an error.
    let (alive, ended) = oneshot::channel::<()>();
    tokio::spawn(async {
        let _alive = alive;
        bug().await
    });
    say!("background: we go on");
    ended.await.ok();
    say!("background: of a bug, the log has: {}", logged());

    let (alive, ended) = oneshot::channel::<()>();
    tokio::spawn(async {
        let _alive = alive;
        fails().await
    });
    ended.await.ok();
    say!("background: of an error, the log has, rust: {}", logged());

    let (_go, gate) = oneshot::channel();
    let (tell, fate) = oneshot::channel();
    // On a thread: dropped in async code, a runtime panics.
    let own_loop = || {
        let runtime = Runtime::new()?;
        runtime.spawn(late(gate, tell));
        Ok::<_, io::Error>(())
    };
    spawn_blocking(own_loop).await??;
    let fate = fate.await.unwrap_or("dropped");
    say!("background: at the end of the loop, rust: {fate}");
    Ok(())
}

// ----- later ----------------------------------------------------------------

async fn later() -> Done {
    let first = tokio::spawn(async {
        tokio::time::sleep(MILLISECOND).await;
        say!("later: called: the first");
    });
    let second = tokio::spawn(async {
        tokio::time::sleep(HOUR).await;
        say!("later: called: the second");
    });
    second.abort();
    first.await?;
    let cancelled = second.await.is_err_and(|why| why.is_cancelled());
    say!("later: taken back: {}", if cancelled { "yes" } else { "no" });
    Ok(())
}

async fn what_it_missed(missed: MissedTickBehavior) -> &'static str {
    let mut clock = interval(MILLISECOND);
    clock.set_missed_tick_behavior(missed);
    clock.tick().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = clock.tick().await;
    let third = clock.tick().await;
    let skipped = third - second > MILLISECOND;
    if skipped { "is skipped" } else { "is made up for" }
}

async fn every() -> Done {
    let mut clock = interval(HOUR);
    clock.tick().await;
    say!("every: first, rust: at once");

    let mut order = Vec::new();
    let mut clock = interval(MILLISECOND);
    while order.len() < 4 {
        clock.tick().await;
        order.push("begin");
        tokio::time::sleep(2 * MILLISECOND).await;
        order.push("end");
    }
    say!("every: {}", order.join(" "));
    let missed = what_it_missed(MissedTickBehavior::default()).await;
    say!("every: what it missed, rust: {missed}");
    let missed = what_it_missed(MissedTickBehavior::Skip).await;
    say!("every: what it missed, the Tornado way: {missed}");

    let task = tokio::spawn(async {
        let start = Instant::now() + MILLISECOND;
        let mut clock = tokio::time::interval_at(start, MILLISECOND);
        loop {
            clock.tick().await;
            bug().await;
        }
    });
    if task.await.is_err() {
        say!("every: after {}, rust: there are no more", logged());
    }
    Ok(())
}

// ----- between tasks --------------------------------------------------------

async fn enter(name: &'static str, mutex: &tokio::sync::Mutex<Vec<&str>>) {
    let mut order = mutex.lock().await;
    yield_now().await;
    order.push(name);
}

async fn lock() -> Done {
    let mutex = tokio::sync::Mutex::new(Vec::new());
    let guard = mutex.lock().await;
    // They are polled in this order, so they wait in this order.
    tokio::join!(
        enter("a", &mutex),
        enter("b", &mutex),
        enter("c", &mutex),
        async { drop(guard) },
    );
    say!("lock: {}", mutex.into_inner().join(" "));
    Ok(())
}

async fn waiter(
    name: &'static str,
    mut ready: watch::Receiver<bool>,
) -> Result<&'static str, RecvError> {
    ready.wait_for(|ready| *ready).await?;
    Ok(name)
}

async fn event() -> Done {
    let (set, ready) = watch::channel(false);
    let (a, b, _) = tokio::join!(
        waiter("a", ready.clone()),
        waiter("b", ready.clone()),
        async { set.send_replace(true) },
    );
    say!("event: woken: {} {}", a?, b?);
    say!("event: need not wait: {}", waiter("c", ready).await?);
    Ok(())
}

async fn condition() -> Done {
    let (stock, mut changed) = watch::channel(0);
    let take = async {
        let take_three = |stock: &mut u32| {
            let enough = *stock >= 3;
            *stock -= if enough { 3 } else { 0 };
            enough
        };
        while !stock.send_if_modified(take_three) {
            changed.changed().await?;
        }
        Ok::<_, RecvError>(())
    };
    let fill = async {
        for _ in 0..4 {
            stock.send_modify(|stock| *stock += 1);
            yield_now().await;
        }
    };
    let (taken, ()) = tokio::join!(take, fill);
    taken?;
    let left = *stock.borrow();
    say!("condition: 4 came, 3 were taken, {left} is left");

    let changed = Notify::new();
    changed.notify_one();
    let woken = timeout(MILLISECOND, changed.notified()).await.is_ok();
    say!("condition: early, rust: {}", if woken { "kept" } else { "lost" });
    Ok(())
}

type Jobs = Arc<tokio::sync::Mutex<mpsc::Receiver<u32>>>;

// A function, so that the lock is free before the job is done. In the head of
// a `while let`, its guard would live to the end of the body.
async fn next(jobs: &Jobs) -> Option<u32> {
    jobs.lock().await.recv().await
}

async fn queue() -> Done {
    let (producer, jobs) = mpsc::channel(2);
    producer.try_send(1)?;
    producer.try_send(2)?;
    if let Err(TrySendError::Full(_)) = producer.try_send(3) {
        let qsize = producer.max_capacity() - producer.capacity();
        say!("queue: full, with {qsize}");
    }
    let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
    let mut consumers = JoinSet::new();
    for _ in 0..2 {
        let jobs = Arc::clone(&jobs);
        consumers.spawn(async move {
            let mut total = 0;
            while let Some(number) = next(&jobs).await {
                total += number;
            }
            total
        });
    }
    // Or `send` would wait for ever, once all the consumers had panicked.
    drop(jobs);
    let handler = producer.downgrade();
    let produce = async |numbers: [u32; 2]| {
        let Some(producer) = handler.upgrade() else { return };
        for number in numbers {
            producer.send(number).await.ok();
        }
    };
    tokio::join!(produce([3, 4]), produce([5, 6]));
    drop(producer);
    let totals = consumers.join_all().await;
    say!("queue: the sum of 1 to 6: {}", totals.iter().sum::<u32>());
    say!("queue: consumers, rust: {} came to their end", totals.len());
    Ok(())
}

async fn set_result() -> Done {
    let (sender, promise) = oneshot::channel();
    let callback = move |result| sender.send(result);
    tokio::spawn(async { callback(42) });
    say!("set_result: {}", promise.await?);

    let (sender, promise) = oneshot::channel::<u32>();
    drop(sender);
    if promise.await.is_err() {
        say!("set_result: with nobody to set it, rust: is an error");
    }
    Ok(())
}

// ----- threads --------------------------------------------------------------

async fn from_thread() -> Done {
    let (handle, (sender, promise)) = (Handle::current(), oneshot::channel());
    let blocking = move || {
        handle.spawn(async { sender.send("hello") });
    };
    let thread = thread::spawn(blocking);
    say!("from_thread: {}", promise.await?);
    thread.join().ok();
    Ok(())
}

fn work(sender: &mpsc::Sender<u32>) -> &'static str {
    for step in [1, 2, 3] {
        // Nobody listens any more.
        if sender.blocking_send(step).is_err() {
            return "stops";
        }
    }
    "done"
}

async fn progress() -> Done {
    let (sender, mut steps) = mpsc::channel(1);
    let job = spawn_blocking(move || work(&sender));
    while let Some(step) = steps.recv().await {
        say!("progress: {step} of 3");
    }
    say!("progress: {}", job.await?);

    let (sender, steps) = mpsc::channel(1);
    drop(steps);
    let job = spawn_blocking(move || work(&sender)).await?;
    say!("progress: with nobody to hear it, rust: {job}");
    Ok(())
}

async fn whereabouts() -> thread::ThreadId {
    thread::current().id()
}

async fn run_sync() -> Done {
    let own_loop = || {
        // Without `enable_all`, a `sleep` in there panics.
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| runtime.block_on(value()))
    };
    let handle = Handle::current();
    let this_loop = move || {
        let on = handle.block_on(whereabouts());
        on == thread::current().id()
    };
    let answer = spawn_blocking(own_loop).await??;
    say!("run_sync: in a loop of its own: {answer}");
    let waits = spawn_blocking(this_loop).await?;
    let thread = if waits { "that waits" } else { "of the loop" };
    say!("run_sync: by the loop there is, rust: on the thread {thread}");
    let task = tokio::spawn(async { Handle::current().block_on(value()) });
    if task.await.is_err() && logged().starts_with("Cannot start a runtime") {
        say!("run_sync: on the loop: refused");
    }
    Ok(())
}

// ----- the end --------------------------------------------------------------

struct CleanUp(mpsc::Sender<()>);

impl Drop for CleanUp {
    fn drop(&mut self) {
        say!("cancel: cleans up");
        let done = self.0.clone();
        tokio::spawn(async move {
            yield_now().await;
            say!("cancel: what must wait, rust: is a task of its own");
            done.send(()).await.ok();
        });
    }
}

async fn cancel() -> Done {
    let (starts, begun) = oneshot::channel();
    let (clean_up, mut cleaned) = mpsc::channel(1);
    let task = tokio::spawn(async {
        let _clean_up = CleanUp(clean_up);
        starts.send(()).ok();
        tokio::time::sleep(HOUR).await;
    });
    begun.await?;
    task.abort();
    cleaned.recv().await;
    if task.await.is_err_and(|why| why.is_cancelled()) {
        say!("cancel: who awaits the task is told");
    }
    Ok(())
}

struct Connection<'a>(&'a Cell<&'static str>);

impl<'a> Connection<'a> {
    async fn open(state: &'a Cell<&'static str>) -> Self {
        yield_now().await;
        state.set("open");
        Self(state)
    }

    async fn close(self) {
        yield_now().await;
        self.0.set("closed");
    }
}

async fn with_connection<T>(
    state: &Cell<&'static str>,
    body: impl AsyncFnOnce(&Connection) -> T,
) -> T {
    let connection = Connection::open(state).await;
    let result = body(&connection).await;
    connection.close().await;
    result
}

async fn async_with() -> Done {
    let state = Cell::new("closed");
    let body = async |connection: &Connection| {
        say!("async_with: inside: {}", connection.0.get());
        fails().await?;
        Ok::<_, String>(())
    };
    if let Err(why) = with_connection(&state, body).await {
        say!("async_with: after {why}: {}", state.get());
    }

    let (enter, entered) = oneshot::channel();
    let body = async |_: &Connection| {
        enter.send(()).ok();
        pending::<()>().await;
    };
    tokio::select! {
        () = with_connection(&state, body) => {}
        _ = entered => {}
    }
    say!("async_with: cancelled inside, rust: {}", state.get());
    Ok(())
}

struct Count<'a> {
    number: u32,
    cleaned: &'a Cell<bool>,
}

impl Count<'_> {
    async fn next(&mut self) -> Option<u32> {
        yield_now().await;
        self.number += 1;
        (self.number <= 3).then_some(self.number)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.cleaned.set(true);
    }
}

async fn async_for() -> Done {
    let cleaned = Cell::new(false);
    let mut count = Count { number: 0, cleaned: &cleaned };
    while let Some(number) = count.next().await {
        say!("async_for: {number}");
    }
    drop(count);
    cleaned.set(false);
    {
        let mut count = Count { number: 0, cleaned: &cleaned };
        count.next().await;
    }
    let when = if cleaned.get() { "at once" } else { "later" };
    say!("async_for: left early, cleaned up, rust: {when}");
    Ok(())
}

tokio::task_local! {
    static USER: &'static str;
}

async fn user() -> &'static str {
    USER.try_with(|user| *user).unwrap_or("nobody")
}

async fn context() -> Done {
    USER.scope("ada", async {
        say!("context: in a call: {}", user().await);
        say!("context: in a task, rust: {}", tokio::spawn(user()).await?);
        let read = || USER.try_with(|user| *user).unwrap_or("nobody");
        say!("context: on a thread, rust: {}", spawn_blocking(read).await?);
        Ok::<_, Box<dyn Error>>(())
    })
    .await?;
    say!("context: afterwards: {}", user().await);
    Ok(())
}

// ----- in a server ----------------------------------------------------------

type Page = Response<Full<Bytes>>;

fn page(body: String) -> Page {
    Response::new(body.into())
}

async fn serve<F, B>(
    handler: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> io::Result<SocketAddr>
where
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(handler.clone());
            let http = http1::Builder::new();
            let stream = TokioIo::new(stream);
            tokio::spawn(http.serve_connection(stream, service));
        }
    });
    Ok(address)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.writable().await?;
    // A new connection takes so few bytes in one piece.
    stream.try_write(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )?;
    Ok(stream)
}

/// Reads `size` bytes at least, or to the end.
async fn read(stream: &TcpStream, size: usize) -> io::Result<Vec<u8>> {
    let (mut all, mut part) = (Vec::new(), vec![0; 65_536]);
    while all.len() < size {
        stream.readable().await?;
        match stream.try_read(&mut part) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&part[..count]),
            // It may be ready, and then have nothing: wait again.
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            Err(why) => return Err(why),
        }
    }
    Ok(all)
}

async fn get(address: SocketAddr) -> io::Result<String> {
    let stream = connect(address).await?;
    let answer = read(&stream, usize::MAX).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (_head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(body.to_owned())
}

async fn visit(visits: Arc<Mutex<u32>>) -> Result<Page, Infallible> {
    let visitor = {
        let mut visits = visits.lock().expect("nothing panics under it");
        *visits += 1;
        *visits
    };
    Ok(page(format!("visitor {visitor}")))
}

async fn shared() -> Done {
    let visits = Arc::new(Mutex::new(0));
    let handler = move |_| visit(Arc::clone(&visits));
    let address = serve(handler).await?;
    for _ in 0..3 {
        say!("shared: {}", get(address).await?);
    }
    Ok(())
}

type Fate = oneshot::Receiver<&'static str>;

async fn waits(starts: mpsc::Sender<Fate>) -> Result<Page, Infallible> {
    let (_go, gate) = oneshot::channel();
    let (tell, fate) = oneshot::channel();
    starts.send(fate).await.ok();
    Ok(page(late(gate, tell).await.into()))
}

async fn client_leaves() -> Done {
    let (starts, mut begun) = mpsc::channel(1);
    let address = serve(move |_| waits(starts.clone())).await?;
    let stream = connect(address).await?;
    let fate = begun.recv().await.ok_or("the handler has not begun")?;
    say!("client_leaves: the handler waits, its client leaves");
    drop(stream);
    let fate = fate.await.unwrap_or("dropped");
    say!("client_leaves: the handler, rust: {fate}");
    Ok(())
}

async fn fetch() -> Done {
    let (starts, mut begun) = mpsc::channel(1);
    let address = serve(move |_| waits(starts.clone())).await?;
    let fate = tokio::select! {
        _ = get(address) => None,
        fate = begun.recv() => fate,
    };
    let fate = fate.ok_or("the handler has not begun")?;
    let fate = fate.await.unwrap_or("dropped");
    say!("fetch: given up, the handler, rust: is {fate}");
    Ok(())
}

struct Chunks(mpsc::Receiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = self.0.poll_recv(context);
        chunk.map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

static MADE: AtomicUsize = AtomicUsize::new(0);

async fn write(body: mpsc::Sender<Bytes>, fate: mpsc::Sender<String>) {
    let chunk = Bytes::from(vec![0; 65_536]);
    let why = loop {
        if let Err(why) = body.send(chunk.clone()).await {
            break why.to_string();
        }
        MADE.fetch_add(chunk.len(), SeqCst);
    };
    fate.send(why).await.ok();
}

async fn endless(
    fate: mpsc::Sender<String>,
) -> Result<Response<Chunks>, Infallible> {
    let (body, chunks) = mpsc::channel(1);
    tokio::spawn(write(body, fate));
    Ok(Response::new(Chunks(chunks)))
}

async fn stream() -> Done {
    let (tell, mut fate) = mpsc::channel(1);
    let address = serve(move |_| endless(tell.clone())).await?;
    let stream = connect(address).await?;
    let read = read(&stream, 1 << 20).await?.len();
    say!("stream: 1 MiB is read, and there is no end");
    let waits = MADE.load(SeqCst).saturating_sub(read) < 32 << 20;
    say!(
        "stream: {}",
        if waits { "waits for its client" } else { "runs ahead" }
    );
    drop(stream);
    let why = fate.recv().await.unwrap_or_default();
    say!("stream: the client leaves, rust: {why}");
    Ok(())
}

// ----- the program ----------------------------------------------------------

type Phrase = Pin<Box<dyn Future<Output = Done>>>;

fn main() -> ExitCode {
    // To make a future runs nothing. Those that nobody wants go as they are.
    let phrases: [(&str, Phrase); 30] = [
        ("submit", Box::pin(submit())),
        ("call", Box::pin(call())),
        ("sleep", Box::pin(sleep())),
        ("error", Box::pin(error())),
        ("join", Box::pin(join())),
        ("try_join", Box::pin(try_join())),
        ("as_finished", Box::pin(as_finished())),
        ("in_order", Box::pin(in_order())),
        ("at_most", Box::pin(at_most())),
        ("first", Box::pin(first())),
        ("time_limit", Box::pin(time_limit())),
        ("background", Box::pin(background())),
        ("later", Box::pin(later())),
        ("every", Box::pin(every())),
        ("lock", Box::pin(lock())),
        ("event", Box::pin(event())),
        ("condition", Box::pin(condition())),
        ("queue", Box::pin(queue())),
        ("set_result", Box::pin(set_result())),
        ("from_thread", Box::pin(from_thread())),
        ("progress", Box::pin(progress())),
        ("run_sync", Box::pin(run_sync())),
        ("cancel", Box::pin(cancel())),
        ("async_with", Box::pin(async_with())),
        ("async_for", Box::pin(async_for())),
        ("context", Box::pin(context())),
        ("shared", Box::pin(shared())),
        ("client_leaves", Box::pin(client_leaves())),
        ("fetch", Box::pin(fetch())),
        ("stream", Box::pin(stream())),
    ];
    let wanted = env::args_os().skip(1);
    let wanted: Vec<_> =
        wanted.map(|name| name.to_string_lossy().into_owned()).collect();
    for name in &wanted {
        if phrases.iter().all(|(known, _)| known != name) {
            let names = phrases.map(|(name, _)| name).join(", ");
            return fail(2, &format!("no phrase '{name}'; there are: {names}"));
        }
    }
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(why) => return fail(1, &format!("cannot start the loop: {why}")),
    };
    panic::set_hook(Box::new(log));
    for (name, phrase) in phrases {
        let is_wanted = wanted.iter().any(|wanted| wanted == name);
        if is_wanted || wanted.is_empty() {
            if let Err(why) = runtime.block_on(phrase) {
                return fail(1, &format!("{name}: {why}"));
            }
        }
    }
    let log = logged();
    if log != "nothing" {
        return fail(1, &format!("no phrase asked for this log: {log}"));
    }
    ExitCode::SUCCESS
}

fn fail(status: u8, why: &str) -> ExitCode {
    writeln!(io::stderr(), "{why}").ok();
    ExitCode::from(status)
}
