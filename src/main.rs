// SPDX-License-Identifier: MIT-0

//! Threaded Tokio: how to call blocking code from an async Rust server.
//!
//! This is the program of the blog post "Threaded Tornado", translated line
//! for line. A client connects, a [`Core`] sleeps ten seconds for it on a
//! worker thread, and the server goes on serving. See it answer 13 clients at
//! once:
//!
//! ```sh
//! ./run.sh
//! ```
//!
//! Part 1 is the post. Each line of its Python stands in a comment that starts
//! with `py|`, right above the Rust that answers it. Part 2 is what the post
//! got from `import tornado` and what Rust leaves to you. Read part 1 first: a
//! name that you do not know yet is explained in part 2. Each section names the
//! chapter that walks through it.

// py| import time
use std::{thread, time::Duration};
// py| import tornado.gen
// No import answers this one: `async` and `.await` belong to the language.
// py| import tornado.ioloop
use tokio::runtime::Runtime;
// py| import tornado.web
use hyper::{Method, Request, Response, StatusCode, Version, body::Incoming};
// py| from concurrent.futures import ThreadPoolExecutor
// The standard library has no such pool. Part 2 makes one from these:
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::{convert::Infallible, io, mem::forget};
use tokio::sync::oneshot;

// The rest is for part 2.
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::io::{ErrorKind as Kind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{env, process, process::ExitCode, str::FromStr};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout, timeout_at};

// ===== PART 1: THE POST =====================================================

// ----- CORE --------------------------------------- tutorial/03-core.md -----

/// The work that a request asks for. It knows nothing of HTTP or of async
/// code, so it is free to block. Put your own in its place.
// py| class Core:
struct Core {
    sleep: Duration,
}

impl Core {
    /// Reads `SLEEP`, in seconds. Python's `Core()` had nothing to set up.
    fn new() -> Self {
        let allowed = "0 to 86400 seconds";
        let in_range = |s: &f64| (0.0..=86_400.0).contains(s);
        let seconds = setting("SLEEP", 10.0, allowed, in_range);
        Self { sleep: Duration::from_secs_f64(seconds) }
    }

    /// Blocks the thread that calls it for `SLEEP` seconds and returns the
    /// body of the answer. Where it panics, its client gets a 500.
    ///
    /// As many threads as there are workers are in here at once. They share
    /// the core by `&self`; what they change in it needs a lock or an atomic.
    // py| def get(self, remote_ip):
    fn get(&self, remote_ip: IpAddr) -> String {
        // `println!` would panic once stdout has lost its reader, as it does
        // in `./run.sh | head`. `.ok()` gives up the line, not the request.
        // py| print('going to sleep', remote_ip)
        writeln!(io::stdout(), "going to sleep {remote_ip}").ok();
        // py| time.sleep(10)
        thread::sleep(self.sleep);
        // py| print('done sleeping', remote_ip)
        writeln!(io::stdout(), "done sleeping {remote_ip}").ok();
        // py| return 'msg to client ' + remote_ip
        format!("msg to client {remote_ip}")
    }
}

// ----- MAIN HANDLER ----------------------- tutorial/04-main-handler.md -----

/// Takes a request to the core, and the core's result back to the client.
///
/// As in Tornado, each request has a handler of its own: `Clone` makes it.
// py| class MainHandler(tornado.web.RequestHandler):
#[derive(Clone)]
struct MainHandler {
    executor: ThreadPoolExecutor,
    core: Arc<Core>,
    /// Kept and never used, as in the post: hence the `_`.
    _webserver: Arc<WebServer>,
}

impl MainHandler {
    /// Called once. The handler of each request is a clone of this one.
    // py| def initialize(self, executor, core, webserver):
    fn initialize(
        executor: ThreadPoolExecutor,
        core: Arc<Core>,
        webserver: Arc<WebServer>,
    ) -> Self {
        // py| self._executor = executor
        // py| self._core = core
        // py| self._webserver = webserver
        Self { executor, core, _webserver: webserver }
    }

