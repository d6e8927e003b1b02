//! The chapters on production, proven with what they name: process 1,
//! `timeout`, systemd, a container's file, a balancer that polls, Prometheus,
//! and machines made of network namespaces. Much of it takes Linux and root.

mod common;

use common::nginx::*;
use common::*;

/// Puts this test, and what it starts from now on, on a machine of its own: a
/// network namespace in which nobody has a port yet.
fn own_machine() {
    #[cfg(target_os = "linux")]
    {
        use nix::sched::{CloneFlags, unshare};
        unshare(CloneFlags::CLONE_NEWNET).expect("we are root");
    }
    printed(&mut bash("ip link set lo up"));
}

// ----- who stops it ----------------------------------------------------------

const WHO: &str = "tutorial/22-who-stops-it.md";
const TEN: &str = "## Ten seconds, and no more";

/// The number outside of a process that is number 1 inside. It is killed when
/// the test ends, and takes its namespace along.
struct First(u32);

impl Drop for First {
    fn drop(&mut self) {
        if known(self.0, "NSpid").ends_with("\t1") {
            signal("KILL", &self.0.to_string());
        }
    }
}

/// Starts a shell with these commands as process 1 of a namespace.
#[track_caller]
fn first(commands: &str) -> (Server, First) {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    unshare.args(["sh", "-c", commands]);
    let server = Server::launch(&mut unshare, None, None);
    let mut inner = None;
    wait_until("process 1", || {
        inner = children(server.child.id()).first().copied();
        inner.is_some_and(|it| known(it, "NSpid").ends_with("\t1"))
    });
    (server, First(inner.expect("it is there")))
}

fn children(process: u32) -> Vec<u32> {
    let file = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().filter_map(|it| it.parse().ok()).collect()
}

/// Fails unless the server answers the client that it has when it is told to
/// stop, and leaves nobody.
#[track_caller]
fn assert_graceful(server: &mut Server, first: &First) {
    let jobs = server.going() + 1;
    let client = server.send(GET);
    wait_until("the job", || server.going() == jobs);
    signal("TERM", &first.0.to_string());
    assert_answered(client);
    assert_eq!(server.exit_status(), Some(0));
    assert_eq!((server.going(), server.done()), (jobs, jobs));
    assert_eq!(known(first.0, "State"), "", "it is gone, and no zombie");
}

/// An orphan is what `docker exec` may leave behind.
#[test]
#[ignore = "takes Linux and root"]
fn as_process_1_it_answers_and_stops_with_no_zombies_but_those_of_others() {
    let (server, first) = first(&format!("SLEEP=2 exec {BINARY}"));
    let mut server = server.listening();
    assert_eq!(status(&server.url("/")), "200");
    assert_eq!(children(first.0), []);
    let mut enter = Command::new("nsenter");
    enter.args(["--pid", "--mount", "--target", &first.0.to_string()]);
    printed(enter.args(["sh", "-c", "sleep 0.5 & exit"]));
    wait_until("a zombie", || {
        let mut orphans = children(first.0).into_iter();
        orphans.any(|it| known(it, "State").contains('Z'))
    });
    assert_graceful(&mut server, &first);
}

/// The system does not stop process 1 for a signal that it has not asked for.
#[test]
#[ignore = "takes Linux and root"]
fn process_1_hears_nothing_that_it_has_not_asked_for() {
    let script = shown(WHO, "## Predict, then run", "sh");
    let [plain, exec] = ["", "exec "].map(|it| {
        let script = replaced(&script, "/threaded-tokio", BINARY);
        replaced(&script, BINARY, &format!("SLEEP=0 {it}{BINARY}"))
    });
    let (sleeper, deaf) = first("exec sleep 60");
    let (shell, number) = first(&plain);
    let shell = shell.listening();
    let (server, same) = first(&exec);
    let mut server = server.listening();
    for process in [&deaf, &number, &same] {
        signal("TERM", &process.0.to_string());
    }
    assert_eq!(server.exit_status(), Some(0));
    sleep(Duration::from_secs(2));
    assert_eq!(children(sleeper.child.id()), [deaf.0]);
    assert_eq!(status(&shell.url("/")), "200", "nobody told the server");
}

/// Runs a server for five seconds as the chapter says, with a client that
/// waits. Returns the answer, and what the server says, with its status.
fn stopped(program: &Path, seconds: &str) -> (String, String) {
    let command = shown(WHO, TEN, "sh");
    let words = command.split_whitespace().skip_while(|it| *it != "timeout");
    let words: Vec<_> = words.take_while(|it| *it != "\\").collect();
    assert_eq!(words[3..], ["10", "5"], "as docker stop does");
    let mut timeout = Command::new(words[0]);
    timeout.args(&words[1..]).arg(program).env("SLEEP", seconds);
    let mut server = Server::spawn(&mut timeout);
    let answer = server.exchange(GET);
    let status = server.child.wait().expect("it is our child");
    // As a shell has it. `timeout` does not survive its own SIGKILL.
    let status = status.code().or(status.signal().map(|it| 128 + it));
    let status = status.expect("it has ended");
    // As it appears on a terminal.
    let (first, last) = (server.first_line(), server.stderr());
    let last = last.strip_prefix(&first).expect("its first line");
    let said = format!("{first}{}{last}{status}\n", server.stdout());
    (answer, said.replace(&server.port.to_string(), "8888"))
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "takes the timeout of Linux")]
fn ten_seconds_are_too_short_for_thirty_and_long_enough_for_eight() {
    let told = blocks(WHO, TEN, "text");
    let nothing = String::new();
    let cut = stopped(BINARY.as_ref(), "60");
    assert_eq!(cut, (nothing.clone(), told[0].text()));
    let eight = build("eight", &with_diff(WHO, TEN));
    let start = Instant::now();
    assert_eq!(stopped(&eight, "60"), (nothing, told[1].text()));
    assert!(start.elapsed() > Duration::from_secs(8), "that is its time");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "takes the timeout of Linux")]
