//! Log lines that cannot be written: the work goes on, and the lines are counted

use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::rig::{Rig, eventually, finish, get, program};

/// What standard error may turn out to be
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// A pipe that nobody reads any more
    Pipe,
    /// A file on a disk without room
    Disk,
    /// Not open at all
    Closed,
}

const BROKEN: [Broken; 3] = [Broken::Pipe, Broken::Disk, Broken::Closed];

impl Broken {
    fn stdio(self) -> Stdio {
        match self {
            Self::Pipe => io::pipe().unwrap().1.into(),
            Self::Disk => File::options().write(true).open("/dev/full").unwrap().into(),
            // The shell of the rig closes it.
            Self::Closed => Stdio::null(),
        }
    }
}

/// A rig whose programs have a standard error like this
fn rig(broken: Broken) -> Rig {
    let mut rig = Rig::new();
    if matches!(broken, Broken::Closed) {
        rig.wrap_in_shell("exec \"$0\" \"$@\" 2>&-");
    }
    rig
}

#[test]
fn a_broken_standard_error_keeps_nobody_from_work() {
    for broken in BROKEN {
        let mut rig = rig(broken);
        rig.start_controller_saying_to(broken.stdio());
        let token = rig.token(&["--node", "node-1"]);
        rig.configure_daemon(&token);
        assert_eq!(rig.start_daemon_saying_to(broken.stdio()), 0, "{broken:?}");
        rig.await_node("ONLINE");
        rig.start_standin("lobby-1");
        // Each of these is told in log lines.
        rig.kill_daemon();
        rig.await_node("OFFLINE");
        assert_eq!(rig.start_daemon_saying_to(broken.stdio()), 1, "{broken:?}");
        rig.await_node("ONLINE");
        rig.command("lobby-1", "list", "players online");
        rig.kill_controller();
        rig.start_controller_saying_to(broken.stdio());
        rig.await_node("ONLINE");
        assert!(get(&rig, "/api/v1/system/ready").starts_with("HTTP/1.1 200"));
        assert_eq!(rig.ctl(&["instance", "stop", "lobby-1", "--wait"]).code, 0);
        assert_eq!(
            lost_lines(&rig) > 0,
            !matches!(broken, Broken::Closed),
            "{broken:?}"
        );
        assert_eq!(rig.stop_daemon().code(), Some(0), "{broken:?}");
        assert_eq!(rig.stop_controller().code(), Some(0), "{broken:?}");
    }
}

#[test]
fn nothing_is_opened_in_the_place_of_a_closed_standard_stream() {
    let mut rig = Rig::new();
    rig.wrap_in_shell("exec \"$0\" \"$@\" 0<&- 2>&-");
    rig.start_controller();
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    rig.start_daemon();
    for process in [rig.pid("controller"), rig.pid("daemon")] {
        for stream in [0, 2] {
            let open = std::fs::read_link(format!("/proc/{process}/fd/{stream}")).unwrap();
            assert_eq!(open.to_str(), Some("/dev/null"), "{stream}");
        }
    }
}

