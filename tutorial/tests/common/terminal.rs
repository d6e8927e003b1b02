//! A terminal for a test: a command runs on it as it would in a window, and
//! the test sees what it prints and presses its keys.

use super::*;
use pty_process::Size;
use pty_process::blocking::{Pty, open};
use std::os::fd::AsFd;
use std::sync::Arc;

/// A window with a shell that runs one command. Closed when the test ends.
pub struct Terminal {
    shell: Child,
    pty: Arc<Pty>,
    printed: Arc<Mutex<Vec<u8>>>,
}

/// The shell says with which status the command has ended, between two signs
/// that nobody prints. Then it waits: with it the terminal would go, and what
/// the command has left of its settings.
const SHELL: &str = r#"trap : INT; "$@"; printf '\000%d\000' $?; read -r _"#;

impl Terminal {
    /// Starts a command, whose stdin, stdout and stderr are the terminal.
    #[track_caller]
    pub fn start(command: &Command, columns: u16, rows: u16) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "sh"]).arg(command.get_program());
        shell.args(command.get_args());
        shell.env("TERM", "xterm").env_remove("NO_COLOR");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            shell.current_dir(folder);
        }

        let (pty, pts) = open().expect("a terminal");
        pty.resize(Size::new(rows, columns)).expect("it has a size");
        let shell = pty_process::blocking::Command::from(shell).spawn(pts);
        let shell = shell.expect("sh is installed");
        let (pty, printed) = (Arc::new(pty), Arc::default());
        let terminal = Self { shell, pty, printed };

        // Somebody has to read all the time, or the command has to wait.
        let pty = Arc::clone(&terminal.pty);
        let printed = Arc::clone(&terminal.printed);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = (&*pty).read(&mut bytes) {
                let mut printed = printed.lock().expect("no panic");
                printed.extend_from_slice(&bytes[..length]);
            }
        });
        terminal
    }

    fn read(&self) -> String {
        let printed = self.printed.lock().expect("no panic");
        String::from_utf8_lossy(&printed).into_owned()
    }

    /// What has been printed so far, control signs and all, and what a key
    /// that was pressed shows. All of it, once `exit_status` has returned.
    pub fn printed(&self) -> String {
        self.read().split('\0').next().expect("there is one").to_owned()
    }

    /// Waits until a condition holds for what has been printed so far.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !condition(&self.read()) {
            assert!(start.elapsed() < LONG, "no {what}: {:?}", self.read());
            sleep(Duration::from_millis(5));
        }
    }

    /// Presses keys: `"q"`, `"\r"` for the Enter key, `"\x03"` for Ctrl-C.
    pub fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("it is open");
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.pty.resize(Size::new(rows, columns)).expect("it is open");
    }

    /// The exit status of the command, as a shell has it: 128 and more if a
    /// signal has ended it.
    #[track_caller]
    pub fn exit_status(&self) -> i32 {
        self.wait_until("end", |it| it.matches('\0').count() == 2);
        let read = self.read();
        let status = read.split('\0').nth(1).expect("between two signs");
        status.parse().expect("a number")
    }

    /// Whether the terminal is as a shell expects it: it shows what is typed,
    /// and hands it over line by line.
    pub fn is_sane(&self) -> bool {
        let terminal = self.pty.as_fd().try_clone_to_owned().expect("a copy");
        let stty = Command::new("stty").arg("-a").stdin(terminal).output();
        let said = stty.expect("stty is installed").stdout;
        let said = String::from_utf8_lossy(&said);
        let on = |name| said.split([' ', ';', '\n']).any(|word| word == name);
        ["icanon", "echo", "isig", "opost"].into_iter().all(on)
    }
}

/// What stands in a window in which this was printed, with what has left it at
/// the top. Other control signs than those below are not known here, on
/// purpose: one that hides the cursor, say.
#[track_caller]
pub fn screen(printed: &str) -> Vec<String> {
    let (mut lines, mut column) = (vec![Vec::new()], 0);
    let mut signs = printed.chars();
    while let Some(sign) = signs.next() {
        let line = lines.last_mut().expect("there is one");
        match sign {
            '\r' => column = 0,
            '\n' => lines.push(Vec::new()),
            '\x1b' => {
                let rest = signs.as_str();
                let end = rest.find(char::is_alphabetic).map(|end| end + 1);
                let (code, rest) = rest.split_at(end.unwrap_or_default());
                match code {
                    "[J" => line.truncate(column), // to the end of the window
                    code if code.ends_with('m') => {} // a colour
                    code => panic!("{code:?} in {printed:?}"),
                }
                signs = rest.chars();
            }
            sign => {
                line.resize(line.len().max(column + 1), ' ');
                line[column] = sign;
                column += 1;
            }
        }
    }
    lines.into_iter().map(String::from_iter).collect()
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The system tells what is left there that its window was closed.
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}