    /// Answers `GET uri` with 200 and what the core returns, or with 500 if
    /// the core panics.
    ///
    /// When hyper notices that the client has left, it drops this future at
    /// its `.await`, and a job that is still queued never starts. It does not
    /// notice while a byte of a next request, or any other, waits behind this.
    // py| @tornado.gen.coroutine
    // py| def get(self, uri):
    // py| ip = self.request.remote_ip
    // The address is a parameter, since nothing else of the request is needed.
    async fn get(&self, _uri: &str, remote_ip: IpAddr) -> Page {
        // The job may run longer than this future lives, so it must own what
        // it uses. It gets its own `Arc`, and `move` puts that into the job.
        let core = Arc::clone(&self.core);

        // `.await` is the post's `yield`: until the result is there, the loop
        // serves others. With `core.get(remote_ip)` called right here, one of
        // the loop's own threads would sleep.
        // py| res = yield self._executor.submit(self._core.get, remote_ip=ip)
        let res = self.executor.submit(move || core.get(remote_ip)).await;

        let Ok(res) = res else {
            // The panic's message is on stderr: the worker has written it.
            return error_page(StatusCode::INTERNAL_SERVER_ERROR);
        };

        // py| self.write(res)
        page(StatusCode::OK, res)
    }
}

// ----- WEB SERVER --------------------------- tutorial/05-web-server.md -----

/// Where the server listens.
// py| class WebServer:
struct WebServer {
    address: SocketAddr,
}

impl WebServer {
    /// Reads `HOST` and `PORT`.
    // py| def __init__(self, port=8888):
    fn new() -> Self {
        let localhost = Ipv4Addr::LOCALHOST.into();
        let host = setting("HOST", localhost, "an IP address", |_| true);
        let port = setting("PORT", 8888, "0 (any) to 65535", |_| true);
        // py| self._port = port
        Self { address: SocketAddr::new(host, port) }
    }

    /// Serves until SIGINT or SIGTERM, answers what it has accepted by then,
    /// and returns the status to exit with: 0 if each client that stayed had
    /// its answer handed to the system in full, else 1. Reads `WORKERS`. Where
    /// it cannot start, it exits: with 2 for a setting, with 1 for what the
    /// system refuses.
    ///
    /// Synchronous, as in the post, and here it must be: a runtime that is
    /// dropped in async code panics.
    // py| def start(self, core):
    fn start(self, core: Core) -> ExitCode {
        // py| webapp = tornado.web.Application([
        // py|     (r'(/)', MainHandler, {
        // py|         'executor': ThreadPoolExecutor(max_workers=10),
        let in_range = |n: &usize| (1..=10_000).contains(n);
        let workers = setting("WORKERS", 10, "1 to 10000", in_range);
        let executor = ThreadPoolExecutor::new(workers);
        let (executor, workers) = or_exit("start the workers", executor);
        // py|         'core': core,
        // `start` keeps one `Arc` to its end: a core may hold a runtime, and
        // panics then if the loop is where it is dropped.
        let core = Arc::new(core);
        // py|         'webserver': self,
        let address = self.address;
        let ws = Arc::new(self);
        // py|     }),
        let handler = MainHandler::initialize(executor, Arc::clone(&core), ws);
        // py| ])
        let webapp = Application([("/", handler)].into());

        let ioloop = ioloop();
        let deadline = ioloop.block_on(async {
            // py| webapp.listen(self._port)
            let what = format!("listen on {address}");
            let listener = or_exit(&what, listen(address));
            // py| tornado.ioloop.IOLoop.current().start()
            serve(listener, webapp).await
        });
        // What runs now ends with the process.
        let Some(deadline) = deadline else { return ExitCode::FAILURE };
        // No client waits any more. A leaver's job may still run: it gets what
        // remains of the time. The loop stays up, to hear a second signal.
        workers.recv_timeout(deadline - Instant::now()).ok();
        ExitCode::SUCCESS
    }
}

// ----- THE ENTRYPOINT ------------------- tutorial/06-the-entrypoint.md -----

fn main() -> ExitCode {
    // py| core = Core()
    let core = Core::new();
    // py| ws = WebServer()
    let ws = WebServer::new();
    // py| ws.start(core)
    ws.start(core)
}

// ===== PART 2: WHAT `import tornado` DID FOR YOU ============================