#[test]
fn an_announcement_that_nobody_can_read_is_told() {
    for place in [">&-", ">/dev/full", ">/dev/null", "1</dev/null"] {
        let rig = Rig::new();
        let settings = format!(
            "data_dir = {:?}\n[grpc]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n",
            rig.path("controller")
        );
        let config = rig.write("controller.toml", &settings);
        let mut child = Command::new("/bin/sh")
            .args([
                "-c",
                &format!("exec \"$0\" controller --announce --config \"$1\" {place}"),
            ])
            .arg(env!("CARGO_BIN_EXE_prexorcloud"))
            .arg(config)
            .stdin(Stdio::null())
            .stderr(rig.log("controller"))
            .spawn()
            .unwrap();
        eventually("the warning", || {
            rig.log_text("controller")
                .contains("--announce has nobody to tell")
                .then_some(())
        });
        assert!(child.try_wait().unwrap().is_none(), "it serves all the same");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_reader_that_stops_reading_holds_nobody_up_and_is_told_what_it_missed() {
    let mut rig = Rig::new();
    rig.environment = vec![("PREXORCLOUD_CONTROLLER_LOG_FILTER", "trace")];
    let (mut reader, writer) = io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    rig.start_controller_saying_to(writer);
    eventually("a line being lost", || (lost_lines(&rig) > 0).then_some(()));
    let token = rig.token(&["--node", "node-1"]);
    rig.configure_daemon(&token);
    rig.start_daemon();
    rig.await_node("ONLINE");
    // Whoever reads again hears how many lines are missing, and then the log goes on.
    let mut said = String::new();
    eventually("the missing lines being told", || {
        get(&rig, "/api/v1/system/ready");
        said.push_str(&available(&mut reader));
        said.contains("log lines could not be written").then_some(())
    });
    let told = said
        .lines()
        .find(|line| line.contains("log lines could not be written"));
    assert!(told.unwrap().contains(" WARN "), "{told:?}");
}

/// What is in the pipe now, if anything is
fn available(pipe: &mut PipeReader) -> String {
    let mut bytes = vec![0; 65_536];
    let mut ready = [PollFd::new(&*pipe, PollFlags::IN)];
    if poll(&mut ready, Some(&Timespec::default())).unwrap() == 0 {
        return String::new();
    }
    let read = pipe.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

#[test]
fn ready_follows_what_the_disk_takes_and_comes_back_by_itself() {
    let mut rig = Rig::new();
    let Some(disk) = SmallDisk::mount(&rig) else {
        eprintln!("not shown: this account may not mount a small disk");
        return;
    };
    rig.start_controller();
    let ready = |rig: &Rig| get(rig, "/api/v1/system/ready");
    assert!(ready(&rig).starts_with("HTTP/1.1 200"), "{}", ready(&rig));
    disk.fill();
    eventually("not ready on a full disk", || {
        // Commits that fit into what the store has on disk already still succeed.
        let token = rig.ctl(&["token", "create"]);
        let answer = ready(&rig);
        (token.code != 0 && answer.starts_with("HTTP/1.1 503")).then_some(())
    });
    assert!(ready(&rig).contains("no space left"), "{}", ready(&rig));
    disk.empty();
    eventually("ready again", || {
        ready(&rig).starts_with("HTTP/1.1 200").then_some(())
    });
    assert_eq!(rig.ctl(&["token", "create"]).code, 0);
    assert!(rig.log_text("controller").contains("ready again"));
    assert_eq!(rig.stop_controller().code(), Some(0));
}

/// A disk of a few hundred kilobytes where the controller keeps everything
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(rig: &Rig) -> Option<Self> {
        let folder = rig.path("controller");
        std::fs::create_dir(&folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs"]);
        let mounted = mount.arg(&folder).stderr(Stdio::null()).status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(folder))
    }

    fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        let full = io::copy(&mut io::repeat(7), &mut filler).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // At once or as soon as the last process lets go of it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn commands_say_what_they_can_to_closed_streams_and_end_as_always() {
    let full = || -> Stdio { File::options().write(true).open("/dev/full").unwrap().into() };
    let rig = Rig::new();
    let config = rig.write("c.toml", "");
    let config = config.to_str().unwrap();
    for arguments in [
        &["config", "check", "controller", config][..],
        &["config", "check", "controller", "/nowhere"],
        &["config", "example", "daemon"],
        &["controller", "--config", "/nowhere"],
        &["nonsense"],
        &["shim"],
        &["ctl", "-c", "http://127.0.0.1:1", "node", "list"],
    ] {
        let mut command = program(arguments);
        command.env("HOME", rig.folder()).stdout(full()).stderr(full());
        let ended = command.status().unwrap();
        let as_always = finish(program(arguments).env("HOME", rig.folder())).code;
        assert_eq!(ended.code(), Some(as_always), "{arguments:?}");
    }
}

#[test]
fn a_small_shim_and_a_follower_without_streams_end_as_always() {
    let full = || -> Stdio { File::options().write(true).open("/dev/full").unwrap().into() };
    let gone = || -> Stdio { io::pipe().unwrap().1.into() };
    let shim = || Command::new(env!("CARGO_BIN_EXE_prexor-shim"));
    let as_always = shim().stdin(Stdio::null()).output().unwrap().status.code();
    assert!(as_always.is_some_and(|code| code != 0), "{as_always:?}");
    for stream in [full, gone] {
        let ended = shim()
            .stdin(Stdio::null())
            .stdout(stream())
            .stderr(stream())
            .status();
        assert_eq!(ended.unwrap().code(), as_always);
    }

    let rig = Rig::with_node();
    rig.start_standin("lobby-1");
    for log in [
        &["controller"][..],
        &["daemon", "node-1"],
        &["instance", "lobby-1"],
        &["all"],
    ] {
        let follower = || {
            let token = rig.path("controller/admin.token");
            let mut command = rig
                .ctl_command(&[&["logs"], log, &["-f", "--tail", "5"]].concat())
                .args(["--token-file", token.to_str().unwrap()])
                .into_command();
            command.stdin(Stdio::null());
            command
        };
        // Nobody reads: the work of a follower is over. A disk that is full is told, if it can be.
        for (stdout, code) in [(gone(), 0), (full(), 1)] {
            let mut child = follower().stdout(stdout).stderr(full()).spawn().unwrap();
            let ended = eventually("the follower's end", || child.try_wait().unwrap());
            assert_eq!(ended.code(), Some(code), "{log:?}");
        }
    }
}

#[test]
fn a_server_that_cannot_print_plays_on() {
    let port = crate::rig::free_ports();
    let mut server = program(&["standin-server", "--port", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the server listening", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    use std::io::Write as _;
    server
        .stdin
        .take()
        .unwrap()
        .write_all(b"list\nspam 20\nstop\n")
        .unwrap();
    let ended = eventually("the end of the server", || server.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}

/// How many lines the controller could not write, by its own account
fn lost_lines(rig: &Rig) -> u64 {
    let metrics = get(rig, "/metrics");
    metrics
        .lines()
        .find_map(|line| line.strip_prefix("prexorcloud_log_lines_lost_total "))
        .map_or(0, |count| count.parse().unwrap())
}