fn a_wrapper_that_signals_twice_loses_no_answer() {
    let (answer, said) = stopped(BINARY.as_ref(), "8");
    assert!(answer.ends_with("msg to client 127.0.0.1"), "{answer}");
    assert!(said.ends_with("done sleeping 127.0.0.1\n0\n"), "{said}");
}

// ----- systemd ---------------------------------------------------------------

const UNIT: &str = "tutorial/threaded-tokio@.service";
const SYSTEMD: &str = "tutorial/23-a-systemd-unit.md";
const INSTALL: &str = "## Install it";

/// A systemd that runs nothing but the unit, in namespaces and control groups
/// of its own. It finds the server where the unit says it is.
struct Systemd {
    boot: Server,
    inner: u32,
    groups: String,
}

/// Takes a name for the groups, the program and the unit.
const BOOT: &str = r#"
    export name=$1 program=$2 unit=$3
    groups=$(awk '$3 ~ /^cgroup2?$/ {print $2, $3, $4}' /proc/mounts)
    export groups
    while read -r at type options; do
      own=$(awk -F: -v it="${options##*relatime,}" '
        $2 == it || $2 == "" && it ~ /^rw/ {print $3}' /proc/self/cgroup)
      mkdir "$at$own/$name"
      # One that wants to be told first which processors it may use has none.
      echo $$ >"$at$own/$name/cgroup.procs" || rmdir "$at$own/$name"
    done <<<"$groups" 2>/dev/null
    exec unshare --pid --mount --uts --ipc --cgroup --fork --kill-child \
      bash -c '
        set -e
        mount --make-rprivate /
        mount -t proc proc /proc
        while read -r at type options; do
          options=${options##*relatime,} options=${options/#name=/none,name=}
          umount $at
          case $type in
            cgroup) mount -t cgroup -o $options cgroup $at ;;
            cgroup2) mount -t cgroup2 cgroup2 $at ;;
          esac
        done <<<"$groups"
        units=/lib/systemd/system nginx=$(cat /lib/systemd/system/nginx.service)
        for at in /run /usr/local/bin /etc/init.d /etc/systemd/system $units \
            /etc/nginx/conf.d /var/log
        do mount -t tmpfs tmpfs $at; done
        mkdir /var/log/nginx
        echo "$nginx" >$units/nginx.service
        cp $program /usr/local/bin/threaded-tokio
        cp $unit /etc/systemd/system/
        for it in sysinit basic shutdown network multi-user
        do printf "[Unit]\nDefaultDependencies=no\n" >$units/$it.target; done
        container=test exec /lib/systemd/systemd --unit=multi-user.target \
          --system --log-target=console --show-status=no'
"#;

impl Systemd {
    #[track_caller]
    fn boot() -> Self {
        own_machine();
        let unique = scratch("threaded-tokio");
        let name = unique.file_name().and_then(OsStr::to_str).expect("a name");
        let mut bash = bash(BOOT);
        bash.args(["boot", name, BINARY, UNIT]).current_dir(ROOT);
        let boot = Server::launch(&mut bash, None, None);
        let groups = format!("find /sys/fs/cgroup -type d -name {name}");
        let mut systemd = Self { boot, inner: 0, groups };
        wait_until("systemd", || {
            let ended = systemd.boot.child.try_wait().expect("our child");
            assert_eq!(ended, None, "it said: {}", systemd.boot.stderr());
            let inner = children(systemd.boot.child.id());
            systemd.inner = inner.first().copied().unwrap_or_default();
            let asks = "systemctl is-active multi-user.target";
            output(&mut systemd.command(asks)).1 == "active\n"
        });
        systemd
    }

    /// Commands of a chapter, for a shell in there.
    fn command(&self, commands: &str) -> Command {
        let commands = commands.replace("sudo ", "");
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--all", "--target", &self.inner.to_string()]);
        nsenter.args(["bash", "-euc", &format!("cd {ROOT}\n{commands}")]);
        nsenter
    }

    /// What commands print in there, each of which must work.
    #[track_caller]
    fn run(&self, commands: &str) -> String {
        printed(&mut self.command(commands))
    }

    /// Enables both replicas, as the chapter does.
    #[track_caller]
    fn enable(&self) {
        let install = shown(SYSTEMD, INSTALL, "sh");
        let enable = install.lines().find(|line| line.contains("enable"));
        self.run(enable.expect("its last line"));
        serves("8888");
        serves("8889");
    }