// ----- the executor ----------------------- tutorial/07-the-executor.md -----

/// Python's `concurrent.futures.ThreadPoolExecutor`: `max_workers` threads and
/// one queue before them, first in, first out, as long as it may get.
///
/// Clone it wherever jobs come from. When the last clone is dropped, the
/// workers do what is queued, then end.
#[derive(Clone)]
struct ThreadPoolExecutor(mpsc::Sender<Job>);

/// A box, so that closures of every type fit into one queue.
type Job = Box<dyn FnOnce() + Send>;

/// Nothing ever comes out of this channel. It disconnects when the last worker
/// has ended: `recv_timeout` waits for that, and no longer than you say.
type Workers = mpsc::Receiver<Infallible>;

impl ThreadPoolExecutor {
    /// Starts `max_workers` threads, or fails where the system won't.
    fn new(max_workers: usize) -> io::Result<(Self, Workers)> {
        let (queue, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let (alive, ended) = mpsc::channel();
        for _ in 0..max_workers {
            let (jobs, alive) = (Arc::clone(&jobs), alive.clone());
            let worker = move || {
                let _alive = alive;
                // A closure, so that the lock is free before the job runs.
                let next = || jobs.lock().ok()?.recv().ok();
                while let Some(job) = next() {
                    // A job that panics takes no worker with it. What it may
                    // have left half done is the core's to know, so
                    // `AssertUnwindSafe`: the compiler can't tell. `forget`,
                    // since what it panicked with may panic when dropped.
                    catch_unwind(AssertUnwindSafe(job)).map_err(forget).ok();
                }
            };
            thread::Builder::new().name("worker".into()).spawn(worker)?;
        }
        Ok((Self(queue), ended))
    }

    /// Queues `job` at once, as Python's `submit` does. Await what it returns
    /// for the job's result, or an `Err` if the job panicked. (With `panic =
    /// "abort"` in Cargo.toml, a panic ends the program instead.)
    ///
    /// Drop what it returns to cancel the job: one in the queue never starts
    /// then. One that runs goes on to its end and keeps its worker, since no
    /// thread can be stopped from outside.
    ///
    /// `Send + 'static` says that a job may go to another thread and stay
    /// there: it owns what it uses, so nothing can end under its feet.
    #[must_use = "dropping this, also by `let _ =`, cancels the job"]
    fn submit<F, T>(&self, job: F) -> oneshot::Receiver<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (result, receiver) = oneshot::channel();
        let job = move || {
            // Closed means dropped: the client has left.
            if !result.is_closed() {
                result.send(job()).ok();
            }
        };
        // This can't fail: the workers stay for as long as `self` does.
        self.0.send(Box::new(job)).ok();
        receiver
    }
}

// ----- routing and pages ------- tutorial/08-what-import-tornado-did.md -----

/// `tornado.web.Application`: its paths, and the handler for each.
#[derive(Clone)]
struct Application(Arc<[Route]>);

type Route = (&'static str, MainHandler);

impl Application {
    /// Answers a request. It can't fail: for an `Err`, hyper would close the
    /// connection without a word.
    ///
    /// Why not an `async fn`: that would hold the request until it is
    /// answered. Its headers are slices of hyper's read buffer, so hyper would
    /// need a second one for each client that waits.
    fn answer(
        &self,
        request: Request<Incoming>,
        remote_ip: IpAddr,
    ) -> impl Future<Output = Result<Page, Infallible>> + use<> {
        let route = self.route(&request);
        let unread = !request.body().is_end_stream();
        drop(request);
        async move {
            let mut page = match route {
                Ok((uri, handler)) => handler.get(uri, remote_ip).await,
                Err(status) => error_page(status),
            };
            if unread {
                // A proxy may see its end elsewhere. So nothing comes after it.
                let close = HeaderValue::from_static("close");
                page.headers_mut().insert(CONNECTION, close);
            }
            Ok(page)
        }
    }

    /// Finds the route for a request, or the status of an error page.
    fn route(&self, request: &Request<Incoming>) -> Result<Route, StatusCode> {
        if !has_valid_host(request) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let path = request.uri().path();
        let route = self.0.iter().find(|(uri, _)| *uri == path);
        let route = route.ok_or(StatusCode::NOT_FOUND)?;
        match *request.method() {
            Method::GET if request.body().is_end_stream() => Ok(route.clone()),
            // No GET needs a body. One that has it may be out to smuggle a
            // second request past a proxy.
            Method::GET => Err(StatusCode::BAD_REQUEST),
            _ => Err(StatusCode::METHOD_NOT_ALLOWED),
        }
    }
}

/// Since HTTP/1.1 a request must name its host, once (RFC 9112, section 3.2).
/// hyper leaves that check to you.
fn has_valid_host(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_host),
        (None, None) => request.version() < Version::HTTP_11,
        _ => false,
    }
}

