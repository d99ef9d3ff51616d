//! The unit in the place of the claudemesh daemon, installed as docs/systemd.md says.

use std::process::Output;

use reaper_tests::machine::Machine;
use reaper_tests::wait::eventually;

const UNIT: &str = "claudemesh-daemon.service";
/// Where the clients of that daemon look for its unit. If there is one, they start no daemon themselves.
const OF_USER: &str = "/home/someone/.config/systemd/user";
const FOLDER: &str = "/home/someone/.claudemesh/daemon";
/// The port of the profile is fixed, and this machine has the network of the one that runs the tests.
const ANY_PORT: &str = "[Service]\nEnvironment=REAPERD_TCP=127.0.0.1:0\n";

/// A machine with a user whose service manager runs without a login.
struct Home(Machine);

impl Home {
    fn boot() -> Option<Self> {
        let machine = Machine::boot()?;
        machine.run(&["useradd", "--uid", "2001", "--create-home", "someone"]);
        machine.run(&["mkdir", "-p", "/var/lib/systemd/linger"]);
        machine.run(&["loginctl", "enable-linger", "someone"]);
        let home = Self(machine);
        eventually("the user's manager runs", || {
            let output = home.try_run("systemctl --user is-system-running");
            matches!(output.stdout.as_slice(), b"running\n" | b"degraded\n")
        });
        Some(home)
    }

    /// Runs a command as this user.
    fn try_run(&self, command: &str) -> Output {
        let user = ["setpriv", "--reuid=2001", "--regid=2001", "--clear-groups"];
        let environment = [
            "env",
            "HOME=/home/someone",
            "XDG_RUNTIME_DIR=/run/user/2001",
            &format!("REAPERD_SOCKET={FOLDER}/daemon.sock"),
        ];
        let shell = ["sh", "-c", command];
        let command = [&user[..], &environment, &shell].concat();
        self.0.try_run(&command)
    }

    /// As above. It must succeed. Returns what it prints.
    fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        let journal = || self.0.run(&["journalctl", "--no-pager", "--lines=100"]);
        assert!(
            output.status.success(),
            "{command}: {output:?}\n{}",
            journal()
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim_end().to_owned()
    }

    fn property(&self, name: &str) -> String {
        self.run(&format!(
            "systemctl --user show --value --property {name} {UNIT}"
        ))
    }

    /// Whether the daemon serves, and the pid file has the process that its manager started.
    fn serves(&self) -> bool {
        let pid = self.try_run(&format!("cat {FOLDER}/daemon.pid")).stdout;
        let is_ready = self.property("ActiveState") == "active";
        is_ready
            && pid == self.property("MainPID").into_bytes()
            && self.try_run("reaperd status").status.success()
    }

    /// Starts a process with a session, and returns its pid.
    fn register(&self, id: &str) -> String {
        let pid = self.run("sleep 600 >/dev/null 2>&1 & echo $!");
        self.run(&format!(
            "reaperd register --pid {pid} --id {id} >/dev/null"
        ));
        pid
    }

    fn listed(&self) -> String {
        self.run("reaperd ls --format ids")
    }
}

#[test]
fn the_unit_for_clients_of_the_claudemesh_daemon_keeps_files_and_sessions() {
    let Some(home) = Home::boot() else {
        return;
    };
    home.run(&format!("mkdir -p {OF_USER}/{UNIT}.d"));
    home.run(&format!(
        "printf '{}' >{OF_USER}/{UNIT}.d/port.conf",
        ANY_PORT.replace('\n', "\\n")
    ));
    home.run(&format!("cp /usr/lib/systemd/user/{UNIT} {OF_USER}/"));
    home.run(&format!(
        "systemctl --user daemon-reload && systemctl --user enable --now {UNIT}"
    ));
    assert!(home.serves());
    let modes = home.run(&format!(
        "cd {FOLDER} && stat --format=%a . daemon.sock daemon.pid local-token"
    ));
    assert_eq!(modes, "700\n600\n600\n600");
    let status = home.run("reaperd status --json");
    assert!(status.contains("\"profile\":\"claudemesh\""), "{status}");
    assert!(
        status.contains("127.0.0.1:"),
        "the unit permits TCP: {status}"
    );

    // A restart, and a kill of both processes: sessions and files are there again.
    let kept = home.register("kept");
    let gone = home.register("gone");
    assert_eq!(home.listed(), "kept\ngone");
    let former = home.property("MainPID");
    home.run(&format!("systemctl --user restart {UNIT}"));
    assert!(home.serves());
    assert_ne!(home.property("MainPID"), former);
    assert_eq!(home.listed(), "kept\ngone");
    home.run(&format!(
        "systemctl --user kill --signal=KILL {UNIT}; kill {gone}"
    ));
    eventually("it is started again", || {
        home.property("NRestarts") == "1" && home.serves()
    });
    assert_eq!(home.listed(), "kept");

    // Clients remove the files of a daemon that responds slowly.
    home.run(&format!("rm {FOLDER}/daemon.sock {FOLDER}/daemon.pid"));
    eventually("the files are back", || home.serves());
    home.run(&format!("kill {kept}"));
    eventually("the session is gone", || home.listed().is_empty());

    home.run(&format!("systemctl --user stop {UNIT}"));
    assert_eq!(home.property("Result"), "success");
    assert_eq!(
        home.run(&format!("ls {FOLDER}")),
        "daemon.sock.lock\nlocal-token"
    );
}
