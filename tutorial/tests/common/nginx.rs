//! nginx in front of two replicas, and clients who ask while these change.

use super::*;
use std::os::unix::fs::chown;

/// A `POST /` without a body. A replica answers 405.
pub const POST: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

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
    for (old, new) in [(8080, port), (8888, ports[0]), (8889, ports[1])] {
        let [old, new] = [old, new].map(|it| format!("127.0.0.1:{it}"));
        conf = replaced(&conf, &old, &new);
    }
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

/// Asks all the time while something happens: 30 clients, each by turns with a
/// GET, to which a replica says 200, and with a POST, to which it says 405.
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
    let ask = |method: &str, good: &str| {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{header}\r\n");
        let answer = read_to_close(send(port, request.as_bytes()));
        if !answer.starts_with(good) {
            let line = answer.lines().next().unwrap_or("nothing");
            lost.lock().expect("no panic").push(format!("{method}: {line}"));
            sleep(Duration::from_millis(10));
        }
    };
    let client = || {
        while !enough.load(Relaxed) && begin.elapsed() < 2 * LONG {
            gets.fetch_add(1, Relaxed);
            ask("GET", "HTTP/1.1 200 ");
            ask("POST", "HTTP/1.1 405 ");
        }
    };
    thread::scope(|scope| {
        (0..30).for_each(|_| drop(scope.spawn(client)));
        happens();
        sleep(Duration::from_millis(500));
        enough.store(true, Relaxed);
    });
    assert!(begin.elapsed() < 2 * LONG, "the load ended before the rest");
    (gets.into_inner(), lost.into_inner().expect("no panic"))
}