    /// What is different for one of them, or for all.
    #[track_caller]
    fn edit(&self, port: &str, lines: &str) {
        let unit = format!("threaded-tokio@{port}.service");
        self.run(&format!(
            "mkdir -p /run/systemd/system/{unit}.d
             echo '{lines}' >/run/systemd/system/{unit}.d/it.conf"
        ));
    }

    /// What systemd knows of the server on this port.
    #[track_caller]
    fn show(&self, port: &str, property: &str) -> String {
        let show = format!("systemctl show --value -p {property}");
        self.run(&format!("{show} threaded-tokio@{port}")).trim_end().into()
    }
}

/// Waits until a replica answers.
#[track_caller]
fn serves(port: &str) {
    let url = format!("http://127.0.0.1:{port}/alive");
    wait_until("an answer", || status(&url) == "404");
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.boot.child.kill().ok();
        self.boot.child.wait().ok();
        // They are empty when all of it is gone. The innermost go first.
        let find = &self.groups;
        let empty = format!(
            "for _ in {{1..100}}; do
                groups=$({find})
                [ -n \"$groups\" ] || break
                find $groups -depth -type d -exec rmdir {{}} +
                sleep 0.05
            done"
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &empty]).stderr(Stdio::null());
        bash.status().ok();
    }
}

#[test]
#[ignore = "takes systemd and root"]
fn systemd_starts_the_unit_limits_it_and_starts_it_again() {
    let systemd = Systemd::boot();
    // One with what another chapter sets for a machine.
    let edit = shown(MACHINES, "## Set it up", "ini");
    systemd.edit("8890", &edit.replace("192.0.2.2", "127.0.0.2"));
    systemd.enable();
    assert_eq!(
        systemd.run("ls /etc/systemd/system/multi-user.target.wants"),
        "threaded-tokio@8888.service\nthreaded-tokio@8889.service\n"
    );
    systemd.run("systemctl start threaded-tokio@8890");
    wait_until("the other address", || {
        fetch(&["http://127.0.0.2:8890/"]).starts_with("msg to")
    });
    let allowed = systemd.show("8890", "IPAddressAllow");
    assert!(allowed.contains("192.0.2.1/32"), "{allowed}");

    // What it may do, as Linux has it.
    let process = systemd.show("8888", "MainPID");
    let status = systemd.run(&format!("cat /proc/{process}/status"));
    for line in ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
    let limits = systemd.run(&format!("cat /proc/{process}/limits"));
    let files = limits.lines().find(|line| line.starts_with("Max open files"));
    assert!(files.expect("it").contains(" 16384 "), "{limits}");
    let memory = "cat /sys/fs/cgroup/{,memory/}system.slice/*/\
                  threaded-tokio@8888.service/memory.{max,limit_in_bytes}";
    let memory = systemd.run(&format!("{memory} 2>/dev/null || true"));
    assert_eq!(memory, "1073741824\n");

    // It is killed, and started again a second later.
    systemd.run(&format!("kill -9 {process}"));
    wait_until("another one", || {
        let now = systemd.show("8888", "MainPID");
        now != process && now != "0"
    });
    serves("8888");
    assert_eq!(systemd.show("8888", "NRestarts"), "1");

    // A port that is none: said once.
    systemd.run("systemctl start threaded-tokio@http");
    wait_until("the end", || systemd.show("http", "ExecMainStatus") == "2");
    sleep(Duration::from_secs(2));
    assert_eq!(systemd.show("http", "NRestarts"), "0");
    assert_eq!(systemd.show("http", "ActiveState"), "failed");
}

#[test]
#[ignore = "takes systemd and root"]
fn systemd_gives_the_server_its_time_and_a_unit_with_less_takes_it() {
    let systemd = Systemd::boot();
    systemd.edit("8889", "[Service]\nTimeoutStopSec=3s");
    systemd.enable();
    let [whole, cut] = [8888, 8889].map(|port| send(port, GET));
    sleep(Duration::from_secs(1));
    systemd.run("systemctl stop threaded-tokio@8888 threaded-tokio@8889");
    let results = ["8888", "8889"].map(|port| systemd.show(port, "Result"));
    assert_eq!(results, ["success", "timeout"]);
    assert_answered(whole);
    assert_eq!(read_to_close(cut), "");
}

#[test]
fn the_unit_gives_more_time_than_the_server_takes() {
    let most = patience() + number_behind(READY, "setting(\"NOTICE\", ");
    assert!(number_behind(UNIT, "\nTimeoutStopSec=") >= most + 5);
}

