//! nginx in front of two replicas, and clients who ask while these change.

use super::*;
use std::os::unix::fs::chown;

/// A `POST /` without a body. A replica answers 405.
pub const POST: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

/// A change to its file. Each process keeps connections of its own, so only one
/// process is sure to have kept what an earlier request opened.
pub const ALONE: [&str; 2] = ["worker_processes auto", "worker_processes 1"];

/// A POST with a body of that many bytes.
pub fn large_post(size: usize) -> Vec<u8> {
    let length = format!("Content-Length: {size}");
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n");
    (head + &"x".repeat(size)).into_bytes()
}

/// Sends a large POST again and again, which a replica refuses by this status
/// before it has read it, until it hangs up while nginx is about to send more.
#[track_caller]
pub fn one_crosses(proxy: &Server, post: &[u8], status: &str) {
    wait_until("a 502", || {
        let answer = proxy.exchange(post);
        let [refused, bad] =
            [status, "502"].map(|it| answer.get(9..12) == Some(it));
        assert!(refused || bad, "{answer}");
        bad
    });
}

/// The file of a proxy, with its own port and those of two replicas.
#[track_caller]
pub fn with_ports(conf: &str, ports: [u16; 3]) -> String {
    let mut conf = conf.to_owned();
    for (old, new) in [8080, 8888, 8889].into_iter().zip(ports) {
        let [old, new] = [old, new].map(|it| format!("127.0.0.1:{it}"));
        conf = replaced(&conf, &old, &new);
    }
    conf
}

/// Starts nginx in front of two replicas, as nginx.conf says but for the ports
/// and these changes.
#[track_caller]
pub fn nginx(ports: [u16; 2], changes: &[[&str; 2]]) -> Server {
    nginx_in(&scratch("nginx"), None, ports, changes)
}

/// The same in this new folder, by another user, with few files and no more.
/// Nobody else may enter it, not even nginx's own processes if root starts it.
#[track_caller]
pub fn nginx_in(
    folder: &Path,
    user: Option<u32>,
    ports: [u16; 2],
    changes: &[[&str; 2]],
) -> Server {
    let mut conf = changed(&read("tutorial/nginx.conf"), changes);
    let port = free_port();
    conf = with_ports(&conf, [port, ports[0], ports[1]]);
    fs::create_dir_all(folder).expect("a folder");
    fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("ours");
    fs::write(folder.join("nginx.conf"), conf).expect("a file");

    let limit = user.map_or("-Sn", |_| "-n");
    let mut sh = bash(&format!("ulimit {limit} 1024; exec nginx \"$@\""));
    sh.args(["nginx", "-c", "nginx.conf", "-p"]).arg(folder);
    if let Some(user) = user {
        chown(folder, Some(user), None).expect("we are root");
        sh.uid(user);
    }
    let server = Server::other(&mut sh, port);
    wait_until("nginx's files", || {
        ["nginx.pid", "nginx"].iter().all(|it| folder.join(it).exists())
    });
    server
}

/// Asks all the time while something happens: 30 clients with GETs, to which a
/// replica says 200, and 10 with POSTs, to which it says 405 at once.
/// `header` is a line that all of them send, or nothing. Returns how many GETs
/// were sent, and of each other answer the method and the first line.
#[track_caller]
pub fn under_load(
    port: u16,
    header: &str,
    happens: impl FnOnce(),
) -> (usize, Vec<String>) {
    let (gets, lost) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (begin, enough) = (Instant::now(), AtomicBool::new(false));
    let client = |method: &str, good: &str| {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{header}\r\n");
        while !enough.load(Relaxed) && begin.elapsed() < 2 * LONG {
            gets.fetch_add(usize::from(method == "GET"), Relaxed);
            let answer = read_to_close(send(port, request.as_bytes()));
            if !answer.starts_with(good) {
                let line = answer.lines().next().unwrap_or("nothing");
                let line = format!("{method}: {line}");
                lost.lock().expect("no panic").push(line);
                sleep(Duration::from_millis(10));
            }
        }
    };
    thread::scope(|scope| {
        for number in 0..40 {
            scope.spawn(move || match number {
                0..30 => client("GET", "HTTP/1.1 200 "),
                _ => client("POST", "HTTP/1.1 405 "),
            });
        }
        happens();
        sleep(Duration::from_millis(500));
        enough.store(true, Relaxed);
    });
    assert!(begin.elapsed() < 2 * LONG, "the load ended before the rest");
    (gets.into_inner(), lost.into_inner().expect("no panic"))
}