/// `uri-host [":" port]`, without three forms that have no place here: an empty
/// host, a name with `%` in it, and brackets around anything but IPv6.
fn is_host(value: &str) -> bool {
    let host = value.trim_end_matches(|c: char| c.is_ascii_digit());
    let host = host.strip_suffix(':').unwrap_or(value);
    let named = |c: char| c.is_alphanumeric() || "-._~!$&'()*+,;=".contains(c);
    match host.strip_prefix('[').map(|ip| ip.strip_suffix(']')) {
        Some(ip) => ip.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.chars().all(named),
    }
}

/// A response whose body is in memory as a whole.
type Page = Response<Full<Bytes>>;

/// Tornado's `self.write`, with the content type that Tornado sends. hyper
/// adds the length and the date.
fn page(status: StatusCode, body: String) -> Page {
    let mut page = Response::new(Full::from(body));
    *page.status_mut() = status;
    let html = HeaderValue::from_static("text/html; charset=UTF-8");
    page.headers_mut().insert(CONTENT_TYPE, html);
    page
}

fn error_page(status: StatusCode) -> Page {
    let mut page = page(status, format!("<html><body>{status}</body></html>"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    page
}

// ----- the loop ---------------- tutorial/08-what-import-tornado-did.md -----

/// How long a client may take from its last answer, or from the beginning, to
/// the end of the head of its next request. And how long a shutdown may take.
const PATIENCE: Duration = Duration::from_secs(30);

const SECOND: Duration = Duration::from_secs(1);

/// What `accept` may fail with for a client that has left in the meantime. The
/// next one need not wait for that. (Linux hands it out, and fails the read.)
const LEFT: [Kind; 3] =
    [Kind::ConnectionAborted, Kind::ConnectionRefused, Kind::ConnectionReset];

/// `tornado.ioloop.IOLoop`. Where the system refuses it a thread, tokio panics,
/// and threads that have started keep the process from its end. So meanwhile a
/// panic is one line, and the end.
fn ioloop() -> Runtime {
    panic::set_hook(Box::new(|why| or_exit("start the loop", Err(why))));
    let ioloop = or_exit("start the loop", Runtime::new());
    drop(panic::take_hook());
    ioloop
}

/// Tornado's `webapp.listen`. Call it where a runtime runs.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Or a restarted server may find its port taken, on Linux for a minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // That many connections may wait for `accept`, where the system lets them.
    // `TcpListener::bind` asks for 128: in a burst of a thousand, some would
    // then wait for a second.
    socket.listen(1024)
}

/// Tornado's `IOLoop.start`: accepts connections until SIGINT or SIGTERM, each
/// served by a task of its own. After the signal, idle connections are closed
/// and each request whose head was read is answered. (A new connection's head
/// that is half there is waited for too, as long as its client may take.)
///
/// That may take until a deadline, which is returned as soon as it is done. If
/// it is not done by then, says how many answers are missing, and returns
/// `None`. One more signal, a second later or more, ends the process with 1.
async fn serve(listener: TcpListener, webapp: Application) -> Option<Instant> {
    // A signal that finds no stream kills the process. So both are made before
    // anybody is told that the server listens.
    let hear = |kind| or_exit("hear signals", signal(kind));
    let mut interrupt = hear(SignalKind::interrupt());
    let mut terminate = hear(SignalKind::terminate());
    let mut stop = async move || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };

    // To write is to block: a full pipe holds the thread until it is read. So
    // the loop has its lines written by a worker, as it has the core called.
    // Keep what this returns: a line that is dropped in the queue is lost.
    let (log, _) = or_exit("start a worker", ThreadPoolExecutor::new(1));
    let log = |line: String| log.submit(move || say(&line));
    let address = or_exit("read the port", listener.local_addr());
    let _listening = log(format!("listening on http://{address}/"));

    let mut http = http1::Builder::new();
    // Behind a proxy, make it longer than the proxy keeps idle connections.
    // hyper has no timer but this one. Without it, no limit is kept, and one
    // that you set here is a panic.
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // For a head, about as in Tornado. hyper would keep up to 400 KB of one.
    http.max_buf_size(65_536);
    let graceful = GracefulShutdown::new();
    let accept = async || loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(why) if LEFT.contains(&why.kind()) => {}
            Err(why) => {
                // Out of file descriptors, as a rule. On Linux the connection
                // stays in line: without the pause, this would spin.
                // A line that no worker has taken after that is dropped.
                let _said = log(format!("cannot accept a connection: {why}"));
                sleep(SECOND).await;
            }
        }
    };
    loop {
        let (stream, peer) = tokio::select! {
            // The signal first, however many clients wait in line.
            biased;
            () = stop() => break,
            accepted = accept() => accepted,
        };
        // `HOST=::` serves IPv4 as well, and calls it ::ffff:127.0.0.1.
        let remote_ip = peer.ip().to_canonical();
        let webapp = webapp.clone();
        let service = service_fn(move |req| webapp.answer(req, remote_ip));
        let connection = http.serve_connection(TokioIo::new(stream), service);
        // Its result is not looked at: clients leave, or send no HTTP.
        tokio::spawn(graceful.watch(connection));
    }
    drop(listener);

    tokio::spawn(async move {
        // Supervisors may send two signals for a wish, to a process and its
        // group. So one within the same second does not count.
        let first = Instant::now();
        while first.elapsed() < SECOND {
            stop().await;
        }
        process::exit(1);
    });
    let deadline = Instant::now() + PATIENCE;
    if timeout_at(deadline, graceful.shutdown()).await.is_ok() {
        return Some(deadline);
    }
    // Each connection that is still open owns the routes, too.
    let unanswered = Arc::strong_count(&webapp.0) - 1;
    let line = format!("accepted requests without an answer: {unanswered}");
    timeout(SECOND, log(line)).await.ok();
    None
}