/// One machine, two units, the distribution's nginx: the pages in a row.
#[test]
#[ignore = "takes systemd, nginx and root"]
fn a_new_version_on_one_machine_loses_no_request() {
    let systemd = Systemd::boot();
    systemd.edit("", "[Service]\nEnvironment=SLEEP=0.2");
    systemd.enable();
    systemd.run("systemctl start nginx");
    systemd.run(&blocks(SYSTEMD, INSTALL, "sh")[1].text());
    wait_until("nginx", || status("http://127.0.0.1:8080/") == "200");
    let file = systemd.run("cat /etc/nginx/conf.d/replicas.conf");
    assert!(file.contains("server 127.0.0.1:8889 "), "{file}");

    let shown = blocks(MACHINES, NEW, "sh");
    let [settings, reload] = &shown[1].lines[..] else { panic!("two lines") };
    let commands = shown[0].lines[1..].join("\n");
    let other = "nginx -p target -c nginx.conf -s reload";
    let commands = replaced(&commands, other, reload);
    let commands = replaced(&commands, "ssh \"${replica%:*}\" ", "");
    let before = ["8888", "8889"].map(|port| systemd.show(port, "MainPID"));
    let (gets, lost) = under_load(8080, "", || {
        for port in ["8888", "8889"] {
            let settings = settings.replace("8888", port);
            systemd.run(&format!("{settings}\n{commands}"));
        }
    });
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    assert!(gets > 50, "{gets}");
    for (port, before) in ["8888", "8889"].into_iter().zip(before) {
        assert_ne!(systemd.show(port, "MainPID"), before);
        assert_eq!(systemd.show(port, "NRestarts"), "0");
    }
}

/// With the server where the unit has it, in a folder that nobody else sees.
#[test]
#[ignore = "takes systemd and root"]
fn systemd_finds_no_mistake_in_the_unit_and_little_that_it_may_do() {
    let run = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "bash", "-euc"]).arg(format!(
            "mount -t tmpfs tmpfs /usr/local/bin
             install {BINARY} /usr/local/bin/threaded-tokio
             ({command}) 2>&1"
        ));
        printed(unshare.current_dir(ROOT))
    };
    let commands = blocks(SYSTEMD, "## What it may do", "sh");
    let told = blocks(SYSTEMD, "## What it may do", "text");
    assert_eq!(run(&commands[0].text()), told[0].text());
    assert_eq!(run(&commands[1].text()), told[1].text());
    let bare = scratch("bare").with_extension("service");
    fs::write(&bare, "[Service]\nExecStart=/bin/true\n").expect("a file");
    let bare = bare.display().to_string();
    let verdict = run(&replaced(&commands[1].text(), UNIT, &bare));
    assert!(verdict.contains(": 9.6 "), "{verdict}");
}

// ----- readiness and liveness ------------------------------------------------

const READY: &str = "tutorial/25-ready-and-alive.md";
const SAY_NO: &str = "## Say no before you close";

fn ready() -> PathBuf {
    build("ready", &with_diff(READY, SAY_NO))
}

/// Restarts both replicas, one after the other, behind HAProxy. With its second
/// tries switched off, nothing but the order of things can help. Returns what
/// was lost, and what HAProxy said.
#[track_caller]
fn restarts(notice: &str) -> (Vec<String>, String) {
    let program = ready();
    let replica = |port: u16| {
        let port = port.to_string();
        let settings =
            [("PORT", &*port), ("SLEEP", "0.05"), ("NOTICE", notice)];
        Server::of(&program, &settings)
    };
    let mut replicas = [(); 2].map(|()| replica(free_port()));
    let ports = [free_port(), replicas[0].port, replicas[1].port];
    let conf = with_ports(&read("tutorial/haproxy.cfg"), ports);
    let conf = replaced(&conf, "option redispatch 1 ", "retries 0 # ");
    let file = scratch("haproxy");
    fs::write(&file, conf).expect("a file");
    let mut haproxy = Command::new("haproxy");
    let proxy = Server::other(haproxy.arg("-db").arg("-f").arg(file), ports[0]);

    let (gets, lost) = under_load(proxy.port, "Connection: close\r\n", || {
        let works = |it: &Server| it.done() > 20;
        wait_until("work", || replicas.iter().all(works));
        for it in &mut replicas {
            it.stop();
            *it = replica(it.port);
            wait_until("the balancer to look again", || works(it));
        }
    });
    assert!(gets > 100, "{gets}");
    (lost, proxy.stderr())
}

#[test]
#[ignore = "takes HAProxy"]
fn a_balancer_that_looks_away_in_time_loses_no_request() {
    let (lost, said) = restarts("5");
    assert!(lost.is_empty(), "{} lost: {lost:?}\n{said}", lost.len());
    let noticed = said.matches("Layer7 wrong status, code: 503").count();
    assert_eq!(noticed, 2, "{said}");
}

#[test]
#[ignore = "takes HAProxy"]
fn a_listener_that_closes_before_the_balancer_looked_loses_some() {
    let (lost, said) = restarts("0");
    assert!(!lost.is_empty(), "{said}");
}

#[test]
fn the_pages_need_no_worker_and_readiness_ends_first() {
    let settings = [("WORKERS", "1"), ("SLEEP", "8"), ("NOTICE", "3")];
    let mut server = Server::of(ready(), &settings);
    let mut clients = vec![server.send(GET), server.send(GET)];
    wait_until("the job", || server.going() == 1);
    let pages = || ["/ready", "/live"].map(|it| status(&server.url(it)));
    assert_eq!(pages(), ["200", "200"]);
    let start = Instant::now();
    server.signal("TERM");
    wait_until("the no", || pages() == ["503", "200"]);
    // Who comes now is served as well.
    clients.push(server.send(GET));
    server.settle();
    server.closed();
    assert!(start.elapsed() >= Duration::from_secs(3), "that is the notice");
    clients.into_iter().for_each(assert_answered);
    assert_eq!(server.exit_status(), Some(0));
}

#[test]
fn a_second_signal_ends_the_notice_and_a_bad_one_the_start() {
    let mut server = Server::of(ready(), &[("SLEEP", "0"), ("NOTICE", "60")]);
    server.signal("TERM");
    sleep(Duration::from_millis(1500));
    assert_eq!(status(&server.url("/ready")), "503");
    server.signal("TERM");
    assert_eq!(server.exit_status(), Some(1));

    // Two within a second are one.
    let mut server = Server::of(ready(), &[("SLEEP", "0"), ("NOTICE", "2")]);
    server.signal("INT");
    server.stop();

    let line = "NOTICE=\"61\" is not allowed; set it to 0 to 60 seconds\n";
    let refused = output(Command::new(ready()).env("NOTICE", "61"));
    assert_eq!(refused, (Some(2), String::new(), line.to_owned()));
}

#[test]
fn a_loop_that_is_held_is_not_alive() {
    let submit = "self.executor.submit(move || core.get(remote_ip)).await;";
    let held = "{ _ = &self.executor; Ok::<_, ()>(core.get(remote_ip)) };";
    let main = replaced(&with_diff(READY, SAY_NO), submit, held);
    let settings = [("SLEEP", "60"), ("TOKIO_WORKER_THREADS", "1")];
    let server = Server::of(build("held", &main), &settings);
    let live = server.url("/live");
    assert_eq!(status(&live), "200");
    let _client = server.send(GET);
    wait_until("its job", || server.going() == 1);
    let asked = curl(&["--max-time", "2", &live]);
    assert_eq!(asked.status.code(), Some(28), "time is up");
}

// ----- the log and the numbers -----------------------------------------------

const DOING: &str = "tutorial/26-what-it-is-doing.md";
const WHAT: &str = "# What it is doing";
const NUMBERS: &str = "## The numbers";

fn doing() -> PathBuf {
    build("doing", &with_diff(DOING, WHAT))
}

/// The page, without what is said about the numbers.
fn numbers(server: &Server) -> String {
    let page = fetch(&[&server.url("/metrics")]);
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| line.split(' ').next_back());
    values.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_counts_go_down_on_every_way_out() {
    let program = build("watched", &obeying(&with_diff(DOING, WHAT)));
    let [gate, breaks] = [(); 2].map(|()| scratch("file"));
    let mut command = Command::new(program);
    command.envs([("GATE", &gate), ("BREAK", &breaks)]);
    command.envs([("SLEEP", "0"), ("WORKERS", "2")]);
    let server = Server::spawn(&mut command);
    let says = |told: &str| {
        wait_until(told, || numbers(&server) == told);
        // And it stays so.
        server.settle();
        assert_eq!(numbers(&server), told);
    };
    // waiting, busy, done, failed, lost
    says("0 0 0 0 0");
    let mut clients = vec![server.send(GET), server.send(GET)];
    wait_until("two jobs", || server.going() == 2);
    clients.extend([GET; 3].map(|request| server.send(request)));
    says("3 2 0 0 0");
    // One leaves the line. One leaves a worker, which goes on.
    drop(clients.remove(4));
    says("2 2 0 0 0");
    drop(clients.remove(0));
    says("2 2 0 0 0");
    fs::write(&gate, "").expect("a file");
    clients.into_iter().for_each(assert_answered);
    says("0 0 4 0 0");
    fs::write(&breaks, "").expect("a file");
    assert_eq!(status(&server.url("/")), "500");
    says("0 0 4 1 0");
}

#[test]
#[ignore = "takes promtool"]
fn prometheus_finds_no_fault_with_the_page() {
    let server = Server::of(doing(), &[]);
    let head = fetch(&["-i", &server.url("/metrics")]);
    assert!(head.contains("\ncontent-type: text/plain; version=0.0.4\r\n"));
    let command = shown(DOING, NUMBERS, "sh");
    let command = replaced(&command, "8888", &server.port.to_string());
    let said = printed(bash(&format!("({command}) 2>&1")).env("no_proxy", "*"));
    assert_eq!(said, shown(DOING, NUMBERS, "text"));
}

#[test]
fn each_request_has_one_line_in_the_log_whatever_becomes_of_it() {
    let mut server = Server::of(doing(), &[("WORKERS", "1"), ("SLEEP", "1")]);
    assert_eq!(status(&server.url("/")), "200");
    assert_eq!(status(&server.url("/nowhere?key=secret")), "404");
    fetch(&["-X", "POST", &server.url("/")]);
    let _running = server.send(GET);
    wait_until("its job", || server.going() == 2);
    let queued = server.send(GET);
    server.settle();
    drop(queued);
    server.settle();
    // What is no HTTP has none.
    server.exchange(b"nonsense\r\n\r\n");
    server.stop();
    let said = server.stderr();
    let lines = said.lines().filter(|line| !line.contains("/alive"));
    let mut lines: Vec<_> =
        lines.filter_map(|it| it.rsplit_once(' ')).collect();
    assert!(lines[1..].iter().all(|(_, took)| took.ends_with("ms")), "{said}");
    let slept = lines[1].1.trim_end_matches("ms").parse();
    let slept = slept.is_ok_and(|it: f64| it >= 1000.0);
    assert!(slept, "it slept for a second: {said}");
    lines.sort();
    let lines: Vec<_> = lines.into_iter().map(|(line, _)| line).collect();
    let told = [
        "200 GET / (127.0.0.1)",
        "200 GET / (127.0.0.1)",
        "404 GET /nowhere (127.0.0.1)",
        "405 POST / (127.0.0.1)",
        "left GET / (127.0.0.1)",
        "listening on",
    ];
    assert_eq!(lines, told, "{said}");
}