// ----- settings and messages --- tutorial/08-what-import-tornado-did.md -----

/// Reads the environment variable `name`. What is set but not `allowed` gets
/// one line on stderr, and the program exits with status 2.
fn setting<T: FromStr>(
    name: &str,
    default: T,
    allowed: &str,
    in_range: impl Fn(&T) -> bool,
) -> T {
    let Some(value) = env::var_os(name) else { return default };
    let parsed = value.to_str().and_then(|value| value.parse().ok());
    parsed.filter(in_range).unwrap_or_else(|| {
        say(&format!("{name}={value:?} is not allowed; set it to {allowed}"));
        process::exit(2)
    })
}

/// Returns what `result` holds. Or says what can't be done, why, and what is
/// known to help, and exits with status 1. Only for the start, when there is no
/// client to lose.
fn or_exit<T>(what: &str, result: Result<T, impl ToString>) -> T {
    result.unwrap_or_else(|why| {
        let why = why.to_string();
        // A panic has a line of its own for where it happened.
        let why = why.lines().last().unwrap_or_default();
        let remedy = match why {
            _ if why.contains("open files") => "; raise `ulimit -n`",
            _ if why.contains("unavailable") => "; lower WORKERS (ulimit -u)",
            _ if why.contains("THREADS") => "; set it to 1 or more",
            _ if what.contains("listen") => "; change HOST or PORT",
            _ => "",
        };
        say(&format!("cannot {what}: {why}{remedy}"));
        process::exit(1)
    })
}

/// Writes a line to stderr, in one piece, and waits where its reader is slow.
/// So the loop must not call it. (`eprintln!` would panic once there is no
/// reader any more.)
fn say(line: &str) {
    io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}