/// Its stderr is a pipe, full before it starts.
#[test]
fn a_log_that_nobody_reads_costs_no_answer_and_says_what_is_lost() {
    let mut server = Server::stalled(&doing(), "");
    assert_eq!(answered(flood(&server, 1600)), 1600);
    let lost = numbers(&server);
    let lost = lost.split(' ').next_back().and_then(|it| it.parse().ok());
    assert!((600..=700).contains(&lost.unwrap_or(0)), "{lost:?} are lost");
    server.stop();
}

/// They wait for a second until somebody reads, a moment after all is answered.
#[test]
fn the_last_lines_of_the_log_are_written_before_the_end() {
    let program = doing();
    let in_time = || {
        let mut server = Server::stalled(&program, "");
        assert_eq!(answered(flood(&server, 3)), 3);
        let start = Instant::now();
        server.signal("TERM");
        server.closed();
        sleep(Duration::from_millis(200));
        let pipe = server.child.stderr.take().expect("a pipe");
        let said = io::read_to_string(pipe).expect("text");
        if start.elapsed() > Duration::from_millis(900) {
            return false;
        }
        assert_eq!(said.matches("200 GET / ").count(), 3);
        assert_eq!(server.exit_status(), Some(0));
        true
    };
    wait_until("a reader within a second", in_time);
}

#[test]
#[ignore = "takes nginx"]
fn nginx_keeps_the_numbers_to_itself_if_told_to() {
    let replica = Server::of(doing(), &[]);
    let hides = shown(DOING, NUMBERS, "nginx") + "location / {";
    let proxy = nginx([replica.port; 2], &[["location / {", &hides]]);
    assert_eq!(status(&replica.url("/metrics")), "200");
    assert_eq!(status(&proxy.url("/metrics")), "404");
    assert!(fetch(&[&proxy.url("/metrics")]).contains("nginx"));
}

#[test]
#[ignore = "takes git"]
fn both_recipes_go_together() {
    let diffs = [(READY, SAY_NO), (DOING, WHAT)];
    let diffs = diffs.map(|(path, heading)| shown(path, heading, "diff"));
    let main = git_apply(&read("src/main.rs"), &diffs);
    assert!(main.contains("LEAVING") && main.contains("WAITING"));
    let server = Server::of(build("both", &main), &[]);
    for path in ["/ready", "/live", "/metrics"] {
        assert_eq!(status(&server.url(path)), "200", "{path}");
    }
}

// ----- a container -----------------------------------------------------------

const CONTAINER: &str = "tutorial/24-a-container.md";

/// An image, built as the chapter says, but that `docker` is buildah.
#[test]
#[ignore = "takes Linux, buildah and root"]
fn the_image_holds_one_file_that_runs_as_process_1_and_as_nobody() {
    let store = scratch("images");
    let store = store.display();
    let buildah = format!(
        "buildah --storage-driver vfs --root {store}/a --runroot {store}/b"
    );
    let run = |commands: &str| {
        let mut bash = bash(commands);
        bash.current_dir(ROOT).env_remove("CARGO_TARGET_DIR");
        printed(&mut bash).trim_end().to_owned()
    };
    let commands = shown(CONTAINER, "## Build it", "sh");
    let build = format!("{buildah} build --isolation chroot ");
    run(&replaced(&commands, "docker build ", &build));

    let format = "{{.Name}} {{.Tag}} {{.Size}}";
    let images = run(&format!("{buildah} images --format '{format}'"));
    let container = run(&format!("{buildah} from threaded-tokio"));
    let root = run(&format!("{buildah} mount {container}"));
    let files = run(&format!("cd {root}; find . -type f | cut -c 2-"));
    let shapes = |text: &str| text.lines().map(shape).collect::<Vec<_>>();
    let told = shown(CONTAINER, "## Build it", "text");
    assert_eq!(shapes(&format!("{images}\n{files}")), shapes(&told));
    let size = images.split_whitespace().nth(2).and_then(|it| it.parse().ok());
    assert!(size.is_some_and(|it: f64| it < 3.0), "megabytes: {images}");

    // What a runtime would read there.
    let config = |name: &str| {
        let format = format!("{{{{.OCIv1.Config.{name}}}}}");
        let inspect = format!("{buildah} inspect --type image --format");
        let said = run(&format!("{inspect} '{format}' threaded-tokio"));
        said.trim_matches(['[', ']']).to_owned()
    };
    let [user, entry, env] = ["User", "Entrypoint", "Env"].map(config);
    let port = free_port();
    let (server, first) = first(&format!(
        "exec env -i {env} PORT={port} SLEEP=2 \
         chroot --userspec {user} {root} {entry}"
    ));
    let mut server = server.listening();
    assert_eq!(server.port, port);
    assert!(server.stderr().contains("http://0.0.0.0:"), "HOST is the image's");
    assert_eq!(known(first.0, "Uid"), ["65534"; 4].join("\t"));
    let names = run(&format!("ls -A /proc/{}/root", first.0));
    assert_eq!(names, "threaded-tokio");
    assert_graceful(&mut server, &first);

    // Names are looked up there, in the files that Docker would put there.
    let program = "fn main() { print!(\"{:?}\", std::net::ToSocketAddrs::\
        to_socket_addrs(\"db.test:1\").unwrap().next()) }";
    run(&format!(
        "cd {root}; mkdir etc; echo 192.0.2.7 db.test >etc/hosts
         echo '{program}' >db.rs
         rustc -C target-feature=+crt-static --edition 2024 db.rs"
    ));
    assert_eq!(run(&format!("chroot {root} /db")), "Some(192.0.2.7:1)");

    // An ordinary program misses its loader there.
    fs::copy(BINARY, format!("{root}/threaded-tokio")).expect("a copy");
    let (_, _, said) = output(Command::new("chroot").args([&root, &entry]));
    let said = said.to_lowercase();
    assert!(said.contains("no such file or directory"), "{said}");
    run(&format!("{buildah} rm --all; {buildah} rmi --all; rm -rf {store}"));
}

// ----- replicas on machines --------------------------------------------------

const MACHINES: &str = "tutorial/27-replicas-on-machines.md";
const NEW: &str = "## A new version";
const WHEN: &str = "## What happens when";

/// A machine at the other end of a cable.
struct Machine {
    /// It is there as long as this sleeps.
    sleeper: Server,
    address: String,
}

impl Machine {
    /// The cable has this name. The address follows that of its near end.
    fn new(cable: &str, near: u8) -> Self {
        let elsewhere = || {
            own_machine();
            Server::launch(Command::new("sleep").arg("600"), None, None)
        };
        let sleeper = thread::scope(|it| it.spawn(elsewhere).join());
        let sleeper = sleeper.expect("no panic");
        printed(&mut bash(&format!(
            "ip link add {cable} type veth peer name cable netns {}
             ip address add 192.0.2.{near}/30 dev {cable}
             ip link set {cable} up",
            sleeper.child.id()
        )));
        let machine =
            Self { sleeper, address: format!("192.0.2.{}", near + 1) };
        let address = &machine.address;
        machine.run(&format!("ip address add {address}/30 dev cable; {MEND}"));
        machine
    }

    fn enter(&self) -> Command {
        let sleeper = self.sleeper.child.id().to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--net", "--target", &sleeper]);
        nsenter
    }

    #[track_caller]
    fn run(&self, commands: &str) {
        printed(self.enter().args(["bash", "-euc", commands]));
    }

    /// Starts a replica there.
    #[track_caller]
    fn start(&self, seconds: &str) -> Server {
        let mut enter = self.enter();
        enter.arg(BINARY).env("HOST", &self.address);
        Server::spawn(enter.envs([("PORT", "8888"), ("SLEEP", seconds)]))
    }
}

/// What `Machine::run` takes to pull the cable out, and to put it back.
const CUT: &str = "ip link set cable down";
const MEND: &str = "ip link set cable up";

/// nginx in front of two machines with a replica each.
struct Network {
    nginx: Server,
    /// Where nginx's file is `target/nginx.conf`.
    folder: PathBuf,
    replicas: [Server; 2],
    machines: [Machine; 2],
}

impl Network {
    /// Set up as the chapter says but for these changes.
    #[track_caller]
    fn new(seconds: &str, changes: &str) -> Self {
        own_machine();
        let machines = [Machine::new("first", 1), Machine::new("second", 5)];
        let replicas = machines.each_ref().map(|it| it.start(seconds));
        let folder = folder("machines");
        symlink(format!("{ROOT}/tutorial"), folder.join("tutorial"))
            .expect("a link");
        let start = format!("{changes}\nexec nginx -p");
        let commands = shown(MACHINES, "## Set it up", "sh");
        let commands = replaced(&commands, "nginx -p", &start);
        let nginx = Server::other(bash(&commands).current_dir(&folder), 8080);
        Self { nginx, folder, replicas, machines }
    }

    fn going(&self) -> [usize; 2] {
        self.replicas.each_ref().map(Server::going)
    }

    fn send(&self, clients: usize, request: &[u8]) -> Vec<TcpStream> {
        (0..clients).map(|_| self.nginx.send(request)).collect()
    }

    /// Ten clients ask. When each machine has five jobs, the first is cut off.
    #[track_caller]
    fn cut_off_under_ten(&self) -> Vec<TcpStream> {
        let clients = self.send(10, GET);
        wait_until("their jobs", || self.going() == [5, 5]);
        self.machines[0].run(CUT);
        clients
    }
}

/// What these clients get.
fn statuses(clients: Vec<TcpStream>) -> Vec<String> {
    let status = |client| {
        let answer = read_to_close(client);
        answer.split(' ').nth(1).unwrap_or("none").to_owned()
    };
    let mut all: Vec<_> = clients.into_iter().map(status).collect();
    all.sort();
    all
}

#[test]
#[ignore = "takes nginx and root"]
fn a_new_version_on_two_machines_loses_no_request() {
    let Network { nginx, folder, mut replicas, machines } =
        Network::new("0.05", "");
    let commands = shown(MACHINES, NEW, "sh");
    let (set_up, _) = commands.split_once("sed ").expect("it looks away");
    let (away, rest) = commands.split_once(" &&\nssh ").expect("a restart");
    let (_, back) = rest.split_once('\n').expect("its return");
    let mut going = 0;
    let (gets, lost) = under_load(nginx.port, "", || {
        for (replica, machine) in replicas.iter_mut().zip(&machines) {
            wait_until("work", || replica.going() > 20);
            let run = |commands: &str| {
                let own = commands.replace("192.0.2.2", &machine.address);
                printed(bash(&own).current_dir(&folder));
            };
            run(away);
            let before = replica.going();
            replica.stop();
            assert_eq!(replica.going(), before, "nobody asked it any more");
            going += before;
            *replica = machine.start("0.05");
            run(&format!("{set_up}{back}"));
            wait_until("its return", || replica.going() > 20);
        }
    });
    going += replicas.iter().map(Server::going).sum::<usize>();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    assert_eq!(going, gets, "each starts once");
}

#[test]
#[ignore = "takes nginx and root"]
fn a_machine_that_is_cut_off_costs_the_requests_that_it_had() {
    // Minutes made seconds.
    let seconds = "sed -i.old -e 's/read_timeout 10m/read_timeout 6s/' \
        -e 's/upstream_timeout 9m/upstream_timeout 5s/' target/nginx.conf";
    let network = Network::new("2", seconds);
    let clients = network.cut_off_under_ten();
    assert_eq!(statuses(network.send(4, GET)), ["200"; 4]);
    assert_eq!(statuses(clients), [["200"; 5], ["504"; 5]].concat());
    assert_eq!(network.going(), [5, 9]);
    wait_until("their end", || network.replicas[0].done() == 5);
    // It comes back, later.
    network.machines[0].run(MEND);
    wait_until("its return", || {
        assert_eq!(status(&network.nginx.url("/")), "200");
        network.going()[0] > 5
    });
}

/// As the chapter says, with five seconds made two.
fn with_keepalive() -> String {
    let line = shown(MACHINES, WHEN, "nginx");
    let sysctl = shown(MACHINES, WHEN, "sh");
    assert_eq!(sysctl.matches("=5 ").count(), 2, "time and probes");
    let sysctl = sysctl.replace("sudo ", "").replace("=5 ", "=2 ");
    let line = line.trim_end();
    format!(
        "{sysctl}
         sed -i.old 's/proxy_pass/{line} &/' target/nginx.conf
         grep -q '{line} proxy_pass' target/nginx.conf"
    )
}

#[test]
#[ignore = "takes nginx and root"]
fn where_silence_has_an_end_the_other_machine_is_asked() {
    let network = Network::new("6", &with_keepalive());
    let clients = network.cut_off_under_ten();
    assert_eq!(statuses(clients), ["200"; 10]);
    assert_eq!(network.going(), [5, 10]);
}

/// nginx has kept a connection to each. It finds out about the one by sending.
#[test]
#[ignore = "takes nginx and root"]
fn a_kept_connection_to_a_machine_that_is_gone_costs_half_a_minute() {
    let ([auto, one], changes) = (ALONE, with_keepalive());
    let alone = format!("sed -i.old 's/{auto}/{one}/' target/nginx.conf");
    let network = Network::new("0.5", &format!("{changes}\n{alone}"));
    assert_eq!(statuses(network.send(4, GET)), ["200"; 4]);
    network.machines[0].run(CUT);
    let start = Instant::now();
    assert_eq!(statuses(network.send(4, GET)), ["200"; 4]);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(10), "none was kept: {took:?}");
    assert!(took < Duration::from_secs(90), "{took:?}");
    assert_eq!(network.going(), [2, 6]);
}

/// The first replica stands still, so that a POST is in its machine's hands.
#[test]
#[ignore = "takes nginx and root"]
fn a_post_is_not_sent_again_when_its_machine_is_cut_off() {
    let network = Network::new("0", &with_keepalive());
    network.replicas[0].signal("STOP");
    let clients = network.send(8, POST);
    let sent = || tcp(2, 8888).iter().any(|row| row[3] == "01");
    wait_until("one to arrive", sent);
    sleep(Duration::from_millis(500));
    network.machines[0].run(CUT);
    let all = statuses(clients);
    let lost = all.iter().filter(|it| *it == "502").count();
    let kept = all.iter().filter(|it| *it == "405").count();
    assert!(lost > 0 && lost + kept == 8, "{all:?}");
}

#[test]
#[ignore = "takes nginx and root"]
fn a_cable_that_is_back_soon_costs_nothing_but_time() {
    let network = Network::new("2", "");
    let clients = network.cut_off_under_ten();
    sleep(Duration::from_secs(3));
    network.machines[0].run(MEND);
    assert_eq!(statuses(clients), ["200"; 10]);
    assert_eq!(network.going(), [5, 5]);
}

/// nginx is still sending when the replica has answered and hangs up.
#[test]
#[ignore = "takes nginx and root"]
fn a_large_post_may_cross_with_its_refusal_on_the_cable() {
    let network = Network::new("0", "");
    one_crosses(&network.nginx, &large_post(1_000_000), "405");
}
